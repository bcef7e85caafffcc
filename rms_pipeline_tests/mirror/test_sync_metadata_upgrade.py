"""The upgrade that made syncs rows of our own: history, figures, errors and rights are kept."""

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from pydantic import SecretStr

from rms_pipeline.mirror.database import Database, DatabaseError
from rms_pipeline.mirror.schema import current_version, migrate, upgrade_tables
from rms_pipeline_tests.conftest import database_at
from rms_pipeline_tests.mirror.releases import ANALYST, load_release
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.servers import new_database, template

pytestmark = pytest.mark.slow

BEFORE = "0019"
RIGHTS = (
    "SELECT relacl::text, (SELECT array_agg((attname, attacl::text)::text ORDER BY attname)"
    " FROM pg_attribute WHERE attrelid = c.oid AND attacl IS NOT NULL)"
    " FROM pg_class c WHERE oid = 'sync_metadata'::regclass"
)
FIGURES = (
    "SELECT {}, sync_type, status, started_at, completed_at, records_synced, records_failed,"
    " error, metadata FROM sync_metadata ORDER BY started_at"
)


def execute(url: str, statements: str, *values: Any) -> None:
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute(statements, values or None)
    connection.close()


@contextlib.contextmanager
def old_database(embedded_url: str) -> Iterator[str]:
    made = template(embedded_url, "template_0019", lambda url: void(load_release(url, BEFORE)))
    with new_database(embedded_url, made) as url:
        yield url


@pytest.fixture
def old_url(embedded_url: str) -> Iterator[str]:
    """As the last version of before left a database, with Dagster's history and a right on it."""
    with old_database(embedded_url) as url:
        yield url


def void(_: object) -> None: ...


def add_run(url: str, run: str, event: str, kind: str = "STEP_FAILURE") -> None:
    execute(
        url,
        "INSERT INTO dagster.runs (run_id, pipeline_name, status, run_body, start_time, end_time,"
        " create_timestamp, update_timestamp)"
        " VALUES (%s, 'incremental_sync', 'FAILURE', '{}', 1e9, 1e9, now(), now())",
        run,
    )
    execute(
        url,
        "INSERT INTO dagster.event_logs (run_id, event, dagster_event_type, timestamp)"
        " VALUES (%s, %s, %s, now())",
        run,
        event,
        kind,
    )


def test_every_sync_that_dagster_has_keeps_its_times_figures_metadata_and_error(
    old_url: str,
) -> None:
    database = database_at(old_url)
    add_run(old_url, "bad", '{"dagster_event": {"message": "The API answered 401."}}')
    before = query(database, FIGURES.format("id"))
    assert {row[2] for row in before} == {"completed", "failed"}
    assert any(row[5] > 0 and row[8].get("certificate") for row in before)
    migrate(database)
    assert query(database, FIGURES.format("run_id")) == before
    in_order = query(database, "SELECT s.id FROM sync_metadata s JOIN dagster.runs USING (run_id)"
                               " ORDER BY dagster.runs.id")  # fmt: skip
    assert in_order == sorted(in_order)
    # And so it stays when Dagster's own is gone.
    query(database, "DELETE FROM dagster.runs RETURNING 1")
    query(database, "TRUNCATE dagster.event_logs, dagster.run_tags")
    assert query(database, FIGURES.format("run_id")) == before
    migrate(database)
    assert query(database, FIGURES.format("run_id")) == before


# Texts of events, by what is odd in them, and what the sync's error then says.
EVENTS = {
    "NUL": (r'{"dagster_event": {"message": "a \u0000 b"}}', "a \ufffd b"),
    "half a pair": (r'{"dagster_event": {"message": "a \ud800 b"}}', "a \ufffd b"),
    "an escaped backslash": (r'{"dagster_event": {"message": "a \\u0000 b"}}', None),
    "no JSON": ("no JSON", "The text of this event cannot be read as JSON."),
    "a list": ('{"dagster_event": []}', "This sync failed and recorded no reason"),
    "a text": ('"a text"', "This sync failed and recorded no reason"),
    "nothing": ("", "The text of this event cannot be read as JSON."),
    "too deep": ("[" * 50_000, None),
}
METADATA = [
    *('{"metadata_entries": 5}', '{"metadata_entries": [null, 5, {"label": null}]}', "[1]"),
    '{"metadata_entries": [{"label": "x", "entry_data": {"value": 1}}]}',
]


