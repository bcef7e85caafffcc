"""The lineage: Current RMS API → raw_rms_pages → opportunities → status_counts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
import pandas as pd
import psycopg2
from pydantic import Field

from rms_pipeline.current_rms.window import Window
from rms_pipeline.defs.resources import CurrentRmsResource, MirrorResource
from rms_pipeline.errors import RmsPipelineError
from rms_pipeline.mirror.database import advisory_lock
from rms_pipeline.mirror.raw_pages import count_pages, newest_run_with_pages
from rms_pipeline.mirror.summary import refresh_status_counts
from rms_pipeline.settings import settings
from rms_pipeline.sync import land_walk, merge_walk

GROUP = "current_rms"
OWNERS = ["team:data-engineering"]
WALK_LOCK = "walk"
RECORDS_SYNCED_TAG, RECORDS_FAILED_TAG = "rms/records_synced", "rms/records_failed"

current_rms_api = dg.AssetSpec(
    "current_rms_api",
    group_name=GROUP,
    description="The opportunities of the company's Current RMS account, behind its web API. "
    "Everything else here is a copy of them.",
    kinds={"api"},
    owners=OWNERS,
)


class FullSyncConfig(dg.Config):
    """Which opportunities a full sync fetches. Leave it alone for the usual window."""

    days_back: int | None = Field(
        default=None,
        ge=0,
        le=36_500,
        description="Fetch what ends at most this many days ago or later. "
        "Empty: RMS_SYNC_DAYS_BACK, 30 unless set.",
    )
    days_ahead: int | None = Field(
        default=None,
        ge=0,
        le=36_500,
        description="Fetch what starts at most this many days from now. "
        "Empty: RMS_SYNC_DAYS_AHEAD, 365 unless set.",
    )


@dg.asset(
    deps=[current_rms_api],
    group_name=GROUP,
    kinds={"python", "postgres"},
    owners=OWNERS,
    description="Every page of the Current RMS list of opportunities, stored exactly as received: "
    "what overlaps the window of 30 days back to a year ahead, and what has no dates.",
)
def raw_rms_pages(
    context: dg.AssetExecutionContext,
    config: FullSyncConfig,
    mirror: MirrorResource,
    current_rms: CurrentRmsResource,
) -> dg.MaterializeResult[Any]:
    database = mirror.database
    if settings().uses_sandbox:
        context.log.warning(
            "No account is configured: these are the sandbox's opportunities, not yours. Set "
            "CURRENT_RMS_SUBDOMAIN and CURRENT_RMS_API_KEY to mirror your account."
        )
    with (
        _explained(),
        advisory_lock(
            database,
            WALK_LOCK,
            on_wait=lambda: context.log.info("Waiting: another full sync is reading the API."),
        ),
        current_rms.client(database) as client,
    ):
        window = Window.around(
            database.clock()(),
            days_back=settings().days_back if config.days_back is None else config.days_back,
            days_ahead=settings().days_ahead if config.days_ahead is None else config.days_ahead,
        )
        walk = land_walk(database, client, window, context.run.run_id)
    return dg.MaterializeResult(
        metadata={
            "pages": walk.pages,
            "records": walk.distinct_records,
            "bytes": walk.bytes,
            "api_calls": walk.api_calls,
            "throttled_calls": walk.throttled_calls,
            "retried_calls": walk.retried_calls,
            "window_start": window.start.isoformat(),
            "window_end": window.end.isoformat(),
            "api_count_at_start": walk.count_at_start,
            "api_count_at_end": walk.count_at_end,
            "walk_seconds": round(walk.seconds, 3),
            "walk_notes": "; ".join(walk.notes) or "none",
        }
    )


@contextmanager
def _explained() -> Iterator[None]:
    """Errors that a person can act on become the failure's text, without a stack around them."""
    try:
        yield
    except RmsPipelineError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    except psycopg2.OperationalError as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise dg.Failure(
            f"PostgreSQL failed during the sync: {said}. Check that the server is up and its disk "
            "has room. What was stored is whole; run the sync again to complete it.",
            allow_retries=False,
        ) from None


