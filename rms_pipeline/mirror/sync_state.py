"""The state of syncs and of the queue: the same facts for the dashboard, the sync API and
`status`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rms_pipeline.collections.base import Collection
from rms_pipeline.mirror.collection_states import CollectionState, CountRows, read_collection_states
from rms_pipeline.mirror.progress import Pace, collection_at_work, read_progress
from rms_pipeline.mirror.proofs import standing
from rms_pipeline.mirror.queue import QueueState, StoredEvent, dead_letters, queue_state
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.mirror.summary import count_rows
from rms_pipeline.mirror.sync_metadata import Sync, latest_syncs, running_sync
from rms_pipeline.mirror.walks import has_full_sync


@dataclass(frozen=True, slots=True)
class SyncState:
    """The state of syncs and of the queue.

    `running` is the newest sync at work. `pace` says how far it has come (None before its first
    page). `at_work` is the collection that it fetches or stores now. `history` is newest first.
    `certificate` says how complete the mirror is known to be (`proofs.Standing`), and `window`
    gives the days (UTC) that this is about, both for the first collection. `collections` is the
    state of each collection.
    """

    has_full_sync: bool
    running: Sync | None
    pace: Pace | None
    history: list[Sync]
    queue: QueueState
    dead: list[StoredEvent]
    certificate: dict[str, Any] | None
    window: tuple[datetime, datetime] | None
    collections: list[CollectionState]
    at_work: str | None

    @property
    def last(self) -> Sync | None:
        return self.history[0] if self.history else None


def read_sync_state(
    connection: Connection,
    collection: Collection,
    *,
    on: Sequence[Collection] = (),
    syncs: int = 5,
    dead: int = 20,
    count: CountRows = count_rows,
) -> SyncState:
    """Return the present state with the last `syncs` syncs and `dead` dead letters.

    `on` are all mirrored collections; `collection` is the first of them. `count` counts their rows.
    """
    running = running_sync(connection)
    pace = read_progress(connection, running.run_id) if running else None
    known = standing(connection, collection)
    queue = queue_state(connection)
    return SyncState(
        has_full_sync=has_full_sync(connection, collection),
        running=running,
        pace=pace,
        history=latest_syncs(connection, syncs),
        queue=queue,
        dead=dead_letters(connection, dead) if queue.dead else [],
        certificate=known.as_json(),
        window=known.proof.window if known.proof else None,
        collections=read_collection_states(connection, on or [collection], count),
        at_work=collection_at_work(connection, running.run_id, pace.stage)
        if running and pace
        else None,
    )