@pytest.fixture(scope="module")
def upgraded(embedded_url: str) -> Iterator[Database]:
    """An old database that had runs with all of them, after one upgrade."""
    at = '"asset_key": {"path": ["opportunities"]}'
    with old_database(embedded_url) as url:
        database = database_at(url)
        ((before,),) = query(database, "SELECT count(*) FROM sync_metadata")
        for name, (event, _) in EVENTS.items():
            add_run(url, f"failed: {name}", event)
            add_run(url, f"stored: {name}", event, "ASSET_MATERIALIZATION")
        for text in METADATA:
            body = text if text.startswith("[") else text.replace("{", "{" + at + ", ", 1)
            add_run(
                url,
                text,
                '{"dagster_event": {"event_specific_data": {"materialization": ' + body + "}}}",
                "ASSET_MATERIALIZATION",
            )
        migrate(database)
        count = query(database, "SELECT count(*) FROM sync_metadata")
        assert count == [(before + 2 * len(EVENTS) + len(METADATA),)]
        yield database


@pytest.mark.parametrize("name", EVENTS)
def test_no_text_of_dagsters_fails_the_upgrade(upgraded: Database, name: str) -> None:
    _, error = EVENTS[name]
    synced = "SELECT status, error FROM sync_metadata WHERE run_id = %s"
    found = query(upgraded, synced, f"failed: {name}")
    assert found[0][0] == "failed"
    assert error is None or error in found[0][1]
    assert len(query(upgraded, synced, f"stored: {name}")) == 1


@pytest.mark.parametrize("metadata", METADATA)
def test_metadata_of_any_shape_is_copied_or_left_out(upgraded: Database, metadata: str) -> None:
    found = query(upgraded, "SELECT metadata FROM sync_metadata WHERE run_id = %s", metadata)
    assert found == [({"x": 1} if '"x"' in metadata else {},)]


@pytest.mark.parametrize(
    "damage",
    [
        "DROP SCHEMA dagster CASCADE",
        "DROP VIEW sync_metadata; ALTER SCHEMA dagster RENAME TO somewhere",
        "DROP TABLE dagster.event_logs CASCADE",
        "DROP VIEW sync_metadata; ALTER TABLE dagster.runs RENAME COLUMN pipeline_name TO job",
        "DROP VIEW sync_metadata; ALTER TABLE dagster.runs ALTER start_time TYPE text",
        "UPDATE dagster.runs SET start_time = 'NaN' WHERE id = 1",
        "UPDATE dagster.runs SET end_time = 'Infinity', start_time = 1e300 WHERE id = 1",
    ],
    ids=["absent", "elsewhere", "in part", "another column", "another type", "no time", "endless"],
)
def test_whatever_became_of_dagsters_tables_the_upgrade_is_made(old_url: str, damage: str) -> None:
    execute(old_url, damage)
    database = database_at(old_url)
    migrate(database)
    found = query(database, "SELECT * FROM sync_metadata")
    # One row that is wrong costs none of the others.
    assert len(found) > 2 or not damage.startswith("UPDATE")
    assert query(database, "SELECT count(*) > 0 FROM opportunities") == [(True,)]


