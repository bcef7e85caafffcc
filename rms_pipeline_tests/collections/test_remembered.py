"""Members and invoices are remembered as opportunities are: each version, and any moment."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import psycopg2
import pytest

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.collections.base import Collection
from rms_pipeline.collections.invoices import INVOICES
from rms_pipeline.collections.members import MEMBERS
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.schema import migrate, upgrade_tables
from rms_pipeline.mirror.walks import watermarks
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.sync.refreshing import refresh
from rms_pipeline_tests.conftest import database_at
from rms_pipeline_tests.core import full_sync, proved_sync
from rms_pipeline_tests.rows import insert, query

MakeClient = Callable[..., CurrentRmsClient]
BOTH = pytest.mark.parametrize("collection", [MEMBERS, INVOICES], ids=lambda c: c.name)


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(Store(400)) as server:
        yield server


def client_of(
    collection: Collection, sandbox: SandboxServer, client_for: MakeClient, database: Database
) -> CurrentRmsClient:
    client = client_for(sandbox.url, collection=collection)
    client.now = database.clock()
    return client


def moment(database: Database) -> datetime:
    ((now,),) = query(database, "SELECT clock_timestamp()")
    assert isinstance(now, datetime)
    return now


def columns(collection: Collection) -> str:
    return ", ".join(("id", *(c.name for c in collection.columns), "data"))


def table_now(database: Database, collection: Collection) -> list[tuple[Any, ...]]:
    return query(database, f"SELECT {columns(collection)} FROM {collection.name} ORDER BY id")


def table_as_of(database: Database, collection: Collection, at: datetime) -> list[tuple[Any, ...]]:
    of_then = f"SELECT {columns(collection)} FROM {collection.name}_as_of(%s) ORDER BY id"
    return query(database, of_then, at)


def versions(database: Database, collection: Collection, id_: int, column: str) -> list[Any]:
    """What each version says, oldest first; None where it says that the record is gone."""
    found = query(
        database,
        f"SELECT CASE WHEN NOT deleted THEN {column} END, valid_from, valid_to"
        f" FROM {collection.history} WHERE {collection.key} = %s ORDER BY valid_from",
        id_,
    )
    assert [row[2] for row in found] == [*(row[1] for row in found[1:]), None]
    return [row[0] for row in found]


@BOTH
def test_every_moment_is_as_the_table_was(
    emptied: Database, sandbox: SandboxServer, client_for: MakeClient, collection: Collection
) -> None:
    store = sandbox.store
    table: Any = store.members if collection is MEMBERS else store.invoices
    column = "name" if collection is MEMBERS else "number"
    client = client_of(collection, sandbox, client_for, emptied)
    full_sync(emptied, client, None)
    copies = [(moment(emptied), table_now(emptied, collection))]

    def sync() -> None:
        with emptied.session() as connection:
            since = watermarks(connection, collection)
        proved_sync(emptied, client, since)
        copies.append((moment(emptied), table_now(emptied, collection)))

    edited, gone, *_ = (record["id"] for record in table.all())
    first = {record["id"]: record[column] for record in table.all()}
    sync()
    table.edit(edited, {column: "Second"})
    created = table.create({column: "New"})["id"]
    sync()
    table.edit(edited, {column: "Third"})
    table.delete(gone)
    sync()
    # A single record that is asked for counts as well.
    table.edit(edited, {column: "Fourth"})
    refresh(emptied, client, [edited], "run")
    copies.append((moment(emptied), table_now(emptied, collection)))
    assert len({len(copy) for _, copy in copies}) > 1
    for at, copy in copies:
        assert table_as_of(emptied, collection, at) == copy
    assert versions(emptied, collection, edited, column) == [
        *(first[edited], "Second", "Third", "Fourth")
    ]
    assert versions(emptied, collection, gone, column) == [first[gone], None]
    assert versions(emptied, collection, created, column) == ["New"]
    one = f"SELECT {column} FROM {collection.single}_as_of(%s, %s)"
    assert query(emptied, one, edited, copies[2][0]) == [("Second",)]
    assert query(emptied, one, gone, copies[-1][0]) == []
    # What did not change has no version besides the one that is open.
    ended = query(emptied, f"SELECT DISTINCT {collection.key} FROM {collection.past} ORDER BY 1")
    assert {id_ for (id_,) in ended} == {edited, gone}


def test_signed_links_to_a_members_picture_make_no_version(
    emptied: Database, sandbox: SandboxServer, client_for: MakeClient
) -> None:
    sandbox.switches = sandbox.switches.turned(b'{"signed_links": true}')
    client = client_of(MEMBERS, sandbox, client_for, emptied)
    for run in ("first", "second"):
        full_sync(emptied, client, None, run)
    assert query(emptied, "SELECT count(*) FROM member_past") == [(0,)]


@BOTH
def test_the_history_begins_with_the_first_record_and_says_so_of_what_was_before(
    database: Database, sandbox: SandboxServer, client_for: MakeClient, collection: Collection
) -> None:
    ask = f"SELECT count(*) FROM {collection.name}_as_of(%s)"
    with pytest.raises(psycopg2.errors.InvalidParameterValue, match="no history"):
        query(database, ask, moment(database))
    before = moment(database)
    full_sync(database, client_of(collection, sandbox, client_for, database), None)
    with pytest.raises(psycopg2.errors.InvalidParameterValue, match="begins on"):
        query(database, ask, before)
    ((rows,),) = query(database, f"SELECT count(*) FROM {collection.name}")
    assert query(database, ask, moment(database)) == [(rows,)]


def test_an_upgrade_begins_the_history_of_what_is_there_and_of_nothing_else(
    empty_url: str,
) -> None:
    database = database_at(empty_url)
    upgrade_tables(database, "0032")
    insert(database, "members", [{"id": 1, "name": "Before", "data": {"id": 1, "name": "Before"}}])
    gone = {"id": 2, "name": "Gone", "deleted_at": moment(database), "deleted_because": "gone"}
    insert(database, "deleted_members", [gone | {"data": {"id": 2, "name": "Gone"}}])
    before = moment(database)
    migrate(database)
    after = moment(database)
    chain = "SELECT member_id, deleted, valid_from > %s, valid_to FROM member_history ORDER BY 1"
    assert query(database, chain, before) == [(1, False, True, None), (2, True, True, None)]
    assert query(database, "SELECT id, name FROM members_as_of(%s)", after) == [(1, "Before")]
    for name, at in (("members", before - timedelta(days=1)), ("invoices", after)):
        with pytest.raises(psycopg2.errors.InvalidParameterValue):
            query(database, f"SELECT count(*) FROM {name}_as_of(%s)", at)


def test_every_collection_that_remembers_has_a_view_and_functions_of_its_own(
    migrated: Database,
) -> None:
    remembers = [c for c in COLLECTIONS if c.remembers]
    assert {"opportunities", "members", "invoices"} <= {c.name for c in remembers}
    for c in remembers:
        ((there,),) = query(
            migrated,
            "SELECT to_regclass(%s) IS NOT NULL AND to_regprocedure(%s) IS NOT NULL"
            " AND to_regprocedure(%s) IS NOT NULL",
            *(c.history, f"{c.name}_as_of(timestamptz)", f"{c.single}_as_of(bigint, timestamptz)"),
        )
        assert there, c.name
