"""`rms-pipeline sandbox`: the invented account alone."""

import json
import signal
import threading
from typing import Annotated, Any, Literal

import typer

from rms_pipeline.console import out
from rms_pipeline.errors import RmsPipelineError
from rms_pipeline.ports import demand_free_port
from rms_pipeline.settings import SANDBOX_LIMIT, SANDBOX_PORT, SettingsError


class SandboxNotStarted(RmsPipelineError):
    """The sandbox cannot listen on its port."""


def sandbox(
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on.")] = SANDBOX_PORT,
    rows: Annotated[int, typer.Option(min=0, help="How many opportunities.")] = 1_200,
    seed: Annotated[int, typer.Option(help="The same seed and day give the same data.")] = 1,
    requests_per_minute: Annotated[
        int, typer.Option(min=0, help="The account's limit of calls a minute; 0 means no limit.")
    ] = SANDBOX_LIMIT,
    latency_ms: Annotated[
        int, typer.Option(min=0, help="Delay of every answer, in milliseconds.")
    ] = 0,
    changes_per_minute: Annotated[
        float,
        typer.Option(
            min=0, help="How many opportunities the sandbox changes each minute; 0 means none."
        ),
    ] = 0,
    api: Annotated[
        Literal["v2.1", "v1"] | None,
        typer.Option(
            help="Version of the API: v2.1 (since June 2026) or v1 (before). Without it: v2.1."
        ),
    ] = None,
    switch: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Set a switch of the API's behaviour, for example [bold]gone_status=410[/bold]. "
            "You can use this option several times. GET /sandbox/switches shows all of "
            "them.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Serve an invented Current RMS account, for demos, tests and experiments.

    Credentials: X-SUBDOMAIN sandbox, X-AUTH-TOKEN sandbox-key.
    """
    from rms_pipeline.sandbox import Churn, PortInUseError, SandboxServer, Store, Switches

    named = {"api": api} if api else {}
    try:
        switches = Switches().turned(json.dumps(named | _named(switch or [])).encode())
    except ValueError as error:
        raise SettingsError(f"--switch: {error}") from None
    demand_free_port(host, port, "--port")
    store = Store(rows, seed)
    try:
        server = SandboxServer(
            store,
            switches=switches,
            host=host,
            port=port,
            requests_per_minute=requests_per_minute,
            latency_ms=latency_ms,
        )
    except PortInUseError as error:
        raise SandboxNotStarted(str(error)) from None
    out.print(f"Current RMS sandbox with {rows:,} opportunities at {server.url} (Ctrl-C stops it)")
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


def _named(pairs: list[str]) -> dict[str, Any]:
    """Reads `NAME=VALUE` pairs. A value is JSON, or text if it is not valid JSON."""
    named = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{pair} must be NAME=VALUE, for example gone_status=410")
        try:
            named[name] = json.loads(value)
        except ValueError:
            named[name] = value
    return named


def _raise_interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