def test_dagsters_tables_that_may_not_be_read_are_left_out(old_url: str) -> None:
    role = f"mirror_{uuid.uuid4().hex}"
    name = old_url.partition("?")[0].rpartition("/")[2]
    execute(
        old_url,
        f"CREATE ROLE {role} LOGIN; DROP VIEW sync_metadata;"
        "DROP FUNCTION rms_run_error, rms_run_metadata, rms_event_json;"
        f"GRANT CREATE, USAGE ON SCHEMA public TO {role};"
        f"GRANT CREATE, TEMP ON DATABASE {name} TO {role};"
        "DO $$ DECLARE t name; BEGIN FOR t IN SELECT tablename FROM pg_tables WHERE schemaname ="
        f" 'public' LOOP EXECUTE format('ALTER TABLE %I OWNER TO {role}', t); END LOOP; END $$;"
        f"ALTER SEQUENCE content_of_opportunities OWNER TO {role}",
    )
    try:
        url = SecretStr(old_url.replace("postgresql://postgres:@", f"postgresql://{role}:@"))
        database = Database(url, url)
        upgrade_tables(database)
        assert query(database, "SELECT count(*) FROM sync_runs") == [(0,)]
    finally:
        execute(old_url, f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_rights_on_the_history_are_exactly_those_of_before(old_url: str) -> None:
    names = [f"{kind}_{uuid.uuid4().hex}" for kind in ("reader", 'odd "name"', "default")]
    reader, odd, default = (f'"{n.replace(chr(34), chr(34) * 2)}"' for n in names)
    execute(
        old_url,
        f"CREATE ROLE {reader}; CREATE ROLE {odd}; CREATE ROLE {default};"
        f"GRANT SELECT ON sync_metadata TO {reader} WITH GRANT OPTION;"
        f"GRANT SELECT (id, status) ON sync_metadata TO {odd};"
        "GRANT SELECT (sync_type) ON sync_metadata TO PUBLIC;"
        "GRANT SELECT ON sync_metadata TO PUBLIC;"
        # Had it been so when the view was made, this one would have had a right; it has not.
        f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {default}",
    )
    try:
        database = database_at(old_url)
        before = query(database, RIGHTS)
        assert ANALYST in before[0][0]
        migrate(database)
        after = query(database, RIGHTS)
        # In any order.
        assert sorted(after[0][0].strip("{}").split(",")) == sorted(
            before[0][0].strip("{}").split(",")
        )
        assert after[0][1] == before[0][1]
        types = "SELECT atttypid::regtype::text FROM pg_attribute WHERE attname = 'id'"
        assert query(database, f"{types} AND attrelid = 'sync_metadata'::regclass") == [("bigint",)]
    finally:
        roles = ", ".join((reader, odd, default))
        execute(old_url, f"DROP OWNED BY {roles} CASCADE; DROP ROLE {roles}")


def test_views_of_peoples_own_are_named_and_nothing_is_changed_until_they_make_room(
    old_url: str,
) -> None:
    database = database_at(old_url)
    execute(
        old_url,
        "CREATE SCHEMA reports; CREATE VIEW reports.failed AS SELECT id FROM sync_metadata;"
        "CREATE MATERIALIZED VIEW kept AS SELECT count(*) AS n FROM sync_metadata",
    )
    for _ in range(2):
        with pytest.raises(DatabaseError) as refused:
            migrate(database)
        said = str(refused.value)
        assert "reports.failed" in said
        assert "kept" in said
        assert "rms-pipeline migrate" in said
        assert "CHANGELOG.md" in said
        assert "\n" not in said
        with database.session() as connection:
            assert current_version(connection) == BEFORE
        assert query(database, "SELECT n > 0 FROM kept") == [(True,)]
        assert query(database, "SELECT count(*) > 0 FROM sync_metadata") == [(True,)]
    execute(old_url, "DROP VIEW reports.failed; DROP MATERIALIZED VIEW kept")
    migrate(database)
    execute(old_url, "CREATE VIEW reports.failed AS SELECT id, run_id FROM sync_metadata")
    # With views on the new one nothing more is in the way.
    migrate(database)


def test_tables_of_other_programs_with_these_names_are_set_aside(old_url: str) -> None:
    execute(old_url, "CREATE TABLE sync_runs (dog text); INSERT INTO sync_runs VALUES ('Rex')")
    database = database_at(old_url)
    migrate(database)
    assert query(database, "SELECT dog FROM sync_runs_before_rms_pipeline") == [("Rex",)]
    assert query(database, "SELECT count(*) > 0 FROM sync_runs") == [(True,)]
