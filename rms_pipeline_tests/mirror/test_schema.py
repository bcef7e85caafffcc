"""Migrations on databases that others use too, and what people's SQL relies on."""

import ast
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from dagster._core.storage.sql import ALEMBIC_SCRIPTS_LOCATION
from pydantic import SecretStr

from rms_pipeline.definitions import build_defs
from rms_pipeline.doctor.databases import check_tables
from rms_pipeline.doctor.finding import Examination, Level
from rms_pipeline.mirror import sync_metadata_view
from rms_pipeline.mirror.database import Database, DatabaseError
from rms_pipeline.mirror.descriptions import COLUMNS, TABLES, VIEWS
from rms_pipeline.mirror.obstacles import correct_numbering, obstacles
from rms_pipeline.mirror.plan import plan_upgrade
from rms_pipeline.mirror.schema import (
    HEAD,
    VERSION_TABLE,
    current_version,
    migrate,
    upgrade_tables,
)
from rms_pipeline.mirror.sync_runs import end_run, note_launch
from rms_pipeline.mirror.views import views
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.settings import load_settings
from rms_pipeline_tests.conftest import database_at
from rms_pipeline_tests.defs.test_assets import instance
from rms_pipeline_tests.defs.test_assets import sandbox as account
from rms_pipeline_tests.mirror.test_merge import fetch_all
from rms_pipeline_tests.mirror.upgrades import MIGRATIONS, versions
from rms_pipeline_tests.processes import SECRET_KEY, command, environment_for, wait_until
from rms_pipeline_tests.servers import administrator

pytestmark = pytest.mark.new_connections

__all__ = ["account", "instance"]

# Of sync_metadata.sql: its version, and what stands for its text.
HISTORY_VIEW = (9, "6056d3e830b4c33d")
# Which bring the comments of their columns with their text.
OWN_COMMENTS = {"sync_metadata", *(view.name for view in views())}


@pytest.fixture
def sandbox(request: pytest.FixtureRequest) -> Iterator[SandboxServer]:
    with SandboxServer(Store(20), api_key=SECRET_KEY) as server:
        yield server


def execute(url: str, statements: str) -> None:
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute(statements)
    connection.close()


@pytest.mark.slow
def test_migrate_sets_aside_what_another_program_left_and_loses_none_of_it(
    empty_url: str, sandbox: SandboxServer
) -> None:
    execute(
        empty_url,
        "CREATE TABLE sync_metadata (id serial PRIMARY KEY, sync_type text);"
        "INSERT INTO sync_metadata (sync_type) VALUES ('old');"
        "CREATE TABLE walks (dog text); INSERT INTO walks VALUES ('Rex');"
        "CREATE TABLE mirror_state (id int);",
    )
    done = command("migrate", environment=environment_for(empty_url, sandbox))
    assert done.returncode == 0, done.stderr
    database = database_at(empty_url)
    aside = "SELECT {} FROM {}_before_rms_pipeline"
    assert fetch_all(database, aside.format("sync_type", "sync_metadata")) == [("old",)]
    assert fetch_all(database, aside.format("dog", "walks")) == [("Rex",)]
    assert fetch_all(database, "SELECT count(*) FROM sync_metadata") == [(0,)]


@pytest.mark.parametrize("lose", ["DROP TABLE", "DELETE FROM"])
def test_a_mirror_whose_version_was_lost_is_not_taken_for_tables_of_another_program(
    ready_url: str, lose: str
) -> None:
    """Somebody may drop what looks like the version table of another application."""
    database = database_at(ready_url)
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute(f"{lose} {VERSION_TABLE}")
    tables = "SELECT array_agg(relname ORDER BY relname) FROM pg_class WHERE relkind IN ('r', 'v')"
    before = fetch_all(database, tables)
    with pytest.raises(DatabaseError, match=f"its table {VERSION_TABLE}.*from a backup"):
        migrate(database)
    assert fetch_all(database, tables) == before
    plan = plan_upgrade(database, dagster_changes=False)
    assert any(VERSION_TABLE in sentence for sentence in plan.in_the_way)
    assert not any("another program" in sentence for sentence in plan.kept)
    exam = Examination(load_settings(_env_file=None), database=database)
    (found,) = check_tables(exam)
    assert found.level is Level.PROBLEM
    assert VERSION_TABLE in found.found
    assert "Restore that table" in found.advice


