"""What is relied on of Dagster's private parts, a test a name."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin

from rms_pipeline.defs import compat


def test_check_error() -> None:
    """What Dagster raises for a storage of its own that is not configured as it should be."""
    assert issubclass(compat.CheckError, Exception)


def test_check_run_health_result_and_worker_status() -> None:
    """What a launcher answers when it is asked about the process of a run."""
    found = compat.CheckRunHealthResult(compat.WorkerStatus.FAILED, "it died")
    assert (found.status, found.msg) == (compat.WorkerStatus.FAILED, "it died")
    assert {"RUNNING", "FAILED", "SUCCESS", "UNKNOWN"} <= set(compat.WorkerStatus.__members__)


def test_resume_run_context() -> None:
    """What a launcher is given to start a new process for a run whose process died."""
    run = dg.DagsterRun(job_name="both")
    context = compat.ResumeRunContext(run, workspace=None, resume_attempt_number=1)
    assert context.dagster_run is run
    assert callable(compat.RunLauncher.resume_run)


def test_configurable_class_data() -> None:
    """What a storage named in dagster.yaml is made of, and has to give back."""
    made = compat.ConfigurableClassData("a.module", "AClass", "{}")
    assert (made.module_name, made.class_name) == ("a.module", "AClass")


def test_data_version_tag() -> None:
    """How an event says its data version, if no step yields it."""
    key = dg.AssetKey("told")

    @dg.asset(deps=[key])
    def after() -> None: ...

    with dg.instance_for_test() as instance:
        told = dg.AssetMaterialization(key, tags={compat.DATA_VERSION_TAG: "3"})
        instance.report_runless_asset_event(told)
        (made,) = dg.materialize([after], instance=instance).asset_materializations_for_node(
            "after"
        )
    assert (made.tags or {})["dagster/input_data_version/told"] == "3"


def test_dagster_user_code_process_error_and_serializable_error_info() -> None:
    """An error of another process, which Dagster shows as it is given."""
    shown = compat.SerializableErrorInfo(message="told\n", stack=[], cls_name="Failure")
    error = compat.DagsterUserCodeProcessError("told", user_code_process_error_infos=[shown])  # type: ignore[no-untyped-call]
    assert error.user_code_process_error_infos == [shown]


def test_instance_ref() -> None:
    """Where an instance keeps its history, without opening it."""
    with dg.instance_for_test() as instance:
        storage = instance.get_ref().storage_data
    assert isinstance(instance.get_ref(), compat.InstanceRef)
    assert storage is None or storage.class_name


@pytest.mark.parametrize(("kind", "names"), [
    (compat.InstigatorType, {"SCHEDULE", "SENSOR"}),
    (compat.InstigatorStatus, {"RUNNING", "STOPPED", "DECLARED_IN_CODE"}),
])  # fmt: skip
def test_instigator_type_and_status(kind: type, names: set[str]) -> None:
    """How the doctor asks which schedules and sensors are on."""
    assert names <= set(kind.__members__)  # type: ignore[attr-defined]


def test_int_env_var(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a field that is a number may be given in place of one."""
    monkeypatch.setenv("SEVEN", "7")
    found = dg.EnvVar.int("SEVEN")
    assert isinstance(found, compat.IntEnvVar)
    assert found.get_value() == 7


def test_repository_label_tag() -> None:
    """Under which code location a run is filed."""
    assert compat.REPOSITORY_LABEL_TAG == ".dagster/repository"


def test_run_launcher() -> None:
    """Any launcher can be asked about the process of a run."""
    assert issubclass(dg.DefaultRunLauncher, compat.RunLauncher)
    assert hasattr(compat.RunLauncher, "check_run_worker_health")
    assert isinstance(compat.RunLauncher.supports_check_run_worker_health, property)


def test_unresolved_asset_job_definition() -> None:
    """What `define_asset_job` makes."""
    assert isinstance(dg.define_asset_job("job"), compat.UnresolvedAssetJobDefinition)


def test_workspace_process_context_and_file_target() -> None:
    """What Dagster's webserver serves when it is started in this process."""
    with (
        dg.instance_for_test() as instance,
        compat.WorkspaceProcessContext(instance, compat.WorkspaceFileTarget(paths=[])) as context,
    ):
        assert context.create_request_context() is not None


def test_module_of_a_run_is_that_of_its_code() -> None:
    """Whether a run is of this project's own code location."""
    code = RepositoryPythonOrigin("python", ModuleCodePointer("a.module", "defs"))
    run = dg.DagsterRun(job_name="job", job_code_origin=JobPythonOrigin("job", code))
    assert compat.module_of(run) == "a.module"
    assert compat.module_of(dg.DagsterRun(job_name="job")) is None


def test_steps_of_a_run_leave_out_those_that_only_check() -> None:
    """A run that checks a table does not store it."""
    check = dg.AssetCheckSpec("check", asset="made")

    @dg.multi_asset(specs=[dg.AssetSpec("made")], check_specs=[check], can_subset=True)
    def made(context: dg.AssetExecutionContext) -> Iterator[Any]:
        if context.selected_asset_keys:
            yield dg.MaterializeResult()
        if context.selected_asset_check_keys:
            yield dg.AssetCheckResult(passed=True)

    chosen = {
        "made": dg.AssetSelection.assets("made"),
        "checked": dg.AssetSelection.checks(check.key),
    }
    jobs = [dg.define_asset_job(name, selection) for name, selection in chosen.items()]
    defs = dg.Definitions(assets=[made], jobs=jobs)
    with dg.instance_for_test() as instance:
        for job, steps in (("made", {"made"}), ("checked", set())):
            run = defs.resolve_job_def(job).execute_in_process(instance=instance)
            assert compat.steps_of(instance, run.dagster_run) == steps


def test_steps_of_a_run_are_those_of_its_plan_and_none_once_dagster_has_forgotten_it() -> None:
    """What a job of somebody else's selects of our assets."""

    @dg.op
    def one() -> None: ...

    @dg.op
    def another() -> None: ...

    @dg.job
    def both() -> None:
        one()
        another()

    with dg.instance_for_test() as instance:
        run = both.execute_in_process(instance=instance, op_selection=["one"]).dagster_run
        assert compat.steps_of(instance, run) == {"one"}
        instance.wipe()
        assert compat.steps_of(instance, run) == frozenset()
    assert compat.steps_of(instance, dg.DagsterRun(job_name="both")) == frozenset()
