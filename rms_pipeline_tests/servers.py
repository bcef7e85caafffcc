"""PostgreSQL servers that start and stop, for tests and benchmarks."""

import atexit
import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2

from rms_pipeline.mirror.embedded import start_embedded, stop_embedded

POSTGRESQL_15 = Path("/usr/lib/postgresql/15/bin")
# Files below it are in memory, if there is enough room: a run of the tests needs 1 GB.
_MEMORY = Path("/dev/shm")
_ROOM = 4 << 30


@contextlib.contextmanager
def embedded_postgresql(*, in_memory: bool = False, like: Path | None = None) -> Iterator[str]:
    """The embedded server. Yields its URL. With `in_memory` its files are in memory if there is
    room. It starts with the files of `like` if that is given, a folder of `Prepared`.
    """
    with folder_for_servers("rms-test-", in_memory) as folder:
        if like is not None:
            _copy(like / "postgres", folder)
        try:
            yield start_embedded(folder)
        finally:
            stop_embedded(folder)


@contextlib.contextmanager
def installed_postgresql(
    programs: Path = POSTGRESQL_15, *, in_memory: bool = False, like: Path | None = None
) -> Iterator[str]:
    """A server of the programs in a folder, with its default settings. Yields its URL.

    With `in_memory` its files are in memory if there is room. It starts with the files of `like`
    if that is given, a folder of `Prepared`.
    """
    with folder_for_servers("rms-test-15-", in_memory) as folder:
        if like is not None:
            _copy(like / "data", folder)
        with _installed_postgresql(programs, folder, stop="immediate") as url:
            yield url


def _copy(data: Path, folder: Path) -> None:
    # With their owner, who is not the one of this process if that is root.
    subprocess.run(["cp", "-a", str(data), str(folder)], check=True)


# Where such files are, for pytest without processes of its own.
SERVERS_VARIABLE = "PREPARED_SERVERS"


