"""What the web service writes for those who collect logs."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline_tests.processes import (
    SECRET_KEY,
    SECRET_TOKEN,
    environment_for,
    free_port,
    started,
    wait_until,
)


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(Store(5), api_key=SECRET_KEY) as server:
        yield server


def is_up(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.ConnectionError:
        return False


def test_as_json_every_line_is_an_object_and_none_holds_a_token(
    ready_url: str, sandbox: SandboxServer, tmp_path: Path
) -> None:
    environment = environment_for(
        ready_url, sandbox, RMS_LOG_FORMAT="json", RMS_API_TOKEN=SECRET_TOKEN
    )
    port = free_port()
    log = tmp_path / "log"
    with (
        log.open("wb") as out,
        started("web", "--port", str(port), environment=environment, stdout=out),
    ):
        wait_until(lambda: is_up(f"http://127.0.0.1:{port}/healthz"))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert any("Webhooks are received" in line["message"] for line in lines)
    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, lines))
    assert SECRET_TOKEN not in log.read_text()
