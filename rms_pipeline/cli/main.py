"""The `rms-pipeline` command.

Dagster is only imported if a command needs it. `status` must not import it. Exit codes: 0 success,
1 failure with the reason on stderr, 2 usage or configuration.
"""

import contextlib
import logging
import os
import signal
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer

from rms_pipeline.cli.fields import fields_app
from rms_pipeline.cli.migrate import migrate
from rms_pipeline.cli.roles import roles
from rms_pipeline.cli.sandbox import sandbox
from rms_pipeline.cli.status import status
from rms_pipeline.cli.sync import refresh, sync_app
from rms_pipeline.cli.webhooks import webhooks_app
from rms_pipeline.console import announce_sandbox, err, out, prepare, tell_failure
from rms_pipeline.errors import RmsPipelineError, remedy_of
from rms_pipeline.mirror.postgres_errors import postgres_error_in
from rms_pipeline.settings import (
    DAGSTER_PORT,
    SANDBOX_PORT,
    WEB_PORT,
    SettingsError,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    # They may be secrets.
    pretty_exceptions_show_locals=False,
    help="Keeps a complete, live copy of a Current RMS account's opportunities in "
    "PostgreSQL.\n\nStart with [bold]rms-pipeline up[/bold]: without an account it uses the "
    "bundled sandbox, without POSTGRES_URL an embedded PostgreSQL.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"rms-pipeline {version('rms-pipeline')}", highlight=False)
        raise typer.Exit


app.add_typer(sync_app, name="sync")
app.add_typer(webhooks_app, name="webhooks")
app.add_typer(fields_app, name="fields")


@app.callback()
def start(
    _: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Runs before every command."""


PORTS: Any = {"min": 0, "max": 65_535}
Host = Annotated[str, typer.Option(help="Address to listen on.")]


@app.command()
def up(
    dagster_port: Annotated[
        int, typer.Option(**PORTS, help="Port of Dagster's UI.")
    ] = DAGSTER_PORT,
    port: Annotated[int, typer.Option(**PORTS, help="Port of the web service.")] = WEB_PORT,
    sandbox_port: Annotated[int, typer.Option(**PORTS, help="Port of the sandbox.")] = SANDBOX_PORT,
    host: Host = "127.0.0.1",
    initial_sync: Annotated[
        bool,
        typer.Option(
            "--initial-sync/--no-initial-sync",
            help=("Run the initial sync if none has completed yet."),
        ),
    ] = True,
) -> None:
    """Start everything: database, sandbox, Dagster's UI and daemon, and the web service.

    Without an account, the sandbox is used. The first start runs the initial sync.
    Ctrl-C stops everything. --host is for the web service: Dagster's UI stays on this machine.
    """
    current = prepare(instance=True, logs=True)
    announce_sandbox(current)
    from rms_pipeline.cli.up import Ports, run_everything

    ports = Ports(dagster=dagster_port, web=port, sandbox=sandbox_port)
    run_everything(current, host=host, ports=ports, out=out, initial_sync=initial_sync)


app.command()(refresh)
app.command()(status)
app.command()(roles)


@app.command()
def web(
    port: Annotated[int, typer.Option(**PORTS, help="Port to listen on.")] = WEB_PORT,
    host: Host = "127.0.0.1",
    # What `up` knows, and the dashboard shows.
    dagster_starts: Annotated[bool, typer.Option(hidden=True)] = False,
    first_sync_starts: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Serve the dashboard, the sync API, the webhook receiver and the fast lane.

    `up` starts it too."""
    current = prepare(instance=True)
    announce_sandbox(current)
    from rms_pipeline.web.server import leave, serve

    serve(
        current,
        host=host,
        port=port,
        dagster_starts=dagster_starts,
        first_sync_starts=first_sync_starts,
    )
    leave()


@app.command()
def doctor(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the findings as one line of JSON.")
    ] = False,
) -> None:
    """Check settings, database, credentials, clocks, budget, webhooks, runs, schedules and syncs.

    Each line says what was found and what to do. Exit code 1 if anything is ✘.
    """
    from rms_pipeline.doctor.printing import print_findings

    if not print_findings(prepare, as_json=as_json, out=out):
        sys.exit(1)


app.command()(migrate)


@app.command()
def rebuild() -> None:
    """Rebuild all rows from the stored API answers, without any API call.

    Use it after the mapping was corrected or rows were damaged.
    """
    prepare(instance=True, logs=True)
    from rms_pipeline.cli.foreground import run_rebuild

    done = run_rebuild(err)
    out.print(
        f"[green]Decoded {done['rows/rows']:,} rows again[/green], deleted ones too: "
        f"{done['rows/rewritten']:,} rewritten, {done['rows/failed']:,} failed. "
        f"Before that, merged {done['pages']:,} stored pages ({done['walks']:,} syncs): "
        f"{done['pages/created']:,} created, {done['pages/updated']:,} updated."
    )


app.command("sandbox")(sandbox)


def main() -> None:
    """Runs the command; turns errors of ours into one clear message and an exit code."""
    _open_standard_streams()
    # Dagster warns in several lines at each attempt. The error at the end says the same in one.
    logging.getLogger().addFilter(lambda record: "failed database" not in str(record.msg))
    try:
        try:
            app()
        finally:
            # Here a full disk can still be reported. Python itself flushes at the very end.
            sys.stdout.flush()
    except SettingsError as error:
        tell_failure("Configuration", str(error))
        sys.exit(2)
    except RmsPipelineError as error:
        tell_failure("Error", str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        # Before a verb began: each says itself what an interrupt left.
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        # The reader has read enough.
        _forget_output()
        sys.exit(1)
    except Exception as error:
        if isinstance(error, OSError) and (remedy := remedy_of(error)):
            _tell_of_files(error, remedy)
            sys.exit(1)
        refused = postgres_error_in(error)
        if refused is None:
            raise
        from rms_pipeline.defs.failures import in_words

        tell_failure("Error", in_words(refused, "command"))
        sys.exit(1)


def _tell_of_files(error: OSError, remedy: str) -> None:
    what = error.filename or "what this command prints"
    _forget_output()
    # stderr may lead to the same disk.
    with contextlib.suppress(OSError):
        tell_failure(
            "Error",
            f"{error.strerror}: {what}. {remedy} Then run the command again. What is stored in "
            "the database is intact.",
        )


def _open_standard_streams() -> None:
    """Open the standard streams that the caller has closed.

    Otherwise the next file or connection that is opened would get the number of one, and receive
    what this process and its children print.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free.
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _forget_output() -> None:
    """What is still to be printed, which Python would try once more at the end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