def test_rows_that_were_copied_without_their_sequences_are_numbered_on(
    ready_url: str, sandbox: SandboxServer
) -> None:
    """Logical replication copies no sequences."""
    database = database_at(ready_url)
    event = "INSERT INTO webhook_events (action_type) VALUES ('update') RETURNING id"
    for _ in range(2):
        fetch_all(database, event)
    execute(ready_url, "ALTER SEQUENCE webhook_events_id_seq RESTART")
    with pytest.raises(DatabaseError, match=r"next number of webhook_events.*rms-pipeline migrate"):
        fetch_all(database, event)
    execute(
        ready_url,
        "ALTER SEQUENCE webhook_events_id_seq RESTART;"
        "INSERT INTO dagster.runs (run_id, status, run_body) VALUES ('a', 'SUCCESS', '{}');"
        "ALTER SEQUENCE dagster.runs_id_seq RESTART",
    )
    with database.session() as connection:
        (found,) = obstacles(connection)
    assert "The next numbers of dagster.runs, webhook_events" in found.found
    done = command("migrate", environment=environment_for(ready_url, sandbox))
    assert done.returncode == 0, done.stderr
    assert "The numbering of dagster.runs, webhook_events was behind" in done.stdout
    assert fetch_all(database, event) == [(3,)]
    with database.session() as connection:
        assert obstacles(connection) == []


def test_a_table_of_any_name_beside_dagsters_is_numbered_on(emptied: Database) -> None:
    # Whatever somebody calls it, no part of its name is taken for SQL.
    name = """dagster."o'hara's 50 %s (old)\""""
    with emptied.session() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA dagster CREATE TABLE {name} (id serial, note text)")
        cursor.execute(f"INSERT INTO {name} (id) VALUES (7)")
    with emptied.session() as connection:
        (found,) = obstacles(connection)
        assert found.found.startswith(f"The next numbers of {name} are taken by rows.")
        assert correct_numbering(connection) == [name]
        assert obstacles(connection) == []
        with connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO {name} DEFAULT VALUES RETURNING id")
            assert cursor.fetchone() == (8,)
            cursor.execute("DROP SCHEMA dagster CASCADE")


def make_dagsters_tables_old(url: str) -> None:
    """As a version of Dagster left them that was one migration behind."""
    config = Config()
    config.set_main_option("script_location", ALEMBIC_SCRIPTS_LOCATION)
    scripts = ScriptDirectory.from_config(config)
    newest = scripts.get_revision("head")
    assert newest is not None
    execute(url, f"UPDATE dagster.alembic_version SET version_num = '{newest.down_revision}'")


@pytest.mark.slow
def test_migrate_names_the_views_that_are_in_the_way_of_dagsters_own_migrations(
    ready_url: str, sandbox: SandboxServer
) -> None:
    environment = environment_for(ready_url, sandbox)
    execute(ready_url, "CREATE VIEW failed_syncs AS SELECT * FROM sync_metadata")
    make_dagsters_tables_old(ready_url)
    done = command("migrate", environment=environment)
    assert done.returncode == 1
    assert "failed_syncs" in done.stderr
    assert "Traceback" not in done.stderr
    execute(ready_url, "SELECT * FROM failed_syncs; DROP VIEW failed_syncs")
    done = command("migrate", environment=environment)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def analyst(ready_url: str) -> Iterator[str]:
    role = f"analyst_{uuid.uuid4().hex}"
    execute(ready_url, f"CREATE ROLE {role}")
    yield role
    execute(ready_url, f"DROP OWNED BY {role}; DROP ROLE {role}")


def rights_on_the_history(url: str) -> list[tuple[Any, ...]]:
    return fetch_all(
        database_at(url),
        "SELECT relacl::text, (SELECT array_agg((attname, attacl::text)::text ORDER BY attnum)"
        " FROM pg_attribute WHERE attrelid = c.oid AND attacl IS NOT NULL)"
        " FROM pg_class c WHERE oid = 'sync_metadata'::regclass",
    )


def test_the_history_is_left_alone_when_it_is_as_it_should_be(ready_url: str, analyst: str) -> None:
    database = database_at(ready_url)
    execute(
        ready_url,
        f"GRANT SELECT ON sync_metadata TO {analyst};"
        "CREATE VIEW failed_syncs AS SELECT * FROM sync_metadata WHERE status = 'failed'",
    )
    standing = (
        "SELECT oid, xmin::text, relacl::text FROM pg_class WHERE oid = 'sync_metadata'::regclass"
    )
    before = fetch_all(database, standing)
    migrate(database)
    assert fetch_all(database, standing) == before


