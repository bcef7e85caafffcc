"""The columns of our tables and their descriptions, for Dagster's UI."""

import dagster as dg

from rms_pipeline.collections.base import Collection
from rms_pipeline.mirror.descriptions import COLUMNS


def columns_of(collection: Collection) -> dg.TableSchema:
    """The columns of the collection's table, from its declaration."""
    return dg.TableSchema([dg.TableColumn(c.name, c.kind, c.says) for c in collection.table])


def _schema(table: str, **types: str) -> dg.TableSchema:
    return dg.TableSchema(
        columns=[dg.TableColumn(name, type_, COLUMNS[table][name]) for name, type_ in types.items()]
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
    digest="bytea",
    collection="text",
)

STATUS_COLUMNS = _schema(
    "status_counts",
    opportunity_status="text",
    opportunities="bigint",
    charge_total="numeric",
    total_value="numeric",
    as_of="timestamptz",
)
