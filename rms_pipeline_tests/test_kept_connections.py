"""Connections that tests reuse are as new, whatever the session before did."""

import pytest

from rms_pipeline.mirror.database import Database
from rms_pipeline_tests.kept_connections import kept_connections, may_change_session

STATE = (
    "SELECT current_setting('work_mem'), current_setting('search_path'), current_user::text,"
    " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),"
    " (SELECT count(*) FROM pg_listening_channels()),"
    " (SELECT count(*) FROM pg_cursors WHERE name = 'mine'),"
    " (SELECT count(*) FROM pg_class WHERE relpersistence = 't' AND relkind = 'r')"
)


@pytest.mark.parametrize(
    "statement",
    [
        "SET work_mem = 77777",
        "SELECT 1; set search_path = pg_catalog",
        "SELECT set_config('work_mem', '77777', false)",
        "-- with a remark\n SET ROLE pg_monitor",
        "SELECT pg_advisory_lock(7)",
        "SELECT pg_try_advisory_lock_shared(7)",
        "LISTEN mine",
        "DECLARE mine CURSOR WITH HOLD FOR SELECT 1",
        "CREATE TEMP TABLE mine (id bigint)",
        "CREATE TABLE pg_temp.mine (id bigint)",
        "DO $$ BEGIN PERFORM set_config('work_mem', '77777', false); END $$",
    ],
)
def test_what_a_session_changed_is_not_there_in_the_next_one(
    migrated: Database, statement: str
) -> None:
    def state(before: str = "SELECT 1") -> list[tuple[object, ...]]:
        with migrated.session() as connection, connection.cursor() as cursor:
            cursor.execute(before)
            connection.commit()
            cursor.execute(f"SELECT pg_backend_pid(); {STATE}")
            return cursor.fetchall()

    with kept_connections():
        new = state()
        assert state(statement) != new
        assert state() == new


def test_a_session_of_ordinary_statements_leaves_nothing_to_put_back() -> None:
    for statement in (
        "SELECT id FROM opportunities",
        "UPDATE opportunities SET name = 'x'",
        "INSERT INTO walks (kind) VALUES (1) ON CONFLICT DO NOTHING",
        "SET LOCAL lock_timeout = '1s'",
        "SELECT pg_advisory_xact_lock(1)",
    ):
        assert not may_change_session(statement)
