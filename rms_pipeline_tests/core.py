"""Syncs as the assets run them, without Dagster."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.window import Window
from rms_pipeline.mirror import walks
from rms_pipeline.mirror.database import Database
from rms_pipeline.sync.landing import OVERLAP, LandedWalk, land_changes, land_window
from rms_pipeline.sync.settling import Settled, settle_full_walk
from rms_pipeline.sync.storing import MergedWalk, merge_walks


@dataclass(frozen=True)
class FullSync:
    landed: LandedWalk
    merged: MergedWalk
    settled: Settled


def full_sync(
    database: Database,
    client: CurrentRmsClient,
    window: Window,
    run: str = "full",
    *,
    fresh_for: timedelta = timedelta(0),
    overlap: timedelta = OVERLAP,
    confirm_deletions: bool = False,
    reverify_calls: int = 0,
) -> FullSync:
    landed = land_window(database, client, window, run, fresh_for=fresh_for, overlap=overlap)
    with database.session() as connection:
        walk = walks.find_walk(connection, landed.walk)
    assert walk is not None
    merged = merge_walks(database, [walk.id], run, counted_since=walk.started_at)
    settled = settle_full_walk(
        database,
        client,
        walk,
        run,
        confirm_deletions=confirm_deletions,
        reverify_calls=reverify_calls,
    )
    return FullSync(landed, merged, settled)


def incremental_sync(
    database: Database,
    client: CurrentRmsClient,
    watermarks: Sequence[datetime],
    run: str = "incremental",
    *,
    overlap: timedelta = OVERLAP,
) -> tuple[LandedWalk, MergedWalk]:
    landed = land_changes(database, client, watermarks, run, overlap=overlap)
    return landed, merge_walks(database, [landed.walk], run)
