"""Pytest's processes as forks of one process that has imported what they need.

Each of pytest's processes (`-n`) imports the same modules, and so does the process that forks
commands for it (`forks.py`): together they took a twentieth of the processor time of a whole run.
Here one process imports them, forks each of pytest's, and forks commands for all of them.
Meanwhile it prepares the servers' files, which each of pytest's processes copies.

Pytest starts `python -m rms_pipeline_tests.workers ADDRESS`, which asks that process for a fork
with its own stdin, stdout and stderr, and ends as the fork ends. If nobody answers, it becomes an
ordinary process.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rms_pipeline_tests import forks

if TYPE_CHECKING:
    from rms_pipeline_tests.servers import Prepared

# What all tests need. The rest is imported by `everything` only.
CORE = (
    *("pytest", "xdist.remote", "hypothesis.stateful", "requests", "psycopg2", "sqlalchemy"),
    *("alembic.command", "pydantic_settings", "rms_pipeline.mirror.schema"),
)
# Without openpyxl, whose numpy starts threads: a process with threads must not fork.
OTHERS = (
    *("playwright.sync_api", "axe_playwright_python.sync_playwright", "ical.calendar_stream"),
    *("schemathesis", "cryptography.x509", "websockets.sync.client", "dagster_celery.launcher"),
)
_EVERYTHING = "everything"
_PROJECT = Path(__file__).parent.parent


@contextlib.contextmanager
def nursery(folder: Path, *, everything: bool) -> Iterator[str]:
    """The process that forks, until the end of this context. Yields the command that starts one of
    pytest's processes, as one text.

    `folder` is for the servers' files, and for the address. With `everything` it imports and
    prepares what any test may need; otherwise, what those of the core need.
    """
    address = folder / "workers"
    wanted = _EVERYTHING if everything else "core"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(address))
        listener.listen(64)
        with theirs:
            files = [theirs.fileno(), listener.fileno()]
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, "serve", *map(str, files), str(folder), wanted],
                cwd=_PROJECT,
                pass_fds=files,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        listener.close()
        try:
            yield f"'{sys.executable}' -m {__name__} '{address}'"
        finally:
            ours.close()
            process.wait()


def _serve(requests: socket.socket, listener: socket.socket, folder: Path, wanted: str) -> NoReturn:
    # Not where all is imported: what stands for a fork needs none of it.
    from rms_pipeline_tests.servers import Prepared

    prepared = Prepared(folder)
    with prepared.making():
        forks.import_all(CORE)
        if os.fork() == 0:
            requests.close()
            listener.close()
            _prepare(prepared, wanted)
    if wanted == _EVERYTHING:
        forks.import_all((*forks.IMPORTED, *forks.WARM, *OTHERS))
    forks.fork_and_run(requests, listener)


def _prepare(prepared: "Prepared", wanted: str) -> NoReturn:
    try:
        # Not where it is forked from: pytest rewrites the assertions of this module.
        from rms_pipeline_tests.conftest import with_all_tables, with_our_tables

        prepared.make(
            with_our_tables, with_all_tables if wanted == _EVERYTHING else with_our_tables
        )
    except BaseException:
        # Each process then makes its servers itself, unless all was interrupted.
        if prepared.folder.exists():
            traceback.print_exc()
    finally:
        os._exit(0)


def _ask(address: str, ordinary: Sequence[str]) -> NoReturn:
    """Be what stands for a fork, to the process that started this one."""
    try:
        if not forks.share(address):
            raise ConnectionError
        worker = forks.Child(
            *(__spec__.name, "work", address, os.getcwd(), ordinary[-1]),
            env=os.environ,
            pass_fds=(sys.stdin.fileno(),),
            ends_with_us=True,
        )
    except (OSError, AssertionError):
        os.execv(sys.executable, [sys.executable, *ordinary])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: _send(worker.pid, number))
    code = worker.wait()
    if code < 0:
        with contextlib.suppress(OSError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _work(address: str, folder: str, code: str) -> None:
    """Do what `python -c` does with the code of pytest-xdist."""
    forks.share(address)
    os.chdir(folder)
    sys.argv = ["-c"]
    exec(code, {"__name__": "__main__"})


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", requests, listener, folder, wanted]:
            _serve(
                socket.socket(fileno=int(requests)),
                socket.socket(fileno=int(listener)),
                Path(folder),
                wanted,
            )
        case ["work", address, folder, code]:
            _work(address, folder, code)
        case [address, *ordinary]:
            _ask(address, ordinary)
