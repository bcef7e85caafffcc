"""What processes write for those who collect logs."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from rich.console import Console

from rms_pipeline import console
from rms_pipeline.logs import json_handler
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline_tests.processes import (
    SECRET_KEY,
    SECRET_TOKEN,
    command,
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


def lines_of(text: str) -> list[dict[str, Any]]:
    """Fails where a line is no JSON object."""
    return [json.loads(line) for line in text.splitlines()]


def test_commands_that_work_log_what_they_say_and_why_they_failed(
    ready_url: str, sandbox: SandboxServer
) -> None:
    environment = environment_for(ready_url, sandbox, RMS_LOG_FORMAT="json")
    done = command("migrate", environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert any(line["message"].startswith("Up to date") for line in lines_of(done.stdout))
    failed = command("sync", "initial", environment=environment | {"CURRENT_RMS_API_KEY": "wrong"})
    assert (failed.returncode, failed.stderr) == (1, "")
    last = lines_of(failed.stdout)[-1]
    assert last["level"] == "ERROR"
    assert last["message"].startswith("Error: ")
    assert "wrong" not in failed.stdout
    answered = command("sync", "incremental", "--json", environment=environment)
    (line,) = lines_of(answered.stdout)
    assert line["success"] is False
    assert answered.stderr.startswith("Error:")


def test_a_message_is_one_line_whatever_its_length_colours_and_pieces(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.Logger("rms_pipeline", logging.INFO)
    root.addHandler(json_handler())
    monkeypatch.setattr(console, "logger", root)
    monkeypatch.setattr(console, "start_logging", lambda *_: None)
    monkeypatch.setattr(console, "out", Console(force_terminal=True, color_system="standard"))
    monkeypatch.setattr(console, "err", Console(stderr=True))
    console.log_in("json")
    console.out.print("[green]" + "word " * 100 + "[/green]\nand more")
    console.out.print("1 of", end="")
    console.out.print(" 2")
    console.out.print()
    console.err.print("[yellow]Careful[/yellow]")
    console.tell_failure("Error", "[red] is what the server said")
    written = capsys.readouterr()
    assert written.err == ""
    found = [(line["level"], line["message"]) for line in lines_of(written.out)]
    assert found == [
        ("INFO", "word " * 100 + "\nand more"),
        ("INFO", "1 of 2"),
        ("WARNING", "Careful"),
        ("ERROR", "Error: [red] is what the server said"),
    ]


def test_a_reason_that_quotes_what_others_wrote_does_not_move_the_cursor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "err", Console(stderr=True, width=80))
    console.tell_failure("Error", "No record has a field \x1b[2J\u202eprüfung\r.\nIts own line.")
    assert capsys.readouterr().err == (
        "Error: No record has a field \ufffd[2J\ufffdprüfung\ufffd.\nIts own line.\n"
    )
