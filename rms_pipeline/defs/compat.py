"""The parts of Dagster that we use and that Dagster does not promise to keep.

No other module imports them. `rms_pipeline_tests/defs/test_compat.py` tests what we rely on. Look
there first if an upgrade of Dagster breaks something.
"""

import dagster as dg
from dagster._check import CheckError
from dagster._config.field_utils import IntEnvVar
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.errors import DagsterUserCodeProcessError
from dagster._core.instance.ref import InstanceRef
from dagster._core.launcher import CheckRunHealthResult, RunLauncher, WorkerStatus
from dagster._core.scheduler.instigation import InstigatorStatus
from dagster._core.storage.tags import REPOSITORY_LABEL_TAG
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._serdes import ConfigurableClassData
from dagster_shared.error import SerializableErrorInfo

__all__ = [
    "REPOSITORY_LABEL_TAG",
    "CheckError",
    "CheckRunHealthResult",
    "ConfigurableClassData",
    "DagsterUserCodeProcessError",
    "InstanceRef",
    "InstigatorStatus",
    "InstigatorType",
    "IntEnvVar",
    "RunLauncher",
    "SerializableErrorInfo",
    "UnresolvedAssetJobDefinition",
    "WorkerStatus",
    "WorkspaceFileTarget",
    "WorkspaceProcessContext",
    "steps_of",
]


def steps_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> frozenset[str]:
    """The keys of the steps that `run` executes. Empty if Dagster does not have its plan."""
    plan = run.execution_plan_snapshot_id
    if plan is None or not instance.has_snapshot(plan):
        return frozenset()
    return frozenset(instance.get_execution_plan_snapshot(plan).step_keys_to_execute)
