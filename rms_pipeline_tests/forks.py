"""Processes that start with Dagster and other packages already imported.

A command spends more than a second on imports before it does anything. So one process imports
everything, and forks for each command. Each command is still a process of its own, with its own
environment, files, signals and exit code. The disadvantage: a forgotten import of a module is not
noticed here, only by the commands that `.ci/run` starts.

A `warm` process forks its own children too, whether it starts them by `subprocess` or by
`multiprocessing`: Dagster's daemon, webserver, code servers and runs. For this, each has a process
beside it that does nothing else, in the same session and group.

In a run of many tests there is one process that forks, for all workers. They are forks of it
themselves (`workers.py`).
"""

import array
import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import multiprocessing.popen_spawn_posix as spawning
import multiprocessing.util
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

# Without `rms_pipeline.console` and modules that need it, because the terminal's width is read on
# import.
IMPORTED = (
    *("dagster", "dagster_postgres", "alembic.command", "tabulate", "typer", "uvicorn"),
    *("rms_pipeline.definitions", "rms_pipeline.cli.foreground", "rms_pipeline.web.app"),
    *("rms_pipeline.doctor", "rms_pipeline.project_files"),
    # What Dagster imports when it makes an instance or executes a job, and rich when it prints.
    *("dagster._core.instance.factory", "dagster._core.instance.runs.run_domain"),
    *("dagster._core.storage.root", "dagster._core.storage.local_compute_log_manager"),
    *("dagster._core.storage.migration.utils", "dagster._core.secrets.loader"),
    *("dagster._core.execution.execute_in_process", "dagster._core.executor.in_process"),
    *("dagster._core.execution.plan.active", "dagster._core.system_config.composite_descent"),
    "dagster._core.definitions.repository_definition.repository_data_builder",
    *("dagster._core.types.transform_typing", "upath.implementations.local", "isal.igzip"),
    *("fsspec.implementations.local", "psycopg2.sql", "rich._emoji_codes", "tzdata"),
)
# What Dagster's own processes import in addition.
WARM = (
    *("dagster._cli", "dagster._cli.api", "dagster._cli.code_server", "dagster._daemon.cli"),
    *("dagster._grpc.server", "dagster._grpc.proxy_server", "dagster_webserver.app"),
    *("dagster_webserver.cli", "dagster._core.execution.api", "rms_pipeline.dagster_ui.guard"),
)
_PROJECT = Path(__file__).parent.parent
_PIPE, _STDOUT = subprocess.PIPE, subprocess.STDOUT
# The name that stands for a child of `multiprocessing`.
_SPAWNED = "multiprocessing.spawn"


class Child:
    """A forked process with the parts of `subprocess.Popen[str]` that the tests use.

    `module` runs as `python -m module` does. It may also be the path of an installed program.
    Output to a PIPE can only be read with `communicate`. A `warm` child forks its own children. A
    child that `ends_with_us` is killed when this process ends, however that happens. `imports` are
    what all processes need that a `warm` child starts.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        env: Mapping[str, str],
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        start_new_session: bool = False,
        pass_fds: Sequence[int] = (),
        warm: bool = False,
        ends_with_us: bool = False,
        cwd: str | Path | None = None,
        imports: Sequence[str] = (),
    ) -> None:
        self.args = [module, *arguments]
        self.returncode: int | None = None
        if stderr == _STDOUT:
            stderr = stdout
        self._kept = [_memory() if f == _PIPE else None for f in (stdout, stderr)]
        given = [kept or f for kept, f in zip(self._kept, (stdout, stderr), strict=True)]
        self._state, told = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        asked = {
            "argv": self.args,
            "env": dict(env),
            "own_session": start_new_session,
            "files": [1, 2, *pass_fds],
            "warm": warm,
            "ends_with_asker": ends_with_us,
            "cwd": None if cwd is None else str(cwd),
            "imports": list(imports),
        }
        with contextlib.ExitStack() as stack, told:
            files = [_descriptor(f, number, stack) for number, f in enumerate(given, 1)]
            _parent().ask(asked, [told.fileno(), *files, *pass_fds])
        self.pid = int(self._state.recv(32) or b"0")
        assert self.pid, "the process that forks has ended"

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        for kept in self._kept:
            if kept is not None:
                kept.close()

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            waiting = select.poll()
            waiting.register(self._state, select.POLLIN)
            if not waiting.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = int(self._state.recv(32) or b"-9")
            self._state.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Return what the process wrote to PIPEs. Raises TimeoutExpired."""
        self.wait(timeout)
        written = []
        for kept in self._kept:
            if kept is None:
                written.append("")
                continue
            kept.seek(0)
            written.append(kept.read().decode())
        return written[0], written[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            # It may end in this moment.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _memory() -> IO[bytes]:
    """Return a file in memory. Unlike a pipe it has no limit."""
    return os.fdopen(os.memfd_create("written"), "w+b")


def _descriptor(given: int | IO[Any] | None, number: int, stack: contextlib.ExitStack) -> int:
    if given is None:
        return number
    if given == subprocess.DEVNULL:
        return stack.enter_context(Path(os.devnull).open("wb")).fileno()
    return given if isinstance(given, int) else given.fileno()


class _Parent:
    """The process that forks, as seen by the process that asks it."""

    def __init__(self, requests: socket.socket, process: "subprocess.Popen[bytes] | None") -> None:
        self._asking = threading.Lock()
        self._requests, self._process = requests, process
        self._requests.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)

    @classmethod
    def started(cls) -> "_Parent":
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # In a session of its own, so that it still exists when its children have ended, and can
            # report how.
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                cwd=_PROJECT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        return cls(ours, process)

    def end(self) -> None:
        self._requests.close()
        if self._process is not None:
            self._process.wait()

    def ask(self, asked: dict[str, Any], descriptors: list[int]) -> None:
        passed = array.array("i", descriptors)
        with self._asking:
            self._requests.sendmsg(
                [json.dumps(asked).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)]
            )


