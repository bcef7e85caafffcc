"""The parts of Dagster that we use and that Dagster does not promise to keep.

No other module imports them. `rms_pipeline_tests/defs/test_compat.py` tests what we rely on. Look
there first if an upgrade of Dagster breaks something.
"""

import dagster as dg
from dagster._check import CheckError
from dagster._config.field_utils import IntEnvVar
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.errors import DagsterUserCodeProcessError
from dagster._core.instance.ref import InstanceRef
from dagster._core.launcher import (
    CheckRunHealthResult,
    ResumeRunContext,
    RunLauncher,
    WorkerStatus,
)
from dagster._core.scheduler.instigation import InstigatorStatus
from dagster._core.storage.tags import REPOSITORY_LABEL_TAG
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._serdes import ConfigurableClassData
from dagster_shared.error import SerializableErrorInfo

__all__ = [
    "DATA_VERSION_TAG",
    "REPOSITORY_LABEL_TAG",
    "CheckError",
    "CheckRunHealthResult",
    "ConfigurableClassData",
    "DagsterUserCodeProcessError",
    "InstanceRef",
    "InstigatorStatus",
    "InstigatorType",
    "IntEnvVar",
    "ResumeRunContext",
    "RunLauncher",
    "SerializableErrorInfo",
    "UnresolvedAssetJobDefinition",
    "WorkerStatus",
    "WorkspaceFileTarget",
    "WorkspaceProcessContext",
    "module_of",
    "steps_of",
]


def module_of(run: dg.DagsterRun) -> str | None:
    """The Python module whose definitions `run` executes. None if it was not loaded by name."""
    origin = run.job_code_origin
    pointer = origin.repository_origin.code_pointer if origin is not None else None
    return pointer.module if isinstance(pointer, ModuleCodePointer) else None


def steps_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> frozenset[str]:
    """The keys of the steps that `run` executes, but for those of which it selects checks alone.
    Empty if Dagster does not have its plan."""
    plan = run.execution_plan_snapshot_id
    if plan is None or not instance.has_snapshot(plan):
        return frozenset()
    whole = instance.get_execution_plan_snapshot(plan)
    made = {step.key: [out.properties for out in step.outputs] for step in whole.steps}
    return frozenset(
        key
        for key in whole.step_keys_to_execute
        if not any(out and out.is_asset for out in made[key])
        or any(out and out.asset_key for out in made[key])
    )
