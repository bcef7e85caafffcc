"""What can be launched."""

import dagster as dg

from rms_pipeline.defs.assets import (
    INCREMENTAL,
    SYNC_TYPE_TAG,
    opportunities,
    raw_rms_pages,
    status_counts,
)
from rms_pipeline.defs.config import StoreConfig

_ALL = dg.AssetSelection.assets(raw_rms_pages, opportunities, status_counts)
# What they say is only found out by a full walk.
_OF_FULL_SYNCS = dg.AssetSelection.checks(
    dg.AssetCheckKey(opportunities.key, "mirror_is_complete"),
    dg.AssetCheckKey(opportunities.key, "deletions_are_plausible"),
)
NIGHTLY_REVERIFY_CALLS = 20

initial_sync = dg.define_asset_job(
    "initial_sync",
    selection=_ALL,
    description="The full sync: fetches every opportunity in the window and brings the tables up "
    "to date. Safe to run at any time and as often as you like.",
    tags={SYNC_TYPE_TAG: "initial_sync"},
)

incremental_sync = dg.define_asset_job(
    INCREMENTAL,
    selection=_ALL - _OF_FULL_SYNCS,
    description="Fetches whatever changed in Current RMS since the last sync, whatever its dates; "
    "usually one call. Deletions, and records without an updated_at, are for reconciliation.",
    tags={SYNC_TYPE_TAG: INCREMENTAL},
)

reconciliation = dg.define_asset_job(
    "reconciliation",
    selection=_ALL,
    config=dg.RunConfig(ops={"opportunities": StoreConfig(reverify_calls=NIGHTLY_REVERIFY_CALLS)}),
    description="The nightly full sync: finds what no incremental sync can (deletions, edits "
    "without a new updated_at, missed webhooks) and asks again for rows outside the window.",
    tags={SYNC_TYPE_TAG: "reconciliation"},
)
