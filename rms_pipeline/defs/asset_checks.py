"""Checks of the tables that must pass after every sync.

They run in the step that stores their table. Many executors start a process for each step, which
takes seconds; the queries take milliseconds.

A materialization discards earlier results of checks in Dagster's UI. Until a failed check runs
again, it shows "Not Evaluated". So everything that materializes a table runs all of its checks,
also a refresh by webhooks (`report_checks`). Each collection has the same checks, made from its
declaration.
"""

import functools
from collections.abc import Callable, Container, Iterator, Sequence
from datetime import datetime
from typing import Any

import dagster as dg

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.collections.base import Collection
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.defs.failures import Explained, explained
from rms_pipeline.defs.naming import OWN, Naming
from rms_pipeline.insight.sense import (
    SENSE_CHECKS,
    unknown_required_fields,
    what_makes_no_sense,
)
from rms_pipeline.mirror.custom_fields import DAYS, known_keys
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.deletions import deleted_lately, held_back
from rms_pipeline.mirror.proofs import standing
from rms_pipeline.mirror.statements import one_row
from rms_pipeline.mirror.statuses import unknown_statuses, without_a_hire
from rms_pipeline.mirror.webhook_audit import last_audit


def _one_row(database: Database, query: str, *values: object) -> tuple[Any, ...]:
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute(query, values)
        return one_row(cursor)


def _timestamp(text: str) -> dg.TimestampMetadataValue:
    return dg.MetadataValue.timestamp(datetime.fromisoformat(text))


# Of the mirror, for a run, or the last seconds of one that goes on.
Evaluate = Callable[[Database, str, float | None], dg.AssetCheckResult]
EvaluateOf = Callable[[Collection, Database, str, float | None], dg.AssetCheckResult]


def _ids_are_unique(
    collection: Collection, database: Database, run: str, seconds: float | None
) -> dg.AssetCheckResult:
    rows, ids = _one_row(database, f"SELECT count(*), count(DISTINCT id) FROM {collection.name}")
    return dg.AssetCheckResult(
        passed=rows == ids,
        description=f"{rows:,} rows, {ids:,} different ids.",
        metadata={"rows": rows, "ids": ids},
    )


def _no_faults(
    collection: Collection, database: Database, run: str, seconds: float | None
) -> dg.AssetCheckResult:
    """The faults of `run`, or of its last `seconds` if it runs for ever, like the fast lane."""
    faults, records = _one_row(
        database,
        "SELECT count(*), count(DISTINCT opportunity_id) FROM sync_faults WHERE run = %s"
        " AND collection = %s"
        " AND seen_at >= coalesce(now() - make_interval(secs => %s), '-infinity')",
        run,
        collection.name,
        seconds,
    )
    return dg.AssetCheckResult(
        passed=faults == 0,
        severity=dg.AssetCheckSeverity.WARN,
        description="Every value was stored as received."
        if faults == 0
        else f"{faults:,} values of {records:,} {collection.in_words()} could not be stored as "
        f"received; see: SELECT * FROM sync_faults WHERE run = '{run}'",
        metadata={"faults": faults, collection.name: records},
    )


def _is_complete(
    collection: Collection, database: Database, run: str, seconds: float | None
) -> dg.AssetCheckResult:
    with database.session() as connection:
        known = standing(connection, collection)
    proof = known.proof
    if proof is None:
        return dg.AssetCheckResult(
            passed=False,
            description="No full sync has compared the counts yet: run the initial sync.",
        )
    doubtful = known.state == "amber"
    return dg.AssetCheckResult(
        passed=known.state == "green",
        severity=dg.AssetCheckSeverity.WARN if doubtful else dg.AssetCheckSeverity.ERROR,
        description=known.sentence,
        metadata={
            "counted_by_api": proof.counted,
            "mirrored": proof.mirrored,
            "cannot_be_stored": proof.unstorable,
            "cannot_be_delivered": len(proof.unreadable),
            "as_of": dg.MetadataValue.timestamp(proof.as_of),
            "rests_on": "\n".join(f"- {note}" for note in proof.notes),
        },
    )


