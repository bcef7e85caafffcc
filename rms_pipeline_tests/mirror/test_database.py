"""Connections to the mirror's database, and the locks that are held by them."""

import contextlib
import re
import threading
import time
from collections.abc import Callable

import psycopg2
import pytest
from pydantic import SecretStr

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.defs.instance_storage import url_for_dagster
from rms_pipeline.mirror import database as databases
from rms_pipeline.mirror.changes import _action
from rms_pipeline.mirror.database import (
    Database,
    DatabaseError,
    advisory_lock,
    is_locked,
    session_settings,
)
from rms_pipeline.mirror.obstacles import obstacles
from rms_pipeline.mirror.postgres_errors import LockedError
from rms_pipeline.mirror.schema import migrate
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline_tests.conftest import dagsters_tables, database_at
from rms_pipeline_tests.pooler import transaction_pooler
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.servers import administrator, new_database, new_name, url_of
from rms_pipeline_tests.sync.conftest import Mirror

pytestmark = [pytest.mark.slow, pytest.mark.new_connections]


def test_a_lock_is_held_and_waited_for_longer_than_the_server_lets_others_wait(
    database: Database,
) -> None:
    name = query(database, "SELECT current_database()")[0][0]
    for limit in ("statement_timeout", "lock_timeout", "idle_session_timeout"):
        query(database, f"ALTER DATABASE {name} SET {limit} = '400ms'")
    order: list[str] = []

    def wait_for_it() -> None:
        with advisory_lock(database, "walk", on_wait=lambda: order.append("waits")):
            order.append("has it")

    with advisory_lock(database, "walk"):
        other = threading.Thread(target=wait_for_it)
        other.start()
        time.sleep(1.2)
        assert is_locked(database, "walk")
        order.append("gives it up")
    other.join()
    assert order == ["waits", "gives it up", "has it"]


# What an administrator may have set for a database, a role or the server. Each alone broke a sync,
# or let it store something else. (Limits are long: a machine that stands still for a while would
# meet a short one before the first statement is through.)
SETTINGS = {
    "idle_session_timeout": "1h",
    "idle_in_transaction_session_timeout": "1h",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "statement_timeout": "1h",
    "lock_timeout": "1h",
    "client_encoding": "LATIN1",
    "DateStyle": "German, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kolkata",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "search_path": "elsewhere",
    "row_security": "on",
    "session_replication_role": "replica",
    "quote_all_identifiers": "on",
    "transform_null_equals": "on",
    "array_nulls": "off",
    "gin_fuzzy_search_limit": "1",
    "jit": "on",
    "synchronous_commit": "off",
}


@pytest.fixture
def set_by_an_administrator(database: Database) -> Database:
    name = query(database, "SELECT current_database()")[0][0]
    query(database, "CREATE SCHEMA elsewhere")
    for setting, value in SETTINGS.items():
        query(database, f"ALTER DATABASE {name} SET {setting} = '{value}'")
    return database


def test_our_connections_are_as_they_should_be_whatever_an_administrator_made_the_default(
    set_by_an_administrator: Database,
) -> None:
    wanted = session_settings("public")
    assert {*SETTINGS} - {*wanted} == {"client_encoding"}
    for session in (False, True):
        with set_by_an_administrator.session(session=session) as connection:
            assert connection.encoding == "UTF8"
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT name, current_setting(name) FROM pg_settings WHERE lower(name) ="
                    " ANY(%s)",
                    ([name.lower() for name in wanted],),
                )
                found = {name.lower(): value for name, value in cursor.fetchall()}
                cursor.execute("SHOW transaction_isolation")
                assert cursor.fetchone() == ("read committed",)
        expected = {n.lower(): v for n, v in wanted.items() if n.lower() in found}
        # As the server writes it.
        assert found == {**expected, "lock_timeout": "1min"}
        assert len(found) >= len(wanted) - 1


@pytest.mark.parametrize("setting", ["remote_apply", "on", "remote_write"])
def test_commits_that_wait_for_a_replica_go_on_doing_so(database: Database, setting: str) -> None:
    name = query(database, "SELECT current_database()")[0][0]
    query(database, f"ALTER DATABASE {name} SET synchronous_commit = '{setting}'")
    assert query(database, "SHOW synchronous_commit") == [(setting,)]


def test_what_people_changed_is_told_from_names_that_the_server_quotes(
    database: Database,
) -> None:
    name = query(database, "SELECT current_database()")[0][0]
    query(database, f"ALTER DATABASE {name} SET quote_all_identifiers = on")
    with database.session() as connection:
        assert obstacles(connection) == []


def test_settings_are_made_before_a_transaction_begins_that_a_timeout_could_end(
    empty_url: str,
) -> None:
    with transaction_pooler(empty_url) as pooler:
        database_at(pooler.url).connect().close()
    assert b"SET statement_timeout = 0" in pooler.said[0]