_made: list[_Parent] = []
_making = threading.Lock()


def _parent() -> _Parent:
    with _making:
        if not _made:
            _made.append(_Parent.started())
            atexit.register(_made[0].end)
        return _made[0]


def share(address: str) -> bool:
    """Let the process that listens at this address (a path) fork for this one. Return whether it
    exists.
    """
    requests = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        requests.connect(address)
    except OSError:
        requests.close()
        return False
    _made[:] = [_Parent(requests, None)]
    atexit.register(_made[0].end)
    return True


def fork_on_request(requests: socket.socket, listener: socket.socket | None = None) -> list[str]:
    """Return in each child, with its arguments. Ends together with the process that asks.

    Others who connect to `listener` may ask too.
    """
    selector = select.poll()
    askers = {requests.fileno(): requests}
    selector.register(requests, select.POLLIN)
    if listener is not None:
        selector.register(listener, select.POLLIN)
    alive: dict[int, tuple[int, socket.socket]] = {}
    # Children that end with an asker, by the asker.
    bound: dict[int, list[int]] = {}
    while True:
        for number, _ in selector.poll():
            if number in alive:
                pid, told = alive.pop(number)
                selector.unregister(number)
                os.close(number)
                for theirs in bound.values():
                    if number in theirs:
                        theirs.remove(number)
                with told, contextlib.suppress(OSError):
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    told.send(str(code).encode())
                continue
            if listener is not None and number == listener.fileno():
                asker, _ = listener.accept()
                askers[asker.fileno()] = asker
                selector.register(asker, select.POLLIN)
                continue
            message, passed = b"", list[int]()
            with contextlib.suppress(ConnectionError):
                message, passed, _, _ = socket.recv_fds(askers[number], 1 << 20, _MOST_FILES)
            if not message:
                if number == requests.fileno():
                    sys.exit()
                for watched in bound.pop(number, ()):
                    signal.pidfd_send_signal(watched, signal.SIGKILL)
                selector.unregister(number)
                askers.pop(number).close()
                continue
            asked = json.loads(message)
            if asked["warm"] and WARM[0] not in sys.modules:
                import_all(WARM)
            pid = os.fork()
            if pid == 0:
                for other, (_, socket_) in alive.items():
                    os.close(other)
                    socket_.close()
                for socket_ in (*askers.values(), *([listener] if listener else [])):
                    socket_.close()
                os.close(passed[0])
                return _become(asked, passed[1:])
            for file in passed[1:]:
                os.close(file)
            told = socket.socket(fileno=passed[0])
            watched = os.pidfd_open(pid)
            alive[watched] = pid, told
            if asked["ends_with_asker"]:
                bound.setdefault(number, []).append(watched)
            selector.register(watched, select.POLLIN)
            told.send(str(pid).encode())


_MOST_FILES = 30
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _become(asked: dict[str, Any], files: list[int]) -> list[str]:
    if asked["own_session"]:
        os.setsid()
    # Above all numbers that the files shall have, so that none replaces one that is still needed.
    above = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 500) for file in files]
    for file in files:
        os.close(file)
    for file, number in zip(above, asked["files"], strict=True):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(asked["env"])
    if asked["cwd"] is not None:
        os.chdir(asked["cwd"])
    # As Python does when it starts.
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[1:1] = [place for place in given if place not in sys.path]
    random.seed()
    if asked["imports"]:
        import_all(asked["imports"])
    argv: list[str] = asked["argv"]
    return _warmed(argv) if asked["warm"] else argv


