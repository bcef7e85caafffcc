"""`rms-pipeline status`: what the dashboard shows, in a terminal. It must not load Dagster."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from rms_pipeline import settings as config
from rms_pipeline.console import announce_sandbox, out, table
from rms_pipeline.mirror.sync_metadata import Sync

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from rms_pipeline.mirror.budget import BudgetUse
    from rms_pipeline.mirror.collection_states import CollectionState
    from rms_pipeline.mirror.overview import StatusCount
    from rms_pipeline.mirror.sync_state import SyncState

_COLOURS = {"completed": "green", "failed": "red", "running": "yellow"}
_STATES = {"green": "", "amber": "yellow", "red": "red"}


def status(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON, named as in /api/dashboard.")
    ] = False,
) -> None:
    """Show the last syncs, opportunities by status, each collection with its completeness, and the
    queue of webhooks."""
    from rms_pipeline.account import account_name
    from rms_pipeline.collections.opportunities import OPPORTUNITIES
    from rms_pipeline.mirror.budget import read_budget
    from rms_pipeline.mirror.embedded import open_database
    from rms_pipeline.mirror.overview import read_statuses
    from rms_pipeline.mirror.schema import demand_tables
    from rms_pipeline.mirror.sync_state import read_sync_state

    announce_sandbox(config.settings())
    on = config.settings().collections
    with open_database(config.settings()).session() as connection:
        demand_tables(connection)
        state = read_sync_state(connection, OPPORTUNITIES, on=on)
        as_of, statuses = read_statuses(connection)
        budget = read_budget(connection, account_name(config.settings()))
    if as_json:
        _print_json(state, as_of, statuses, budget)
        return
    _print_syncs(state)
    out.print(_counts(as_of, statuses))
    if state.certificate is not None:
        sentence = str(state.certificate["sentence"])
        style = _STATES[state.certificate["state"]]
        out.print(Text(f"{sentence[:1].upper()}{sentence[1:]}", style=style))
    _print_collections(state.collections)
    out.print(f"Webhook events waiting: {state.queue.depth:,}, dead letters: {state.queue.dead:,}")
    if budget is not None:
        limit = budget.requests_per_minute
        set_limit = f"{limit:,} calls a minute" if limit else "no limit of calls a minute"
        out.print(Text(f"Request limit in force: {budget.sentence or set_limit}"))


def _print_json(
    state: "SyncState",
    as_of: "datetime | None",
    statuses: "Sequence[StatusCount]",
    budget: "BudgetUse | None",
) -> None:
    from pydantic_core import to_jsonable_python

    from rms_pipeline.mirror.overview import add_up

    told = {
        "sandbox": config.settings().uses_sandbox,
        "total": sum(s.opportunities for s in statuses),
        "total_value": add_up(s.total_value for s in statuses),
        "as_of": as_of,
        "statuses": [asdict(s) for s in statuses],
        "sync": asdict(state),
        "calls_per_minute": None if budget is None else budget.allowance,
        "calls_per_minute_why": "" if budget is None else budget.sentence,
    }
    json.dump(to_jsonable_python(told, fallback=str), sys.stdout)
    sys.stdout.write("\n")


def _print_syncs(state: "SyncState") -> None:
    """The last syncs with their errors, and how far a running one is."""
    if not state.history:
        out.print("No sync has run yet. Run `rms-pipeline sync initial`.")
    else:
        out.print(_syncs(state.history))
        for sync in state.history:
            if sync.error:
                # Beneath the table: a column would leave it, and all others, a few letters' width.
                when = f"{sync.sync_type}, {sync.started_at:%H:%M:%S}"
                out.print(Text(f"{when}: {sync.error}", style="red"))
    if state.running is not None and state.pace is not None:
        pace = state.pace
        left = "" if pace.seconds_left is None else f", about {pace.seconds_left:.0f} s left"
        several = state.at_work is not None and len(state.collections) > 1
        what = f" {state.at_work}" if several else ""
        words = f"{state.running.sync_type} is {pace.stage}{what}: {pace.records:,} of "
        out.print(Text(f"{words}{pace.records_expected:,} records{left}", style="yellow"))


def _counts(as_of: "datetime | None", statuses: "Sequence[StatusCount]") -> Table:
    from rms_pipeline.mirror.overview import add_up

    title = "Opportunities by status"
    if as_of is not None:
        title += f", counted {as_of:%Y-%m-%d %H:%M:%S} UTC"
    figures = ("Opportunities", "Total value")
    counted = table(title, ("Status", *figures), figures)

    def add(name: Text, *counts: "StatusCount", is_last: bool = False) -> None:
        number, value = sum(c.opportunities for c in counts), add_up(c.total_value for c in counts)
        counted.add_row(name, f"{number:,}", f"{value:,.2f}", end_section=is_last)

    for count in statuses:
        add(Text(count.status), count, is_last=count is statuses[-1])
    add(Text("Total", style="bold"), *statuses)
    return counted


def _print_collections(states: "Sequence[CollectionState]") -> None:
    """Each collection, if there are several, and deletions that a person has to confirm."""
    from rms_pipeline.collections import collection_named
    from rms_pipeline.mirror.deletions import HELD_BACK_ADVICE, words_of_held_back

    if len(states) > 1:
        out.print(_collections(states))
        for each in states[1:]:
            style = "yellow" if not each.is_on else "" if each.is_proved else "red"
            if each.certificate is not None and each.is_on:
                style = _STATES[each.certificate["state"]]
            out.print(Text(f"{each.name}: {each.sentence}", style=style))
    for each in states:
        if each.held_back:
            held = words_of_held_back(collection_named(each.name), each.held_back)
            out.print(Text(f"{held} {HELD_BACK_ADVICE}", style="red"))


def _collections(states: "Sequence[CollectionState]") -> Table:
    figures = ("Rows", "Faults")
    shown = table("Collections", ("Collection", "Rows", "Last read (UTC)", "Faults"), figures)
    for each in states:
        read = f"{each.synced_at:%Y-%m-%d %H:%M:%S}" if each.synced_at else "never"
        shown.add_row(
            Text(each.name), f"{each.rows:,}", read if each.is_on else "off", f"{each.faults:,}"
        )
    return shown


def _syncs(syncs: list[Sync]) -> Table:
    figures = ("Synced", "Failed")
    shown = table("Last syncs", ("Sync", "Status", "Started (UTC)", *figures), figures)
    for s in syncs:
        shown.add_row(
            # What others wrote is no markup of ours: brackets and :names: stay what they are.
            Text(s.sync_type),
            f"[{_COLOURS[s.status]}]{s.status}[/]",
            f"{s.started_at:%Y-%m-%d %H:%M:%S}",
            f"{s.records_synced:,}",
            f"{s.records_failed:,}",
        )
    return shown
