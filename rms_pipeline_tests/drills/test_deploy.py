"""The processes of deploy/compose.yaml, each with its own command and environment, without Docker.

Where this may be had (Linux, as root), each sees a file system that it can only read, but for a
temporary folder, and has no capabilities, as compose.yaml says. What only Docker shows (the image,
its user, its network, the proxy) was not run. Other drills let them be forks (`programs.py`).
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from rms_pipeline.sandbox import SANDBOX_SUBDOMAIN, SandboxServer, Store
from rms_pipeline.settings import child_environment
from rms_pipeline_tests.conftest import new_database
from rms_pipeline_tests.drills import programs
from rms_pipeline_tests.forks import Child
from rms_pipeline_tests.processes import PROJECT, SECRET_KEY, free_port, query, wait_until

DEPLOY = PROJECT / "deploy"
TOKEN = "a-token-of-this-deployment"
BIN = Path(sys.executable).parent
# In a mount namespace of its own: everything read-only but a temporary folder, no new privileges,
# and no capability (nothing can be mounted back) but to reach the PostgreSQL of the tests, which is
# another user's.
READ_ONLY = (
    *("unshare", "--mount", "--propagation", "private", "sh", "-c"),
    'mount -t tmpfs tmpfs "$TMPDIR"'
    " && findmnt -rno TARGET | grep -vE '^/(proc|sys|dev)(/|$)' | grep -vxF \"$TMPDIR\""
    ' | while read -r place; do mount -o remount,bind,ro "$place" || exit 1; done'
    ' && exec setpriv --no-new-privs --bounding-set=-all,+dac_override --inh-caps=-all "$@"',
    "-",
)


Process = subprocess.Popen[bytes] | Child


def filled(text: str, values: dict[str, str]) -> str:
    """As compose does it: ${NAME:?what to do} and ${NAME:-default}."""

    def value(found: re.Match[str]) -> str:
        return values.get(found[1]) or ((found[3] or "") if found[2] == ":-" else values[found[1]])

    return re.sub(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}", value, text)


class Deployment:
    """What compose.yaml says, with this machine's names and ports in place of containers'.

    With `forked` the processes are forks, which see the file system as it is.
    """

    def __init__(
        self, url: str, sandbox: SandboxServer, home: Path, *, forked: bool = False
    ) -> None:
        self.logs, self.url, self.forked = home, url, forked
        self.home, self.temporary = home / "home", home / "tmp"
        self.home.mkdir()
        self.temporary.mkdir()
        home = self.home
        self.code, self.dagster, self.web = free_port(), free_port(), (free_port(), free_port())
        self.compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
        names = re.findall(r"^([A-Z_]+)=", (DEPLOY / "example.env").read_text(), re.MULTILINE)
        self.values = dict.fromkeys(names, "x") | {
            "CURRENT_RMS_SUBDOMAIN": SANDBOX_SUBDOMAIN,
            "CURRENT_RMS_API_KEY": SECRET_KEY,
            "RMS_API_TOKEN": TOKEN,
            "RMS_WEBHOOK_TOKEN": "w" * 20,
            "RMS_HOST": "rms.example.com",
            "DAGSTER_HOST": "dagster.example.com",
            "RMS_TIME_ZONE": "Europe/London",
            # Not for this drill to wait for.
            "CURRENT_RMS_REQUESTS_PER_MINUTE": "0",
        }
        workspace = (DEPLOY / "workspace.yaml").read_text()
        assert "host: code-location" in workspace
        workspace = workspace.replace("code-location", "127.0.0.1").replace("4000", str(self.code))
        (home / "workspace.yaml").write_text(workspace)
        (home / "dagster.yaml").write_text((DEPLOY / "dagster.yaml").read_text())
        self.sandbox = sandbox

    def environment(self, service: str) -> dict[str, str]:
        said = {
            name: filled(str(value), self.values)
            for name, value in self.compose["services"][service]["environment"].items()
        }
        assert said["RMS_DAGSTER_URL"] == "https://dagster.example.com"
        return child_environment(
            **said
            | {
                "POSTGRES_URL": self.url,
                "POSTGRES_URL_NON_POOLING": self.url,
                "CURRENT_RMS_BASE_URL": self.sandbox.url,
                "RMS_DAGSTER_URL": f"http://127.0.0.1:{self.dagster}",
                "DAGSTER_HOME": str(self.home),
            }
        )

    def command(self, service: str, *more: str) -> list[str]:
        said = self.compose["services"][service]
        words = [*said["command"], *more]
        words = [filled(word, self.values).replace("0.0.0.0", "127.0.0.1") for word in words]
        ports = {"4000": str(self.code), "--port=3000": f"--port={self.dagster}"}
        words = [ports.get(word, word) for word in words]
        return [str(BIN / words[0]), *words[1:]]

    def health_check(self, service: str) -> list[str]:
        said = self.compose["services"][service]["healthcheck"]["test"][1:]
        return [str(BIN / said[0]), *(str(self.code) if w == "4000" else w for w in said[1:])]

    def contained(self, command: list[str]) -> list[str]:
        """`command` as in a container of compose.yaml, where that may be had here."""
        said = self.compose["services"]["web-a"]
        assert (said["read_only"], said["tmpfs"], said["cap_drop"]) == (True, ["/tmp"], ["ALL"])
        if not may_be_read_only():
            return command
        return [*READ_ONLY, *command]

    def start(self, ends: ExitStack, service: str, *more: str) -> Process:
        """Starts `service`, which `ends` ends with all that it started; its log is in `logs`."""
        log = ends.enter_context((self.logs / f"{service}.log").open("ab"))
        command = self.command(service, *more)
        environment = self.environment(service) | {"TMPDIR": str(self.temporary)}
        process: Process
        if self.forked:
            process = programs.start(command, environment, self.home, log)
        else:
            process = subprocess.Popen(
                self.contained(command),
                env=environment,
                cwd=self.home,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        ends.callback(end, process)
        return process

    def start_all(self, ends: ExitStack, *, web: bool = True) -> dict[str, Process]:
        """All but the database and the proxy (and the web services), in compose's order, each when
        those it waits for are healthy; and then answers."""
        assert self.start(ends, "migrate").wait(120) == 0
        started = {"code-location": self.start(ends, "code-location")}
        self.wait_for_code()
        ports = self.web if web else ()
        for service, port in zip(("web-a", "web-b"), ports, strict=web):
            started[service] = self.start(ends, service, "--port", str(port))
        for service in ("daemon", "dagster"):
            started[service] = self.start(ends, service)
        for port in ports:
            wait_until(partial(self.web_is_healthy, port), timeout=60)
        wait_until(lambda: answers(f"{self.dagster_url}/server_info"), timeout=60)
        return started

    def wait_for_code(self) -> None:
        check = self.health_check("code-location")

        def is_healthy() -> bool:
            if self.forked:
                return programs.run(check, os.environ, self.home, 30).returncode == 0
            return subprocess.run(check, capture_output=True, timeout=30).returncode == 0

        wait_until(is_healthy, timeout=120)

    def web_is_healthy(self, port: int) -> bool:
        """As the image's own HEALTHCHECK finds it."""
        image = (DEPLOY / "Dockerfile").read_text()
        said = re.search(r"^HEALTHCHECK .*?CMD (\[.*?\])$", image, re.MULTILINE | re.DOTALL)
        assert said
        words: list[str] = json.loads(said[1])
        assert "127.0.0.1:8400" in words[-1]
        words = [str(BIN / words[0]), *words[1:-1], words[-1].replace("8400", str(port))]
        return subprocess.run(words, capture_output=True, timeout=30).returncode == 0

    @property
    def dagster_url(self) -> str:
        return f"http://127.0.0.1:{self.dagster}"