@pytest.mark.parametrize(
    "damage",
    [
        "CREATE OR REPLACE VIEW sync_metadata AS SELECT run_id AS id, 'x' AS sync_type,"
        " 'y' AS status, now() AS started_at FROM dagster.runs",
        "ALTER VIEW sync_metadata RENAME COLUMN metadata TO figures",
        "DROP VIEW sync_metadata",
    ],
    ids=["another text", "another column", "none"],
)
def test_a_history_that_is_not_as_it_should_be_is_mended_and_nobody_loses_a_right(
    ready_url: str, analyst: str, damage: str
) -> None:
    database = database_at(ready_url)
    columns = (
        "SELECT array_agg(attname ORDER BY attnum) FROM pg_attribute"
        " WHERE attrelid = 'sync_metadata'::regclass"
    )
    before = fetch_all(database, columns)
    if not damage.startswith("DROP"):
        execute(
            ready_url,
            f"GRANT SELECT ON sync_metadata TO {analyst} WITH GRANT OPTION;"
            "GRANT SELECT (id, status) ON sync_metadata TO PUBLIC",
        )
    rights = rights_on_the_history(ready_url)
    if damage.startswith("CREATE OR REPLACE VIEW"):
        # Columns can only be added to a view in place.
        execute(ready_url, f"DROP VIEW sync_metadata; {damage}")
        execute(
            ready_url,
            f"GRANT SELECT ON sync_metadata TO {analyst} WITH GRANT OPTION;"
            "GRANT SELECT (id, status) ON sync_metadata TO PUBLIC",
        )
    else:
        execute(ready_url, damage)
    migrate(database)
    assert fetch_all(database, columns) == before
    assert rights_on_the_history(ready_url) == rights
    assert fetch_all(database, "SELECT count(*) FROM sync_metadata") == [(0,)]


@pytest.mark.slow
def test_grants_outlive_a_migration_of_dagsters_tables(
    ready_url: str, analyst: str, sandbox: SandboxServer
) -> None:
    environment = environment_for(ready_url, sandbox)
    execute(ready_url, f"GRANT SELECT ON sync_metadata TO {analyst}")
    rights = rights_on_the_history(ready_url)
    make_dagsters_tables_old(ready_url)
    done = command("migrate", environment=environment)
    assert done.returncode == 0, done.stderr
    assert rights_on_the_history(ready_url) == rights


def test_the_history_that_a_newer_version_made_stays(ready_url: str) -> None:
    database = database_at(ready_url)
    execute(
        ready_url,
        "UPDATE mirror_state SET value = '1000 abc' WHERE name = 'history_view';"
        "COMMENT ON VIEW sync_metadata IS 'newer'",
    )
    migrate(database)
    assert fetch_all(database, "SELECT obj_description('sync_metadata'::regclass)") == [("newer",)]


def test_the_text_of_the_history_has_a_higher_version_whenever_it_changes() -> None:
    text = Path(sync_metadata_view.__file__).with_name("sync_metadata.sql").read_bytes()
    told = (sync_metadata_view.history_view_version(), blake2b(text, digest_size=8).hexdigest())
    assert told == HISTORY_VIEW, "raise the version in its first line, and note both here"


def test_descriptions_are_brought_up_to_date_by_what_they_say(database: Database) -> None:
    execute(
        database.url.get_secret_value(),
        "COMMENT ON COLUMN opportunities.name IS 'Something else.'; COMMENT ON TABLE walks IS NULL",
    )
    migrate(database)
    assert fetch_all(
        database,
        "SELECT obj_description('walks'::regclass), col_description('opportunities'::regclass, 2)",
    ) == [(TABLES["walks"], COLUMNS["opportunities"]["name"])]


@pytest.mark.slow
def test_tables_of_a_newer_version_are_refused_in_one_sentence(
    ready_url: str, sandbox: SandboxServer
) -> None:
    environment = environment_for(ready_url, sandbox)
    execute(ready_url, "UPDATE rms_pipeline_alembic_version SET version_num = '9999'")
    for arguments in (("migrate",), ("status",), ("sync", "initial", "--json")):
        done = command(*arguments, environment=environment)
        assert done.returncode == 1
        assert (
            "newer version of this program made the tables in this database (schema 9999; "
            "this version knows" in (done.stderr + done.stdout)
        )
        assert "Traceback" not in done.stderr


