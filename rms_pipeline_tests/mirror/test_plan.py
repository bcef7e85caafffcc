"""`migrate --plan` says before an upgrade what that then does, and changes nothing."""

import json
import re
import uuid
from collections.abc import Callable, Iterator
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from alembic import command as alembic
from alembic.config import Config
from pydantic import SecretStr
from sqlalchemy import Connection

from rms_pipeline.cli.migrate import show_plan
from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.collections.base import Collection
from rms_pipeline.mirror import schema
from rms_pipeline.mirror.database import Database, DatabaseError
from rms_pipeline.mirror.plan import Migration, Plan, all_migrations, plan_upgrade
from rms_pipeline.mirror.redecode import adopt_mapping
from rms_pipeline.mirror.schema import HEAD, full_sync_wanted, migrate, upgrade_tables
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.settings import load_settings, settings
from rms_pipeline_tests.cases import some_in_drills
from rms_pipeline_tests.conftest import database_at
from rms_pipeline_tests.mirror.releases import ANALYST, RELEASES, load_release
from rms_pipeline_tests.mirror.test_schema import execute, make_dagsters_tables_old
from rms_pipeline_tests.mirror.upgrades import fill, filled_at, versions
from rms_pipeline_tests.processes import SECRET_KEY, command, environment_for
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.servers import new_database, template

# Rows of these are those of the mirror itself.
_ITS_OWN = {schema.VERSION_TABLE, "mirror_state"}
_STRONGEST = {
    "AccessExclusiveLock": "altered",
    "ShareLock": "indexed",
    "ShareRowExclusiveLock": "watched",
}


def test_each_migration_says_in_a_plain_sentence_what_it_does() -> None:
    told = {m.version: m.does for m in all_migrations()}
    assert list(told) == versions()
    for version, sentence in told.items():
        assert re.fullmatch(r"[A-Z][a-z]+s [^;]{15,130}\.", sentence), (
            f"The docstring of migration {version} has to begin with a sentence for people, such "
            f"as 'Adds columns for ...': {sentence!r}"
        )
        assert ". " not in sentence, version
    assert len(set(told.values())) == len(told)


# Which migrations do what


def catalog(connection: Connection, kinds: str) -> dict[int, tuple[str, int]]:
    """Name and file of each relation of these kinds."""
    rows = connection.exec_driver_sql(
        "SELECT oid, relname, relfilenode FROM pg_class"
        f" WHERE relnamespace = current_schema()::regnamespace AND relkind IN {kinds}"
    )
    return {oid: (name, file) for oid, name, file in rows}


def columns_of(connection: Connection) -> set[tuple[str, str]]:
    rows = connection.exec_driver_sql(
        "SELECT relname, attname FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid"
        " WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' AND attnum > 0"
        " AND NOT attisdropped"
    )
    return {(table, column) for table, column in rows}


def contents(connection: Connection, tables: list[str]) -> dict[str, list[Any]]:
    """Where each row lies: another place, or another transaction, is another version of it."""
    return {
        t: [tuple(r) for r in connection.exec_driver_sql(f"SELECT ctid, xmin FROM {t} ORDER BY 1")]
        for t in tables
    }