@cache
def may_be_read_only() -> bool:
    """Whether this machine lets us make a file system of our own that can only be read."""
    if shutil.which("unshare") is None or shutil.which("setpriv") is None:
        return False
    with tempfile.TemporaryDirectory() as place:
        seen = subprocess.run(
            [*READ_ONLY, "sh", "-c", 'touch "$TMPDIR/file" && ! touch "$PWD/file"'],
            env=os.environ | {"TMPDIR": place},
            cwd=PROJECT,
            capture_output=True,
        )
    return seen.returncode == 0


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(Store(300), api_key=SECRET_KEY) as server:
        yield server


def post(port: int, path: str) -> dict[str, Any]:
    answer = requests.post(
        f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=120
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def end(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code < 500
    except requests.ConnectionError:
        return False


@pytest.mark.timeout(400)
def test_the_services_of_the_compose_file_sync_together_and_stop_in_time(
    embedded_url: str, sandbox: SandboxServer, tmp_path: Path
) -> None:
    with new_database(embedded_url) as url, ExitStack() as ends:
        deployment = Deployment(url, sandbox, tmp_path)

        services = deployment.start_all(ends)
        full = post(deployment.web[0], "/api/sync/initial")
        mirrored = query({"POSTGRES_URL": url}, "SELECT count(*) FROM opportunities")
        assert full["success"] is True
        assert mirrored == [(full["recordsSynced"],)]
        assert post(deployment.web[1], "/api/sync/incremental")["success"] is True
        certified = "SELECT metadata ->> 'certificate' FROM sync_metadata ORDER BY started_at DESC"
        assert "complete" in str(query({"POSTGRES_URL": url}, certified)[0][0])

        ending = [process for name, process in services.items() if name != "code-location"]
        for process in ending:
            process.terminate()
        for process in ending:
            process.wait(60)
    # The file system of a container cannot be written to. (Dagster's webserver makes two folders
    # for telemetry, also where that is off, and bears with it where it may not.)
    written = list(deployment.home.rglob("*"))
    assert {path.name for path in written if path.is_file()} == {"dagster.yaml", "workspace.yaml"}
    assert {path.name for path in written if path.is_dir()} <= {"logs", ".logs_queue"}