def _warmed(argv: list[str]) -> list[str]:
    """Return here, with a process beside this one that forks for it, and in each of its forks."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        # It ends together with the process that asks it, and reports how its children end.
        before = {number: signal.signal(number, signal.SIG_IGN) for number in _ENDING}
        forked = fork_on_request(theirs)
        for number, handler in before.items():
            signal.signal(number, handler)
        return forked
    theirs.close()
    _made[:] = [_Parent(ours, None)]
    subprocess.Popen = _started  # type: ignore[assignment, misc]
    multiprocessing.util.spawnv_passfds = _spawned  # type: ignore[assignment]
    spawning.Popen.poll = _polled  # type: ignore[method-assign, assignment]
    return argv


_popen = subprocess.Popen
_spawn = multiprocessing.util.spawnv_passfds
_poll = spawning.Popen.poll
_children: dict[int, Child] = {}


def _started(args: Any, **options: Any) -> Any:
    """Like `subprocess.Popen`, but modules and installed programs of this Python are forked."""
    plain = {*("env", "stdin", "stdout", "stderr", "start_new_session", "pass_fds", "cwd")}
    # A fork is not a child of this process, so it cannot ask to end with it.
    plain.add("preexec_fn")
    words = [] if isinstance(args, (str, bytes, os.PathLike)) else list(args)
    if words[:2] == [sys.executable, "-m"]:
        words = words[2:]
    elif words and (program := installed(words[0])):
        words[0] = program
    else:
        words = []
    given = {name: value for name, value in options.items() if value}
    if not words or not given.keys() <= plain:
        return _popen(args, **options)
    for name in ("stdin", "preexec_fn"):
        given.pop(name, None)
    given.setdefault("cwd", os.getcwd())
    return Child(*words, env=given.pop("env", os.environ), warm=True, **given)


def installed(name: str) -> str | None:
    """Return the path of a program that is installed beside this Python and written in it, or None.

    `name` is what a command line has for it: its name, or a path.
    """
    path = Path(sys.executable).parent / name
    if path.parent != Path(sys.executable).parent:
        return None
    try:
        with path.open("rb") as program:
            first = program.readline()
    except OSError:
        return None
    return str(path) if first.startswith(b"#!") and b"python" in first else None


def _spawned(program: Any, arguments: Sequence[str | bytes], files: Sequence[int]) -> int:
    """Like `multiprocessing.util.spawnv_passfds`, but the child is not a child of this process."""
    words = [os.fsdecode(word) for word in arguments]
    if words[-1] != "--multiprocessing-fork":
        return _spawn(program, arguments, files)
    code = words[words.index("-c") + 1]
    child = Child(_SPAWNED, code, env=os.environ, pass_fds=sorted(set(files)), warm=True)
    _children[child.pid] = child
    return child.pid


def _polled(self: spawning.Popen, flag: int = os.WNOHANG) -> int | None:
    if (child := _children.get(self.pid)) is None:
        return _poll(self, flag)
    if self.returncode is None:
        self.returncode = child.poll() if flag == os.WNOHANG else child.wait()
    return self.returncode


def import_all(names: Sequence[str]) -> None:
    # Imports leave little garbage. To look for it took a quarter of their time.
    gc.disable()
    for name in names:
        importlib.import_module(name)
    # Memory pages of imported modules then stay shared with the children.
    gc.freeze()
    # As in pytest's own processes: `conftest.pytest_collection_finish`.
    gc.set_threshold(20_000)
    gc.enable()


def main() -> None:
    requests = socket.socket(fileno=int(sys.argv[1]))
    import_all(IMPORTED)
    fork_and_run(requests)


def fork_and_run(requests: socket.socket, listener: socket.socket | None = None) -> NoReturn:
    """`fork_on_request`, and run what each child is for."""
    _end(_exit_code_of(lambda: _run(*fork_on_request(requests, listener))))


def _run(module: str, *arguments: str) -> None:
    """Run a module as `python -m module` does."""
    if module == _SPAWNED:
        sys.argv = ["-c", "--multiprocessing-fork"]
        exec(arguments[0], {"__name__": "__main__"})
        return
    sys.argv = [module, *arguments]
    if "/" in module:
        runpy.run_path(module, run_name="__main__")
        return
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _exit_code_of(work: Callable[[], None]) -> int:
    """Return the exit code that Python would have. It is negative for a signal."""
    try:
        work()
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return (ended.code or 0) & 0xFF
        sys.stderr.write(f"{ended.code}\n")
        return 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _end(code: int) -> NoReturn:
    """Ends the process as Python does, but leaves a million imported objects as they are.

    To take them down writes into each page that is shared with the process that forks, so that
    each is copied first. That took more of a processor than most commands.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except Exception:
            code = 120
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