_COLUMNS = dg.TableSchema(
    columns=[
        dg.TableColumn("id", "bigint", "The opportunity's id in Current RMS."),
        dg.TableColumn("name", "text", "Its subject, else its number."),
        dg.TableColumn("subject", "text", "What it is about, as typed in Current RMS."),
        dg.TableColumn("description", "text", "Longer text, as typed in Current RMS."),
        dg.TableColumn("starts_at", "timestamptz", "When the hire starts."),
        dg.TableColumn("ends_at", "timestamptz", "When the hire ends."),
        dg.TableColumn("opportunity_status", "text", "Open, Provisional, Reserved, Lost, ..."),
        dg.TableColumn("created_at_rms", "timestamptz", "When it was entered in Current RMS."),
        dg.TableColumn("updated_at_rms", "timestamptz", "When Current RMS last changed it."),
        dg.TableColumn("venue_name", "text", "Where it takes place."),
        dg.TableColumn("organisation_id", "bigint", "The customer's id in Current RMS."),
        dg.TableColumn("organisation_name", "text", "The customer's name."),
        dg.TableColumn("owner_id", "bigint", "The id of the colleague it belongs to."),
        dg.TableColumn("owner_name", "text", "The colleague it belongs to."),
        dg.TableColumn("charge_total", "numeric", "The charge before tax."),
        dg.TableColumn("total_value", "numeric", "The charge with tax."),
        dg.TableColumn("data", "jsonb", "The whole record as the API gave it."),
        dg.TableColumn("synced_at", "timestamptz", "When the API was last asked for it."),
        dg.TableColumn("last_webhook_at", "timestamptz", "When a webhook last refreshed it."),
    ]
)


@dg.asset(
    deps=[raw_rms_pages],
    group_name=GROUP,
    kinds={"postgres", "table"},
    owners=OWNERS,
    description="One row for each opportunity: the table that people query. Rows that did not "
    "change only learn when they were last asked for.",
    metadata={
        "dagster/table_name": "public.opportunities",
        "dagster/column_schema": _COLUMNS,
    },
)
def opportunities(
    context: dg.AssetExecutionContext, mirror: MirrorResource
) -> dg.MaterializeResult[Any]:
    database, run = mirror.database, context.run.run_id
    with database.session() as connection:
        own_pages, _ = count_pages(connection, run)
        source = run if own_pages else newest_run_with_pages(connection)
    if source is None:
        raise dg.Failure(
            "There are no pages to decode yet: materialize raw_rms_pages as well, or run the job "
            "initial_sync.",
            allow_retries=False,
        )
    with _explained():
        merged = merge_walk(database, source, run)
    result = merged.result
    context.instance.add_run_tags(
        run,
        {RECORDS_SYNCED_TAG: str(result.stored), RECORDS_FAILED_TAG: str(result.failed)},
    )
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM opportunities")
        row_count = int((cursor.fetchone() or (0,))[0])
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": row_count,
            "created": result.created,
            "updated": result.updated,
            "unchanged": result.unchanged,
            "restored": result.restored,
            "stale": result.stale,
            "failed": result.failed,
            "outside_window": merged.outside_window,
            "merge_seconds": round(merged.seconds, 3),
        }
    )


@dg.asset(
    deps=[opportunities],
    group_name=GROUP,
    kinds={"postgres", "pandas"},
    owners=OWNERS,
    description="How many opportunities there are in each status, and what they are worth. "
    "The counts add up to the rows of opportunities.",
    metadata={"dagster/table_name": "public.status_counts"},
)
def status_counts(mirror: MirrorResource) -> dg.MaterializeResult[Any]:
    frame = refresh_status_counts(mirror.database)
    numbers = {
        f"count/{status}": int(count)
        for status, count in zip(frame["opportunity_status"], frame["opportunities"], strict=True)
    }
    return dg.MaterializeResult(
        metadata={
            "counts": dg.MetadataValue.md(_markdown(frame)),
            "dagster/row_count": len(frame),
            "opportunities": int(frame["opportunities"].sum()),
            "total_value": float(frame["total_value"].sum()),
            **numbers,
        }
    )


def _markdown(frame: pd.DataFrame) -> str:
    shown = frame.rename(
        columns={
            "opportunity_status": "Status",
            "opportunities": "Opportunities",
            "charge_total": "Charge total",
            "total_value": "Total value",
        }
    )
    # A status is typed by people; a pipe in it must not end the cell.
    shown["Status"] = shown["Status"].str.replace("|", "\\|", regex=False)
    for column in ("Charge total", "Total value"):
        shown[column] = [f"{value:,.2f}" for value in shown[column]]
    return shown.to_markdown(index=False, disable_numparse=True)
