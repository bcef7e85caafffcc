"""What steps print, kept where the instance says: elsewhere, or nowhere."""

import logging

import dagster as dg
import pytest
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from dagster._core.storage.tags import REPOSITORY_LABEL_TAG

from rms_pipeline.definitions import build_defs
from rms_pipeline_tests.conftest import database_at
from rms_pipeline_tests.defs.test_assets import instance, sandbox
from rms_pipeline_tests.rows import query

__all__ = ["instance", "sandbox"]


@pytest.mark.parametrize("error", [PermissionError("s3:DeleteObject"), NotImplementedError()])
def test_where_what_steps_printed_may_not_be_deleted_housekeeping_says_so_and_goes_on(
    instance: dg.DagsterInstance,
    ready_url: str,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    asked: list[object] = []

    class MayNotDelete(NoOpComputeLogManager):
        def delete_logs(self, log_key: object = None, prefix: object = None) -> None:
            asked.append(prefix)
            raise error

    keeper = MayNotDelete()
    monkeypatch.setattr(type(instance), "compute_log_manager", property(lambda _: keeper))
    job = build_defs().resolve_job_def("housekeeping")
    here = {REPOSITORY_LABEL_TAG: "a@here"}
    for _ in range(5):
        instance.create_run_for_job(job, tags=here, status=dg.DagsterRunStatus.SUCCESS)
    query(
        database_at(ready_url),
        "UPDATE dagster.runs SET create_timestamp = now() - interval '100 days'",
    )
    result = job.execute_in_process(instance=instance, tags=here)
    assert result.success
    assert [r.run_id for r in instance.get_runs()] == [result.run_id]
    assert len(asked) == 3
    (told,) = [e for e in instance.all_logs(result.run_id) if e.level == logging.WARNING]
    assert type(error).__name__ in told.message
    assert "compute_logs" in told.message