def _deletions(
    collection: Collection, database: Database, run: str, seconds: float | None
) -> dg.AssetCheckResult:
    with database.session() as connection:
        held = len(held_back(connection, collection))
        deleted = deleted_lately(connection, collection)
    return dg.AssetCheckResult(
        passed=held == 0,
        description=f"{deleted:,} rows were removed within a day."
        if not held
        else (
            f"At least {held:,} {collection.in_words()} no longer exist in Current RMS, more than "
            "5 % of the window (and more than 20) within a day, so their rows were not deleted. If "
            "the user of the API key has lost the permission to see them, restore it. If they "
            "were really deleted, confirm it: launch the job of the reconciliation with "
            f"confirm_deletions: true for {collection.name}, or run `rms-pipeline sync initial "
            "--confirm-deletions`."
        ),
        metadata={"deleted": deleted, "held_back": held},
    )


def _webhooks(
    collection: Collection, database: Database, run: str, seconds: float | None
) -> dg.AssetCheckResult:
    with database.session() as connection:
        audit = last_audit(connection, collection)
    if audit is None or audit["last_event_at"] is None:
        return dg.AssetCheckResult(
            passed=True,
            severity=dg.AssetCheckSeverity.WARN,
            description="No webhook has arrived yet, so only incremental syncs find changes. "
            "`rms-pipeline webhooks register https://this.host` brings them at once.",
        )
    stopped = bool(audit["seem_stopped"])
    return dg.AssetCheckResult(
        passed=not stopped,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{audit['by_webhook']} of {audit['changed']} changes arrived by webhook."
        + (
            " Webhooks seem to have stopped. Look at `rms-pipeline webhooks list`, and register "
            "them again."
            if stopped
            else ""
        ),
        metadata={
            "changed": audit["changed"],
            "came_by_webhook": audit["by_webhook"],
            "webhook_lag_seconds": audit["lag_seconds"],
            "last_webhook_at": _timestamp(audit["last_event_at"]),
        },
    )


def _hires(database: Database) -> dg.AssetCheckResult:
    with database.session() as connection:
        count, ids = without_a_hire(connection)
    return dg.AssetCheckResult(
        passed=count == 0,
        severity=dg.AssetCheckSeverity.WARN,
        description="Every opportunity that has both dates has a hire."
        if not count
        else (
            f"{count:,} end before they start, so they have no hire. Correct their dates in "
            f"Current RMS. The first are {', '.join(map(str, ids))}."
        ),
        metadata={"without_a_hire": count, "first_ids": ids},
    )


def _statuses(database: Database) -> dg.AssetCheckResult:
    with database.session() as connection:
        unknown = unknown_statuses(connection)
    some = ", ".join(f"{name} ({count:,})" for name, count in list(unknown.items())[:10])
    return dg.AssetCheckResult(
        passed=not unknown,
        severity=dg.AssetCheckSeverity.WARN,
        description="Every status is in the table statuses."
        if not unknown
        else (
            f"These statuses are not in the table statuses, so they count as open: {some}. Add "
            "each with its phase: INSERT INTO statuses (name, phase) VALUES ('...', "
            "'confirmed');"
        ),
        metadata={"unknown": len(unknown), "opportunities": sum(unknown.values())},
    )


def _own_fields(database: Database) -> dg.AssetCheckResult:
    with database.session() as connection:
        keys = known_keys(connection, OPPORTUNITIES)
    told = []
    if keys.new:
        told.append(f"New within {DAYS} days: {', '.join(keys.new)}.")
    if keys.vanished:
        told.append(f"No record has these fields any more: {', '.join(keys.vanished)}.")
    if keys.missed:
        told.append(
            f"These have columns of opportunity_fields: {', '.join(keys.missed)}. If they will "
            "not come back, run `rms-pipeline fields demote` for each."
        )
    return dg.AssetCheckResult(
        passed=not told,
        severity=dg.AssetCheckSeverity.WARN,
        description=" ".join(told) or f"{keys.count:,} fields. No field is new or has disappeared.",
        metadata={"fields": keys.count, "new": keys.new, "vanished": keys.vanished},
    )


