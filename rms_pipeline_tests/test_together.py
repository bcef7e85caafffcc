"""What a sync by the command needs of the one before it."""

import time
from collections.abc import Iterator

import pytest

from rms_pipeline.sandbox import SandboxServer, Store, Switches
from rms_pipeline_tests.processes import (
    SECRET_KEY,
    command,
    environment_for,
    query,
)


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(
        Store(120), api_key=SECRET_KEY, switches=Switches(max_per_page=10)
    ) as server:
        yield server


def test_an_incremental_sync_before_any_full_one_says_what_to_run(
    ready_url: str, sandbox: SandboxServer
) -> None:
    environment = environment_for(ready_url, sandbox)
    done = command("sync", "incremental", environment=environment)
    assert done.returncode == 1
    assert "rms-pipeline sync initial" in done.stderr
    assert len(sandbox.requests) == 0


def test_a_failed_sync_moves_no_watermark_and_an_incremental_one_costs_few_calls(
    ready_url: str, sandbox: SandboxServer
) -> None:
    environment = environment_for(ready_url, sandbox)
    assert command("sync", "initial", environment=environment).returncode == 0
    time.sleep(1.1)
    sandbox.store.edit(sandbox.store.ids()[0], {"subject": "Renamed"})
    wrong = {**environment, "CURRENT_RMS_API_KEY": "wrong"}
    assert command("sync", "incremental", environment=wrong).returncode == 1
    sandbox.requests.clear()
    done = command("sync", "incremental", environment=environment)
    assert done.returncode == 0, done.stderr
    assert "1 updated" in done.stdout
    # One for what changed. The proof counts before that, and again because there was something new.
    changed = [path for _, path, _ in sandbox.requests if "updated_at" in path]
    assert (len(changed), len(sandbox.requests)) == (2, 8)
    history = query(
        environment,
        "SELECT sync_type, status, metadata ->> 'watermark', metadata ->> 'changed_since'"
        " FROM sync_metadata ORDER BY started_at",
    )
    assert [row[:2] for row in history] == [
        ("initial_sync", "completed"),
        ("incremental_sync", "failed"),
        ("incremental_sync", "completed"),
    ]
    assert history[1][2] is None
    assert history[2][3] == history[0][2]
    assert str(history[2][2]) > str(history[0][2])