class Prepared:
    """Files of servers with the templates, made once for all of pytest's processes.

    Whoever wants a server copies them, if they were made. A copy takes a tenth of the time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.embedded = folder / "embedded"
        self.postgresql_15 = folder / "15"

    def is_there(self) -> bool:
        """Return whether the files were made. Waits for whoever makes them."""
        with (self.folder / "making").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            return (self.folder / "made").exists()

    @contextlib.contextmanager
    def making(self) -> Iterator[None]:
        """Inside this context, and in what it forks until that ends, the files are being made."""
        with (self.folder / "making").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def make(self, fill: Callable[[str], object], fill_embedded: Callable[[str], object]) -> None:
        """Make the files. `fill` gets the URL of each server, and `fill_embedded` that of the
        embedded one too.
        """
        # A system user of the servers must reach the folders below it.
        self.folder.chmod(0o711)
        self.embedded.mkdir()
        url = start_embedded(self.embedded)
        try:
            be_careless(url)
            fill(url)
            fill_embedded(url)
        finally:
            stop_embedded(self.embedded)
        # Where the library keeps which processes use the server.
        (self.embedded / "postgres/.handle_pids.json").unlink(missing_ok=True)
        if (POSTGRESQL_15 / "initdb").exists():
            self.postgresql_15.mkdir()
            with _installed_postgresql(POSTGRESQL_15, self.postgresql_15, stop="fast") as url:
                be_careless(url)
                fill(url)
        (self.folder / "made").touch()


@contextlib.contextmanager
def _installed_postgresql(programs: Path, folder: Path, *, stop: str) -> Iterator[str]:
    user: str | None = None
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        user = "postgres"

    def run(*command: str) -> None:
        subprocess.run(command, check=True, user=user, stdout=subprocess.DEVNULL, cwd="/")

    data = str(folder / "data")
    if not Path(data).exists():
        # Whatever the locale of this process is.
        for_all_letters = ("--encoding=UTF8", "--locale=C.UTF-8")
        run(f"{programs}/initdb", "-A", "trust", "-U", "postgres", *for_all_letters, "-D", data)
    options = f"-c listen_addresses= -k {folder}"
    run(f"{programs}/pg_ctl", "-w", "-D", data, "-o", options, "-l", f"{data}.log", "start")
    try:
        yield f"postgresql://postgres@/postgres?host={folder}"
    finally:
        run(f"{programs}/pg_ctl", "-w", "-D", data, "-m", stop, "stop")


@contextlib.contextmanager
def folder_for_servers(prefix: str, in_memory: bool) -> Iterator[Path]:
    """A folder that exists inside this context."""
    # Not below pytest's own temporary folder, because the server's system user has to reach it.
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=_memory() if in_memory else None))
    # After what the library of the embedded server does at exit: it makes its lock file once more.
    atexit.register(_remove_at_exit, folder, os.getpid())
    with (folder / "new").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Only now may others check whether it is locked.
        (folder / "new").rename(folder / "lock")
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_at_exit(folder: Path, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def _memory() -> Path | None:
    """Return a folder in memory if there is room for the files of servers, or None."""
    try:
        for lock in _MEMORY.glob("rms-test-*/lock"):
            # Files of tests that were killed would take room until the machine restarts.
            with contextlib.suppress(OSError), lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
        there = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(there["MemAvailable"].split()[0]) * 1024
        if not os.access(_MEMORY, os.W_OK) or min(free, shutil.disk_usage(_MEMORY).free) < _ROOM:
            return None
    except OSError:
        return None
    return _MEMORY


@contextlib.contextmanager
def replica_of(server_url: str, programs: Path = POSTGRESQL_15) -> Iterator[str]:
    """A streaming replica of an `installed_postgresql`. Yields its URL."""
    folder = Path(tempfile.mkdtemp(prefix="rms-test-replica-"))
    primary = server_url.rpartition("host=")[2]
    user: str | None = None
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        user = "postgres"

    def run(*command: str) -> None:
        subprocess.run(command, check=True, user=user, stdout=subprocess.DEVNULL, cwd="/")

    data = str(folder / "data")
    copies = ("-h", primary, "-U", "postgres", "-D", data, "-X", "stream", "-c", "fast", "-R")
    run(f"{programs}/pg_basebackup", *copies)
    options = f"-c listen_addresses= -k {folder}"
    run(f"{programs}/pg_ctl", "-w", "-D", data, "-o", options, "-l", f"{data}.log", "start")
    try:
        yield f"postgresql://postgres@/postgres?host={folder}"
    finally:
        run(f"{programs}/pg_ctl", "-w", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def be_careless(server_url: str) -> None:
    """Make the server ignore crashes, not vacuum, and not compile statements.

    No test depends on the disk, and no test may depend on the moment of a vacuum.
    """
    with administrator(server_url) as run:
        for setting in ("fsync", "synchronous_commit", "full_page_writes", "autovacuum", "jit"):
            run(f"ALTER SYSTEM SET {setting} = off")
        # Enough room for everything in memory, so that nothing is read again.
        run("ALTER SYSTEM SET max_wal_size = '128MB'")
        run("SELECT pg_reload_conf()")


# Prefix of the names of databases that are not templates.
NEW_NAMES = "test_"


def new_name() -> str:
    return f"{NEW_NAMES}{uuid.uuid4().hex[:12]}"


@contextlib.contextmanager
def new_database(server_url: str, template: str | None = None) -> Iterator[str]:
    """A database of its own on the server, empty or a copy of another. Yields its URL.

    `copies.copy_of` is much faster, from the second copy of a template on.
    """
    name = new_name()
    with administrator(server_url) as run:
        run(f"CREATE DATABASE {name} {as_copy_of(template) if template else ''}")
        try:
            yield url_of(server_url, name)
        finally:
            run(f"DROP DATABASE {name} WITH (FORCE)")


def as_copy_of(template: str) -> str:
    """Return the clause of CREATE DATABASE for a copy."""
    # A copy of files takes half the time of a copy through the log, on a server that does not wait
    # for the disk.
    return f"TEMPLATE {template} STRATEGY FILE_COPY"


def template(
    server_url: str, name: str, fill: Callable[[str], None], like: str | None = None
) -> str:
    """Return the name of a database to copy. `fill` gets its URL and fills it. It is empty before
    that, or a copy of the template `like`.

    It is made on first use and lives as long as the server. No connection may stay open to it.
    """
    with administrator(server_url) as run:
        if not run("SELECT 1 FROM pg_database WHERE datname = %s", name):
            run(f"CREATE DATABASE {name} {as_copy_of(like) if like else ''}")
            try:
                fill(url_of(server_url, name))
            except BaseException:
                run(f"DROP DATABASE {name} WITH (FORCE)")
                raise
    return name


def url_of(server_url: str, name: str) -> str:
    """Return the URL of another database of the same server."""
    head, _, query = server_url.partition("?")
    return f"{head.rpartition('/')[0]}/{name}?{query}"


@contextlib.contextmanager
def administrator(server_url: str) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    """Runs statements, each in a transaction of its own, and returns their rows."""
    connection = psycopg2.connect(server_url)
    connection.autocommit = True

    def run(statement: str, *values: object) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    try:
        yield run
    finally:
        connection.close()