def sense_of(database: Database) -> dict[str, dg.AssetCheckResult]:
    """The results of all sense checks, from one query."""
    with database.session() as connection:
        found = what_makes_no_sense(connection)
        unknown = unknown_required_fields(connection)
    results = {}
    for check, holds in SENSE_CHECKS.items():
        count, ids = found.get(check, (0, []))
        description = holds
        if count:
            description = (
                f"{count:,} opportunities fail this check: SELECT * FROM sense_checks "
                f"WHERE sense_check = '{check}'. The first are "
                f"{', '.join(map(str, ids))}."
            )
        is_misled = check == "required_field_empty" and bool(unknown)
        if is_misled:
            description += (
                f" required_fields names {', '.join(unknown)}, which is neither a "
                "column of opportunities nor `custom_fields.` and the key of a custom "
                "field. Correct it."
            )
        results[check] = dg.AssetCheckResult(
            passed=not count and not is_misled,
            severity=dg.AssetCheckSeverity.WARN,
            description=description,
            metadata={"opportunities": count, "first_ids": ids},
        )
    return results


def _counts_add_up(database: Database) -> dg.AssetCheckResult:
    rows, counted = _one_row(
        database,
        "SELECT (SELECT count(*) FROM opportunities),"
        " (SELECT coalesce(sum(opportunities), 0) FROM status_counts)",
    )
    return dg.AssetCheckResult(
        passed=rows == counted,
        description=f"{counted:,} counted, {rows:,} rows.",
        metadata={"counted": int(counted), "rows": rows},
    )


def blocking_check_of(collection: Collection) -> str:
    """The name of the check of the collection's table that blocks what is made of it."""
    return f"{collection.single}_ids_are_unique"


def _evaluations(collection: Collection) -> dict[str, tuple[str, EvaluateOf]]:
    """The checks of the collection's table by name: what must be true, and the function that tests
    it."""
    in_window = " in the window" if collection.has_window else ""
    if collection.parts is not None:
        in_window = f" for the {collection.parts.of.name} whose lists were read"
    found: dict[str, tuple[str, EvaluateOf]] = {
        blocking_check_of(collection): (
            f"Each {collection.in_words(1)} is in the table once, and has an id.",
            _ids_are_unique,
        ),
        "no_faults": (
            "Every value of this sync was stored as received. The table sync_faults lists "
            "those that could not be.",
            _no_faults,
        ),
        "mirror_is_complete": (
            "The last sync that compared them proved that the table holds exactly what Current "
            f"RMS lists{in_window}, no sync has failed since, and that proof is at most a day "
            "old.",
            _is_complete,
        ),
        "deletions_are_plausible": (
            "At most 5 % of the window, or 20 rows, were deleted within a day. Further "
            "deletions wait until a person confirms them.",
            _deletions,
        ),
    }
    if collection.webhooks:
        found["webhooks_arrive"] = (
            "If webhooks are registered, they announce the changes in Current RMS.",
            _webhooks,
        )
    return found


def _evaluations_of(
    collections: Sequence[Collection],
) -> dict[tuple[str, str], tuple[str, Evaluate]]:
    """All checks by asset and name: what must be true, and the function that tests it."""
    found: dict[tuple[str, str], tuple[str, Evaluate]] = {
        (c.name, name): (description, functools.partial(evaluate, c))
        for c in collections
        for name, (description, evaluate) in _evaluations(c).items()
    }
    if OPPORTUNITIES in collections:
        for asset, name, description, of_rows in _OF_OPPORTUNITIES:
            found[asset, name] = (description, _whatever_the_run(of_rows))
    return found


def _evaluations_of_table(table: str) -> dict[str, tuple[str, Evaluate]]:
    """Those of one table, by name, without the sense checks."""
    return {name: told for (of, name), told in _evaluations_of(COLLECTIONS).items() if of == table}


def _sense_checks_of(table: str) -> dict[str, str]:
    """What each of the sense checks of a table says."""
    return SENSE_CHECKS if table == OPPORTUNITIES.name else {}


