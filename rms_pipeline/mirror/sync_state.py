"""How syncs and the queue stand: the same facts for the dashboard, the sync API and `status`."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812

from rms_pipeline.collections.base import Collection
from rms_pipeline.mirror.history import Sync, has_full_sync, latest_syncs, running_sync
from rms_pipeline.mirror.progress import Pace, read_progress
from rms_pipeline.mirror.proofs import standing
from rms_pipeline.mirror.queue import QueueState, StoredEvent, dead_letters, queue_state


@dataclass(frozen=True, slots=True)
class SyncState:
    """`running` is the newest sync under way, `pace` how far it has come (None before
    its first page). `history` is newest first. `certificate` is how complete the mirror
    is known to be (`proofs.Standing`), `window` the days that it speaks of (UTC)."""

    has_full_sync: bool
    running: Sync | None
    pace: Pace | None
    history: list[Sync]
    queue: QueueState
    dead: list[StoredEvent]
    certificate: dict[str, Any] | None
    window: tuple[datetime, datetime] | None

    @property
    def last(self) -> Sync | None:
        return self.history[0] if self.history else None


def read_sync_state(
    connection: Connection, collection: Collection, *, syncs: int = 5, dead: int = 20
) -> SyncState:
    """The state now, with the last `syncs` syncs and `dead` dead letters."""
    running = running_sync(connection)
    known = standing(connection, collection)
    queue = queue_state(connection)
    return SyncState(
        has_full_sync=has_full_sync(connection, collection),
        running=running,
        pace=read_progress(connection, running.run_id) if running else None,
        history=latest_syncs(connection, syncs),
        queue=queue,
        dead=dead_letters(connection, dead) if queue.dead else [],
        certificate=known.as_json(),
        window=known.proof.window if known.proof else None,
    )