def test_what_somebody_did_is_read_alike_in_a_database_of_any_language(
    postgresql_15_url: str,
) -> None:
    name = new_name()
    with administrator(postgresql_15_url) as run:
        run(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C.UTF-8'"
            " LOCALE_PROVIDER icu ICU_LOCALE 'tr-TR'"
        )
        try:
            (found,) = query(
                database_at(url_of(postgresql_15_url, name)),
                f"SELECT array_agg({_action(OPPORTUNITIES)}), lower('I') FROM (VALUES"
                " ('OpportunityItem', 'Update'), ('Opportunity', 'UPDATE_ITEM'))"
                " AS e (subject_type, action_type)",
            )
        finally:
            run(f"DROP DATABASE {name} WITH (FORCE)")
    told = OPPORTUNITIES.webhooks
    assert told is not None
    assert found == ([told.of_part, "update_item"], "ı")


COMPRESSION = "SELECT current_setting('default_toast_compression')"


def test_where_the_server_has_lz4_every_connection_compresses_by_it(postgresql_15_url: str) -> None:
    database = database_at(postgresql_15_url)
    assert [query(database, COMPRESSION) for _ in range(3)] == 3 * [[("lz4",)]]


def test_a_server_without_lz4_may_take_the_place_of_one_that_has_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(databases._HAS_LZ4, database.url.get_secret_value(), True)
    assert [query(database, COMPRESSION) for _ in range(2)] == 2 * [[("pglz",)]]


@pytest.mark.slow
def test_a_sync_stores_the_same_whatever_an_administrator_made_the_default(
    set_by_an_administrator: Database, client_for: Callable[..., CurrentRmsClient]
) -> None:
    store = Store(12)
    odd = store.ids()[0]
    store.edit(odd, {"subject": r"Zoë's \\ fête 🎪 \N \t '\x41'"})
    with SandboxServer(store) as sandbox, dagsters_tables(set_by_an_administrator):
        mirror = Mirror(set_by_an_administrator, sandbox, client_for)
        mirror.full_sync()
        store.edit(store.ids()[1], {"description": "1.2.2026, 01/02/2026"})
        mirror.incremental_sync()
        mirror.close()
        assert mirror.differences() == {}
        # Dagster's own tables stand in their schema, and are read in theirs.
        assert query(set_by_an_administrator, "SELECT count(*) FROM sync_metadata") == [(0,)]
        elsewhere = "SELECT relname FROM pg_class WHERE relnamespace = 'elsewhere'::regnamespace"
        assert query(set_by_an_administrator, elsewhere) == []
    assert query(
        set_by_an_administrator, "SELECT subject FROM opportunities WHERE id = %s", odd
    ) == [(store.get(odd)["subject"],)]  # type: ignore[index]


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP"])
def test_a_database_that_cannot_hold_every_text_is_refused_before_anything_is_written(
    embedded_url: str, encoding: str
) -> None:
    with new_database(embedded_url) as url:
        name = url.partition("?")[0].rpartition("/")[2]
        connection = psycopg2.connect(embedded_url)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {name}")
            cursor.execute(
                f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
            )
        connection.close()
        with pytest.raises(DatabaseError, match=f"encoded in {encoding}.*ENCODING 'UTF8'"):
            migrate(database_at(url))
        connection = psycopg2.connect(url)
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_class WHERE relnamespace ="
                           " 'public'::regnamespace")  # fmt: skip
            assert cursor.fetchall() == [(0,)]
        connection.close()


def test_what_is_set_behind_a_transaction_pooler_holds_in_every_transaction_and_reaches_nobody(
    database: Database,
) -> None:
    url = database.url.get_secret_value()
    name = query(database, "SELECT current_database()")[0][0]
    query(database, "CREATE SCHEMA elsewhere")
    query(database, f"ALTER DATABASE {name} SET search_path = elsewhere")
    query(database, f"ALTER DATABASE {name} SET datestyle = 'German'")
    looks = "SELECT current_setting('search_path'), current_setting('datestyle')"
    with transaction_pooler(url) as pooler:
        pooled = Database(SecretStr(pooler.url), SecretStr(url))
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(pooled.session()) for _ in range(4)]
            for _ in range(3):
                for connection in connections:
                    with connection.cursor() as cursor:
                        cursor.execute(looks)
                        assert cursor.fetchone() == ("public", "ISO, MDY")
                # All at once, so that each gets another server process than before.
                for connection in reversed(connections):
                    connection.commit()


