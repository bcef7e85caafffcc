"""Databases that tests hand on to one another are as new."""

import psycopg2
import pytest

from rms_pipeline_tests.conftest import database_at, with_all_tables
from rms_pipeline_tests.copies import copy_of
from rms_pipeline_tests.rows import asking, insert_opportunities, query
from rms_pipeline_tests.servers import new_database

pytestmark = pytest.mark.new_connections

TABLES = (
    "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r'"
    " AND relnamespace IN ('public'::regnamespace, 'dagster'::regnamespace) ORDER BY 1"
)
SEQUENCES = "SELECT sequencename, last_value FROM pg_sequences ORDER BY 1"
SERVER_ID = "SELECT oid FROM pg_database WHERE datname = current_database()"


def contents(url: str) -> list[object]:
    """All rows of all tables, and how far each sequence is."""
    with asking(database_at(url)) as ask:
        rows = {table: ask(f"SELECT t::text FROM {table} t ORDER BY 1") for (table,) in ask(TABLES)}
        return [rows, ask(SEQUENCES)]


def test_a_copy_that_is_handed_out_again_is_as_new_and_its_old_address_leads_nowhere(
    embedded_url: str,
) -> None:
    template = with_all_tables(embedded_url)
    with new_database(embedded_url, template) as url:
        new = contents(url)
    with copy_of(embedded_url, template) as url:
        first = database_at(url)
        insert_opportunities(first, *({"data": {"padding": "x" * 900}} for _ in range(700)))
        query(first, "INSERT INTO webhook_events (opportunity_id) VALUES (1), (2)")
        query(first, "INSERT INTO dagster.kvs (key, value) VALUES ('key', 'value')")
        query(first, "DELETE FROM mirror_state")
        stays_open = psycopg2.connect(url)
        same = query(first, SERVER_ID)
    with copy_of(embedded_url, template) as again:
        second = database_at(again)
        assert query(second, SERVER_ID) == same
        assert contents(again) == new
        with pytest.raises(psycopg2.OperationalError):
            stays_open.cursor().execute("SELECT 1")
        with pytest.raises(psycopg2.OperationalError, match="does not exist"):
            psycopg2.connect(url)


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE opportunities ADD COLUMN depot text",
        "ALTER TABLE opportunities ALTER COLUMN name SET STATISTICS 7",
        "CREATE INDEX ON opportunities (name)",
        "CREATE SCHEMA elsewhere",
        "CREATE FUNCTION one() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "CREATE TRIGGER mine BEFORE UPDATE ON opportunities FOR EACH ROW"
        " EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE RULE mine AS ON DELETE TO statuses DO INSTEAD NOTHING",
        "GRANT SELECT ON opportunities TO public",
        "COMMENT ON TABLE opportunities IS 'mine'",
        "ALTER SEQUENCE webhook_events_id_seq INCREMENT 7",
        "DROP VIEW sync_metadata",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = 64', current_database());"
        " END $$",
        "ANALYZE opportunities",
        "CREATE PUBLICATION mine FOR TABLE opportunities",
        "ALTER TABLE opportunities ENABLE ROW LEVEL SECURITY",
        "SELECT lo_create(0)",
    ],
)
def test_a_copy_that_was_built_otherwise_is_handed_to_nobody(
    embedded_url: str, statement: str
) -> None:
    template = with_all_tables(embedded_url)
    with copy_of(embedded_url, template):
        """Somebody had it before."""
    with copy_of(embedded_url, template) as url:
        changed = database_at(url)
        insert_opportunities(changed, {})
        with changed.session() as connection, connection.cursor() as cursor:
            cursor.execute(statement)
        same = query(changed, SERVER_ID)
    with copy_of(embedded_url, template) as url:
        assert query(database_at(url), SERVER_ID) != same