def test_the_newest_migration_is_the_one_that_tables_are_brought_to() -> None:
    assert versions()[-1] == HEAD


def test_migrations_call_nothing_that_lives() -> None:
    for path in MIGRATIONS.glob("**/*.py"):
        imported = {
            name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
            )
        }
        ours = {name for name in imported if name.startswith("rms_pipeline")}
        assert ours <= {"rms_pipeline.mirror.migrations.frozen"}, path.name


def test_the_tables_can_live_in_another_schema(empty_url: str) -> None:
    execute(empty_url, "CREATE SCHEMA rms; CREATE TABLE walks (dog text)")
    url = SecretStr(empty_url)
    database = Database(url, url, "rms")
    migrate(database)
    migrate(database)
    there = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = %s::regnamespace"
    assert fetch_all(database, there % "'public'") == [("walks",)]
    names = {row[0] for row in fetch_all(database, there % "'rms'")}
    assert set(TABLES) | {"rms_pipeline_alembic_version"} <= names
    assert fetch_all(database, "SELECT count(*) FROM walks") == [(0,)]


@pytest.mark.slow
def test_a_table_of_another_owner_with_one_of_our_names_is_told_as_such(
    empty_url: str, sandbox: SandboxServer
) -> None:
    role = f"mirror_{uuid.uuid4().hex}"
    name = empty_url.partition("?")[0].rpartition("/")[2]
    execute(
        empty_url,
        f"CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {name} TO {role};"
        f"GRANT CREATE, USAGE ON SCHEMA public TO {role}; CREATE TABLE walks (dog text)",
    )
    try:
        url = empty_url.replace("postgresql://postgres:@", f"postgresql://{role}:@")
        assert role in url
        done = command("migrate", environment=environment_for(url, sandbox))
        assert done.returncode == 1
        assert "must be owner of table walks" in done.stderr
        assert "OWNER TO" in done.stderr
    finally:
        execute(empty_url, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_reader_of_the_history_needs_no_right_to_dagsters_tables(
    instance: dg.DagsterInstance, ready_url: str
) -> None:
    job = build_defs().resolve_job_def("initial_sync")
    run = instance.create_run_for_job(job)
    with database_at(ready_url).session() as connection:
        note_launch(connection, run.run_id, "initial_sync")
        end_run(connection, run.run_id, "It failed.")
    instance.report_run_failed(run, "It failed.")
    role = f"analyst_{uuid.uuid4().hex}"
    execute(ready_url, f"CREATE ROLE {role}; GRANT SELECT ON sync_metadata TO {role}")
    try:
        connection = psycopg2.connect(ready_url)
        with connection, connection.cursor() as cursor:
            cursor.execute(f"SET ROLE {role}")
            cursor.execute("SELECT run_id, status, error, metadata FROM sync_metadata")
            assert cursor.fetchall() == [(run.run_id, "failed", "It failed.", {})]
        connection.close()
    finally:
        execute(ready_url, f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.fixture
def in_tokyo(ready_url: str) -> str:
    name = ready_url.partition("?")[0].rpartition("/")[2]
    execute(ready_url, f"ALTER DATABASE {name} SET timezone TO 'Asia/Tokyo'")
    return ready_url


def test_a_sync_that_waits_began_when_it_was_asked_for_wherever_the_server_stands(
    in_tokyo: str, instance: dg.DagsterInstance
) -> None:
    job = build_defs().resolve_job_def("initial_sync")
    waiting = instance.create_run_for_job(job)
    canceled = instance.create_run_for_job(job)
    with database_at(in_tokyo).session() as connection:
        for run in (waiting, canceled):
            note_launch(connection, run.run_id, "initial_sync")
    instance.report_run_canceled(canceled)
    times = fetch_all(
        database_at(in_tokyo), "SELECT run_id, started_at, coalesce(completed_at, now()) FROM"
        " sync_metadata ORDER BY id"
    )  # fmt: skip
    assert {row[0] for row in times} == {waiting.run_id, canceled.run_id}
    for moment in (moment for row in times for moment in row[1:]):
        assert abs(datetime.now(UTC) - moment) < timedelta(minutes=5)


def test_the_indexes_that_people_rely_on_are_there(database: Database) -> None:
    statement = "SELECT indexdef FROM pg_indexes WHERE tablename = 'opportunities'"
    found = " ".join(row[0] for row in fetch_all(database, statement))
    for columns in (
        # One of the status alone would be contained in that of the status and the id.
        *("(id)", "(opportunity_status, id DESC)", "(starts_at, ends_at)", "(organisation_id)"),
        "(updated_at_rms DESC",
    ):
        assert columns in found


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("webhook_events", "id received_at action_id action_type subject_type opportunity_id"
         " member_id member_name raw_payload attempts processed_at error"),
        ("opportunity_changes", "id opportunity_id field old_value new_value changed_at changed_by"
         " seen_at seen_by"),
        ("status_counts", "opportunity_status opportunities charge_total total_value as_of"),
        ("sync_faults", "opportunity_id field problem raw_value run"),
        ("raw_rms_pages", "body run page fetched_at request"),
        ("deleted_opportunities", "id name data synced_at deleted_at deleted_because"),
    ],
)  # fmt: skip
def test_a_table_has_the_columns_that_peoples_sql_names(
    database: Database, table: str, columns: str
) -> None:
    statement = f"SELECT column_name FROM information_schema.columns WHERE table_name = '{table}'"
    found = {row[0] for row in fetch_all(database, statement)}
    assert set(columns.split()) <= found
    if table == "deleted_opportunities":
        live = fetch_all(database, statement.replace(table, "opportunities"))
        assert {row[0] for row in live} <= found


