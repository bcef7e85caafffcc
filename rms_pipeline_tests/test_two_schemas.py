"""Two accounts in one database, each in a schema of its own: neither touches the other."""

import select
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from pydantic import SecretStr

from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.mirror.budget import SharedBudget
from rms_pipeline.mirror.database import Database, DatabaseError, advisory_lock, is_locked
from rms_pipeline.mirror.obstacles import obstacles
from rms_pipeline.mirror.queue import channel
from rms_pipeline.mirror.schema import demand_tables, migrate
from rms_pipeline.mirror.sizes import OUR_TABLES, measure
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline_tests.cases import IN_DRILLS
from rms_pipeline_tests.conftest import dagsters_tables, new_database
from rms_pipeline_tests.processes import SECRET_KEY, command, environment_for, wait_until
from rms_pipeline_tests.processes import query as query_as
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.sync.conftest import Mirror
from rms_pipeline_tests.web.conftest import delivery, serving

# The second is a reserved word, which statements have to quote.
ACME, ORDER = "acme", "order"
# Relations, functions, types, and publications, by the schema they are in.
IN_PUBLIC = (
    "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace UNION ALL "
    "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace UNION ALL "
    "SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace"
)
SCHEMAS = (
    "SELECT nspname::text FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <>"
    " 'information_schema' ORDER BY 1"
)
MakeClient = Callable[..., CurrentRmsClient]


def in_schema(url: str, schema: str) -> Database:
    return Database(SecretStr(url), SecretStr(url), schema)


@pytest.fixture(scope="module")
def one(embedded_url: str) -> Iterator[str]:
    """The name of a database with the tables of the first account, to be copied."""
    with new_database(embedded_url) as url:
        with dagsters_tables(in_schema(url, ACME)):
            pass
        yield url.partition("?")[0].rpartition("/")[2]


@pytest.fixture(scope="module")
def both(embedded_url: str, one: str) -> Iterator[tuple[Database, Database]]:
    with new_database(embedded_url, one) as url:
        found = in_schema(url, ACME), in_schema(url, ORDER)
        with dagsters_tables(found[1]):
            pass
        yield found


def test_two_accounts_side_by_side_are_each_equal_to_their_own_account(
    both: tuple[Database, Database], client_for: MakeClient
) -> None:
    with ExitStack() as stack:
        mirrors = []
        for number, database in enumerate(both, 1):
            store = Store(40 + number)
            for id_ in store.ids():
                store.edit(id_, {"subject": f"{database.schema} {id_}"})
            sandbox = stack.enter_context(SandboxServer(store))
            mirrors.append(Mirror(database, sandbox, client_for))
        for mirror in mirrors:
            mirror.full_sync()
        # The second account's data must not have replaced the first one's.
        for mirror in mirrors:
            edited = mirror.store.ids()[0]
            mirror.store.edit(edited, {"subject": f"Edited for {mirror.database.schema}"})
            proof = mirror.proved_sync()
            assert proof is not None
            assert proof.shown
        for mirror in mirrors:
            schema, id_ = mirror.database.schema, mirror.store.ids()[1]
            mirror.store.edit(id_, {"subject": f"Told to {schema}"})
            client = mirror.another_client
            with serving(mirror.database, mirror.sandbox, client=client) as web:
                assert web.post(delivery(1, id_)).ok
                told = f"SELECT name FROM opportunities WHERE id = {id_}"
                wait_until(lambda w=web, t=told, s=schema: w.query(t) == [(f"Told to {s}",)])  # type: ignore[misc]
        for mirror in mirrors:
            assert mirror.differences() == {}
            mirror.close()
    assert query(both[0], IN_PUBLIC) == []
    assert [row[0] for row in query(both[0], SCHEMAS)] == sorted(
        ["acme", "dagster_acme", "dagster_order", "order", "public"]
    )


def test_everything_that_one_mirror_has_is_in_its_schema(both: tuple[Database, Database]) -> None:
    for database in both:
        inside = (
            "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'v')"
            f" AND relnamespace = '{database.schema_in_sql}'::regnamespace"
        )
        found = {row[0] for row in query(database, inside)}
        assert {*OUR_TABLES, "sync_metadata"} <= found
        with database.session() as connection:
            sizes = measure(connection)
        assert set(OUR_TABLES) <= set(sizes.tables)
        assert {n.partition(".")[0] for n in sizes.tables if "." in n} == {database.dagster_schema}


def test_a_lock_of_one_mirror_holds_up_nobody_in_the_other(
    both: tuple[Database, Database],
) -> None:
    waits: list[str] = []
    with advisory_lock(both[0], "walk"):
        assert is_locked(both[0], "walk")
        assert not is_locked(both[1], "walk")
        with advisory_lock(both[1], "walk", on_wait=lambda: waits.append("waits")):
            assert is_locked(both[1], "walk")
    assert waits == []


