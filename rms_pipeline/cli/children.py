"""The processes that `up` starts, and how they end.

Each process leads a process group. To end the group also ends the processes that it started.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rms_pipeline.errors import RmsPipelineError

# Each part ends by itself within the 30 s that docs/how-to/operate.md promises of SIGTERM.
_STOP_SECONDS = 40
SYNCING = ("daemon", "dagster", "first sync", "webhooks")


class UpFailed(RmsPipelineError):
    """A part could not be started, or ended unexpectedly."""


class Children:
    """The started processes. Each leads its group and has its own log."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._started: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._errands: set[str] = set()

    def start(
        self,
        name: str,
        command: list[str],
        environment: dict[str, str],
        cwd: Path,
        *,
        errand: bool = False,
    ) -> None:
        """Starts `command`. It runs until it is stopped, or, as an `errand`, until it is done."""
        if errand:
            self._errands.add(name)
        self._logs.mkdir(parents=True, exist_ok=True)
        with (self._logs / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                command,
                env=environment,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with(os.getpid()) if sys.platform == "linux" else None,
            )
        self._started.append((name, child))

    def check(self) -> None:
        """Raises UpFailed with the end of the log if a child has ended."""
        for name, child in list(self._started):
            if child.poll() is None:
                continue
            if name in self._errands:
                self._started.remove((name, child))
            else:
                log = self._logs / f"{name}.log"
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                raise UpFailed(
                    f"{name} stopped unexpectedly (exit code {child.returncode}):\n{tail}"
                )

    def runs(self, name: str) -> bool:
        """Whether the child `name` was started and has not ended."""
        return any(each == name and child.poll() is None for each, child in self._started)

    def last_line(self, name: str) -> str:
        """The last line of its log."""
        log = self._logs / f"{name}.log"
        lines = log.read_text(errors="replace").split("\n") if log.exists() else []
        return next((line for line in reversed(lines) if line.strip()), "its log is empty")

    def stop(self) -> None:
        """Ends every group. Processes that run syncs end first, because they still need the others.
        Each other process ends after all processes that were started after it."""
        syncing = [child for name, child in self._started if name in SYNCING]
        others = [child for name, child in reversed(self._started) if name not in SYNCING]
        for group in (syncing, *([child] for child in others)):
            for child in group:
                _signal_group(child, signal.SIGTERM)
            deadline = time.monotonic() + _STOP_SECONDS
            while any(map(_group_lives, group)) and time.monotonic() < deadline:
                time.sleep(0.1)
            for child in group:
                _signal_group(child, signal.SIGKILL)
                child.wait()


def _end_with(parent: int) -> Callable[[], None]:
    """For a child to call before its program begins: where `parent` is killed, and so cannot end
    its children, the kernel sends them SIGTERM. Otherwise they would keep their ports, and a second
    daemon would come to run beside the first."""
    prctl, sets_signal_of_parents_death = ctypes.CDLL(None).prctl, 1

    def ask() -> None:
        prctl(sets_signal_of_parents_death, signal.SIGTERM)
        if os.getppid() != parent:
            # It has ended already.
            os._exit(1)

    return ask


def _signal_group(child: "subprocess.Popen[bytes]", number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def _group_lives(child: "subprocess.Popen[bytes]") -> bool:
    child.poll()
    try:
        os.killpg(child.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