def done_by(connection: Connection, migration: Migration) -> Migration:
    """What a migration does in fact to tables that hold rows; the transaction is left open."""
    tables, indexes = catalog(connection, "('r')"), catalog(connection, "('i')")
    columns = columns_of(connection)
    before = contents(connection, [name for name, _ in tables.values()])
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    config.attributes |= {
        "connection": connection,
        "version_table": schema.VERSION_TABLE,
        "schema": "public",
    }
    alembic.upgrade(config, migration.version)
    after = catalog(connection, "('r')")
    found: dict[str, set[str]] = {}
    for oid, mode in connection.exec_driver_sql(
        "SELECT relation, mode FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation'"
    ):
        if oid in tables and mode in _STRONGEST:
            found.setdefault(tables[oid][0], set()).add(_STRONGEST[mode])
    new_indexes = set(catalog(connection, "('i')")) - set(indexes)
    indexed = {
        tables[oid][0]
        for (oid, index) in connection.exec_driver_sql("SELECT indrelid, indexrelid FROM pg_index")
        if oid in tables and index in new_indexes
    }
    then = contents(connection, list(before))
    for oid, (name, file) in tables.items():
        words = found.setdefault(name, set())
        if name not in indexed:
            # Others wait for the lock alike, but no index is built.
            words.discard("indexed")
        if after[oid][1] != file:
            words.add("rewritten")
        elif then[name] != before[name] and name not in _ITS_OWN:
            words.add("updated")
        if "rewritten" in words:
            # A rewritten table's indexes are built anew in any case, under the strongest lock.
            words.discard("altered")
        if words & {"altered", "rewritten", "indexed"}:
            words.discard("watched")
    added: dict[str, set[str]] = {}
    for table, column in columns_of(connection) - columns:
        if table in {name for name, _ in tables.values()}:
            added.setdefault(table, set()).add(column)
    return Migration(
        migration.version,
        migration.does,
        tuple(after[oid][0] for oid in set(after) - set(tables)),
        {table: tuple(sorted(names)) for table, names in added.items()},
        {table: tuple(sorted(words)) for table, words in found.items() if words},
    )


@pytest.mark.slow
def test_each_migration_does_what_it_declares_and_nothing_else(empty_url: str) -> None:
    database = database_at(empty_url)
    first, *later = all_migrations()
    upgrade_tables(database, first.version)
    engine = database.engine()
    for migration in later:
        fill(database)
        with engine.begin() as connection:
            done = done_by(connection, migration)
            wanted = connection.exec_driver_sql(
                "SELECT value::json ->> 'because' FROM mirror_state WHERE name = 'full_sync_wanted'"
            ).scalar()
            connection.exec_driver_sql("DELETE FROM mirror_state WHERE name = 'full_sync_wanted'")
        because = f"migration {migration.version} has to declare it (see migrations/frozen.py)"
        assert {t: set(w) for t, w in done.touches.items()} == {
            t: set(w) for t, w in migration.touches.items()
        }, because
        assert {t: set(c) for t, c in done.adds.items()} == {
            t: set(c) for t, c in migration.adds.items()
        }, because
        assert set(done.makes) <= set(migration.makes), because
        assert migration.full_sync == wanted, because
    engine.dispose()


# What a plan says, and what then happens


def shape(url: str) -> list[tuple[Any, ...]]:
    """What of a database a plan could have changed: its catalog, and rows of the mirror itself."""
    database = database_at(url)
    found = query(
        database,
        "SELECT c.oid::int, relname, c.xmin::text FROM pg_class c JOIN pg_namespace n"
        " ON n.oid = relnamespace WHERE nspname NOT LIKE 'pg\\_%%' AND relkind IN ('r', 'v', 'S')"
        " ORDER BY 1",
    )
    for table in ("mirror_state", schema.VERSION_TABLE):
        if query(database, "SELECT to_regclass(%s) IS NOT NULL", table) == [(True,)]:
            found += query(database, f"SELECT *, xmin::text FROM {table} ORDER BY 1")
    return found