def test_while_one_mirror_is_migrated_the_other_is_too(both: tuple[Database, Database]) -> None:
    with advisory_lock(both[0], "migrations"), ThreadPoolExecutor(1) as pool:
        query(both[1], "COMMENT ON TABLE walks IS 'as if of an older version'")
        pool.submit(migrate, both[1]).result(timeout=30)
    described = "SELECT obj_description('walks'::regclass) <> 'as if of an older version'"
    assert query(both[1], described) == [(True,)]


def test_an_event_of_one_mirror_wakes_its_own_fast_lane_only(
    both: tuple[Database, Database],
) -> None:
    assert channel("public") == "rms_webhook_events"
    with both[0].session(session=True) as own, both[1].session(session=True) as other:
        for ear, database in ((own, both[0]), (other, both[1])):
            ear.autocommit = True
            with ear.cursor() as cursor:
                cursor.execute(f"LISTEN {channel(database.schema)}")
        query(
            both[0],
            "INSERT INTO webhook_events (action_id, subject_type, opportunity_id)"
            " VALUES (900, 'Opportunity', 1)",
        )
        select.select([own], [], [], 10)
        own.poll()
        other.poll()
        assert [notice.channel for notice in own.notifies] == ["rms_webhook_events_acme"]
        assert other.notifies == []
    query(both[0], "DELETE FROM webhook_events WHERE action_id = 900")


def test_each_mirror_has_a_budget_of_its_own(both: tuple[Database, Database]) -> None:
    calls = "SELECT coalesce((SELECT sum(n) FROM api_budget, unnest(sent) AS n), 0)::integer"
    before = [query(database, calls)[0][0] for database in both]
    budget = SharedBudget(both[0], "one-name", 120)
    try:
        budget.acquire(Lane.WALK)
    finally:
        budget.close()
    after = [query(database, calls)[0][0] for database in both]
    assert after == [before[0] + 1, before[1]]


@IN_DRILLS
def test_the_command_syncs_two_accounts_at_once_and_nothing_gets_into_public(
    embedded_url: str, one: str
) -> None:
    """The second one's first sync makes its tables meanwhile."""
    with ExitStack() as stack:
        url = stack.enter_context(new_database(embedded_url, one))
        environments = [
            environment_for(
                url,
                stack.enter_context(SandboxServer(Store(rows), api_key=SECRET_KEY)),
                RMS_SCHEMA=schema,
            )
            for schema, rows in ((ACME, 30), (ORDER, 20))
        ]
        for words in (("sync", "initial"), ("sync", "incremental"), ("refresh", "1")):
            with ThreadPoolExecutor(2) as pool:
                done = list(pool.map(lambda e, w=words: command(*w, environment=e), environments))
            assert [d.returncode for d in done] == [0, 0], [d.stderr for d in done]
        assert query_as(environments[0], IN_PUBLIC) == []
        for schema, environment in zip((ACME, ORDER), environments, strict=True):
            kinds = f'SELECT array_agg(sync_type ORDER BY started_at) FROM "{schema}".sync_metadata'
            assert query_as(environment, kinds) == [
                (["initial_sync", "incremental_sync", "webhook_refresh"],)
            ]
        found = command("doctor", environment=environments[1])
        assert "schema dagster_order" in found.stdout.replace("\n", " ")
        assert "Traceback" not in found.stderr


def test_advice_about_one_mirror_does_not_reach_the_tables_of_the_other(
    both: tuple[Database, Database],
) -> None:
    off, on = (f"ALTER TABLE webhook_events {x} TRIGGER ALL" for x in ("DISABLE", "ENABLE"))
    query(both[1], off)
    try:
        with both[0].session() as connection:
            assert obstacles(connection) == []
        with both[1].session() as connection:
            found = obstacles(connection)
    finally:
        query(both[1], on)
    # One for each of our two triggers on the table.
    assert ['SET search_path = "order";' in each.advice for each in found] == [True, True]


def test_a_schema_without_a_mirror_is_an_error_that_names_the_schemas_with_one(
    both: tuple[Database, Database],
) -> None:
    url = both[0].url
    with (
        Database(url, url, "acmee").session() as connection,
        pytest.raises(DatabaseError, match=r"other schemas: acme, order\. .*RMS_SCHEMA"),
    ):
        demand_tables(connection)
    assert ("acmee",) not in query(both[0], SCHEMAS)


def test_a_schema_that_may_not_be_created_is_asked_for_in_one_sentence(empty_url: str) -> None:
    role = f"mirror_{uuid.uuid4().hex}"
    administrator = in_schema(empty_url, "public")
    query(administrator, f"CREATE ROLE {role} LOGIN")
    try:
        url = SecretStr(empty_url.replace("postgresql://postgres:@", f"postgresql://{role}:@"))
        asks = f'CREATE SCHEMA "order" AUTHORIZATION {role};'
        with pytest.raises(
            DatabaseError, match="has no right to create the schema order"
        ) as caught:
            migrate(Database(url, url, ORDER))
        assert asks in str(caught.value)
        # What it asks for is what it needs.
        query(administrator, asks)
        migrate(Database(url, url, ORDER))
    finally:
        query(administrator, f"DROP OWNED BY {role}")
        query(administrator, f"DROP ROLE {role}")
