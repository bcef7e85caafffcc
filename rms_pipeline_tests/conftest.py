"""Real servers for the tests: PostgreSQL (embedded, and 15 if installed), and the sandbox.

From cheap to expensive: `emptied` (one database for a module, emptied for each test), `database` (a
new one with our tables), `ready_url` (a new one with Dagster's tables and the view too),
`empty_url`.
"""

import contextlib
import fcntl
import functools
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from rms_pipeline.collections.base import Collection
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.client import CurrentRmsClient, Patience
from rms_pipeline.current_rms.pacing import ProcessBudget
from rms_pipeline.current_rms.transport import Failure
from rms_pipeline.current_rms.window import Window
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.schema import migrate
from rms_pipeline.sandbox import SANDBOX_API_KEY, SANDBOX_SUBDOMAIN
from rms_pipeline.settings import settings
from rms_pipeline_tests.copies import copy_of, empty
from rms_pipeline_tests.kept_connections import kept_connections
from rms_pipeline_tests.processes import PROJECT, why_not_here
from rms_pipeline_tests.servers import (
    POSTGRESQL_15 as POSTGRESQL_15,
)
from rms_pipeline_tests.servers import (
    SERVERS_VARIABLE,
    Prepared,
    be_careless,
    embedded_postgresql,
    folder_for_servers,
    installed_postgresql,
    template,
)
from rms_pipeline_tests.servers import (
    new_database as new_database,
)
from rms_pipeline_tests.workers import nursery

# The longest first, so that all processes end at about the same time. A process gets its next
# module as the last test of its module begins.
LONGEST = (
    "drills/test_faults.py",
    "drills/test_somebody_elses_project.py",
    "drills/test_size.py",
    "drills/test_kills.py",
    "drills/test_mutants.py",
    "drills/test_each_statement.py",
    "drills/test_workers.py",
    "drills/test_lying_apis.py",
    "drills/test_dagster_ui.py",
    "drills/test_celery.py",
    "drills/test_up.py",
    "drills/test_budget.py",
    "drills/test_first_hours.py",
    "drills/test_many_sequences.py",
    "drills/test_every_page.py",
    "drills/test_helm.py",
    "drills/test_side_by_side.py",
    "drills/test_deploy.py",
    "drills/test_disk_full.py",
    "drills/test_key_prefix.py",
    "drills/test_stopping.py",
    "drills/test_lying_parts.py",
    "drills/test_replica.py",
    "drills/test_burst.py",
    "drills/test_cases_of_pages.py",
    "drills/test_wheel.py",
    "drills/test_migrate_at_once.py",
    "drills/test_history.py",
    "drills/test_items.py",
    "drills/test_kills_of_the_proof.py",
    "drills/test_kills_of_collections.py",
    "drills/test_cases.py",
    *("browser/test_tasks.py", "browser/test_lists.py", "browser/test_dashboard.py"),
    "test_command.py",
    "web/test_sync_api.py",
    "test_doctor.py",
    "sync/test_traps.py",
    "sync/test_one_bad_record.py",
    "test_broken_setups.py",
    "defs/test_schedules.py",
    "mirror/test_budget.py",
    "defs/test_sync_history.py",
    "defs/test_build_defs.py",
    "defs/test_assets.py",
    "web/test_fast_lane.py",
    "defs/test_webhook_refresh.py",
    "sync/test_locked_rows.py",
    "sync/test_any_sequence.py",
    "sync/test_prove.py",
    "test_sync.py",
    "sync/test_own_objects.py",
    "test_two_schemas.py",
    "web/test_sockets.py",
    "web/test_access.py",
    "web/test_receiver.py",
    "test_together.py",
    "test_doctor_webhooks.py",
    "mirror/test_upgrades.py",
    "current_rms/test_client.py",
    "test_api_facts.py",
    "sync/test_rebuilding.py",
    "defs/test_collections.py",
    "defs/test_component.py",
    "mirror/test_browse.py",
    "mirror/test_releases.py",
    "mirror/test_database.py",
)
# Folders whose modules share what takes long to start.
_SHARED = ("browser",)
# Modules whose functions share nothing that takes long to start, and would take one process too
# long. Each function may run in another process.
_APART = tuple(
    f"drills/test_{name}.py" for name in ("cases", "faults", "stopping", "up", "workers")
)
_FOLDER = pytest.StashKey[Path]()
_SERVERS, _UNCOMPILED = "servers", "uncompiled"
# With fewer, each process compiles them for itself while the others do, too.
_FEW_MODULES = 20
DRILLED_CASES = tuple(
    Path(__file__).parent / "drills" / name for name in ("test_cases.py", "test_cases_of_pages.py")
)
# Short waits, but many attempts: some tests count calls.
QUICK = Patience(connect=10, read=20, answer=60, attempts=8, throttled=30, backoff=0.005)


