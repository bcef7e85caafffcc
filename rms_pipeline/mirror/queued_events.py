"""Webhook events: as delivered, as claimed by a process, and as stored in the queue."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from rms_pipeline.collections.base import Collection

# The id of the record that a row `e` of webhook_events is about. Events of the first collection
# have it in a column of their own.
RECORD = "coalesce(e.record_id, e.opportunity_id)"


@dataclass(frozen=True, slots=True)
class Event:
    """A webhook delivery. If nothing is refreshed, `record` is None, and `because` says why.

    `collection` is the collection of `record`. `happened_at` is by Current RMS's clock. `payload`
    is the whole body as JSON that PostgreSQL can store. `kept` is the part of it that is stored.
    """

    action_id: int | None
    action_type: str | None
    subject_type: str | None
    collection: Collection | None
    record: int | None
    member_id: int | None
    member_name: str | None
    happened_at: datetime | None
    payload: bytes
    kept: bytes
    because: str | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """An event that a process works on.

    `waits` is how often it was postponed until Current RMS shows its change.
    """

    id: int
    record: int
    action_type: str | None
    happened_at: datetime | None
    received_at: datetime
    waits: int


@dataclass(frozen=True, slots=True)
class Claim:
    """Events of some records of `collection`, held by `claimant` until the lease ends.

    `strangers` are the records among them that the mirror does not know.
    """

    collection: Collection
    claimant: str
    events: Sequence[Claimed]
    strangers: frozenset[int] = frozenset()

    @property
    def records(self) -> list[int]:
        return sorted({event.record for event in self.events})

    def events_of(self, records: Iterable[int]) -> list[Claimed]:
        wanted = set(records)
        return [event for event in self.events if event.record in wanted]


@dataclass(frozen=True, slots=True)
class QueueState:
    """`depth` events wait, the oldest since `oldest` (UTC). `dead` events are dead letters."""

    depth: int
    dead: int
    oldest: datetime | None
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as stored in the queue. `processed_at` and `dead_at` are both None while it waits.

    `opportunity_id` is None if the event is about a `record` of another `collection`.
    """

    id: int
    opportunity_id: int | None
    action_type: str | None
    member_name: str | None
    received_at: datetime
    attempts: int
    processed_at: datetime | None
    dead_at: datetime | None
    error: str | None
    collection: str
    record: int
