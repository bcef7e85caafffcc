"""`rms-pipeline webhooks`: our subscriptions in Current RMS. The token in a URL is not printed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from rms_pipeline import settings as config
from rms_pipeline.console import announce_sandbox, err, out, table

if TYPE_CHECKING:
    from rms_pipeline.current_rms.client import CurrentRmsClient, Patience
    from rms_pipeline.current_rms.pacing import Budget
    from rms_pipeline.current_rms.webhooks import Subscribed

webhooks_app = typer.Typer(
    no_args_is_help=True, help="Manage the webhooks with which Current RMS reports changes."
)


@webhooks_app.command("list")
def list_webhooks() -> None:
    """Show which events Current RMS sends to this mirror, and the result of the last deliveries."""
    from rms_pipeline.current_rms.webhooks import events_of, overview
    from rms_pipeline.web.tokens import webhook_token

    current = config.settings()
    with _client(current) as client:
        stands = overview(client, webhook_token(current), events_of(current.collections))
    targets = {event.target for event in stands if event.target}
    # One target for all of them is said once, and leaves the others the width of a terminal.
    last = ("Target",) if len(targets) > 1 else ()
    headings = ("Event", "Status", "Last delivery (UTC)", *last)
    shown = table("Webhooks of this mirror", headings)
    for event in stands:
        row = [event.event, _status(event), _last_delivery(event), escape(event.target or "")]
        shown.add_row(*row[: len(headings)])
    out.print(shown)
    if len(targets) == 1:
        out.print(f"They post to {escape(targets.pop())}", highlight=False, soft_wrap=True)
    if not all(s.is_right for s in stands):
        out.print(
            "`rms-pipeline webhooks register URL` creates what is missing and corrects the rest."
        )


@webhooks_app.command()
def register(
    url: Annotated[
        str,
        typer.Argument(
            help="The public address of the web service, such as https://rms.example.com."
        ),
    ],
) -> None:
    """Subscribe to every event that changes a mirrored record.

    Corrects existing webhooks of this mirror, and removes those of collections that are off."""
    from rms_pipeline.current_rms.webhooks import events_of, target_url, without_secret
    from rms_pipeline.current_rms.webhooks import register as register_all
    from rms_pipeline.web.tokens import webhook_token

    current = config.settings()
    token = webhook_token(current)
    target = escape(without_secret(target_url(url, token).get_secret_value()))
    with _client(current) as client:
        events = events_of(current.collections)
        done = register_all(client, url, token, events)
    if done.changed:
        out.print(
            f"[green]{len(events)} webhooks post to {target}[/green] ({len(done.created)} created, "
            f"{len(done.mended)} corrected, {len(done.removed)} removed).",
            highlight=False,
        )
        out.print(
            "The next incremental sync fetches earlier edits. Run `rms-pipeline sync "
            "incremental`, or wait for the schedule (15 minutes at most).",
            highlight=False,
        )
    else:
        out.print(f"All {len(events)} webhooks already post to {target}. Nothing changed.")


@webhooks_app.command()
def remove() -> None:
    """Remove the webhooks of this mirror from Current RMS. Other webhooks stay."""
    from rms_pipeline.current_rms.webhooks import remove as remove_all

    with _client(config.settings()) as client:
        removed = remove_all(client)
    out.print(
        f"{len(removed)} webhooks removed."
        if removed
        else "Current RMS has no webhooks of this mirror."
    )


@webhooks_app.command()
def replay(
    events: Annotated[
        list[int] | None,
        typer.Argument(
            help="Ids of rows in webhook_events. Without ids: all dead letters.",
            min=1,
            max=2**63 - 1,
        ),
    ] = None,
) -> None:
    """Put dead letters back into the queue: events whose refresh failed too often."""
    from rms_pipeline.mirror.embedded import open_database
    from rms_pipeline.mirror.queue import replay as put_back
    from rms_pipeline.mirror.schema import demand_tables

    with open_database(config.settings()).session() as connection:
        demand_tables(connection)
        count = put_back(connection, events or None)
    if count:
        out.print(f"{count} event{'' if count == 1 else 's'} back in the queue.")
    elif events:
        out.print(
            "None of these is a dead letter. `rms-pipeline status` says whether there are any."
        )
    else:
        out.print("There are no dead letters.")


@contextmanager
def _client(current: config.Settings) -> "Iterator[CurrentRmsClient]":
    from rms_pipeline.account import lasting_account
    from rms_pipeline.collections.opportunities import OPPORTUNITIES
    from rms_pipeline.current_rms.client import CurrentRmsClient

    announce_sandbox(current)
    base_url, subdomain, api_key = lasting_account(current)
    with (
        _budget(current, subdomain) as budget,
        CurrentRmsClient(
            collection=OPPORTUNITIES,
            base_url=base_url,
            subdomain=subdomain,
            api_key=api_key,
            budget=budget,
            patience=_patience(),
        ) as client,
    ):
        yield client


def _patience() -> "Patience":
    """For a person who waits at the terminal: after some seconds the reason helps more."""
    from rms_pipeline.current_rms.client import Patience

    return Patience(attempts=4, throttled=120.0)


@contextmanager
def _budget(current: config.Settings, subdomain: str) -> "Iterator[Budget]":
    """A client that shares the budget with the syncs if there is a mirror. Webhooks can also be
    managed without a mirror."""
    from rms_pipeline.current_rms.pacing import ProcessBudget
    from rms_pipeline.mirror.budget import SharedBudget
    from rms_pipeline.mirror.database import DatabaseError
    from rms_pipeline.mirror.embedded import open_database
    from rms_pipeline.mirror.schema import HEAD, current_version

    migrated = False
    if current.postgres_url is not None or (current.state_folder / "postgres").exists():
        try:
            database = open_database(current)
            with database.session() as connection:
                migrated = current_version(connection) == HEAD
        except DatabaseError as error:
            err.print(
                "The database cannot be used, so this command does not share the limit of calls "
                f"with running syncs. {error}",
                markup=False,
            )
    if not migrated:
        yield ProcessBudget(current.request_limit)
        return
    budget = SharedBudget(database, subdomain, current.request_limit)
    try:
        yield budget
    finally:
        budget.close()


def _status(event: "Subscribed") -> str:
    if not event.count:
        return "[red]missing[/red]"
    if not event.is_ours:
        return "[yellow]another target[/yellow]"
    if not event.active:
        return "[yellow]inactive[/yellow]"
    if event.count > 1:
        return f"[yellow]registered {event.count} times[/yellow]"
    return "[green]registered[/green]"


def _last_delivery(event: "Subscribed") -> str:
    delivery = event.last_delivery
    if delivery is None:
        return "none known" if event.count else ""
    code = "no answer" if delivery.response_code is None else str(delivery.response_code)
    return f"{code}, {delivery.at:%Y-%m-%d %H:%M:%S}" if delivery.at else code
