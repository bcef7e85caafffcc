"""What can be launched."""

import dagster as dg

from rms_pipeline.defs.assets import opportunities, raw_rms_pages, status_counts

SYNC_TYPE_TAG = "rms/sync_type"

initial_sync = dg.define_asset_job(
    "initial_sync",
    selection=dg.AssetSelection.assets(raw_rms_pages, opportunities, status_counts),
    description="The full sync: fetches every opportunity in the window and brings the tables up "
    "to date. Safe to run at any time and as often as you like.",
    tags={SYNC_TYPE_TAG: "initial_sync"},
)
