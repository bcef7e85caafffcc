"""Refreshes single records. Webhooks, the command and all others use this."""

from collections.abc import Collection as Ids
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.client import CurrentRmsClient, ListAnswer
from rms_pipeline.current_rms.errors import CurrentRmsError
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.current_rms.records import Fault
from rms_pipeline.mirror import walks
from rms_pipeline.mirror.completeness import some_other_row
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.deletions import Removal, move_to_deleted
from rms_pipeline.mirror.locked_rows import write_what_is_free
from rms_pipeline.mirror.merge import MergeResult
from rms_pipeline.mirror.ownership import demand_mirror_of
from rms_pipeline.mirror.raw_pages import land_page
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.sync.by_id import Verdict, Wanted, ask_by_id
from rms_pipeline.sync.doubts import what_is_held
from rms_pipeline.sync.storing import merge_answer, raw_page, read_records

_BECAUSE = "Current RMS did not find it by its id"
# Up to this many ids that a person asks for are requested singly. A list may not show for seconds
# what that person has just done.
ASKED_SINGLY = 10


@dataclass(slots=True)
class Refreshed:
    """The result of a refresh.

    `result` is that of the merge. `gone` are ids that the API no longer has, `deleted` the rows
    that were removed, `held_back` the rows that stay because too many would be removed. `calls` is
    the cost.

    The others were not refreshed. `absent` are ids that the API does not have, but that is not
    final yet. `outdated` came in an older state than events say. `unasked` were not asked for.
    `locked` says who locks the row that could not be written. `failed` says why the API gave no
    record.
    """

    result: MergeResult = field(default_factory=MergeResult)
    gone: set[int] = field(default_factory=set)
    deleted: int = 0
    held_back: int = 0
    calls: int = 0
    absent: set[int] = field(default_factory=set)
    outdated: set[int] = field(default_factory=set)
    unasked: set[int] = field(default_factory=set)
    locked: dict[int, str] = field(default_factory=dict)
    failed: dict[int, CurrentRmsError] = field(default_factory=dict)

    def __iadd__(self, other: "Refreshed") -> "Refreshed":
        self.result += other.result
        self.gone |= other.gone
        self.deleted += other.deleted
        self.held_back += other.held_back
        self.calls += other.calls
        self.absent |= other.absent
        self.outdated |= other.outdated
        self.unasked |= other.unasked
        self.locked |= other.locked
        self.failed |= other.failed
        return self


def refresh(
    database: Database,
    client: CurrentRmsClient,
    ids: Iterable[int],
    run: str,
    *,
    lane: Lane = Lane.LIVE,
    wanted: Wanted | None = None,
    patient_with: Ids[int] = (),
) -> Refreshed:
    """Request `ids`, a page of them in each call, and merge the answers. Deleted records are
    removed.

    A record counts as deleted if `GET /opportunities/{id}` answered 404 or 410, except for the ids
    in `patient_with`. Where nothing else shows it, that answer must come twice. `wanted` is what
    events said about the ids. Without it, a few ids are requested singly; for more ids, it is
    tested whether lists are late. A row that another session locks for more than a second is left
    out. So is a record that the API does not deliver. Neither affects the others.
    """
    done = Refreshed()
    before = client.counts.calls
    asked = sorted(set(ids))
    if wanted is None:
        few = asked if len(asked) <= ASKED_SINGLY else ()
        wanted = Wanted(singly=few, sampled=not few)
    with database.session() as connection:
        # The account of a long-lived client may have been replaced in this database.
        demand_mirror_of(connection, client.subdomain)
        known = what_is_held(connection, client.collection, asked, patience=2.0)
        wanted = replace(
            wanted,
            held=known.held,
            gone=known.gone,
            alive=patient_with,
            once_is_enough={*wanted.once_is_enough, *known.once_is_enough},
            unlisted=known.unlisted,
        )
        storing = _Storing(
            database,
            connection,
            client.collection,
            run,
            walks.begin_walk(connection, client.collection, run, walks.REFRESH).id,
        )
        others = some_other_row(connection, client.collection, asked)
        for verdict in ask_by_id(client, asked, lane=lane, wanted=wanted, witnesses=others):
            storing.store(verdict, done, patient_with)
        walks.settle_walk(connection, storing.walk)
    done.calls = client.counts.calls - before
    return done


class _Storing:
    def __init__(
        self,
        database: Database,
        connection: Connection,
        collection: Collection,
        run: str,
        walk: int,
    ) -> None:
        self.walk, self._collection = walk, collection
        self._database, self._connection, self._run = database, connection, run

    def store(self, verdict: Verdict, done: Refreshed, patient_with: Ids[int]) -> None:
        for answer in verdict.answers:
            land_page(
                self._connection, self._collection, self._run, self.walk, raw_page(answer, "by_id")
            )
            outdone = verdict.outdone(answer, self._collection)
            done.locked |= self._merge(answer, outdone, done)
        gone = {i: times for i, times in verdict.gone.items() if i not in patient_with}
        done.absent |= verdict.gone.keys() - gone.keys()
        done.locked |= self._delete(gone, done, shown_none=verdict.shown_none)
        done.gone |= gone.keys() - done.locked.keys()
        done.outdated |= verdict.outdated
        done.unasked |= verdict.unasked
        done.failed |= verdict.failed

    def _merge(self, answer: ListAnswer, without: set[int], done: Refreshed) -> dict[int, str]:
        records = read_records(self._collection, answer)
        nameless = [r for r in records if isinstance(r, Fault)]
        named = {r.id: r for r in records if not isinstance(r, Fault) and r.id not in without}

        def write(ids: Sequence[int]) -> MergeResult:
            return merge_answer(
                self._connection, self._collection, self._run, answer, [named[i] for i in ids]
            )

        if nameless:
            done.result += merge_answer(
                self._connection, self._collection, self._run, answer, nameless
            )
        results, held = write_what_is_free(
            self._database, self._connection, self._collection, sorted(named), write
        )
        for result in results:
            done.result += result
        return held

    def _delete(
        self,
        gone: Mapping[int, tuple[datetime, datetime]],
        done: Refreshed,
        *,
        shown_none: bool,
    ) -> dict[int, str]:
        def write(ids: Sequence[int]) -> Removal:
            going = {i: gone[i] for i in ids}
            return move_to_deleted(
                self._connection,
                self._collection,
                going,
                _BECAUSE,
                self._run,
                shown_none=shown_none,
            )

        removals, held = write_what_is_free(
            self._database, self._connection, self._collection, sorted(gone), write
        )
        for removal in removals:
            done.deleted += len(removal.gone)
            done.held_back += len(removal.held)
        return held
