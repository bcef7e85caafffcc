"""Starts everything: database, sandbox, Dagster's UI and daemon, web service, under one Ctrl-C.

Each child gets its own process group. To end the group also ends what the child started. The
database ends last. SIGTERM and a closed terminal (SIGHUP) work like Ctrl-C.
"""

import contextlib
import fcntl
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from rms_pipeline.account import account_name
from rms_pipeline.cli.children import Children, UpFailed
from rms_pipeline.cli.progress_bar import sync_progress
from rms_pipeline.collections.base import Collection
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.database import Database, lock_if_free
from rms_pipeline.mirror.embedded import open_database, restart_if_ended, stop_embedded
from rms_pipeline.mirror.overview import read_statuses
from rms_pipeline.mirror.ownership import claim_mirror
from rms_pipeline.mirror.schema import migrate_once
from rms_pipeline.mirror.summary import count_rows
from rms_pipeline.mirror.sync_metadata import find_sync, latest_syncs
from rms_pipeline.mirror.sync_metadata_view import has_history_view
from rms_pipeline.mirror.walks import has_full_sync
from rms_pipeline.ports import demand_different, demand_free_port
from rms_pipeline.postgres_urls import without_password
from rms_pipeline.sandbox import SANDBOX_SUBDOMAIN
from rms_pipeline.settings import Settings, child_environment
from rms_pipeline.web import dagster_api
from rms_pipeline.web.addresses import UNENCRYPTED, is_exposed, kept_in, print_dashboard, url_of
from rms_pipeline.web.tokens import api_token

_START_SECONDS = 120
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Ports:
    """The port of each part."""

    dagster: int
    web: int
    sandbox: int


def run_everything(
    current: Settings, *, host: str, ports: Ports, out: Console, initial_sync: bool = True
) -> None:
    """Starts all parts, runs the first sync if none has completed, and waits for Ctrl-C.

    Without `initial_sync` a person starts it on the dashboard. Raises UpFailed (or another
    RmsPipelineError) if a part fails. All parts are stopped first.
    """
    for number in _ENDING:
        # What is ignored from the start stays so: that is what nohup is for.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    listening = {"--dagster-port": ports.dagster, "--port": ports.web}
    if current.is_bundled:
        listening["--sandbox-port"] = ports.sandbox
    demand_different(listening)
    for option, port in listening.items():
        demand_free_port(host if option == "--port" else "127.0.0.1", port, option)
    children = Children(current.state_folder / "logs")
    embedded = current.postgres_url is None
    with ExitStack() as held:
        if embedded:
            held.enter_context(_the_only_one_in(current.state_folder))
        try:
            _start(current, children, host, ports, out, initial_sync, held)
            while True:
                children.check()
                if embedded and restart_if_ended(current.state_folder):
                    _print_if_heard(out, "The embedded PostgreSQL had ended. It runs again.")
                time.sleep(1)
        except KeyboardInterrupt:
            _print_if_heard(out, "\nStopping ...")
        finally:
            _ignore_signals()
            try:
                children.stop()
            finally:
                if embedded:
                    stop_embedded(current.state_folder)
    _print_if_heard(out, "Stopped.")


@contextlib.contextmanager
def _the_only_one_in(state_folder: Path) -> Iterator[None]:
    """Raises UpFailed if another `up` uses the embedded PostgreSQL here, because the one that ends
    first would stop it for the other."""
    state_folder.mkdir(parents=True, exist_ok=True)
    # The kernel lets go of it when the process ends, in whatever way.
    with (state_folder / "up.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UpFailed(
                f"Another `rms-pipeline up` uses the embedded PostgreSQL in {state_folder}. Use "
                "that one, or stop it first. Or set POSTGRES_URL to another database."
            ) from None
        yield


@contextlib.contextmanager
def _the_only_one_on(database: Database) -> Iterator[None]:
    """Raises UpFailed where another `up` runs on this database: with two daemons in one instance
    every schedule would start two syncs."""
    with lock_if_free(database, "up") as free:
        if not free:
            raise UpFailed(
                "Another `rms-pipeline up` uses this database, on this machine or on another one. "
                "Use that one, or stop it first. For one more web service beside it: "
                "`rms-pipeline web`."
            )
        yield


