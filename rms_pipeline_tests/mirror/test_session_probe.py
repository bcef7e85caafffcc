"""Does a connection keep its session? Against a real server, directly and through a pooler."""

import psycopg2
import pytest
from pydantic import SecretStr

from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.session_probe import SessionProbe, probe_session
from rms_pipeline_tests.conftest import database_at, new_database
from rms_pipeline_tests.mirror.test_merge import fetch_all
from rms_pipeline_tests.pooler import transaction_pooler

pytestmark = [pytest.mark.slow, pytest.mark.new_connections]

LOCKS = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def test_a_direct_connection_keeps_locks_and_listens(each_empty_url: str) -> None:
    database = database_at(each_empty_url)
    assert probe_session(database) == SessionProbe(True, True, True)
    assert fetch_all(database, LOCKS) == [(0,)]


def test_a_transaction_pooler_is_found_out_and_no_lock_stays_behind(empty_url: str) -> None:
    with transaction_pooler(empty_url) as pooler:
        # As the pooler's own users see it: queries work, and nothing says that sessions do not.
        connection = psycopg2.connect(pooler.url)
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        connection.close()
        assert probe_session(database_at(pooler.url)) == SessionProbe(False, False, True)
        assert fetch_all(database_at(empty_url), LOCKS) == [(0,)]


def test_a_direct_address_beside_the_pooler_is_enough(empty_url: str) -> None:
    with transaction_pooler(empty_url) as pooler:
        database = Database(SecretStr(pooler.url), SecretStr(empty_url))
        assert probe_session(database) == SessionProbe(True, True, True)


def test_a_direct_address_of_another_database_is_found_out(
    empty_url: str, embedded_url: str
) -> None:
    with new_database(embedded_url) as other:
        database = Database(SecretStr(empty_url), SecretStr(other))
        assert not probe_session(database).same_database
