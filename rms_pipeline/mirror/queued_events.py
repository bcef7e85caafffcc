"""Webhook events: as delivered, while somebody works on them, and as they stand in the queue."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from rms_pipeline.collections.base import Collection


@dataclass(frozen=True, slots=True)
class Event:
    """A webhook delivery. `opportunity_id` None when nothing is refreshed, `because` says why.

    `happened_at`: by Current RMS's clock. `payload` is the whole body as JSON that PostgreSQL can
    hold, `kept` as much of it as is to be kept.
    """

    action_id: int | None
    action_type: str | None
    subject_type: str | None
    opportunity_id: int | None
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
    opportunity_id: int
    action_type: str | None
    happened_at: datetime | None
    received_at: datetime
    waits: int


@dataclass(frozen=True, slots=True)
class Claim:
    """Events of some records of `collection`, held by `claimant` until the lease ends. `strangers`:
    opportunities among them that the mirror does not know."""

    collection: Collection
    claimant: str
    events: Sequence[Claimed]
    strangers: frozenset[int] = frozenset()

    @property
    def opportunities(self) -> list[int]:
        return sorted({event.opportunity_id for event in self.events})

    def events_of(self, opportunities: Iterable[int]) -> list[Claimed]:
        wanted = set(opportunities)
        return [event for event in self.events if event.opportunity_id in wanted]


@dataclass(frozen=True, slots=True)
class QueueState:
    """`depth` events wait, the oldest since `oldest` (UTC); `dead` gave up."""

    depth: int
    dead: int
    oldest: datetime | None
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as it stands in the queue; `processed_at` and `dead_at` both None while it waits."""

    id: int
    opportunity_id: int
    action_type: str | None
    member_name: str | None
    received_at: datetime
    attempts: int
    processed_at: datetime | None
    dead_at: datetime | None
    error: str | None