# Folders and modules whose tests reuse connections (`kept_connections.py`).
LOOK_AT_ROWS = (
    *("collections", "defs", "insight", "mirror", "sync", "test_api_facts.py", "test_sync.py"),
    *("test_calendar.py", "test_changes.py", "test_compare.py", "test_decisions.py"),
    *("test_find.py", "test_listing.py", "test_opportunities.py", "test_opportunity.py"),
    *("test_parties.py", "test_today.py", "test_dashboard.py", "test_further_back.py"),
    *("test_feeds.py", "test_locales.py", "test_stress.py"),
    *("drills/test_many_sequences.py", "drills/test_lying_apis.py", "drills/test_items.py"),
    *("drills/test_lying_parts.py", "drills/test_history.py"),
)
# What `-m quick` runs: the core, from the API to the tables, without Dagster, pages and processes.
CORE = ("current_rms", "mirror", "sync")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="The drills in their long form.")


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether the drills run in their long form (`--long`)."""
    return bool(request.config.getoption("--long"))


def forget_settings(environment: MutableMapping[str, str]) -> None:
    """Remove all variables that the program reads, or warns of as misspelled.

    Whoever runs the tests may have an account and a database of their own in the environment.
    """
    for name in list(environment):
        if name.startswith(("RMS_", "CURRENT_RMS_", "POSTGRES_URL")) or name == "DAGSTER_HOME":
            del environment[name]


def pytest_configure(config: pytest.Config) -> None:
    if reason := why_not_here():
        raise pytest.UsageError(reason)
    forget_settings(os.environ)
    # Tests ask servers of this machine. To look for a proxy in the environment took a third of the
    # time of each request.
    os.environ["no_proxy"] = "127.0.0.1,localhost"
    # A machine may be set up to keep no compiled code: then each process that is started here would
    # compile all of ours, and each worker rewrite all tests, for half of the time that it takes.
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # Until everything is imported. Imports leave no garbage.
    gc.disable()
    # A script's background jobs and all their children ignore it, with which Dagster ends its own.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: Sequence[Any]) -> None:
    """Let processes for many tests be forks of one. For a few tests, it would import too much."""
    is_many = any(Path(argument).is_dir() for argument in config.args)
    if sys.platform != "linux" or not is_many or Path.cwd() != PROJECT:
        return
    stack = contextlib.ExitStack()
    config.add_cleanup(stack.close)
    folder = stack.enter_context(folder_for_servers("rms-test-", in_memory=True))
    is_core = all(Path(argument).name in CORE for argument in config.args)
    everything = config.option.markexpr != "quick" and not is_core
    command = stack.enter_context(nursery(folder, everything=everything))
    for spec in specs:
        if spec.popen and not spec.python:
            spec.python = command
    config.stash[_FOLDER] = folder


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let one process run all modules of a folder that share something, and several processes the
    tests of a long module that share nothing.
    """
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _reschedule(self, node: Any) -> None:
            # A process cannot begin a test before it knows which one follows. But it needs to know
            # no more: what waits behind a long test could run in another process.
            if not self.workqueue or self._pending_of(self.assigned_work[node]) < 2:
                super()._reschedule(node)

    def place(nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        if module.endswith(_APART):
            return nodeid.partition("[")[0]
        folder = Path(module).parent
        return str(folder) if folder.name in _SHARED else module

    if config.getoption("dist") != "loadfile":
        return None
    scheduling = Scheduling(config, log)
    scheduling._split_scope = place
    return scheduling


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    if _FOLDER in node.config.stash:
        node.workerinput[_SERVERS] = str(node.config.stash[_FOLDER])
        folders = [Path(argument) for argument in node.config.args]
        if node.config.option.markexpr == "quick":
            folders = [Path(__file__).parent / name for name in CORE]
        count = sum(_uncompiled(folder) for folder in folders)
        node.workerinput[_UNCOMPILED] = count > _FEW_MODULES


@functools.cache
def _uncompiled(folder: Path) -> int:
    """Return how many modules of tests pytest has not compiled since they were changed."""
    kind = f"{sys.implementation.cache_tag}-pytest-{pytest.__version__}"
    count = 0
    for path in folder.rglob("test_*.py"):
        if DRILLED_CASES[0].parent.name in path.relative_to(folder).parts:
            continue
        compiled = path.parent / f"__pycache__/{path.stem}.{kind}.pyc"
        try:
            count += compiled.stat().st_mtime < path.stat().st_mtime
        except OSError:
            count += 1
    return count


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Let the first process compile the tests of a new clone. The others wait for it and read what
    it wrote. Otherwise each of them would compile all.
    """
    given = getattr(session.config, "workerinput", {})
    if not given.get(_UNCOMPILED):
        return (yield)
    with (Path(given[_SERVERS]) / "compiling").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(lock, fcntl.LOCK_SH)
            fcntl.flock(lock, fcntl.LOCK_UN)
        return (yield)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m quick`, do not even import the tests that it leaves out."""
    if config.option.markexpr != "quick" or collection_path.parent != Path(__file__).parent:
        return None
    is_other = collection_path.name.startswith("test_") or collection_path.is_dir()
    return True if is_other and collection_path.name not in CORE else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    of_drills = {True: list[pytest.Item](), False: list[pytest.Item]()}
    for item in items:
        of_drills[item.get_closest_marker("drill") is not None].append(item)
    drilled = [
        item
        for item in of_drills[True]
        if item.path.parent.name == "drills"
        and (config.getoption("--long") or item.get_closest_marker("long") is None)
    ]
    others = [item for item in of_drills[False] if item.path not in DRILLED_CASES]
    if len(drilled) + len(others) < len(items):
        kept = {*drilled, *others}
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = drilled + others

    @functools.cache
    def place(path: Path) -> int:
        found = (n for n, name in enumerate(LONGEST) if path.as_posix().endswith(name))
        return next(found, len(LONGEST))

    items.sort(key=lambda item: place(item.path))
    for item in items:
        if item.path.parent.name in CORE and not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.quick)


