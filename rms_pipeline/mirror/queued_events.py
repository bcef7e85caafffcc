"""Webhook events: as delivered, as claimed by a process, and as stored in the queue."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from rms_pipeline.collections.base import Collection

# Which record of its collection a row `e` of webhook_events tells of: those of the first
# collection stand in a column of their own.
RECORD = "coalesce(e.record_id, e.opportunity_id)"


@dataclass(frozen=True, slots=True)
class Event:
    """A webhook delivery. `record` of `collection` is None when nothing is refreshed; `because`
    says why.

    `happened_at`: by Current RMS's clock. `payload` is the whole body as JSON that PostgreSQL can
    hold, `kept` as much of it as is to be kept.
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
    """An event that somebody works on. `waits`: how often it was put off until Current RMS has what
    it tells of."""

    id: int
    record: int
    action_type: str | None
    happened_at: datetime | None
    received_at: datetime
    waits: int


@dataclass(frozen=True, slots=True)
class Claim:
    """Events of some records of `collection`, held by `claimant` until the lease ends. `strangers`:
    those among them that the mirror does not know."""

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
    """`depth` events wait, the oldest since `oldest` (UTC); `dead` gave up."""

    depth: int
    dead: int
    oldest: datetime | None
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as stored in the queue; `processed_at` and `dead_at` are both None while it waits.

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
