"""The command and the job `rebuild`, in a real process and a real Dagster instance."""

from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline_tests.conftest import database_at
from rms_pipeline_tests.mirror.test_merge import fetch_all
from rms_pipeline_tests.processes import SECRET_KEY, command, environment_for, query


def test_the_command_rebuilds_what_is_damaged_counts_again_and_is_no_sync(ready_url: str) -> None:
    with SandboxServer(Store(150), api_key=SECRET_KEY) as sandbox:
        environment = environment_for(ready_url, sandbox)
        assert command("sync", "initial", environment=environment).returncode == 0
        summary = "SELECT opportunity_status, opportunities, total_value FROM status_counts"
        counts = sorted(query(environment, summary))
        rows = query(environment, "SELECT * FROM opportunities ORDER BY id")
        fetch_all(
            database_at(ready_url),
            "WITH emptied AS (DELETE FROM status_counts) UPDATE opportunities"
            " SET opportunity_status = NULL, total_value = 0 RETURNING id",
        )
        sandbox.requests.clear()
        done = command("rebuild", environment=environment)
        assert done.returncode == 0, done.stderr
        assert not sandbox.requests
    assert f"Decoded {len(rows)} rows again" in done.stdout
    assert f"{len(rows)} rewritten, 0 failed" in done.stdout
    assert query(environment, "SELECT * FROM opportunities ORDER BY id") == rows
    assert sorted(query(environment, summary)) == counts
    assert query(environment, "SELECT sync_type FROM sync_metadata") == [("initial_sync",)]
    runs = query(environment, "SELECT pipeline_name, status FROM dagster.runs ORDER BY id")
    assert runs == [("initial_sync", "SUCCESS"), ("rebuild", "SUCCESS")]


def test_a_rebuild_that_fails_says_why_with_exit_code_1(ready_url: str) -> None:
    with SandboxServer(Store(5), api_key=SECRET_KEY) as sandbox:
        environment = environment_for(ready_url, sandbox)
        assert command("sync", "initial", environment=environment).returncode == 0
        fetch_all(database_at(ready_url), "ALTER TABLE raw_rms_pages RENAME TO elsewhere; SELECT 1")
        done = command("rebuild", environment=environment)
    assert done.returncode == 1
    assert "raw_rms_pages" in done.stderr
    assert "Traceback" not in done.stderr
