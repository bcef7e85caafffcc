"""What can be launched."""

from collections.abc import Mapping, Sequence

import dagster as dg

from rms_pipeline.collections.base import Collection
from rms_pipeline.defs.assets import raw_pages_of
from rms_pipeline.defs.compat import UnresolvedAssetJobDefinition
from rms_pipeline.defs.config import StoreConfig, WalkConfig
from rms_pipeline.defs.naming import Naming
from rms_pipeline.defs.recording import SYNC_TYPE_TAG
from rms_pipeline.mirror.sync_runs import INCREMENTAL, INITIAL, RECONCILIATION
from rms_pipeline.sync.counting import RANGES

NIGHTLY_REVERIFY_CALLS = 20
NIGHTLY_RANGES = 10


def sync_jobs(
    collections: Sequence[Collection],
    naming: Naming,
    *,
    days_back: int,
    days_ahead: int,
    metadata: Mapping[str, dg.MetadataValue] | None = None,
) -> list[UnresolvedAssetJobDefinition]:
    """The jobs that sync. Their launchpads open with all that may be set, the window in days.

    Without config, as schedules and the command launch them, the window is that of the settings.
    """

    pages = {c: naming.name(raw_pages_of(c)) for c in collections}
    tables = {c: naming.name(c.name) for c in collections}
    everything = dg.AssetSelection.assets(
        *naming.keys(map(raw_pages_of, collections)),
        *naming.keys(c.name for c in collections),
        naming.key("status_counts"),
    )

    def full(*, reverify_calls: int = 0, ranges: int = RANGES) -> dg.RunConfig:
        walk = WalkConfig(days_back=days_back, days_ahead=days_ahead)
        store = StoreConfig(reverify_calls=reverify_calls, ranges=ranges)
        # Without a window there is none to be set, and nothing lies outside it.
        whole = StoreConfig(ranges=ranges)
        return dg.RunConfig(
            ops={
                **{pages[c]: walk if c.has_window else WalkConfig() for c in collections},
                **{tables[c]: store if c.has_window else whole for c in collections},
            }
        )

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
            config={"ops": {pages[c]: {"config": {"overlap_minutes": 5}} for c in collections}},
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
            description="The nightly full sync: reads the whole window again, and so finds edits "
            "without a new updated_at, too. It asks again for rows outside the "
            f"window, and counts the window in {NIGHTLY_RANGES} ranges of ids.",
            tags={SYNC_TYPE_TAG: RECONCILIATION},
        ),
    ]