def _whatever_the_run(of_rows: Callable[[Database], dg.AssetCheckResult]) -> Evaluate:
    return lambda database, run, seconds: of_rows(database)


_OF_OPPORTUNITIES: list[tuple[str, str, str, Callable[[Database], dg.AssetCheckResult]]] = [
    (
        "opportunities",
        "hires_have_a_length",
        "The dates of each opportunity are a valid hire: it does not end before it starts.",
        _hires,
    ),
    (
        "opportunities",
        "statuses_are_known",
        "The table statuses has a phase (open, confirmed or lost) for every status.",
        _statuses,
    ),
    (
        "opportunities",
        "own_fields_are_as_before",
        "No custom field has appeared or disappeared within a week. `rms-pipeline fields` lists "
        "them.",
        _own_fields,
    ),
    (
        "status_counts",
        "status_counts_add_up",
        "The counts add up to the rows of opportunities.",
        _counts_add_up,
    ),
]


def check_specs_of(table: str, naming: Naming) -> list[dg.AssetCheckSpec]:
    """The checks of a table: what each is called, and what must be true."""
    blocking = {blocking_check_of(collection) for collection in COLLECTIONS}
    says = {name: description for name, (description, _) in _evaluations_of_table(table).items()}
    return [
        dg.AssetCheckSpec(
            name,
            asset=naming.key(table),
            description=description,
            # What counts, or sums, such rows would be wrong without a sign of it.
            blocking=name in blocking,
        )
        for name, description in (says | _sense_checks_of(table)).items()
    ]


def check_results_of(
    table: str, naming: Naming, selected: Container[str], database: Database, run: str
) -> Iterator[dg.AssetCheckResult]:
    """The results of the `selected` checks of a table after `run`. A check that cannot be evaluated
    has failed, and says why; it costs no other check, and unless it blocks nothing downstream."""
    asset = naming.key(table)
    with database.with_one_connection() as once:
        for name, (_, evaluate) in _evaluations_of_table(table).items():
            if name in selected:
                try:
                    with explained(f"check {name}"):
                        result = evaluate(once, run, None)
                except Explained as failure:
                    result = _not_evaluated(failure)
                yield result._replace(asset_key=asset, check_name=name)
        if of_sense := [name for name in _sense_checks_of(table) if name in selected]:
            # One query answers all of them.
            try:
                with explained("sense checks"):
                    results = sense_of(once)
            except Explained as failure:
                results = dict.fromkeys(of_sense, _not_evaluated(failure))
            for name in of_sense:
                yield results[name]._replace(asset_key=asset, check_name=name)


def _not_evaluated(failure: Explained) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=False, description=str(failure))


def evaluations(
    database: Database,
    collections: Sequence[Collection],
    run: str,
    *,
    naming: Naming = OWN,
    seconds: float | None = None,
) -> list[dg.AssetCheckEvaluation]:
    """The results of all checks of `collections`, and of the tables made from them, after a
    refresh. `run` did the refresh. If it runs for ever, its last `seconds` count."""
    with database.with_one_connection() as once:
        results = {
            which: evaluate(once, run, seconds)
            for which, (_, evaluate) in _evaluations_of(collections).items()
        }
        if OPPORTUNITIES in collections:
            results |= {(OPPORTUNITIES.name, n): result for n, result in sense_of(once).items()}
    return [
        dg.AssetCheckEvaluation(
            asset_key=naming.key(asset),
            check_name=name,
            passed=result.passed,
            severity=result.severity,
            description=result.description,
            metadata=result.metadata,
        )
        for (asset, name), result in results.items()
    ]


def report_checks(
    instance: dg.DagsterInstance,
    database: Database,
    collections: Sequence[Collection],
    run: str,
    *,
    naming: Naming = OWN,
) -> None:
    """Runs all checks of `collections` after a refresh that was reported as a materialization."""
    for evaluation in evaluations(database, collections, run, naming=naming):
        instance.report_runless_asset_event(evaluation)
