"""The `rms-pipeline` command. Imports of Dagster wait until a command needs it: `status` must not.

Exit codes: 0 success, 1 failure with the reason on stderr, 2 usage or configuration.
"""

import signal
import sys
import threading
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from rms_pipeline import settings as config
from rms_pipeline.console import announce_sandbox, err, out
from rms_pipeline.errors import RmsPipelineError
from rms_pipeline.settings import (
    DAGSTER_PORT,
    SANDBOX_PORT,
    WEB_PORT,
    SettingsError,
    set_environment,
)
from rms_pipeline.webhooks_command import webhooks_app

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="Keeps a complete, live copy of a Current RMS account's opportunities in PostgreSQL.\n\n"
    "Start with [bold]rms-pipeline up[/bold]: without an account it shows the bundled sandbox, "
    "without POSTGRES_URL it brings its own PostgreSQL.",
)
sync_app = typer.Typer(no_args_is_help=True, help="Run one sync here and now.")
app.add_typer(sync_app, name="sync")
app.add_typer(webhooks_app, name="webhooks")

Host = Annotated[str, typer.Option(help="Address to listen on.")]


def _prepare() -> config.Settings:
    """Settings, checked; and Dagster told where its instance is configured."""
    current = config.settings()
    if current.dagster_home is None:
        set_environment({"DAGSTER_HOME": str(current.project_folder)})
    return config.settings()


@app.command()
def up(
    dagster_port: Annotated[int, typer.Option(help="Port of Dagster's UI.")] = DAGSTER_PORT,
    port: Annotated[int, typer.Option(help="Port of the web service.")] = WEB_PORT,
    sandbox_port: Annotated[int, typer.Option(help="Port of the sandbox.")] = SANDBOX_PORT,
    host: Host = "127.0.0.1",
) -> None:
    """Start everything: database, sandbox (without an account), Dagster's UI and daemon, and the
    web service that receives webhooks.

    The first start runs the initial sync. Ctrl-C ends it all.
    """
    current = _prepare()
    announce_sandbox(current)
    from rms_pipeline.up import Ports, run_everything

    ports = Ports(dagster=dagster_port, web=port, sandbox=sandbox_port)
    run_everything(current, host=host, ports=ports, out=out)


AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON, and no progress.")]


@sync_app.command("initial")
def sync_initial(
    as_json: AsJson = False,
    confirm_deletions: Annotated[
        bool,
        typer.Option(
            "--confirm-deletions", help="Let rows go even if they are more than 5 % of all."
        ),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Do not go on with what an unfinished sync fetched.")
    ] = False,
) -> None:
    """Fetch every opportunity in the window (30 days back to a year ahead, and undated ones)."""
    ops: dict[str, dict[str, Any]] = {"opportunities": {"confirm_deletions": confirm_deletions}}
    if fresh:
        ops["raw_rms_pages"] = {"resume_within_minutes": 0}
    _sync("initial_sync", as_json, ops)


@sync_app.command("incremental")
def sync_incremental(as_json: AsJson = False) -> None:
    """Fetch whatever changed since the last sync, whatever its dates."""
    _sync("incremental_sync", as_json, {})


def _sync(job: str, as_json: bool, ops: dict[str, dict[str, Any]]) -> None:
    current = _prepare()
    announce_sandbox(current)
    from rms_pipeline.foreground import print_json, run_sync

    sync = run_sync(job, as_json=as_json, console=err, ops=ops)
    if as_json:
        print_json(sync)
    if sync.status != "completed":
        raise RmsPipelineError(sync.error or "The sync failed; see the run in Dagster's UI.")
    if not as_json:
        kinds = ("created", "updated", "unchanged", "deleted", "restored")
        made = ", ".join(f"{count:,} {k}" for k in kinds if (count := sync.metadata.get(k)))
        out.print(
            f"[green]Synced {sync.records_synced:,} opportunities[/green]"
            f" ({made or 'nothing new'}, {sync.records_failed:,} failed)."
        )
        if "certificate" in sync.metadata:
            out.print(sync.metadata["certificate"], highlight=False)
        if held_back := sync.metadata.get("deletions_held_back"):
            err.print(
                f"[yellow]At least {held_back:,} rows are gone from Current RMS: too many to be "
                "removed unasked. If that is right, run `rms-pipeline sync initial "
                "--confirm-deletions`.[/yellow]"
            )


@app.command()
def refresh(
    ids: Annotated[list[int], typer.Argument(help="Ids of opportunities in Current RMS.", min=1)],
    as_json: AsJson = False,
) -> None:
    """Fetch these opportunities now, and whatever webhooks are waiting."""
    current = _prepare()
    announce_sandbox(current)
    from rms_pipeline.foreground import print_json, run_sync

    ops = {"refresh_opportunities": {"ids": ids}}
    sync = run_sync("webhook_refresh", as_json=as_json, console=err, ops=ops)
    if as_json:
        print_json(sync)
    if sync.status != "completed":
        raise RmsPipelineError(sync.error or "The refresh failed; see the run in Dagster's UI.")
    if not as_json:
        kinds = ("created", "updated", "unchanged", "deleted")
        made = ", ".join(f"{count:,} {k}" for k in kinds if (count := sync.metadata.get(k)))
        out.print(f"[green]Refreshed {sync.records_synced:,}[/green] ({made or 'none is there'}).")


