"""Refreshing single opportunities: the one way for webhooks, the command and whoever asks."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.mirror import walks
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.deletions import move_to_deleted
from rms_pipeline.mirror.merge import MergeResult
from rms_pipeline.mirror.ownership import demand_mirror_of
from rms_pipeline.sync.by_id import ask_by_id
from rms_pipeline.sync.storing import store_answer

_BECAUSE = "asked for by its id, and Current RMS no longer has it"


@dataclass(slots=True)
class Refreshed:
    """`result` of the merge; `gone` are ids that the API no longer has, `deleted` the rows that
    went, `held_back` those that stay because too many would go, `calls` what it cost."""

    result: MergeResult = field(default_factory=MergeResult)
    gone: set[int] = field(default_factory=set)
    deleted: int = 0
    held_back: int = 0
    calls: int = 0

    def __iadd__(self, other: "Refreshed") -> "Refreshed":
        self.result += other.result
        self.gone |= other.gone
        self.deleted += other.deleted
        self.held_back += other.held_back
        self.calls += other.calls
        return self


def refresh(
    database: Database,
    client: CurrentRmsClient,
    ids: Iterable[int],
    run: str,
    *,
    lane: Lane = Lane.LIVE,
) -> Refreshed:
    """Asks for `ids`, a page of them in a call, and merges what comes; who is gone is deleted.

    Gone is what `GET /opportunities/{id}` has answered with 404 or 410.
    """
    done = Refreshed()
    before = client.counts.calls
    with database.session() as connection:
        # A client that lives long may be of an account that has had to make room.
        demand_mirror_of(connection, client.subdomain)
        walk = walks.begin_walk(connection, run, walks.REFRESH)
        for verdict in ask_by_id(client, sorted(set(ids)), lane=lane):
            for answer in verdict.answers:
                done.result += store_answer(connection, run, walk.id, "by_id", answer)
            done.gone |= verdict.gone.keys()
            removal = move_to_deleted(connection, verdict.gone, _BECAUSE, run)
            done.deleted += len(removal.gone)
            done.held_back += len(removal.held)
        walks.settle_walk(connection, walk.id)
    done.calls = client.counts.calls - before
    return done
