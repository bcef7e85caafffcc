"""The columns of our tables, described for Dagster's UI."""

import dagster as dg

from rms_pipeline.mirror.descriptions import COLUMNS


def _schema(table: str, **types: str) -> dg.TableSchema:
    return dg.TableSchema(
        columns=[dg.TableColumn(name, type_, COLUMNS[table][name]) for name, type_ in types.items()]
    )


OPPORTUNITY_COLUMNS = _schema(
    "opportunities",
    id="bigint",
    name="text",
    subject="text",
    description="text",
    starts_at="timestamptz",
    ends_at="timestamptz",
    opportunity_status="text",
    created_at_rms="timestamptz",
    updated_at_rms="timestamptz",
    venue_name="text",
    organisation_id="bigint",
    organisation_name="text",
    owner_id="bigint",
    owner_name="text",
    charge_total="numeric",
    total_value="numeric",
    data="jsonb",
    synced_at="timestamptz",
    last_webhook_at="timestamptz",
)

RAW_PAGE_COLUMNS = _schema(
    "raw_rms_pages",
    id="bigint",
    run="text",
    walk="bigint",
    page="integer",
    segment="text",
    request="text",
    asked_at="timestamptz",
    fetched_at="timestamptz",
    api_date="timestamptz",
    record_count="integer",
    record_ids="bigint[]",
    covers="int8range",
    window_start="timestamptz",
    window_end="timestamptz",
    size_bytes="bigint",
    body="bytea",
)

STATUS_COLUMNS = _schema(
    "status_counts",
    opportunity_status="text",
    opportunities="bigint",
    charge_total="numeric",
    total_value="numeric",
    as_of="timestamptz",
)
