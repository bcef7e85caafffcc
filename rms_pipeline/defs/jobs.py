"""What can be launched."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition,
)

from rms_pipeline.defs.assets import opportunities, raw_rms_pages, status_counts
from rms_pipeline.defs.config import StoreConfig, WalkConfig
from rms_pipeline.defs.recording import SYNC_TYPE_TAG
from rms_pipeline.mirror.sync_runs import INCREMENTAL, INITIAL, RECONCILIATION
from rms_pipeline.sync.prove import RANGES

_ALL = dg.AssetSelection.assets(raw_rms_pages, opportunities, status_counts)
NIGHTLY_REVERIFY_CALLS = 20
NIGHTLY_RANGES = 10


def sync_jobs(*, days_back: int, days_ahead: int) -> list[UnresolvedAssetJobDefinition]:
    """The jobs that sync. Their launchpads open with all that may be set, the window in days.

    Without config, as schedules and the command launch them, the window is that of the settings.
    """

    def full(*, reverify_calls: int = 0, ranges: int = RANGES) -> dg.RunConfig:
        return dg.RunConfig(
            ops={
                raw_rms_pages.op.name: WalkConfig(days_back=days_back, days_ahead=days_ahead),
                opportunities.op.name: StoreConfig(reverify_calls=reverify_calls, ranges=ranges),
            }
        )

    return [
        dg.define_asset_job(
            INITIAL,
            selection=_ALL,
            config=full(),
            description="The full sync: fetches every opportunity in the window and brings the "
            "tables up to date. Safe to run at any time and as often as you like. For another "
            "window choose Open launchpad beside Materialize all, and set days_back and "
            "days_ahead.",
            tags={SYNC_TYPE_TAG: INITIAL},
        ),
        dg.define_asset_job(
            INCREMENTAL,
            selection=_ALL,
            config={"ops": {raw_rms_pages.op.name: {"config": {"overlap_minutes": 5}}}},
            description="Fetches everything that changed in Current RMS since the last sync, "
            "inside and outside the window. It ends with the proof that the mirror "
            "is complete, which also finds deletions: four calls when nothing has "
            "changed.",
            tags={SYNC_TYPE_TAG: INCREMENTAL},
        ),
        dg.define_asset_job(
            RECONCILIATION,
            selection=_ALL,
            config=full(reverify_calls=NIGHTLY_REVERIFY_CALLS, ranges=NIGHTLY_RANGES),
            description="The nightly full sync: reads the whole window again, and so finds edits "
            "without a new updated_at, too. It asks again for rows outside the "
            f"window, and counts the window in {NIGHTLY_RANGES} ranges of ids.",
            tags={SYNC_TYPE_TAG: RECONCILIATION},
        ),
    ]
