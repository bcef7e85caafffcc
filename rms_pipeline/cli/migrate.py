"""`rms-pipeline migrate`: upgrades the tables, and says before what that will do."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rms_pipeline.console import out, prepare

if TYPE_CHECKING:
    from rms_pipeline.mirror.plan import Plan
    from rms_pipeline.settings import Settings


def migrate(
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Print what the upgrade will do, and change nothing. A role that can only read "
            "is enough.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --plan: print it as one line of JSON.")
    ] = False,
) -> None:
    """Upgrade the tables of this program and of Dagster to this version.

    With --plan, exit code 1 means that something is in the way and migrate would refuse.
    """
    if plan or as_json:
        if not plan:
            raise typer.BadParameter("--json needs --plan.")
        show_plan(prepare(), as_json=as_json)
        return
    current = prepare(instance=True, logs=True)
    from rms_pipeline.defs.instance_storage import upgrade_storage
    from rms_pipeline.mirror import schema
    from rms_pipeline.mirror.api_terms import try_all_again
    from rms_pipeline.mirror.embedded import open_database
    from rms_pipeline.mirror.obstacles import correct_numbering

    database = open_database(current)
    is_ours = upgrade_storage(database)
    with database.session() as connection:
        # A person who migrates by hand may have changed the account.
        try_all_again(connection)
        if numbered := correct_numbering(connection):
            out.print(
                f"The numbering of {', '.join(numbered)} was behind the rows, and is corrected.",
                markup=False,
            )
    where = f"Dagster's storage in schema {database.dagster_schema}"
    if not is_ours:
        where = (
            f"the Dagster of {current.dagster_home} keeps its history in another database, so "
            "its tables stay as they are"
        )
    out.print(f"Up to date (schema {schema.HEAD}, {where}).", markup=False)
    with database.session() as connection:
        because = schema.full_sync_wanted(connection)
    if because:
        out.print(
            f"A full sync is needed: {because} Run `rms-pipeline sync initial`.", markup=False
        )


def show_plan(current: "Settings", *, as_json: bool) -> None:
    """Prints the plan. Exits with 1 if a problem would make the upgrade fail."""
    from rms_pipeline.defs.instance_storage import (
        instance_of,
        keeps_history_here,
        pending_migration,
    )
    from rms_pipeline.mirror.embedded import open_database
    from rms_pipeline.mirror.plan import plan_upgrade

    if current.postgres_url is None and not (current.state_folder / "postgres").exists():
        # Opening the embedded database would create it.
        text = (
            "There is no database yet. `rms-pipeline up` and `rms-pipeline migrate` create "
            f"one in {current.state_folder}, with all tables."
        )
        _print(json.dumps({"nothing_to_do": False, "summary": text}) if as_json else text)
        return
    database = open_database(current)
    home = current.dagster_home or current.project_folder
    # Where there is no dagster.yaml yet, `migrate` puts the one that keeps its history here.
    is_ours = not (home / "dagster.yaml").exists() or keeps_history_here(instance_of(home))
    dagster = pending_migration(database) if is_ours else None
    # Tables that are not there yet have nothing built on them.
    plan = plan_upgrade(database, dagster_changes=dagster is not None and dagster[0] is not None)
    nothing = plan.nothing_to_do and dagster is None
    if as_json:
        _print(json.dumps(_as_json(plan, dagster, is_ours=is_ours, nothing=nothing)))
    elif nothing:
        _print(
            f"Nothing to do: the database has schema {plan.database}, the schema of this program, "
            f"rms-pipeline {version('rms-pipeline')}."
        )
        if plan.full_sync:
            _print(_full_sync(plan))
    else:
        for line in _lines(plan, dagster, is_ours=is_ours):
            _print(line)
    if plan.in_the_way:
        sys.exit(1)


def _print(line: str) -> None:
    # Sentences are not cut into lines: they may be copied, and statements in them run.
    out.print(line, markup=False, highlight=False, soft_wrap=True)


def _as_json(
    plan: "Plan", dagster: tuple[str | None, str] | None, *, is_ours: bool, nothing: bool
) -> dict[str, Any]:
    told = asdict(plan)
    return {
        "nothing_to_do": nothing,
        "program": {"version": version("rms-pipeline"), "schema": told.pop("program")},
        "database": {"rms_schema": told.pop("schema"), "schema": told.pop("database")},
        **told,
        "seconds": round(plan.seconds, 1),
        "seconds_locked": round(plan.seconds_locked, 1),
        "seconds_rest_on": plan.rests_on,
        "disk_bytes": plan.disk_bytes,
        "dagster": {
            "keeps_history_here": is_ours,
            "migrates": dagster is not None,
            "database": dagster[0] if dagster else None,
            "program": dagster[1] if dagster else None,
        },
    }


def _lines(plan: "Plan", dagster: tuple[str | None, str] | None, *, is_ours: bool) -> Iterator[str]:
    program = f"rms-pipeline {version('rms-pipeline')}"
    if plan.database is None:
        yield f"This database holds no mirror yet. {program} makes schema {plan.program}."
    else:
        yield f"This database has schema {plan.database}. {program} has schema {plan.program}."
    yield "Nothing has been changed. `rms-pipeline migrate` will do this:"
    if plan.migrations and plan.database is not None:
        yield "\nMigrations, all of them in one transaction:"
        yield from (f"  {m.version}  {m.does}" for m in plan.migrations)
    elif plan.migrations:
        yield f"\n{len(plan.migrations)} migrations make all tables. They are empty."
    if plan.touched:
        yield "\nExisting tables:"
        yield from (
            f"  {t.table}: {', '.join(_WORK[w] for w in t.work)}; {_rows(t.rows)}, "
            f"{_size(t.size_bytes)}" + (f", {_time(t.seconds)}" if t.seconds >= 1 else "")
            for t in plan.touched
        )
    if plan.copied_syncs:
        yield f"\nAbout {plan.copied_syncs:,} syncs are copied out of Dagster's history."
    yield from _locks(plan)
    for decoded in plan.decoded:
        yield (
            f"\nThen all rows of {decoded.table} are decoded again from their stored records, "
            f"without the API: {_rows(decoded.rows)}, {_time(decoded.seconds)}. Only a few rows "
            "are locked at a time. After that, programs of an older version cannot write rows."
        )
    if plan.made_again:
        yield "\nAfter that:"
        yield from (f"  {sentence}" for sentence in plan.made_again)
    yield ""
    yield _dagster(dagster, is_ours=is_ours)
    if plan.full_sync:
        yield _full_sync(plan)
    elif plan.database is not None:
        yield "No full sync and no rebuild is needed afterwards."
    yield f"The upgrade takes {_time(plan.seconds)}, and {_size(plan.disk_bytes)} more disk."
    if plan.touched or plan.decoded:
        yield plan.rests_on
    if plan.kept:
        yield "\nWhat people added to the tables:"
        yield from (f"  {sentence}" for sentence in plan.kept)
    if plan.waits_for:
        yield "\nIn use now:"
        yield from (f"  {sentence}" for sentence in plan.waits_for)
    if plan.in_the_way:
        yield "\nThese problems make `rms-pipeline migrate` refuse:"
        yield from (f"  {sentence}" for sentence in plan.in_the_way)
    elif plan.database is not None:
        yield "\nMake a backup first: docs/how-to/operate.md. Only a backup undoes an upgrade."


_WORK = {
    "rewritten": "rewritten",
    "updated": "rows updated",
    "indexed": "a new index",
    "altered": "changed without touching its rows",
    "watched": "a new trigger",
}


def _rows(rows: int) -> str:
    return f"about {rows:,} row{'' if rows == 1 else 's'}"


def _locks(plan: "Plan") -> Iterator[str]:
    if not plan.touched:
        return
    readers = sorted(t.table for t in plan.touched if t.readers_wait)
    writers = sorted(t.table for t in plan.touched if t.writers_wait and not t.readers_wait)
    if readers:
        yield (
            f"\nNobody can read or write these tables until the migrations end, "
            f"{_time(plan.seconds_locked)}: {', '.join(readers)}."
        )
    if writers:
        yield f"Nobody can write these tables until then; reading goes on: {', '.join(writers)}."


def _dagster(dagster: tuple[str | None, str] | None, *, is_ours: bool) -> str:
    if not is_ours:
        return "This Dagster keeps its history elsewhere. Its tables stay as they are."
    if dagster is None:
        return "Dagster's tables are current and stay as they are."
    if dagster[0] is None:
        return "Dagster's tables are made."
    return f"Dagster's tables are migrated, too (from {dagster[0]} to {dagster[1]})."


def _full_sync(plan: "Plan") -> str:
    assert plan.full_sync is not None
    return (
        f"A full sync is needed afterwards: {plan.full_sync.because} Run `rms-pipeline sync "
        f"initial`. It takes about {plan.full_sync.calls:,} calls."
    )


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(round(seconds), 1)} s"
    if seconds < 5_400:
        return f"about {round(seconds / 60)} min"
    return f"about {seconds / 3_600:.1f} h"


def _size(size: int) -> str:
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6)):
        if size >= bytes_:
            return f"about {size / bytes_:,.1f} {unit}"
    return f"about {max(round(size / 1e3), 1):,} kB"