@app.command()
def status() -> None:
    """Show the last syncs, opportunities by status, and the queue of webhooks."""
    current = config.settings()
    from rms_pipeline.mirror.embedded import open_database
    from rms_pipeline.mirror.history import count_by_status, latest_syncs, queue_depth
    from rms_pipeline.mirror.schema import HEAD, current_version, has_history_view

    with open_database(current).session() as connection:
        if current_version(connection) != HEAD or not has_history_view(connection):
            raise RmsPipelineError(
                "This database holds no mirror yet (or an older one). "
                "Run `rms-pipeline sync initial`, `rms-pipeline up` or `rms-pipeline migrate`."
            )
        syncs, counts = latest_syncs(connection), count_by_status(connection)
        queued = queue_depth(connection)
    table = Table(title="Last syncs", title_justify="left")
    for heading in ("Sync", "Status", "Started (UTC)", "Synced", "Failed", "Error"):
        table.add_column(heading, overflow="fold")
    colours = {"completed": "green", "failed": "red", "running": "yellow"}
    for s in syncs:
        table.add_row(
            s.sync_type,
            f"[{colours[s.status]}]{s.status}[/]",
            f"{s.started_at:%Y-%m-%d %H:%M:%S}",
            f"{s.records_synced:,}",
            f"{s.records_failed:,}",
            s.error or "",
        )
    out.print(table if syncs else "No sync has run yet: start with `rms-pipeline sync initial`.")
    counted = Table(title="Opportunities by status", title_justify="left")
    counted.add_column("Status")
    counted.add_column("Opportunities", justify="right")
    for name, count in counts:
        counted.add_row(name, f"{count:,}")
    counted.add_row("[bold]Total[/]", f"[bold]{sum(c for _, c in counts):,}[/]")
    out.print(counted)
    out.print(f"Webhook events waiting: {queued:,}")


@app.command()
def web(
    port: Annotated[int, typer.Option(help="Port to listen on.")] = WEB_PORT,
    host: Host = "127.0.0.1",
) -> None:
    """Serve the webhook receiver and the fast lane (`up` starts it too)."""
    current = _prepare()
    announce_sandbox(current)
    from rms_pipeline.web.server import serve

    serve(current, host=host, port=port)


@app.command()
def migrate() -> None:
    """Bring our tables and Dagster's storage to this version's shape."""
    current = _prepare()
    from dagster import DagsterInstance

    from rms_pipeline.mirror import schema
    from rms_pipeline.mirror.embedded import open_database

    database = open_database(current)
    # Dagster's own migrations may not change a column that a view reads.
    schema.drop_history_view(database)
    with DagsterInstance.get() as instance:
        schema.drop_history_view(database)
        instance.upgrade()
        schema.migrate(database, history_view=False)
        schema.create_history_view(database)
    out.print(f"Up to date (schema {schema.HEAD}, Dagster's storage in schema dagster).")


@app.command()
def rebuild() -> None:
    """Make all rows again from what is stored, without one API call.

    For when the mapping was mended, or rows were damaged.
    """
    _prepare()
    from rms_pipeline.foreground import run_rebuild

    done = run_rebuild(err)
    out.print(
        f"[green]Decoded {done['rows/rows']:,} rows again[/green], deleted ones too: "
        f"{done['rows/rewritten']:,} rewritten, {done['rows/failed']:,} failed. "
        f"Before that, merged {done['pages']:,} stored pages of {done['walks']:,} walks: "
        f"{done['pages/created']:,} created, {done['pages/updated']:,} updated."
    )


@app.command()
def sandbox(
    port: Annotated[int, typer.Option(help="Port to listen on.")] = SANDBOX_PORT,
    rows: Annotated[int, typer.Option(min=0, help="How many opportunities.")] = 1_200,
    seed: Annotated[int, typer.Option(help="The same seed and day give the same data.")] = 1,
    requests_per_minute: Annotated[
        int, typer.Option(min=0, help="The account's limit; 0 is none.")
    ] = 120,
    latency_ms: Annotated[int, typer.Option(min=0, help="Delay of every answer.")] = 0,
    changes_per_minute: Annotated[
        float, typer.Option(min=0, help="Opportunities that change by themselves; 0 is none.")
    ] = 0,
    host: Host = "127.0.0.1",
) -> None:
    """Serve an invented Current RMS account, for demos, tests and experiments.

    Credentials: X-SUBDOMAIN sandbox, X-AUTH-TOKEN sandbox-key.
    """
    from rms_pipeline.sandbox import Churn, SandboxServer, Store

    store = Store(rows, seed)
    server = SandboxServer(
        store,
        host=host,
        port=port,
        requests_per_minute=requests_per_minute,
        latency_ms=latency_ms,
    )
    out.print(f"Current RMS sandbox with {rows:,} opportunities at {server.url} (Ctrl-C ends it)")
    signal.signal(signal.SIGTERM, _raise_interrupt)
    if changes_per_minute:
        churn = Churn(store, seed=seed)
        threading.Thread(
            target=churn.run, args=(changes_per_minute, server.closing), daemon=True
        ).start()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        out.print("Sandbox stopped.")


def _raise_interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Runs the command; turns errors of ours into one clear message and an exit code."""
    try:
        app()
    except SettingsError as error:
        err.print(f"[red]Configuration:[/red] {escape(str(error))}", markup=True, highlight=False)
        sys.exit(2)
    except RmsPipelineError as error:
        err.print(f"[red]Error:[/red] {escape(str(error))}", highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
