"""Facts about the tables that must hold after every sync.

A materialization puts aside what checks said before it, in Dagster's UI: until they are evaluated
again a check that failed shows as "Not Evaluated". So whatever materializes evaluates all of them,
a refresh by webhooks too (`report_checks`).
"""

from datetime import datetime
from typing import Any

import dagster as dg

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.defs.resources import MirrorResource
from rms_pipeline.mirror.audit import last_audit
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.deletions import deleted_lately, held_back
from rms_pipeline.mirror.outcomes import unknown_statuses, without_a_hire
from rms_pipeline.mirror.proofs import standing


def _one_row(database: Database, query: str, *values: object) -> tuple[Any, ...]:
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute(query, values)
        row: tuple[Any, ...] | None = cursor.fetchone()
    assert row is not None
    return row


def _timestamp(text: str) -> dg.TimestampMetadataValue:
    return dg.MetadataValue.timestamp(datetime.fromisoformat(text))


@dg.asset_check(
    asset="opportunities",
    description="Each opportunity is in the table once, and has an id.",
)
def opportunity_ids_are_unique(mirror: MirrorResource) -> dg.AssetCheckResult:
    return _ids_are_unique(mirror.database)


def _ids_are_unique(database: Database) -> dg.AssetCheckResult:
    rows, ids = _one_row(database, "SELECT count(*), count(DISTINCT id) FROM opportunities")
    return dg.AssetCheckResult(
        passed=rows == ids,
        description=f"{rows:,} rows, {ids:,} different ids.",
        metadata={"rows": rows, "ids": ids},
    )


@dg.asset_check(
    asset="opportunities",
    description="Every value of this sync was stored as received. The table sync_faults lists "
    "those that could not be.",
)
def no_faults(
    context: dg.AssetCheckExecutionContext, mirror: MirrorResource
) -> dg.AssetCheckResult:
    return _no_faults(mirror.database, context.run.run_id)


def _no_faults(database: Database, run: str, seconds: float | None = None) -> dg.AssetCheckResult:
    """Of `run`; of the last `seconds` where it is one that goes on, like the fast lane."""
    faults, records = _one_row(
        database,
        "SELECT count(*), count(DISTINCT opportunity_id) FROM sync_faults WHERE run = %s"
        " AND seen_at >= coalesce(now() - make_interval(secs => %s), '-infinity')",
        run,
        seconds,
    )
    return dg.AssetCheckResult(
        passed=faults == 0,
        severity=dg.AssetCheckSeverity.WARN,
        description="Every value was stored as received."
        if faults == 0
        else f"{faults:,} values of {records:,} opportunities could not; see: SELECT * FROM "
        f"sync_faults WHERE run = '{run}'",
        metadata={"faults": faults, "opportunities": records},
    )


@dg.asset_check(
    asset="opportunities",
    description="The last sync that compared them showed that the table holds exactly what Current "
    "RMS lists in the window, no sync has failed since, and it is no more than a day ago.",
)
def mirror_is_complete(mirror: MirrorResource) -> dg.AssetCheckResult:
    return _is_complete(mirror.database)