def table_exists(database: Database, name: str) -> bool:
    return query(database, "SELECT to_regclass(%s) IS NOT NULL", name) == [(True,)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "release", some_in_drills(RELEASES, {"0001", "0006", "0024", max(RELEASES)}.__contains__)
)
def test_what_the_plan_for_an_older_release_says_is_what_happens(
    empty_url: str, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_release(empty_url, release)
    database = database_at(empty_url)
    before = shape(empty_url)
    plan = plan_upgrade(database)
    assert shape(empty_url) == before
    assert (plan.database, plan.program) == (release, HEAD)
    assert [m.version for m in plan.migrations] == [v for v in versions() if v > release]
    assert plan.in_the_way == []
    rows = {t.table: t.rows for t in plan.touched}
    assert rows["opportunities"] == query(database, "SELECT count(*) FROM opportunities")[0][0]
    decodable = {
        collection.name: query(database, f"SELECT (SELECT count(*) FROM {collection.name})"
                               f" + (SELECT count(*) FROM {collection.deleted})")[0][0]
        for collection in COLLECTIONS if table_exists(database, collection.name)
    }  # fmt: skip
    # The number of the mapping is as high as this program's where a release decoded as it does.
    filled: dict[str, int] = {}
    if table_exists(database, "mirror_state"):
        noted = "SELECT name, value::integer FROM mirror_state WHERE name ^@ 'mapping_version'"
        filled = dict(query(database, noted))
    decodes_as_now = all(
        filled.get(f"mapping_version{c.mark}", 0) >= c.version
        for c in COLLECTIONS if decodable.get(c.name)
    )  # fmt: skip
    assert bool(plan.decoded) != decodes_as_now
    assert any(ANALYST in sentence for sentence in plan.kept)
    decoded: list[str] = []

    def note(database: Database, collection: Collection) -> None:
        decoded.append(collection.name)
        adopt_mapping(database, collection)

    monkeypatch.setattr(schema, "adopt_mapping", note)
    migrate(database)
    # What migrations make is decoded from nothing.
    assert {d.table: d.rows for d in plan.decoded} == {
        name: decodable[name] for name in decoded if name in decodable
    }
    with database.session() as connection:
        wanted = full_sync_wanted(connection)
    assert (plan.full_sync.because if plan.full_sync else None) == wanted
    after = plan_upgrade(database)
    assert after.nothing_to_do, after
    assert (after.full_sync is not None) == (wanted is not None)


def before_it_was_rewritten(url: str) -> None:
    filled_at(database_at(url), "0018")


@pytest.fixture
def older(embedded_url: str) -> Iterator[Database]:
    """With rows, and before the migration that rewrites."""
    filled = template(embedded_url, "template_0018", before_it_was_rewritten)
    with new_database(embedded_url, filled) as url:
        yield database_at(url)


@pytest.fixture
def older_url(older: Database) -> str:
    return older.url.get_secret_value()


def test_what_people_built_is_named_and_stays(older: Database, older_url: str) -> None:
    role = f"analyst_{uuid.uuid4().hex}"
    execute(
        older_url,
        f"CREATE ROLE {role}; GRANT SELECT ON opportunities TO {role};"
        "CREATE VIEW big_ones AS SELECT * FROM opportunities WHERE charge_total > 1000;"
        "CREATE MATERIALIZED VIEW few AS SELECT id FROM big_ones;"
        "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        "CREATE TRIGGER mine AFTER UPDATE ON opportunities FOR EACH ROW EXECUTE FUNCTION noted();"
        "CREATE TRIGGER other AFTER INSERT ON opportunities FOR EACH ROW EXECUTE FUNCTION noted();"
        "ALTER TABLE opportunities ADD COLUMN colour text DEFAULT 'red';"
        "CREATE PUBLICATION everything FOR TABLE opportunities, walks",
    )
    try:
        told = "\n".join(plan_upgrade(older).kept)
        for part in (
            "Views that read these tables stay: big_ones.",
            f"Grants on these tables stay, for these roles: {role}.",
            "The trigger mine on opportunities stays. It fires for rows that are decoded again.",
            "The trigger other on opportunities stays.\n",
            "added to opportunities stay, with their values: colour.",
            "The publication everything stays, and sends what changes in opportunities, walks. "
            "Add the new columns at its subscribers first, or they stop receiving: opportunities (",
        ):
            assert part in told
        migrate(older)
        execute(
            older_url, f"SET ROLE {role}; SELECT * FROM opportunities; RESET ROLE; TABLE big_ones"
        )
        assert set(query(older, "SELECT colour FROM opportunities")) == {("red",)}
    finally:
        execute(older_url, f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize(
    ("change", "told", "remedy"),
    [
        (
            "ALTER TABLE opportunities ADD COLUMN tags text",
            "Somebody added a column tags to opportunities",
            "ALTER TABLE opportunities RENAME COLUMN tags TO my_tags",
        ),
        (
            "CREATE ROLE {role}; CREATE ROLE {role}_b; DO $$ DECLARE t name; BEGIN"
            " FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP"
            " EXECUTE format('ALTER TABLE %I OWNER TO {role}_b', t); END LOOP; END $$;"
            "ALTER TABLE walks OWNER TO {role}",
            "walks belongs to {role}, and the other tables to {role}_b",
            "ALTER TABLE walks OWNER TO {role}_b",
        ),
    ],
    ids=["a column of that name", "another owner"],
)
def test_what_is_in_the_way_is_said_with_its_remedy_before_anything_changes(
    older: Database, older_url: str, change: str, told: str, remedy: str
) -> None:
    role = f"owner_{uuid.uuid4().hex[:8]}"
    execute(older_url, change.format(role=role))
    found = plan_upgrade(older).in_the_way
    assert any(told.format(role=role) in sentence for sentence in found), found
    assert any(remedy.format(role=role) in sentence for sentence in found), found
    execute(older_url, remedy.format(role=role))
    assert plan_upgrade(older).in_the_way == []
    if "ROLE" in change:
        execute(
            older_url,
            f"REASSIGN OWNED BY {role}, {role}_b TO postgres; DROP OWNED BY {role}, {role}_b;"
            f"DROP ROLE {role}, {role}_b",
        )


@pytest.mark.parametrize(
    "built",
    [
        "CREATE VIEW failed AS SELECT id FROM sync_metadata",
        "CREATE FUNCTION failed() RETURNS SETOF sync_metadata LANGUAGE sql"
        " AS 'TABLE sync_metadata'",
        "CREATE MATERIALIZED VIEW failed AS SELECT count(*) FROM sync_metadata",
    ],
    ids=["view", "function", "materialized view"],
)
def test_what_is_built_on_the_history_of_an_older_release_is_in_the_way(
    older: Database, older_url: str, built: str
) -> None:
    execute(older_url, "CREATE VIEW sync_metadata AS SELECT 'x'::text AS id, 'y'::text AS status")
    assert plan_upgrade(older).in_the_way == []
    execute(older_url, built)
    (sentence,) = plan_upgrade(older).in_the_way
    assert "failed" in sentence
    with pytest.raises(DatabaseError, match="failed"):
        migrate(older)


def test_tables_of_another_program_are_said_to_be_renamed(older: Database, older_url: str) -> None:
    execute(
        older_url,
        "CREATE TABLE statuses (dog text); CREATE VIEW invoices AS SELECT 1 AS n;"
        "CREATE TABLE funnel (dog text)",
    )
    told = "\n".join(plan_upgrade(older).kept)
    migrate(older)
    for name in ("statuses", "invoices", "funnel"):
        assert f"{name}, which another program made, is renamed to {name}_before_rms_pipeline" in (
            told
        )
        execute(older_url, f"TABLE {name}_before_rms_pipeline")


def test_the_plan_names_the_session_that_holds_a_lock(older: Database, older_url: str) -> None:
    connection = psycopg2.connect(older_url, application_name="metabase")
    try:
        connection.cursor().execute("SELECT count(*) FROM opportunities")
        told = "\n".join(plan_upgrade(older).waits_for)
        assert f"metabase (process {connection.info.backend_pid}) uses " in told
        assert "opportunities" in told
    finally:
        connection.close()
    assert plan_upgrade(older).waits_for == []


def test_readers_wait_for_tables_that_are_rewritten(older: Database) -> None:
    touched = {t.table: t for t in plan_upgrade(older).touched}
    assert touched["opportunities"].work[0] == "rewritten"
    assert touched["opportunities"].readers_wait


def test_only_writers_wait_for_a_table_that_gets_an_index(empty_url: str) -> None:
    database = database_at(empty_url)
    upgrade_tables(database, "0003")
    touched = {t.table: t for t in plan_upgrade(database).touched}
    changes = touched["opportunity_changes"]
    assert (changes.readers_wait, changes.writers_wait) == (False, True)


def test_a_plan_grows_with_the_table(older: Database) -> None:
    small = plan_upgrade(older)
    query(
        older,
        "INSERT INTO opportunities (id, name, data) SELECT n, 'x',"
        " jsonb_build_object('id', n, 'noise', repeat(md5(n::text), 30))"
        " FROM generate_series(1000, 4000) AS n",
    )
    large = plan_upgrade(older)
    assert large.seconds > small.seconds + 1
    assert large.disk_bytes > small.disk_bytes + 500_000
    assert large.decoded[0].rows == small.decoded[0].rows + 3001


def test_rows_of_an_older_mapping_are_decoded_without_any_migration(emptied: Database) -> None:
    query(emptied, "INSERT INTO opportunities (id, name, data) VALUES (1, 'x', '{\"id\": 1}')")
    query(emptied, "UPDATE mirror_state SET value = '1' WHERE name = 'mapping_version'")
    plan = plan_upgrade(emptied)
    assert (plan.migrations, [d.rows for d in plan.decoded]) == ([], [1])
    assert not plan.nothing_to_do
    migrate(emptied)
    assert plan_upgrade(emptied).nothing_to_do


@pytest.mark.parametrize(
    "damage",
    [
        "DROP VIEW funnel CASCADE",
        "DROP VIEW sync_metadata",
        "DROP VIEW opportunity_history CASCADE",
        "COMMENT ON TABLE walks IS 'x'",
        "DELETE FROM mirror_state WHERE name = 'mapping_version'",
    ],
)
def test_there_is_nothing_to_do_only_where_the_upgrade_would_do_nothing(
    database: Database, damage: str
) -> None:
    assert plan_upgrade(database).nothing_to_do
    query(database, damage)
    assert not plan_upgrade(database).nothing_to_do
    migrate(database)
    assert plan_upgrade(database).nothing_to_do


def test_a_plan_for_tables_in_another_schema_looks_there_and_nowhere_else(empty_url: str) -> None:
    execute(empty_url, "CREATE SCHEMA acme; CREATE TABLE walks (dog text)")
    url = SecretStr(empty_url)
    database = Database(url, url, "acme")
    plan = plan_upgrade(database)
    assert (plan.schema, plan.database, plan.kept) == ("acme", None, [])
    migrate(database)
    assert plan_upgrade(database).nothing_to_do
    assert plan_upgrade(database_at(empty_url)).database is None


# The command


@pytest.mark.slow
def test_the_command_says_that_nothing_is_to_be_done_and_refuses_newer_tables(
    ready_url: str,
) -> None:
    with SandboxServer(Store(1), api_key=SECRET_KEY) as sandbox:
        environment = environment_for(ready_url, sandbox)
    before = shape(ready_url)
    done = command("migrate", "--plan", environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        f"Nothing to do: the database has schema {HEAD}, the schema of this program"
    )
    assert shape(ready_url) == before
    execute(ready_url, f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'")
    done = command("migrate", "--plan", environment=environment)
    assert done.returncode == 1
    assert (
        "newer version of this program made the tables in this database (schema 9999; "
        "this version knows" in done.stderr
    )


@pytest.fixture
def planned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., str]]:
    """What the command prints for the database at a URL; it ends with `code`."""

    def run(url: str, *, as_json: bool = False, code: int = 0) -> str:
        monkeypatch.setenv("POSTGRES_URL", url)
        settings.cache_clear()
        ended = 0
        try:
            show_plan(settings(), as_json=as_json)
        except SystemExit as end:
            ended = int(str(end.code))
        assert ended == code
        return capsys.readouterr().out

    yield run
    settings.cache_clear()


@pytest.mark.slow
def test_dagsters_tables_and_what_is_built_on_the_history_are_part_of_the_plan(
    ready_url: str, planned: Callable[..., str]
) -> None:
    told = json.loads(planned(ready_url, as_json=True))
    assert told["nothing_to_do"] is True
    assert told["database"] == {"rms_schema": "public", "schema": HEAD}
    make_dagsters_tables_old(ready_url)
    execute(ready_url, "CREATE VIEW failed_syncs AS SELECT * FROM sync_metadata")
    text = planned(ready_url, code=1)
    assert "Dagster's tables are migrated, too" in text
    assert "these views depend on it: failed_syncs." in text
    execute(ready_url, "DROP VIEW failed_syncs")
    assert "The view sync_metadata is created again. Grants on it stay." in planned(ready_url)
    told = json.loads(planned(ready_url, as_json=True))
    assert told["dagster"]["migrates"] is True
    assert told["nothing_to_do"] is False


def test_the_text_names_each_migration_the_locks_the_time_the_disk_and_the_calls(
    older: Database, planned: Callable[..., str]
) -> None:
    url = older.url.get_secret_value()
    query(older, "UPDATE walks SET watermark = NULL")
    query(older, "INSERT INTO api_page_sizes VALUES ('a', 'opportunities', 2, now())"
          " ON CONFLICT DO NOTHING")  # fmt: skip
    query(older, "UPDATE api_page_sizes SET page_size = 2")
    text = planned(url)
    told = json.loads(planned(url, as_json=True))
    assert told["seconds_rest_on"] in text
    for version in versions():
        assert (f"\n  {version}  " in text) == (version > "0018")
    for part in (
        f"This database has schema 0018. rms-pipeline {version_of('rms-pipeline')} has schema",
        "  opportunities: rewritten, a new index; about 3 rows, about ",
        "Nobody can read or write these tables until the migrations end, about ",
        "Times are estimates: 20 MB rewritten, 60,000 rows updated, 150,000 rows indexed and 1,000 "
        "rows decoded a second",
        "all rows of opportunities are decoded again from their stored records, without the API: "
        "about 6 rows, about 1 s.",
        # Two pages, and the proof.
        "A full sync is needed afterwards: The database does not record when the existing rows "
        "were read. Run `rms-pipeline sync initial`. It takes about 10 calls.",
        " more disk.",
        "Dagster's tables are made.",
    ):
        assert part in text
    assert told["full_sync"]["calls"] == 10
    assert [m["version"] for m in told["migrations"]] == [v for v in versions() if v > "0018"]


def test_without_a_database_the_plan_says_so_and_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    current = load_settings(POSTGRES_URL=None)
    monkeypatch.setattr(type(current), "state_folder", tmp_path / "state")
    show_plan(current, as_json=False)
    assert "There is no database yet." in capsys.readouterr().out
    assert not (tmp_path / "state").exists()


@pytest.mark.slow
def test_a_role_that_can_only_read_is_enough_and_another_is_told_what_it_lacks(
    older: Database, older_url: str
) -> None:
    role = f"reader_{uuid.uuid4().hex}"
    execute(older_url, f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA public TO {role}")
    reader = database_at(older_url.replace("postgresql://postgres:@", f"postgresql://{role}:@"))
    try:
        with pytest.raises(DatabaseError, match=r"GRANT SELECT ON ALL TABLES IN SCHEMA public TO"):
            plan_upgrade(reader)
        execute(older_url, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
        mine, theirs = plan_upgrade(older), plan_upgrade(reader)
        assert _without_waits(theirs) == _without_waits(mine)
        migrate(older)
        assert plan_upgrade(reader).nothing_to_do
    finally:
        execute(older_url, f"DROP OWNED BY {role}; DROP ROLE {role}")


def _without_waits(plan: Plan) -> tuple[Any, ...]:
    return plan.migrations, plan.touched, plan.decoded, plan.full_sync, plan.made_again


def test_an_empty_database_gets_all_tables_and_no_advice_about_backups(
    empty_url: str,
) -> None:
    plan = plan_upgrade(database_at(empty_url))
    assert (plan.database, plan.touched, plan.decoded, plan.full_sync) == (None, [], [], None)
    assert len(plan.migrations) == len(versions())


def test_the_disk_for_new_tables_and_indexes_is_foreseen(empty_url: str) -> None:
    database = database_at(empty_url)

    def upgrade(to: str) -> tuple[int, int]:
        """What the plan says that it takes, and what it takes."""
        foreseen = plan_upgrade(database)
        (before,) = query(database, "SELECT pg_database_size(current_database())")[0]
        upgrade_tables(database, to)
        (after,) = query(database, "SELECT pg_database_size(current_database())")[0]
        foreseen.migrations = [m for m in foreseen.migrations if m.version <= to]
        foreseen.decoded = []
        return foreseen.disk_bytes, after - before

    foreseen, taken = upgrade("0043")
    assert taken / 2 < foreseen < taken * 2
    query(
        database,
        "INSERT INTO opportunities (id, name, deliver_starts_at, ends_at)"
        " SELECT n, 'x', now() + n * interval '1 minute', now() FROM generate_series(1, 20000) n",
    )
    foreseen, taken = upgrade("0044")
    assert taken > 300_000
    assert taken / 2 < foreseen < taken * 5