def pytest_collection_finish() -> None:
    # What was imported stays: to look through a million objects again and again was a tenth of all.
    # Once is half a second already, so the little that is garbage stays too.
    gc.freeze()
    # Nor again whenever 700 objects were made: what a test needs is soon more than that.
    gc.set_threshold(20_000)
    gc.enable()


# What these names mean in a module of tests, at a time (UTC).
_MOMENTS: dict[str, Callable[[datetime], object]] = {
    "NOW": lambda now: now,
    "TODAY": lambda now: now.date(),
    "YEAR": lambda now: now.year,
}
_QUARTER_OF_AN_HOUR, _LONGEST_TEST = 900, 5


@pytest.fixture(autouse=True)
def own_moments(request: pytest.FixtureRequest) -> None:
    """NOW, TODAY and YEAR of a module are those of the test, and no day ends while it runs.

    A module is imported minutes before its last test, which may be yesterday. In every time zone a
    day ends with a quarter of an hour.
    """
    names = [name for name in _MOMENTS if hasattr(request.module, name)]
    # Tests of the browser use one server, whose rows are of the time at which it began. Its time
    # zone is one in which it is noon then.
    if not names or request.path.parent.name == "browser":
        return
    left = _QUARTER_OF_AN_HOUR - time.time() % _QUARTER_OF_AN_HOUR
    if left < _LONGEST_TEST:
        time.sleep(left)
    for name in names:
        known, now = getattr(request.module, name), datetime.now(UTC)
        if isinstance(known, datetime) and not known.microsecond:
            now = now.replace(microsecond=0)
        setattr(request.module, name, _MOMENTS[name](now))


@pytest.fixture(autouse=True)
def own_settings() -> None:
    """No test begins with settings that another one read from its own environment."""
    settings.cache_clear()


def looks_at_rows(path: Path) -> bool:
    """Return whether the tests of the module only look at rows, so that connections are reused."""
    names = (path.parent.name, path.name, f"{path.parent.name}/{path.name}")
    return not set(names).isdisjoint(LOOK_AT_ROWS)


@pytest.fixture(scope="module", autouse=True)
def connections(request: pytest.FixtureRequest) -> Iterator[None]:
    """Connections are reused in tests that only look at rows."""
    if not looks_at_rows(request.node.path) or request.node.get_closest_marker("new_connections"):
        yield
        return
    with kept_connections():
        yield


@pytest.fixture(scope="session")
def prepared(request: pytest.FixtureRequest) -> Prepared | None:
    """The files of servers that were made for all processes, if they were."""
    given = os.environ.get(SERVERS_VARIABLE)
    folder = getattr(request.config, "workerinput", {}).get(_SERVERS, given)
    if folder is None or not (prepared := Prepared(Path(folder))).is_there():
        return None
    return prepared


@pytest.fixture(scope="session")
def embedded_url(prepared: Prepared | None) -> Iterator[str]:
    like = prepared.embedded if prepared else None
    with embedded_postgresql(in_memory=True, like=like) as url:
        be_careless(url)
        yield url


@pytest.fixture(scope="session")
def postgresql_15_url(prepared: Prepared | None) -> Iterator[str]:
    if not (POSTGRESQL_15 / "initdb").exists():
        pytest.skip("no PostgreSQL 15 server is installed (Debian: apt-get install postgresql-15)")
    like = prepared.postgresql_15 if prepared else None
    with installed_postgresql(POSTGRESQL_15, in_memory=True, like=like) as url:
        be_careless(url)
        yield url


