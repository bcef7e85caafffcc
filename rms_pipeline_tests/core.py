"""Syncs as the assets run them, without Dagster."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.current_rms.window import Window
from rms_pipeline.mirror import walks
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.proofs import Proof
from rms_pipeline.sync.counting import RANGES
from rms_pipeline.sync.doubts import merge_walk
from rms_pipeline.sync.landing import OVERLAP, LandedWalk, land_changes, land_window
from rms_pipeline.sync.prove import begin_proof, finish_proof
from rms_pipeline.sync.settling import Settled, settle_full_walk
from rms_pipeline.sync.storing import MergedWalk


@dataclass(frozen=True)
class FullSync:
    landed: LandedWalk
    merged: MergedWalk
    settled: Settled


def full_sync(
    database: Database,
    client: CurrentRmsClient,
    window: Window | None,
    run: str = "full",
    *,
    fresh_for: timedelta = timedelta(0),
    overlap: timedelta = OVERLAP,
    confirm_deletions: bool = False,
    reverify_calls: int = 0,
    ranges: int = RANGES,
) -> FullSync:
    landed = land_window(database, client, window, run, fresh_for=fresh_for, overlap=overlap)
    with database.session() as connection:
        walk = walks.find_walk(connection, landed.walk)
    assert walk is not None
    merged = merge_walk(database, client, walk, run, lane=Lane.WALK)
    settled = settle_full_walk(
        database,
        client,
        walk,
        run,
        confirm_deletions=confirm_deletions,
        reverify_calls=reverify_calls,
        ranges=ranges,
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
    landed, merged, _ = proved_sync(database, client, watermarks, run, overlap=overlap, proof=False)
    return landed, merged


def proved_sync(
    database: Database,
    client: CurrentRmsClient,
    watermarks: Sequence[datetime],
    run: str = "incremental",
    *,
    overlap: timedelta = OVERLAP,
    proof: bool = True,
    dice: random.Random | None = None,
) -> tuple[LandedWalk, MergedWalk, Proof | None]:
    """Run an incremental sync that ends with the proof, if there is something to prove."""
    begun = begin_proof(database, client, run, dice=dice) if proof else None
    landed = land_changes(database, client, watermarks, run, overlap=overlap)
    with database.session() as connection:
        walk = walks.find_walk(connection, landed.walk)
    assert walk is not None
    merged = merge_walk(database, client, walk, run, lane=Lane.INCREMENTAL)
    if begun is not None:
        begun, further = finish_proof(database, client, begun, walk, merged.result, run, dice=dice)
        merged.result += further
    with database.session() as connection:
        walks.settle_walk(connection, walk.id)
    return landed, merged, begun
