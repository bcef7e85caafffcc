"""What Dagster loads here: `defs`, the account of the settings. `rms_pipeline.build_defs` is for
code locations of others."""

import warnings
from collections.abc import Mapping
from typing import Any

import dagster as dg

from rms_pipeline.defs import build
from rms_pipeline.settings import settings

# Dagster passes this itself when it binds a sensor to its job; nobody can act on the warning.
warnings.filterwarnings("ignore", "Parameter `owners` of initializer `SensorDefinition")


def build_defs(resource_overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """All of this code location; `resource_overrides` replaces resources by key."""
    found = build.build_defs(key_prefix=settings().key_prefix)
    return dg.Definitions(
        assets=found.assets,
        asset_checks=found.asset_checks,
        jobs=found.jobs,
        schedules=found.schedules,
        sensors=found.sensors,
        resources={**(found.resources or {}), **(resource_overrides or {})},
        # For "Materialize all", too.
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """Asked for by Dagster only: a setting that is wrong must not make this module unreadable."""
    return build_defs()
