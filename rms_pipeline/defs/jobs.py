"""The jobs."""

from collections.abc import Mapping, Sequence

import dagster as dg

from rms_pipeline.collections.base import Collection
from rms_pipeline.defs.compat import UnresolvedAssetJobDefinition
from rms_pipeline.defs.config import PartsConfig, StoreConfig, StorePartsConfig, WalkConfig
from rms_pipeline.defs.naming import Naming
from rms_pipeline.defs.recording import SYNC_TYPE_TAG
from rms_pipeline.defs.steps import raw_pages_of
from rms_pipeline.mirror.sync_runs import INCREMENTAL, INITIAL, RECONCILIATION
from rms_pipeline.sync.counting import RANGES
from rms_pipeline.sync.parts import CALLS, NIGHTLY_CALLS

NIGHTLY_REVERIFY_CALLS = 20
NIGHTLY_RANGES = 10


def sync_jobs(
    collections: Sequence[Collection],
    naming: Naming,
    *,
    days_back: int,
    days_ahead: int,
    items_days_ahead: int,
    metadata: Mapping[str, dg.MetadataValue] | None = None,
) -> list[UnresolvedAssetJobDefinition]:
    """The sync jobs. Their launchpads show all values that can be set. Without config, as schedules
    and the command launch them, the window is that of the settings."""

    pages = {c: naming.name(raw_pages_of(c)) for c in collections}
    tables = {c: naming.name(c.name) for c in collections}
    everything = dg.AssetSelection.assets(
        *naming.keys(map(raw_pages_of, collections)),
        *naming.keys(c.name for c in collections),
        naming.key("status_counts"),
    )

    def full(*, reverify_calls: int = 0, ranges: int = RANGES) -> dg.RunConfig:
        def walk(collection: Collection) -> dg.Config:
            if collection.parts is not None:
                return PartsConfig(days_ahead=items_days_ahead, most_calls=NIGHTLY_CALLS)
            # Without a window there is none to be set, and nothing lies outside it.
            if not collection.has_window:
                return WalkConfig()
            return WalkConfig(days_back=days_back, days_ahead=days_ahead)

        def store(collection: Collection) -> dg.Config:
            if collection.parts is not None:
                return StorePartsConfig(days_ahead=items_days_ahead)
            if not collection.has_window:
                return StoreConfig(ranges=ranges)
            return StoreConfig(reverify_calls=reverify_calls, ranges=ranges)

        return dg.RunConfig(
            ops={
                **{pages[c]: walk(c) for c in collections},
                **{tables[c]: store(c) for c in collections},
            }
        )

    def changes(collection: Collection) -> dict[str, int]:
        if collection.parts is not None:
            return {"most_calls": CALLS}
        return {"overlap_minutes": 5}

    return [
        dg.define_asset_job(
            naming.name(INITIAL),
            selection=everything,
            # A process a step costs seconds and buys nothing: the steps follow one another.
            executor_def=dg.in_process_executor,
            metadata=metadata,
            config=full(),
            description="The full sync: fetches every opportunity in the window and brings the "
            "tables up to date. Safe to run at any time and as often as you like. For another "
            "window choose Open launchpad beside Materialize all, and set days_back and "
            "days_ahead.",
            tags={SYNC_TYPE_TAG: INITIAL},
        ),
        dg.define_asset_job(
            naming.name(INCREMENTAL),
            selection=everything,
            executor_def=dg.in_process_executor,
            metadata=metadata,
            config={"ops": {pages[c]: {"config": changes(c)} for c in collections}},
            description="Fetches everything that changed in Current RMS since the last sync, "
            "inside and outside the window. It ends with the proof that the mirror "
            "is complete, which also finds deletions: four calls when nothing has "
            "changed.",
            tags={SYNC_TYPE_TAG: INCREMENTAL},
        ),
        dg.define_asset_job(
            naming.name(RECONCILIATION),
            selection=everything,
            executor_def=dg.in_process_executor,
            metadata=metadata,
            config=full(reverify_calls=NIGHTLY_REVERIFY_CALLS, ranges=NIGHTLY_RANGES),
            description="The nightly full sync: reads the whole window again, so it also finds "
            "edits without a new updated_at. It requests rows outside the window "
            f"again, and counts the window in {NIGHTLY_RANGES} ranges of ids.",
            tags={SYNC_TYPE_TAG: RECONCILIATION},
        ),
    ]