def test_dagsters_tables_go_nowhere_when_there_is_only_a_transaction_pooler(
    empty_url: str,
) -> None:
    with transaction_pooler(empty_url) as pooler:
        only = database_at(pooler.url)
        with pytest.raises(DatabaseError, match="POSTGRES_URL_NON_POOLING"):
            migrate(only)
        with (
            pytest.raises(DatabaseError, match="POSTGRES_URL_NON_POOLING"),
            dagsters_tables(only),
        ):
            pass
    assert query(
        database_at(empty_url),
        "SELECT relname FROM pg_class WHERE relnamespace IN (SELECT oid FROM pg_namespace"
        " WHERE nspname IN ('public', 'dagster'))",
    ) == []  # fmt: skip


def test_a_pooler_in_statement_mode_is_told_with_what_to_do(empty_url: str) -> None:
    with (
        transaction_pooler(empty_url, "statement") as pooler,
        pytest.raises(DatabaseError, match=r"statement mode.*direct address"),
    ):
        database_at(pooler.url).connect()


def test_a_pooler_that_refuses_what_dagster_connects_with_is_told_with_what_to_do(
    empty_url: str,
) -> None:
    with transaction_pooler(empty_url, "session") as pooler:
        database = database_at(pooler.url)
        database.connect().close()
        with pytest.raises(DatabaseError, match=r"pooler.*POSTGRES_URL_NON_POOLING"):
            url_for_dagster(database)
        url_for_dagster(Database(SecretStr(pooler.url), SecretStr(empty_url)))


def test_a_wait_for_somebodys_lock_ends_and_names_the_process(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    query(database, "INSERT INTO opportunities (id, name) VALUES (1, 'One')")
    monkeypatch.setattr(databases, "LOCK_WAIT", "300ms")
    holder = psycopg2.connect(database.url.get_secret_value(), application_name="anna's psql")
    pid = holder.info.backend_pid
    for taken, wanted in (
        ("LOCK opportunities IN SHARE MODE", "UPDATE opportunities SET name = 'Two'"),
        ("SELECT FROM opportunities FOR UPDATE", "UPDATE opportunities SET name = 'Two'"),
        ("SELECT FROM opportunities", "ALTER TABLE opportunities ADD COLUMN more text"),
    ):
        with holder.cursor() as cursor:
            cursor.execute(taken)
        began = time.monotonic()
        with pytest.raises(LockedError) as caught:
            query(database, wanted)
        assert time.monotonic() - began < 5
        told = str(caught.value)
        assert f"process {pid} (user postgres, anna's psql, on opportunities" in told
        assert re.search(r"idle in transaction, its last query began \d{4}-\d\d-\d\d .* UTC", told)
        holder.rollback()
    holder.close()


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ("9" * 5_000, "9" * 5_000),
        ("-" + "9" * 5_000, "-" + "9" * 5_000),
        ("1e5000", "1" + "0" * 5_000),
        ("7", 7),
        ("1.5", 1.5),
        ("null", None),
    ],
)
def test_a_number_of_any_length_in_json_can_be_read(
    migrated: Database, stored: str, read: object
) -> None:
    for kind in ("json", "jsonb"):
        if (kind, stored) == ("json", "1e5000"):
            continue
        found = query(
            migrated,
            f"SELECT n, ARRAY[n, n], NULL::{kind} FROM"
            f" (SELECT concat('[', %s::text, ']')::{kind} AS n) x",
            stored,
        )
        assert found == [([read], [[read], [read]], None)]


def test_sessions_that_follow_each_other_share_a_connection_where_that_is_asked_for(
    database: Database,
) -> None:
    pids = []
    with database.with_one_connection() as once:
        for _ in range(3):
            with once.session() as connection:
                pids.append(connection.info.backend_pid)
        half = "INSERT INTO mirror_state VALUES ('half', 'done'); SELECT 1 / 0"
        with pytest.raises(psycopg2.errors.DivisionByZero):
            query(once, half)
        # Nothing of what failed is left, and the connection serves on.
        with once.session() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM mirror_state WHERE name = 'half'")
            assert cursor.fetchone() == (0,)
            pids.append(connection.info.backend_pid)
            # This one is in use, and a lock of a session belongs to nobody else.
            with once.session() as inner, once.session(session=True) as own:
                others = {inner.info.backend_pid, own.info.backend_pid}
            cursor.execute("INSERT INTO mirror_state VALUES ('whole', 'done')")
        assert query(database, "SELECT value FROM mirror_state WHERE name = 'whole'") == [("done",)]
    assert len({*pids}) == 1
    assert len(others - {*pids}) == 2
    assert connection.closed


def test_a_shared_connection_that_the_server_ended_is_replaced(database: Database) -> None:
    with database.with_one_connection() as once:
        ((pid,),) = query(once, "SELECT pg_backend_pid()")
        assert query(database, f"SELECT pg_terminate_backend({pid}, 10000)") == [(True,)]
        with pytest.raises(psycopg2.OperationalError):
            query(once, "SELECT 1")
        with once.session() as again, again.cursor() as cursor:
            cursor.execute("SELECT 1")
            assert cursor.fetchone() == (1,)
    assert again.closed