def _is_complete(database: Database) -> dg.AssetCheckResult:
    with database.session() as connection:
        known = standing(connection, OPPORTUNITIES)
    proof = known.proof
    if proof is None:
        return dg.AssetCheckResult(
            passed=False, description="No full sync has compared the counts yet: run initial_sync."
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


@dg.asset_check(
    asset="opportunities",
    description="At most 5 % of the window, or 20 rows, were deleted within a day. Further "
    "deletions wait until a person confirms them.",
)
def deletions_are_plausible(mirror: MirrorResource) -> dg.AssetCheckResult:
    return _deletions(mirror.database)


def _deletions(database: Database) -> dg.AssetCheckResult:
    with database.session() as connection:
        held = len(held_back(connection, OPPORTUNITIES))
        deleted = deleted_lately(connection, OPPORTUNITIES)
    return dg.AssetCheckResult(
        passed=held == 0,
        description=f"{deleted:,} rows were removed within a day."
        if not held
        else f"At least {held:,} opportunities no longer exist in Current RMS, more than 5 % of "
        "the window (and more than 20) within a day, so their rows were not deleted. If the "
        "API key's user has lost the permission to see them, restore it. If they were "
        "really deleted, confirm it: launch reconciliation with confirm_deletions: true for "
        "opportunities, or run `rms-pipeline sync initial --confirm-deletions`.",
        metadata={"deleted": deleted, "held_back": held},
    )


@dg.asset_check(
    asset="opportunities",
    description="Webhooks tell of what changes in Current RMS, when they are registered at all.",
)
def webhooks_arrive(mirror: MirrorResource) -> dg.AssetCheckResult:
    return _webhooks(mirror.database)


def _webhooks(database: Database) -> dg.AssetCheckResult:
    with database.session() as connection:
        audit = last_audit(connection)
    if audit is None or audit["last_event_at"] is None:
        return dg.AssetCheckResult(
            passed=True,
            severity=dg.AssetCheckSeverity.WARN,
            description="No webhook has come yet: changes are found by incremental syncs alone. "
            "`rms-pipeline webhooks register https://this.host` makes them immediate.",
        )
    stopped = bool(audit["seem_stopped"])
    return dg.AssetCheckResult(
        passed=not stopped,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{audit['by_webhook']} of {audit['changed']} changes came by webhook."
        + (
            " They seem to have stopped: see `rms-pipeline webhooks list`, and register again."
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


@dg.asset_check(
    asset="opportunities",
    description="The dates of each opportunity make a hire: it does not end before it starts.",
)
def hires_have_a_length(mirror: MirrorResource) -> dg.AssetCheckResult:
    return _hires(mirror.database)


def _hires(database: Database) -> dg.AssetCheckResult:
    with database.session() as connection:
        count, ids = without_a_hire(connection)
    return dg.AssetCheckResult(
        passed=count == 0,
        severity=dg.AssetCheckSeverity.WARN,
        description="Every opportunity that has both dates has a hire."
        if not count
        else f"{count:,} end before they start, so that they have no hire: correct their dates in "
        f"Current RMS. The first are {', '.join(map(str, ids))}.",
        metadata={"without_a_hire": count, "first_ids": ids},
    )


@dg.asset_check(
    asset="opportunities",
    description="The table statuses says of every status whether it is open, confirmed or lost.",
)
def statuses_are_known(mirror: MirrorResource) -> dg.AssetCheckResult:
    return _statuses(mirror.database)


def _statuses(database: Database) -> dg.AssetCheckResult:
    with database.session() as connection:
        unknown = unknown_statuses(connection)
    some = ", ".join(f"{name} ({count:,})" for name, count in list(unknown.items())[:10])
    return dg.AssetCheckResult(
        passed=not unknown,
        severity=dg.AssetCheckSeverity.WARN,
        description="Every status is in the table statuses."
        if not unknown
        else f"Not in the table statuses, so taken for open: {some}. Add each with its phase: "
        "INSERT INTO statuses (name, phase) VALUES ('...', 'confirmed');",
        metadata={"unknown": len(unknown), "opportunities": sum(unknown.values())},
    )


@dg.asset_check(
    asset="status_counts",
    description="The counts add up to the rows of opportunities.",
)
def status_counts_add_up(mirror: MirrorResource) -> dg.AssetCheckResult:
    return _counts_add_up(mirror.database)


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


def report_checks(
    instance: dg.DagsterInstance, database: Database, run: str, *, seconds: float | None = None
) -> None:
    """Evaluates all checks after a refresh that was reported as a materialization.

    `run` is what the refresh was done by; of one that goes on, its last `seconds` count.
    """
    results = {
        opportunity_ids_are_unique: _ids_are_unique(database),
        no_faults: _no_faults(database, run, seconds),
        mirror_is_complete: _is_complete(database),
        deletions_are_plausible: _deletions(database),
        webhooks_arrive: _webhooks(database),
        hires_have_a_length: _hires(database),
        statuses_are_known: _statuses(database),
        status_counts_add_up: _counts_add_up(database),
    }
    for check, result in results.items():
        instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=check.check_key.asset_key,
                check_name=check.check_key.name,
                passed=result.passed,
                severity=result.severity,
                description=result.description,
                metadata=result.metadata,
            )
        )
