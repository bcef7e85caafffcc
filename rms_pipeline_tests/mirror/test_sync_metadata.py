"""What `sync_metadata` reads of Dagster's tables. Fails loudly when an upgrade changes them."""

from typing import Any

import dagster as dg
import psycopg2
import pytest

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.defs.instance_storage import MirrorPostgresStorage
from rms_pipeline.mirror.sync_metadata import COLUMNS
from rms_pipeline.settings import settings


@pytest.fixture
def connection(ready_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("POSTGRES_URL", ready_url)
    monkeypatch.setenv("POSTGRES_URL_NON_POOLING", ready_url)
    settings.cache_clear()
    MirrorPostgresStorage.from_config_value(None, {})
    opened = psycopg2.connect(ready_url)
    yield opened
    opened.close()
    settings.cache_clear()


def columns_of(connection: Any, schema: str, table: str) -> dict[str, str]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT column_name, data_type FROM information_schema.columns"
            " WHERE table_schema = %s AND table_name = %s",
            (schema, table),
        )
        return dict(cursor.fetchall())


def test_dagster_keeps_its_runs_where_the_view_reads_them(connection: Any) -> None:
    expected = {
        "runs": {
            "run_id": "character varying",
            "status": "character varying",
            "start_time": "double precision",
            "end_time": "double precision",
        },
    }
    for table, columns in expected.items():
        found = columns_of(connection, "dagster", table)
        assert {name: found.get(name) for name in columns} == columns, (table, dg.__version__)


def test_the_view_has_the_columns_that_peoples_sql_names(connection: Any) -> None:
    found = columns_of(connection, "public", "sync_metadata")
    assert tuple(found) == COLUMNS
    assert found["id"] == "bigint"
    assert found["run_id"] == found["sync_type"] == found["status"] == found["error"] == "text"
    assert found["started_at"] == found["completed_at"] == "timestamp with time zone"
    assert found["metadata"] == "jsonb"


def test_dagster_keeps_nothing_in_public_and_we_nothing_in_its_schema(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname !~ '^pg_|^inf'"
        )
        tables = set(cursor.fetchall())
    assert ("dagster", "alembic_version") in tables
    assert {name for schema, name in tables if schema == "public"} == {
        *("opportunities", "deleted_opportunities", "opportunity_versions", "opportunity_changes"),
        "raw_page_bodies",
        *("raw_rms_pages", "status_counts", "sync_faults", "sync_progress", "webhook_events"),
        *("walks", "mirror_state", "api_budget", "week_counts", "rms_pipeline_alembic_version"),
        *("run_workers", "api_page_sizes", "api_refusals", "unreadable_records", "statuses"),
        *("sync_runs", "sync_figures", "opportunity_past", "daily_status_counts", "api_troubles"),
        *("saved_views", "required_fields", "calendar_feeds", "mirrored_windows"),
        *("opportunity_words", "known_names", "opportunity_fields", "promoted_fields"),
        *("custom_field_keys", "custom_field_labels"),
        *("members", "deleted_members", "member_versions", "member_past"),
        *("invoices", "deleted_invoices", "invoice_versions", "invoice_past"),
        *("opportunity_items", "deleted_opportunity_items", "opportunity_item_versions"),
        *("opportunity_item_past", "part_lists"),
        *("proofs", "proof_counts", "held_deletions", "deletions_confirmed", "webhook_absences"),
        *(name for c in COLLECTIONS for name in (c.name, c.deleted, c.versions)),
        *(c.past for c in COLLECTIONS if c.remembers),
    }


def test_the_table_has_the_columns_that_peoples_sql_names(connection: Any) -> None:
    """Columns are added, as the declaration has them (test_schema.py), and these stay."""
    found = columns_of(connection, "public", "opportunities")
    named = {
        "id": "bigint",
        **dict.fromkeys(("name", "subject", "description", "opportunity_status"), "text"),
        **dict.fromkeys(("venue_name", "organisation_name", "owner_name"), "text"),
        **dict.fromkeys(("organisation_id", "owner_id"), "bigint"),
        **dict.fromkeys(("charge_total", "total_value"), "numeric"),
        **dict.fromkeys(("starts_at", "ends_at"), "timestamp with time zone"),
        **dict.fromkeys(("created_at_rms", "updated_at_rms"), "timestamp with time zone"),
        **dict.fromkeys(("synced_at", "last_webhook_at"), "timestamp with time zone"),
        "data": "jsonb",
    }
    assert {name: found.get(name) for name in named} == named