def test_every_table_and_column_has_its_description_in_the_database(ready_url: str) -> None:
    database = database_at(ready_url)
    tables = fetch_all(
        database,
        "SELECT relname, obj_description(oid) FROM pg_class WHERE relkind IN ('r', 'v')"
        " AND relnamespace = 'public'::regnamespace AND relname <> 'rms_pipeline_alembic_version'",
    )
    # Views of a file of their own bring their own.
    own = {name: says for name, says in tables if name in OWN_COMMENTS}
    assert own.keys() == OWN_COMMENTS
    assert all(own.values())
    assert dict(tables) == TABLES | VIEWS | own
    own_comments = f"'{{{', '.join(OWN_COMMENTS)}}}'::regclass[]"
    undescribed = fetch_all(
        database,
        "SELECT attrelid::regclass::text, attname FROM pg_attribute"
        " WHERE attnum > 0 AND NOT attisdropped AND attrelid IN ('opportunities'::regclass,"
        " 'deleted_opportunities'::regclass, 'status_counts'::regclass, 'sync_metadata'::regclass)"
        " AND col_description(attrelid, attnum) IS NULL"
        f" OR attnum > 0 AND attrelid = ANY({own_comments})"
        " AND col_description(attrelid, attnum) IS NULL",
    )
    assert undescribed == []
    told = fetch_all(
        database,
        "SELECT attrelid::regclass::text, attname, col_description(attrelid, attnum)"
        f" FROM pg_attribute WHERE attnum > 0 AND attrelid <> ALL({own_comments})"
        " AND attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)"
        " AND col_description(attrelid, attnum) IS NOT NULL",
    )
    assert {(table, column, text) for table, column, text in told} == {
        (table, column, text) for table, texts in COLUMNS.items() for column, text in texts.items()
    }


@pytest.mark.slow
def test_an_upgrade_that_meets_a_sync_of_an_earlier_release_in_a_deadlock_is_made_again(
    empty_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = database_at(empty_url)
    upgrade_tables(database, "0036")
    with (
        administrator(empty_url) as ask,
        closing(psycopg2.connect(empty_url)) as writer,
        writer.cursor() as cursor,
        ThreadPoolExecutor(1) as beside,
    ):
        # So that the upgrade is the one of the two that PostgreSQL ends.
        cursor.execute("SET deadlock_timeout = '1h'")
        cursor.execute(f"LOCK TABLE {VERSION_TABLE} IN SHARE MODE")
        upgrade = beside.submit(migrate, database)
        # It has locked the opportunities, and waits for that table.
        waiting = "SELECT 1 FROM pg_locks WHERE relation = %s::regclass AND NOT granted"
        wait_until(lambda: bool(ask(waiting, VERSION_TABLE)) or upgrade.done())
        cursor.execute("LOCK TABLE opportunities IN ACCESS SHARE MODE")
        writer.rollback()
        upgrade.result(60)
    with database.session() as connection:
        assert current_version(connection) == HEAD
    assert "in a deadlock; trying again" in caplog.text
