"""`rms-pipeline sync` and `refresh`: one run in this process."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rms_pipeline.console import announce_sandbox, err, out, prepare
from rms_pipeline.errors import RmsPipelineError
from rms_pipeline.mirror.sync_runs import NO_REASON
from rms_pipeline.settings import SettingsError, settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rms_pipeline.collections.base import Collection
    from rms_pipeline.mirror.sync_metadata import Sync
    from rms_pipeline.sync.costs import Cost

sync_app = typer.Typer(no_args_is_help=True, help="Run one sync now, in this process.")

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one line of JSON, and no progress bar.")
]


@sync_app.command("initial")
def sync_initial(
    as_json: AsJson = False,
    confirm_deletions: Annotated[
        bool,
        typer.Option(
            "--confirm-deletions",
            help="Delete the rows that Current RMS no longer has, even if they are more than 20 "
            "and more than 5 % of the window.",
        ),
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh",
            help=("Fetch everything again, including pages that an unfinished sync fetched."),
        ),
    ] = False,
) -> None:
    """Fetch every opportunity in the window, and all without dates.

    The window is RMS_SYNC_DAYS_BACK and RMS_SYNC_DAYS_AHEAD, by default 30 days back to a year
    ahead."""
    from rms_pipeline.defs.steps import raw_pages_of

    ops: dict[str, dict[str, Any]] = {}
    for collection in prepare(instance=True).collections:
        ops[collection.name] = {"confirm_deletions": confirm_deletions}
        if fresh:
            ops[raw_pages_of(collection)] = {"resume_within_minutes": 0}
    _sync("initial_sync", as_json, ops)


@sync_app.command("incremental")
def sync_incremental(as_json: AsJson = False) -> None:
    """Fetch everything that changed since the last sync, inside and outside the window."""
    _sync("incremental_sync", as_json, {})


@sync_app.command("further-back")
def sync_further_back(
    since: Annotated[
        str | None, typer.Argument(help="The first day to mirror, such as 2025-01-01.")
    ] = None,
    cost: Annotated[
        bool, typer.Option("--cost", help="Only say what it would cost. This costs one call.")
    ] = False,
    as_set: Annotated[
        bool,
        typer.Option("--as-set", help="Go back to RMS_SYNC_DAYS_BACK. Rows stay."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Mirror further back than RMS_SYNC_DAYS_BACK: say what that costs, then run a full sync.

    From then on each full sync reads that far back, the nightly one too."""
    from rms_pipeline.account import account_name, client_for
    from rms_pipeline.collections.opportunities import OPPORTUNITIES
    from rms_pipeline.current_rms.window import Window
    from rms_pipeline.mirror.budget import read_budget
    from rms_pipeline.mirror.embedded import open_database
    from rms_pipeline.mirror.mirrored_windows import MOST_DAYS, ask_for_days_back
    from rms_pipeline.mirror.schema import migrate_once
    from rms_pipeline.mirror.sync_metadata import running_sync
    from rms_pipeline.mirror.sync_runs import INITIAL, RECONCILIATION
    from rms_pipeline.sync.costs import count_cost

    if (since is None) == (not as_set):
        raise SettingsError("Give either a day, like 2025-01-01, or --as-set.")
    current = settings()
    days = _days_since(since, current.time_zone, MOST_DAYS) if since is not None else None
    if days is not None and days <= current.days_back:
        raise SettingsError(
            f"RMS_SYNC_DAYS_BACK already mirrors {current.days_back:,} days back, so {since} "
            "changes nothing. Choose an earlier day."
        )
    current = prepare(instance=True)
    announce_sandbox(current)
    database = open_database(current)
    migrate_once(database)
    if days is None:
        with database.session() as connection:
            ask_for_days_back(connection, OPPORTUNITIES, None, "command")
        err.print(f"Full syncs read {current.days_back:,} days back again. Rows stay.")
        return
    window = Window.around(database.clock()(), days_back=days, days_ahead=current.days_ahead)
    with client_for(current, database, OPPORTUNITIES) as client, database.session() as connection:
        use = read_budget(connection, account_name(current))
        limit = use.allowance if use else current.requests_per_minute
        found = count_cost(connection, client, window, limit)
    if cost and as_json:
        out.print_json(data={**_told(found), "since": since, "days_back": days})
        return
    err.print(_sentence(found), highlight=False)
    if cost:
        return
    with database.session() as connection:
        running = running_sync(connection, [INITIAL, RECONCILIATION])
        if running is not None:
            raise RmsPipelineError(
                f"A full sync is running (sync {running.id}), and its window cannot change now. "
                "Nothing was changed. Run this again when that sync has ended."
            )
        ask_for_days_back(connection, OPPORTUNITIES, days, "command")
    _sync("initial_sync", as_json, {})


def _days_since(since: str, time_zone: str, most: int) -> int:
    """The number of days back that includes the whole day. Raises SettingsError."""
    from datetime import UTC, date, datetime

    from rms_pipeline.insight.days import Day

    today = Day.of(datetime.now(UTC), time_zone).date
    try:
        days = (today - date.fromisoformat(since.strip())).days + 1
    except ValueError:
        raise SettingsError(f"{since!r} is not a day like 2025-01-01.") from None
    if not 1 < days <= most:
        raise SettingsError(f"{since} is not a day before today, at most {most:,} days ago.")
    return days


def _told(found: "Cost") -> "dict[str, Any]":
    return {
        "records": found.records,
        "more": found.more,
        "calls": found.calls,
        "minutes": found.minutes,
        "exact": found.exact,
    }