def _start(
    current: Settings,
    children: Children,
    host: str,
    ports: Ports,
    out: Console,
    initial_sync: bool,
    held: ExitStack,
) -> None:
    database = _prepare_database(current, out, held)
    with database.session() as connection:
        synced = has_history_view(connection) and has_full_sync(connection, OPPORTUNITIES)
    url, web_url = url_of("127.0.0.1", ports.dagster), url_of(host, ports.web)
    parts = _Parts(children, _environment(current, database, url, ports), current.project_folder)
    if current.is_bundled:
        parts.start("sandbox", "rms_pipeline.cli", "sandbox", "--port", ports.sandbox)
    syncs_now = initial_sync and not synced
    out.print("Starting the web service ...")
    if is_exposed(host):
        out.print(f"[yellow]{UNENCRYPTED % host}[/yellow]")
    says = ["--dagster-starts", *(["--first-sync-starts"] if syncs_now else [])]
    parts.start("web", "rms_pipeline.cli", "web", "--host", host, "--port", ports.web, *says)
    guarded = _open_instance(database)
    if syncs_now:
        # It needs the database only. Nobody has to wait for Dagster to see opportunities.
        parts.start("first sync", "rms_pipeline.cli", "sync", "initial", errand=True)
    _wait_for_answer(f"{web_url}/healthz", "The web service", children)
    print_dashboard(current, web_url, api_token(current), out)
    out.print("Starting Dagster ...")
    _start_dagster(current, parts, ports, current.public_url or web_url, guarded=guarded)
    _wait_for_answer(f"{url}/server_info", "Dagster", children)
    if synced or initial_sync:
        _tell_of_first_sync(database, children, out, url, synced=synced)
        _tell_of_rows(database, current.collections, out)
    else:
        out.print("Nothing is mirrored yet: run the initial sync from the dashboard.")
    if current.is_bundled:
        # Has the sandbox deliver its webhooks to us, so that the demo is live. Twenty paced calls:
        # not worth waiting for.
        parts.start("webhooks", "rms_pipeline.cli", "webhooks", "register", web_url, errand=True)
    out.print()
    print_dashboard(current, web_url, api_token(current), out)
    _tell_of_addresses(current, database, out, url, web_url, ports, guarded=guarded)
    out.print("Ready. Ctrl-C stops everything.")


def _prepare_database(current: Settings, out: Console, held: ExitStack) -> Database:
    """The mirror of the account, up to date, and this `up` is the only one on it as long as `held`
    is open."""
    embedded = current.postgres_url is None
    out.print("Starting PostgreSQL ..." if embedded else "Preparing the database ...")
    database = open_database(current)
    migrate_once(database)
    held.enter_context(_the_only_one_on(database))
    if claim_mirror(database, account_name(current), sandbox=SANDBOX_SUBDOMAIN):
        out.print("The sandbox's opportunities were removed. Those of your account replace them.")
    return database


def _environment(
    current: Settings, database: Database, dagster_url: str, ports: Ports
) -> dict[str, str]:
    """The environment of all that is started here."""
    environment = child_environment(
        POSTGRES_URL=database.url.get_secret_value(), PYTHONUNBUFFERED="1"
    )
    if "dagster_url" not in current.model_fields_set:
        environment["RMS_DAGSTER_URL"] = dagster_url
    if current.is_bundled:
        environment |= {
            "CURRENT_RMS_BASE_URL": f"http://127.0.0.1:{ports.sandbox}/api/v1",
            # What is usual of it is not of an API at that address.
            "CURRENT_RMS_REQUESTS_PER_MINUTE": str(current.request_limit),
            "RMS_COLLECTIONS": ",".join(c.name for c in current.collections),
        }
    return environment


def _start_dagster(
    current: Settings, parts: "_Parts", ports: Ports, sign_in: str, *, guarded: bool
) -> None:
    """Starts daemon and UI. If the instance is ours, people sign in to its UI at `sign_in`."""
    logs = ["--log-format", "json"] if current.log_format == "json" else []
    if guarded:
        parts.start("daemon", "dagster._daemon", "run", "-w", "workspace.yaml", *logs)
        ui = ["--port", ports.dagster, "--sign-in", sign_in]
        parts.start("dagster", "rms_pipeline.dagster_ui", *ui)
    else:
        # People who sign in here must not launch what other people keep in their instance.
        own = ["-w", "workspace.yaml", "-h", "127.0.0.1", "-p", ports.dagster]
        parts.start("dagster", "dagster", "dev", *own, *logs)


