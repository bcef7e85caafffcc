"""Facts about the tables that must hold after every sync."""

from typing import Any

import dagster as dg

from rms_pipeline.defs.resources import MirrorResource


def _one_row(mirror: MirrorResource, query: str, *values: object) -> tuple[Any, ...]:
    with mirror.database.session() as connection, connection.cursor() as cursor:
        cursor.execute(query, values)
        row: tuple[Any, ...] | None = cursor.fetchone()
    assert row is not None
    return row


@dg.asset_check(
    asset="opportunities",
    description="No opportunity stands in the table twice, and none without an id.",
)
def opportunity_ids_are_unique(mirror: MirrorResource) -> dg.AssetCheckResult:
    rows, ids = _one_row(mirror, "SELECT count(*), count(DISTINCT id) FROM opportunities")
    return dg.AssetCheckResult(
        passed=rows == ids,
        description=f"{rows} rows, {ids} different ids.",
        metadata={"rows": rows, "ids": ids},
    )


@dg.asset_check(
    asset="opportunities",
    description="Every value of this sync could be kept as it came. The table sync_faults lists "
    "those that could not.",
)
def no_faults(
    context: dg.AssetCheckExecutionContext, mirror: MirrorResource
) -> dg.AssetCheckResult:
    faults, records = _one_row(
        mirror,
        "SELECT count(*), count(DISTINCT opportunity_id) FROM sync_faults WHERE run = %s",
        context.run.run_id,
    )
    return dg.AssetCheckResult(
        passed=faults == 0,
        severity=dg.AssetCheckSeverity.WARN,
        description="None."
        if faults == 0
        else f"{faults} values of {records} opportunities; see: SELECT * FROM sync_faults "
        f"WHERE run = '{context.run.run_id}'",
        metadata={"faults": faults, "opportunities": records},
    )


@dg.asset_check(
    asset="status_counts",
    description="The counts add up to the rows of opportunities.",
)
def status_counts_add_up(mirror: MirrorResource) -> dg.AssetCheckResult:
    rows, counted = _one_row(
        mirror,
        "SELECT (SELECT count(*) FROM opportunities),"
        " (SELECT coalesce(sum(opportunities), 0) FROM status_counts)",
    )
    return dg.AssetCheckResult(
        passed=rows == counted,
        description=f"{counted} counted, {rows} rows.",
        metadata={"counted": int(counted), "rows": rows},
    )
