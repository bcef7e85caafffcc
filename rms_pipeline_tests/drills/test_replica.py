"""POSTGRES_URL that leads to a streaming replica, and the day on which that becomes the primary."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg2
import pytest
from pydantic import SecretStr

from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.mirror.database import Database, DatabaseError
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline_tests.conftest import POSTGRESQL_15, database_at
from rms_pipeline_tests.processes import SECRET_KEY, command, environment_for, query, wait_until
from rms_pipeline_tests.servers import installed_postgresql, replica_of, url_of
from rms_pipeline_tests.sync.conftest import Mirror

pytestmark = pytest.mark.skipif(
    not (POSTGRESQL_15 / "pg_basebackup").exists(),
    reason="no PostgreSQL 15 server is installed (Debian: apt-get install postgresql-15)",
)


class Pair:
    """A primary server with a mirror, and the replica that follows it."""

    def __init__(self, primary: str, replica: str, sandbox: SandboxServer) -> None:
        self.primary, self.replica = url_of(primary, "rms"), url_of(replica, "rms")
        first, second = (Path(url.rpartition("host=")[2]) for url in (primary, replica))
        # The replica first: that the server takes what is written decides, not the order.
        self.either = f"postgresql://postgres@/rms?host={second},{first}"
        self.sandbox = sandbox

    def environment(self, url: str) -> dict[str, str]:
        return environment_for(url, self.sandbox)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        primary = stack.enter_context(installed_postgresql())
        connection = psycopg2.connect(primary)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("CREATE DATABASE rms")
        connection.close()
        sandbox = stack.enter_context(SandboxServer(Store(30), api_key=SECRET_KEY))
        environment = environment_for(url_of(primary, "rms"), sandbox)
        done = command("sync", "initial", environment=environment)
        assert done.returncode == 0, done.stderr
        replica = stack.enter_context(replica_of(primary))
        yield Pair(primary, replica, sandbox)


def told(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    "words",
    ["sync incremental", "sync initial", "refresh 1", "rebuild", "migrate", "status", "web"],
)
def test_a_command_on_a_replica_says_in_one_sentence_that_it_is_read_only(
    pair: Pair, words: str
) -> None:
    done = command(*words.split(), environment=pair.environment(pair.replica))
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    assert "is read-only, because it is a replica" in told(done.stderr)
    assert "target_session_attrs=read-write" in told(done.stderr)


def test_the_doctor_tells_of_a_replica_and_nothing_that_follows_from_it(pair: Pair) -> None:
    done = command("doctor", environment=pair.environment(pair.replica))
    assert done.returncode == 1
    assert "is read-only, because it is a replica" in told(done.stdout)
    assert "Traceback" not in done.stderr


def test_a_replica_for_sessions_only_is_told_too(pair: Pair) -> None:
    mixed = Database(SecretStr(pair.primary), SecretStr(pair.replica))
    with pytest.raises(DatabaseError, match="is read-only, because it is a replica"):
        mixed.connect(session=True)


def test_of_several_hosts_the_primary_is_found_before_and_after_a_failover(
    pair: Pair, client_for: Callable[..., CurrentRmsClient]
) -> None:
    environment = pair.environment(f"{pair.either}&target_session_attrs=read-write")
    done = command("sync", "incremental", environment=environment)
    assert done.returncode == 0, done.stderr
    synced = "SELECT count(*) FROM sync_metadata"
    assert query({"POSTGRES_URL": pair.primary}, synced) == [(2,)]
    wait_until(lambda: query({"POSTGRES_URL": pair.replica}, synced) == [(2,)])
    query({"POSTGRES_URL": pair.replica}, "SELECT pg_promote()")
    pair.sandbox.store.edit(pair.sandbox.store.ids()[0], {"subject": "After the failover"})
    done = command("sync", "incremental", environment=environment)
    assert done.returncode == 0, done.stderr
    assert query({"POSTGRES_URL": pair.replica}, synced) == [(3,)]
    assert query({"POSTGRES_URL": pair.primary}, synced) == [(2,)]
    mirror = Mirror(database_at(pair.replica), pair.sandbox, client_for)
    assert mirror.differences() == {}