def _tell_of_addresses(
    current: Settings,
    database: Database,
    out: Console,
    dagster_url: str,
    web_url: str,
    ports: Ports,
    *,
    guarded: bool,
) -> None:
    """Prints where everything is, each on a line of its own that can be copied whole."""
    note = "sign in at the dashboard first"
    if not guarded:
        home = current.dagster_home
        note = f"your own instance, {home}: no password, so only for this machine"
    kept = kept_in(current.webhook_token, "RMS_WEBHOOK_TOKEN", current)
    rows = {
        "Dagster UI": f"{dagster_url} ({note})",
        "Lineage": f"{dagster_url}/asset-groups",
        "Webhooks": f"{web_url}/api/webhook/<token>, the token is in {kept}",
    }
    if current.is_bundled:
        api = f"http://127.0.0.1:{ports.sandbox}/api/v1"
        rows["Sandbox API"] = f"{api} (in place of your account)"
    rows["PostgreSQL"] = without_password(database.url.get_secret_value())
    rows["Logs"] = str(current.state_folder / "logs")
    for name, place in rows.items():
        # A terminal that breaks the line itself copies it whole. Brackets are those of IPv6.
        out.print(f"{name:<12} {place}", markup=False, soft_wrap=True)


def _open_instance(database: Database) -> bool:
    """Creates Dagster's tables, ends the runs of a crash, and returns whether the instance is ours.

    It runs while the web service starts, because importing Dagster takes as long. Raises
    StoredElsewhere if no sync could be shown.
    """
    from rms_pipeline.defs.instance_storage import (
        keeps_history_here,
        open_instance,
    )
    from rms_pipeline.defs.run_lock import fail_dead_runs

    with open_instance() as instance:
        fail_dead_runs(database, instance)
        return keeps_history_here(instance.get_ref())


@dataclass(frozen=True, slots=True)
class _Parts:
    """Starts modules as processes of `children`, in one environment and folder."""

    children: Children
    environment: dict[str, str]
    folder: Path

    def start(self, name: str, module: str, *arguments: object, errand: bool = False) -> None:
        command = [sys.executable, "-m", module, *map(str, arguments)]
        self.children.start(name, command, self.environment, self.folder, errand=errand)


def _wait_for_answer(url: str, name: str, children: Children) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not dagster_api.answers(url):
        children.check()
        if time.monotonic() > deadline:
            raise UpFailed(f"{name} did not answer at {url} within {_START_SECONDS} s.")
        time.sleep(0.25)


def _tell_of_first_sync(
    database: Database, children: Children, out: Console, url: str, *, synced: bool
) -> None:
    """Waits for the running first sync, and prints how it ended."""
    if synced:
        out.print("The initial sync has completed before; `rms-pipeline status` shows the mirror.")
    else:
        out.print("First start: the initial sync is running. The dashboard shows it too.")
        run = _find_first_sync(database, children)
        with sync_progress(database, run, out) if run and out.is_terminal else nullcontext():
            while children.runs("first sync"):
                children.check()
                time.sleep(0.3)
        with database.session() as connection:
            sync = find_sync(connection, run) if run else None
        if sync is None or sync.status != "completed":
            reason = (sync.error if sync else None) or children.last_line("first sync")
            out.print(f"[red]The initial sync failed:[/red] {escape(reason)}")
            page = f"See {url}/runs/{run} and" if run else "Correct the cause. Then"
            out.print(f"{page} start it again from the dashboard.")


def _tell_of_rows(database: Database, collections: Sequence[Collection], out: Console) -> None:
    with database.session() as connection:
        as_of, counts = read_statuses(connection)
        others = [(count_rows(connection, c), c) for c in collections if c is not OPPORTUNITIES]
    out.print(f"{sum(c.opportunities for c in counts):,} opportunities: ", end="")
    none = "none counted yet" if as_of is None else "Current RMS has none on these days"
    told = ", ".join(f"{c.opportunities:,} {c.status}" for c in counts) or none
    # What others wrote is no markup of ours.
    out.print(Text(told))
    if others:
        told = ", ".join(f"{n:,} {c.single if n == 1 else c.name}" for n, c in others)
        out.print(told.replace("_", " "))


def _find_first_sync(database: Database, children: Children) -> str | None:
    """The run of the first sync. None if its process ended before it had a run."""
    while True:
        goes_on = children.runs("first sync")
        with database.session() as connection:
            found = [s for s in latest_syncs(connection) if s.sync_type == "initial_sync"]
        if found:
            return found[0].run_id
        if not goes_on:
            return None
        children.check()
        time.sleep(0.3)


def _print_if_heard(out: Console, text: str) -> None:
    """Prints, unless the terminal or the pipe is closed (for which rich raises SystemExit)."""
    with contextlib.suppress(OSError, SystemExit):
        out.print(text)


def _ignore_signals() -> None:
    """Ignores a second Ctrl-C, so that no process keeps running."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)


def _interrupt(*_: Any) -> None:
    # At once: the next one may come before anything else is done.
    _ignore_signals()
    raise KeyboardInterrupt
