"""After the pages of a full walk are merged: finds deleted records, and proves completeness.

A row is only deleted if two things show it: a complete reading did not list it, and `GET
/opportunities/{id}` answers that it does not exist. If too many rows would be deleted at once, none
is.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.errors import FindsNone
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.mirror import walks
from rms_pipeline.mirror.completeness import some_other_row
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.deletions import (
    BY_TWO_WITNESSES,
    Deletions,
    held_back,
    oldest_outside,
    unseen_rows,
)
from rms_pipeline.mirror.deletions import confirm_deletions as note_confirmation
from rms_pipeline.mirror.merge import MergeResult
from rms_pipeline.mirror.proofs import Proof
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.mirror.unreadable import unreadable
from rms_pipeline.sync.by_id import Verdict, ask_by_id
from rms_pipeline.sync.counting import RANGES
from rms_pipeline.sync.doubts import what_is_held
from rms_pipeline.sync.prove import SUSPECT, Prover
from rms_pipeline.sync.storing import store_answer

_ALL = 2**31
_BY_ID_ALONE = "it is outside the window, and Current RMS did not find it by its id"


@dataclass(slots=True)
class Settled:
    """The result of a full walk. Counts are rows.

    `deleted` left the table. `held_back` no longer exist in Current RMS, but were too many to
    delete without confirmation. `left_window` were not in the walk and still exist. `reverified`
    rows outside the window were requested again. `result` is what was merged meanwhile.
    """

    certificate: Proof
    deleted: int = 0
    held_back: int = 0
    left_window: int = 0
    reverified: int = 0
    calls: int = 0
    result: MergeResult = field(default_factory=MergeResult)


def settle_full_walk(
    database: Database,
    client: CurrentRmsClient,
    walk: walks.StoredWalk,
    run: str,
    *,
    confirm_deletions: bool = False,
    reverify_calls: int = 0,
    ranges: int = RANGES,
) -> Settled:
    """Remove deleted rows, prove the window, and request rows outside it again.

    `walk` is complete and merged. With `confirm_deletions`, any number of rows may be deleted.
    `reverify_calls` limits the calls for rows outside the window. The proof counts that many
    `ranges` of ids.
    """
    before = client.counts.calls
    with database.session() as connection:
        deletions = Deletions(connection, client.collection, run, confirmed=confirm_deletions)
        settling = _Settling(connection, client, walk, run, deletions)
        settling.remove(
            unseen_rows(connection, client.collection, walk.id, walk.started_at, walk.window)
        )
        settling.remove_the_last()
        prover = Prover(
            connection,
            client,
            walk,
            run,
            ranges=ranges,
            remove=None if deletions.held else deletions,
        )
        proof = prover.prove(walk.id, walk.watermark or walk.started_at, prover.window)
        settling.result += prover.result
        reverified = settling.reverify(reverify_calls)
        if confirm_deletions:
            note_confirmation(connection, client.collection)
        held = held_back(connection, client.collection)
        settled = Settled(
            certificate=proof,
            deleted=deletions.deleted,
            held_back=len(held),
            left_window=settling.left_window,
            reverified=reverified,
            calls=client.counts.calls - before,
            result=settling.result,
        )
        walks.settle_walk(
            connection,
            walk.id,
            deletions={"deleted": settled.deleted, "held_back": settled.held_back},
        )
    return settled


class _Settling:
    def __init__(
        self,
        connection: Connection,
        client: CurrentRmsClient,
        walk: walks.StoredWalk,
        run: str,
        deletions: Deletions,
    ) -> None:
        self.result = MergeResult()
        self.left_window = 0
        self._connection, self._client, self._walk, self._run = connection, client, walk, run
        self._window = walk.window
        self._deletions = deletions
        self._collection = client.collection
        self._unreadable = set(unreadable(connection, self._collection))
        # Asked for while Current RMS showed no record at all, although the mirror has others.
        self._asked_in_vain = set[int]()

    def remove(self, suspects: Iterable[int]) -> None:
        """Request `suspects`, which a complete reading did not list. Removes those that were
        deleted.
        """
        # A record that cannot be delivered was not listed either, and a request for it would end
        # the sync.
        ids = sorted(set(suspects) - self._unreadable)
        gone: dict[int, tuple[datetime, datetime]] = {}
        shown_none = False
        calls = self._deletions.calls_for(len(ids), self._client.page_size)
        asked = ask_by_id(
            self._client,
            ids,
            lane=Lane.WALK,
            expected=False,
            wanted=replace(what_is_held(self._connection, self._collection, ids), missing=ids),
            calls=calls,
            witnesses=some_other_row(self._connection, self._collection, ids),
        )
        # If no record is found by its id, none is removed. The proof will say so.
        with self._asking_in_vain(ids):
            for verdict in asked:
                self._store(verdict)
                gone.update(verdict.gone)
                shown_none |= verdict.shown_none
        self._deletions.remove_gone(gone, shown_none=shown_none)
        if not self._deletions.held:
            self.left_window += len(ids) - len(gone)

    def reverify(self, calls: int) -> int:
        """Request rows outside the window again, those of longest ago first. Returns how many.

        When a person has confirmed deletions, rows that were held back before are requested too.
        """
        asked = 0
        if self._deletions.confirmed:
            asked += self._ask_again(held_back(self._connection, self._collection))
        if self._window is not None:
            ids = oldest_outside(
                self._connection, self._collection, self._window, self._client.page_size * calls
            )
            ids = [i for i in ids if i not in self._unreadable]
            asked += self._ask_again(ids, calls=calls) if ids else 0
        return asked

    def remove_the_last(self) -> None:
        """Remove the last rows of an account that has no record any more, if a person has confirmed
        it.

        Rows outside the window speak for those inside, although they are gone as well. So all of
        them are asked for together.
        """
        if not self._deletions.confirmed or not self._asked_in_vain:
            return
        left = set(self._asked_in_vain)
        if self._window is not None:
            left.update(oldest_outside(self._connection, self._collection, self._window, _ALL))
        self._ask_again(sorted(left - self._unreadable), because=BY_TWO_WITNESSES)

    @contextlib.contextmanager
    def _asking_in_vain(self, ids: Iterable[int]) -> Iterator[None]:
        try:
            yield
        except FindsNone:
            self._asked_in_vain.update(ids)

    def _ask_again(
        self, ids: Sequence[int], calls: int | None = None, because: str = _BY_ID_ALONE
    ) -> int:
        asked = 0
        with self._asking_in_vain(ids):
            others = some_other_row(self._connection, self._collection, ids)
            for verdict in ask_by_id(
                self._client,
                ids,
                lane=Lane.WALK,
                wanted=what_is_held(self._connection, self._collection, ids),
                calls=calls,
                witnesses=others,
            ):
                self._store(verdict)
                asked += sum(len(answer.ids) for answer in verdict.answers) + len(verdict.gone)
                self._deletions.remove_gone(verdict.gone, because, shown_none=verdict.shown_none)
        return asked

    def _store(self, verdict: Verdict) -> None:
        for answer in verdict.answers:
            self.result += store_answer(
                self._connection,
                self._collection,
                self._run,
                self._walk.id,
                SUSPECT,
                answer,
                without=verdict.outdone(answer, self._collection),
            )
