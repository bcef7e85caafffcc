"""What Dagster loads: `defs`, and `build_defs` for those who bring resources of their own."""

import warnings
from collections.abc import Mapping
from typing import Any

import dagster as dg

from rms_pipeline.defs import (
    asset_checks,
    assets,
    business_events,
    housekeeping,
    jobs,
    rebuilding,
    schedules,
    webhook_refresh,
)
from rms_pipeline.defs.resources import CurrentRmsResource, MirrorResource
from rms_pipeline.settings import settings

# Dagster passes this itself when it binds a sensor to its job; nobody can act on the warning.
warnings.filterwarnings("ignore", "Parameter `owners` of initializer `SensorDefinition")


def build_defs(resource_overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """All assets, checks, jobs and resources; `resource_overrides` replaces resources by key."""
    collections = settings().collections
    return dg.Definitions(
        assets=dg.map_asset_specs(
            _names_its_table,
            [
                assets.current_rms_api,
                *(asset for c in collections for asset in assets.assets_of(c)),
                assets.status_counts,
            ],
        ),
        asset_checks=[
            *(check for c in collections for check in asset_checks.checks_of(c)),
            asset_checks.hires_have_a_length,
            asset_checks.statuses_are_known,
            asset_checks.status_counts_add_up,
        ],
        jobs=[
            *jobs.sync_jobs(
                collections, days_back=settings().days_back, days_ahead=settings().days_ahead
            ),
            webhook_refresh.webhook_refresh,
            business_events.business_events,
            housekeeping.housekeeping,
            rebuilding.rebuild,
        ],
        schedules=schedules.schedules(settings().time_zone),
        sensors=[webhook_refresh.webhook_refresh_sensor, business_events.business_events_sensor],
        resources={
            "mirror": MirrorResource(),
            "current_rms": CurrentRmsResource(),
            **(resource_overrides or {}),
        },
        # A process a step costs seconds and buys nothing: the steps follow one another.
        executor=dg.in_process_executor,
    )


def _names_its_table(spec: dg.AssetSpec) -> dg.AssetSpec:
    if "dagster/column_schema" not in spec.metadata:
        return spec
    table = f"{settings().schema_name}.{spec.key.path[-1]}"
    return spec.merge_attributes(metadata={"dagster/table_name": table})


@dg.definitions
def defs() -> dg.Definitions:
    """Asked for by Dagster only: a setting that is wrong must not make this module unreadable."""
    return build_defs()