def _sentence(found: "Cost") -> str:
    most = "" if found.exact else "at most "
    minutes = f", about {found.minutes:,.1f} minutes" if found.minutes is not None else ""
    return (
        f"That is {most}{found.records:,} opportunities, {most}{found.more:,} of them not "
        f"mirrored yet. A full sync takes about {found.calls:,} calls{minutes}. Each nightly full "
        "sync then takes as many calls."
    )


def _sync(job: str, as_json: bool, ops: dict[str, dict[str, Any]]) -> None:
    current = prepare(instance=True, logs=not as_json)
    announce_sandbox(current)
    sync = _run(job, as_json, ops)
    if sync.status != "completed":
        raise RmsPipelineError(sync.error or NO_REASON)
    if not as_json:
        first, *others = current.collections
        if not others:
            out.print(
                f"[green]Synced {sync.records_synced:,} {first.name}[/green]"
                f" ({_made(sync.metadata)}, {sync.records_failed:,} failed)."
            )
        else:
            *before, last = (c.in_words() for c in current.collections)
            out.print(
                f"[green]Synced {sync.records_synced:,} {', '.join(before)} and {last}[/green]"
                f" ({sync.records_failed:,} failed)."
            )
            out.print(f"Of these {first.in_words()}: {_made(sync.metadata)}.")
        _tell(first, sync.metadata)
        for collection in others:
            told = sync.metadata.get(collection.name, {})
            out.print(f"Of these {collection.in_words()}: {_made(told)}.")
            if said := sync.metadata.get(f"raw_{collection.name}", {}).get("read_whole"):
                out.print(said, highlight=False)
            _tell(collection, told)


def _made(metadata: "Mapping[str, Any]") -> str:
    """ "1,650 created, 2 deleted"."""
    kinds = ("created", "updated", "unchanged", "deleted", "restored")
    return ", ".join(f"{n:,} {k}" for k in kinds if (n := metadata.get(k))) or "nothing new"


def _tell(collection: "Collection", metadata: "Mapping[str, Any]") -> None:
    """Prints the certificate of one collection, and what is missing."""
    if "certificate" in metadata:
        out.print(metadata["certificate"], highlight=False)
    if unreadable := metadata.get("unreadable_records"):
        count = metadata.get("unreadable", 1)
        err.print(
            f"[yellow]Current RMS cannot deliver {count:,} of them: {unreadable}. Each sync asks "
            "for them again. Open and save them in Current RMS, or report it to the support of "
            "Current RMS.[/yellow]",
            highlight=False,
        )
    if held_back := metadata.get("deletions_held_back"):
        err.print(
            f"[yellow]At least {held_back:,} {collection.in_words()} no longer exist in Current "
            "RMS. The sync deletes so many rows only after a person confirms it. If they were "
            "deleted, run `rms-pipeline sync initial --confirm-deletions`.[/yellow]"
        )


def _run(job: str, as_json: bool, ops: dict[str, dict[str, Any]]) -> "Sync":
    from rms_pipeline.cli.foreground import print_failure, print_json, run_sync

    try:
        sync = run_sync(job, as_json=as_json, console=err, ops=ops)
    except RmsPipelineError as error:
        if as_json:
            print_failure(job, error)
        raise
    if as_json:
        print_json(sync)
    return sync


def refresh(
    ids: Annotated[
        list[int],
        typer.Argument(
            help="Ids of records in Current RMS, as in the addresses of its pages.",
            min=1,
            max=2**63 - 1,
        ),
    ],
    collection: Annotated[
        str, typer.Option(help="The collection of these records, such as members.")
    ] = "opportunities",
    as_json: AsJson = False,
) -> None:
    """Fetch these records now, and those of all waiting webhooks."""
    chosen = _refreshable(collection, settings().collections)
    current = prepare(instance=True, logs=not as_json)
    announce_sandbox(current)
    config = {"ids": ids, "collection": chosen.name}
    sync = _run("webhook_refresh", as_json, {"refresh_opportunities": config})
    if sync.status != "completed":
        raise RmsPipelineError(sync.error or NO_REASON)
    if not as_json:
        is_first = chosen is current.collections[0]
        told = sync.metadata if is_first else sync.metadata.get(chosen.name, {})
        count = sync.collections.get(chosen.name, {}).get("synced", 0)
        kinds = ("created", "updated", "unchanged", "deleted")
        made = ", ".join(f"{n:,} {k}" for k in kinds if (n := told.get(k)))
        if made:
            out.print(f"[green]Refreshed {count:,}[/green] ({made}).")
        else:
            out.print(
                "Nothing was refreshed: neither Current RMS nor the mirror has these "
                f"{chosen.name}."
            )


def _refreshable(name: str, on: "Sequence[Collection]") -> "Collection":
    """The collection with this name. Raises SettingsError if there is none, or if it is off."""
    from rms_pipeline.collections import NoSuchCollection, collection_named

    try:
        found = collection_named(name.strip().lower())
    except NoSuchCollection as error:
        raise SettingsError(f"--collection: {error}") from None
    if found.parts is not None:
        raise SettingsError(
            f"--collection: {found.name} cannot be fetched by id, only with the "
            f"{found.parts.of.name} that they belong to. The next incremental sync reads those of "
            f"each {found.parts.of.single} that changed."
        )
    if found not in on:
        names = ",".join(c.name for c in (*on, found))
        raise SettingsError(
            f"--collection: {found.name} are not mirrored. Set RMS_COLLECTIONS={names} to mirror "
            "them, then run this again."
        )
    return found
