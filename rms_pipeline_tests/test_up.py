"""Who may run `up`, and that its parts end when it is killed.

drills/test_up.py runs whole ones, and ends them in each way."""

import contextlib
import fcntl
import os
import pty
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from rms_pipeline.settings import child_environment
from rms_pipeline_tests.processes import PROJECT, free_port, wait_until

# The command, with a state folder of its own.
_SCRIPT = """
import signal
from pathlib import Path
# Under nohup, or in the background of a script, these are ignored, and children inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
from rms_pipeline.settings import Settings
Settings.state_folder = property(lambda _: Path({folder!r}))
from rms_pipeline.cli.main import main
main()
"""


class Up:
    """`up` at a terminal, on the bundled sandbox and the embedded PostgreSQL."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mark = folder, f"planted-{uuid.uuid4().hex}"
        environment = child_environment(
            **dict.fromkeys(
                ("POSTGRES_URL", "POSTGRES_URL_NON_POOLING", "CURRENT_RMS_SUBDOMAIN",
                 "CURRENT_RMS_API_KEY", "CURRENT_RMS_BASE_URL", "DAGSTER_HOME", "PYTHONWARNINGS")
            ),
            RMS_API_TOKEN=self.mark,
            RMS_WEBHOOK_TOKEN=self.mark,
        )  # fmt: skip
        ports = [f"--{name}={free_port()}" for name in ("dagster-port", "port", "sandbox-port")]
        script = _SCRIPT.format(folder=str(folder))
        self.terminal, writer = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, "up", "--no-initial-sync", *ports],
            env=environment,
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
        )
        os.close(writer)
        self.postgres = 0

    def wait_until_ready(self) -> None:
        self.wait_until_it_prints("Ready")
        self.note_postgres()

    def wait_until_it_prints(self, text: str) -> None:
        printed = b""
        while text.encode() not in printed:
            try:
                printed += os.read(self.terminal, 10_000)
            except OSError:
                pytest.fail(f"up ended by itself: {printed.decode()}")

    def note_postgres(self) -> None:
        self.postgres = int((self.folder / "postgres" / "postmaster.pid").read_text().split()[0])

    def printed(self) -> str:
        """All that it prints until it ends by itself."""
        said = b""
        with contextlib.suppress(OSError):
            while more := os.read(self.terminal, 10_000):
                said += more
        self.process.wait(timeout=60)
        return " ".join(said.decode().split())

    def alive(self) -> dict[int, str]:
        """What was started and still runs: the commands by process id."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                is_ours = self.mark.encode() in (process / "environ").read_bytes()
                command = (process / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            # What has ended and is not waited for yet has no command any more.
            if command and (is_ours or int(process.name) == self.postgres):
                found[int(process.name)] = command
        return found


def test_a_second_one_on_the_same_embedded_database_is_refused_and_starts_nothing(
    tmp_path: Path,
) -> None:
    with (tmp_path / "up.lock").open("a") as file:
        # As a living one does.
        fcntl.flock(file, fcntl.LOCK_EX)
        second = Up(tmp_path)
        assert "Another `rms-pipeline up` uses the embedded PostgreSQL" in second.printed()
    assert second.process.returncode == 1
    assert [path.name for path in tmp_path.iterdir() if path.name != "logs"] == ["up.lock"]
    assert second.alive() == {}


_PARENT = """
import os, sys, time
from pathlib import Path
from rms_pipeline.cli.children import Children
Children(Path(sys.argv[1])).start(
    "part",
    [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(99)"],
    dict(os.environ), Path(sys.argv[1]),
)
time.sleep(99)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux alone tells of the end")
def test_its_parts_end_when_it_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, str(tmp_path)], cwd=PROJECT)
    try:
        wait_until(lambda: log.exists() and log.read_text().endswith("\n"))
        part = Path("/proc") / log.read_text().strip()
        assert part.exists()
    finally:
        parent.kill()
        parent.wait()

    def has_ended() -> bool:
        try:
            # A zombie has ended, too: who takes it in may not look at once.
            return ") Z " in (part / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True

    wait_until(has_ended)