def database_at(url: str) -> Database:
    return Database(SecretStr(url), SecretStr(url))


@pytest.fixture
def empty_url(embedded_url: str) -> Iterator[str]:
    with new_database(embedded_url) as url:
        yield url


@pytest.fixture(params=["embedded", "postgresql-15"])
def each_empty_url(request: pytest.FixtureRequest) -> Iterator[str]:
    name = "embedded_url" if request.param == "embedded" else "postgresql_15_url"
    with new_database(request.getfixturevalue(name)) as url:
        yield url


def with_our_tables(server_url: str) -> str:
    """Return the template with our tables and none of Dagster's."""
    return template(server_url, "template_ours", lambda url: migrate(database_at(url)))


def with_all_tables(server_url: str) -> str:
    """Return the template with everything that `rms-pipeline migrate` makes."""

    def fill(url: str) -> None:
        with dagsters_tables(database_at(url)):
            pass

    return template(server_url, "template_all", fill)


@pytest.fixture
def database(embedded_url: str, request: pytest.FixtureRequest) -> Iterator[Database]:
    with_history = "history" in request.fixturenames
    filled = (with_all_tables if with_history else with_our_tables)(embedded_url)
    with copy_of(embedded_url, filled) as url:
        yield database_at(url)


@pytest.fixture(params=["embedded", "postgresql-15"])
def each_database(request: pytest.FixtureRequest) -> Iterator[Database]:
    name = "embedded_url" if request.param == "embedded" else "postgresql_15_url"
    server: str = request.getfixturevalue(name)
    with copy_of(server, with_our_tables(server)) as url:
        yield database_at(url)


@pytest.fixture
def ready_url(embedded_url: str) -> Iterator[str]:
    """A database as `rms-pipeline migrate` leaves it."""
    with copy_of(embedded_url, with_all_tables(embedded_url)) as url:
        yield url


@pytest.fixture(scope="module")
def migrated(embedded_url: str) -> Iterator[Database]:
    with copy_of(embedded_url, with_our_tables(embedded_url)) as url:
        yield database_at(url)


@pytest.fixture(scope="module")
def ready(embedded_url: str) -> Iterator[Database]:
    """The module's database, as `rms-pipeline migrate` leaves it."""
    with copy_of(embedded_url, with_all_tables(embedded_url)) as url:
        yield database_at(url)


# Tables that hold rows in a new database, or that the tests of a module may share.
_KEPT = (
    *("rms_pipeline_alembic_version", "mirror_state", "statuses"),
    # Tables of Dagster.
    *("alembic_version", "secondary_indexes", "instance_info", "kvs"),
)


@pytest.fixture
def emptied(migrated: Database) -> Database:
    """The module's database with empty tables. This is much faster than a new database."""
    with migrated.session() as connection:
        empty(connection, _KEPT)
    return migrated


@contextlib.contextmanager
def dagsters_tables(database: Database) -> Iterator[None]:
    """Dagster's tables in the database, and the view over them."""
    # Importing Dagster takes long, and most tests of the core do not need it.
    from rms_pipeline.defs.instance_storage import MirrorPostgresStorage

    with pytest.MonkeyPatch.context() as changes:
        changes.setenv("POSTGRES_URL", database.url.get_secret_value())
        changes.setenv("POSTGRES_URL_NON_POOLING", database.url.get_secret_value())
        changes.setenv("RMS_SCHEMA", database.schema)
        settings.cache_clear()
        opened: Any = MirrorPostgresStorage.from_config_value(None, {})
        # Nobody can copy a database that anybody is connected to.
        opened.run_storage._engine.dispose()
        del opened
        yield
    settings.cache_clear()


@pytest.fixture
def history(database: Database) -> Iterator[None]:
    with dagsters_tables(database):
        yield


@pytest.fixture
def window() -> Window:
    return Window.around(datetime.now(UTC), days_back=30, days_ahead=365)


@pytest.fixture
def client_for() -> Iterator[Callable[..., CurrentRmsClient]]:
    """Makes clients for a sandbox's URL, with short waits and, by default, no limit of calls."""
    with contextlib.ExitStack() as stack:

        def make(
            url: str,
            *,
            requests_per_minute: int = 0,
            patience: Patience = QUICK,
            api_key: str = SANDBOX_API_KEY,
            collection: Collection = OPPORTUNITIES,
            tell: Callable[[Failure | None], None] = lambda failure: None,
        ) -> CurrentRmsClient:
            client = CurrentRmsClient(
                collection=collection,
                base_url=url,
                subdomain=SANDBOX_SUBDOMAIN,
                api_key=SecretStr(api_key),
                budget=ProcessBudget(requests_per_minute),
                patience=patience,
                tell=tell,
            )
            return stack.enter_context(client)

        yield make
