"""A declaration is all there is to say of a collection: the tables are as it says, and more of it
is mirrored by saying more."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.collections.base import Collection, Column, Kind
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.records import Row, decode_record
from rms_pipeline.current_rms.window import Window
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.merge import merge
from rms_pipeline.mirror.redecode import adopt_mapping, redecode
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline_tests.core import full_sync
from rms_pipeline_tests.rows import query

CATALOG = {"timestamptz": "timestamp with time zone"}
STATE = Column("state", "bigint", "Enquiry, Quotation or Order, by number.", source="state")


def with_columns(*columns: Column) -> Collection:
    """Opportunities as they are declared, and `columns` besides."""
    return replace(OPPORTUNITIES, columns=(*OPPORTUNITIES.columns, *columns))


@pytest.mark.parametrize("collection", COLLECTIONS, ids=lambda c: c.name)
@pytest.mark.parametrize("deleted", [False, True], ids=["live", "deleted"])
def test_the_migrated_tables_are_as_they_are_declared(
    migrated: Database, collection: Collection, deleted: bool
) -> None:
    name = collection.deleted if deleted else collection.name
    declared = collection.deleted_table if deleted else collection.table
    found = query(
        migrated,
        "SELECT attname, format_type(atttypid, atttypmod), attnotnull, attgenerated <> ''"
        " FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
        name,
    )
    kept_by_merge = {"id", "data", "synced_at", "last_webhook_at", "deleted_at", "deleted_because"}
    never_null = {"id", "deleted_at", "deleted_because"}
    assert sorted(found) == sorted(
        (
            column.name,
            CATALOG.get(column.kind, column.kind),
            column.is_required or column.name in never_null,
            not column.is_mapped and not column.kept and column.name not in kept_by_merge,
        )
        for column in declared
    )
    keys = query(
        migrated,
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE conrelid = %s::regclass AND contype = 'p'",
        name,
    )
    assert keys == [("PRIMARY KEY (id)",)]


@pytest.mark.parametrize("collection", COLLECTIONS, ids=lambda c: c.name)
def test_the_migrated_indexes_are_as_they_are_declared(
    migrated: Database, collection: Collection
) -> None:
    order = {"ascending": "", "descending": " DESC"}
    declared = {f"({c.name}{order[c.index]})" for c in collection.columns if c.index}
    # One on a part of the rows, or that holds more than its keys, is declared with its brackets.
    declared |= {each if each.startswith("(") else f"({each})" for each in collection.indexes}
    found = query(
        migrated,
        "SELECT substring(pg_get_indexdef(indexrelid) FROM 'USING \\w+ (.*)')"
        " FROM pg_index WHERE indrelid = %s::regclass AND NOT indisprimary",
        collection.name,
    )
    assert {text for (text,) in found} == declared


@pytest.mark.parametrize("collection", COLLECTIONS, ids=lambda c: c.name)
def test_the_tables_that_are_named_after_a_collection_are_there(
    migrated: Database, collection: Collection
) -> None:
    names = [collection.versions, collection.content]
    names += [collection.past, collection.history] if collection.remembers else []
    names += [collection.changes] if collection.noted else []
    found = query(migrated, "SELECT to_regclass(n) IS NOT NULL FROM unnest(%s) AS n", names)
    assert found == [(True,)] * len(names)


@pytest.mark.parametrize("collection", COLLECTIONS, ids=lambda c: c.name)
def test_every_column_says_what_it_holds(collection: Collection) -> None:
    for column in collection.deleted_table:
        assert column.says.endswith("."), column.name
        assert "\n" not in column.says


def test_a_new_column_is_a_line_and_a_migration_and_is_filled_for_rows_that_are_there(
    database: Database, client_for: Callable[..., CurrentRmsClient], window: Window
) -> None:
    store = Store(12)
    with SandboxServer(store) as sandbox:
        full_sync(database, client_for(sandbox.url), window, "before")
        before = query(database, "SELECT count(*) FROM opportunities")
        # The migration,
        query(database, "ALTER TABLE opportunities ADD COLUMN state bigint")
        query(database, "ALTER TABLE deleted_opportunities ADD COLUMN state bigint")
        query(database, "ALTER TABLE opportunity_past ADD COLUMN state bigint")
        # and the line.
        wider = with_columns(STATE)
        done = full_sync(database, client_for(sandbox.url, collection=wider), window, "after")
    found = dict(query(database, "SELECT id, state FROM opportunities"))
    assert [(len(found),)] == before
    assert found == {id_: store.value(id_, "state") for id_ in found}
    assert set(found.values()) - {None, 0}
    assert done.merged.result.failed == 0
    assert done.settled.certificate.shown


def test_a_new_column_is_filled_by_an_upgrade_without_the_api(
    database: Database, client_for: Callable[..., CurrentRmsClient], window: Window
) -> None:
    store = Store(12)
    with SandboxServer(store) as sandbox:
        full_sync(database, client_for(sandbox.url), window, "before")
    for table in (OPPORTUNITIES.name, OPPORTUNITIES.deleted, OPPORTUNITIES.past):
        query(database, f"ALTER TABLE {table} ADD COLUMN state bigint")
    wider = with_columns(STATE)
    adopt_mapping(database, wider)
    found = dict(query(database, "SELECT id, state FROM opportunities"))
    assert found == {id_: store.value(id_, "state") for id_ in found}
    kept = "SELECT value FROM mirror_state WHERE name = 'mapping_version'"
    assert query(database, kept) == [(str(OPPORTUNITIES.version + 1),)]


def test_each_column_and_each_correction_is_another_version_of_the_mapping() -> None:
    corrected = replace(OPPORTUNITIES, corrections=OPPORTUNITIES.corrections + 1)
    # Fifteen columns were number 2; words were another.
    assert OPPORTUNITIES.version == 2 + len(OPPORTUNITIES.columns) - 15 + 1
    assert with_columns(STATE).version == corrected.version == OPPORTUNITIES.version + 1


def test_records_of_another_version_of_the_mapping_do_not_pass_for_unchanged() -> None:
    raw = msgspec.Raw(b'{"id": 7, "state": 2}')
    one, other = decode_record(raw, OPPORTUNITIES), decode_record(raw, with_columns(STATE))
    assert isinstance(one, Row)
    assert isinstance(other, Row)
    assert one.fingerprint != other.fingerprint
    assert other.state == 2


ANYTHING = 'a "quoted", {braced} \\ text with,commas\tand\nlines, é, 🎪, NULL'


@pytest.mark.parametrize(
    ("kind", "came", "kept"),
    [
        ("text", "Hall", "Hall"),
        ("text", 12.5, "12.5"),
        ("bigint", "12", 12),
        ("bigint", 4.0, 4),
        ("numeric", "1250.10", Decimal("1250.10")),
        ("timestamptz", "2026-05-01T08:00:00Z", datetime(2026, 5, 1, 8, tzinfo=UTC)),
        ("boolean", True, True),
        ("boolean", False, False),
        ("boolean", "Yes", True),
        ("boolean", 0, False),
        ("text[]", ["agency", ANYTHING], ["agency", ANYTHING]),
        ("text[]", [], []),
        ("jsonb", {"a": [1, ANYTHING]}, {"a": [1, ANYTHING]}),
        *((kind, absent, None) for kind in ("text", "bigint", "numeric", "timestamptz", "boolean",
                                            "text[]", "jsonb") for absent in (None, "")),
    ],
)  # fmt: skip
def test_a_column_of_any_kind_holds_what_came(
    emptied: Database, kind: Kind, came: Any, kept: Any
) -> None:
    column = Column("tried", kind, "Tried.", source=("tried", "nothing"))
    wider = with_columns(column)
    for table in ("opportunities", "opportunity_past"):
        query(emptied, f"ALTER TABLE {table} ADD COLUMN tried {kind}")
    try:
        for data in ({}, {"tried": came}):
            raw = msgspec.Raw(json.dumps({"id": 7, **data}).encode())
            found = decode_record(raw, wider)
            assert isinstance(found, Row)
            assert found.faults == ()
            store(emptied, wider, raw)
        assert query(emptied, "SELECT tried FROM opportunities") == [(kept,)]
    finally:
        for table in ("opportunities", "opportunity_past"):
            query(emptied, f"ALTER TABLE {table} DROP COLUMN tried")


def store(database: Database, collection: Collection, raw: msgspec.Raw) -> None:
    from rms_pipeline.current_rms.records import read_record

    now = database.clock()()
    with database.session() as connection:
        record = read_record(raw, collection)
        done = merge(connection, collection, "run", [record], asked_at=now, answered_at=now)
    assert done.failed == 0


@pytest.mark.parametrize(
    ("kind", "came"),
    [
        ("boolean", "perhaps"),
        ("boolean", 2),
        ("boolean", [True]),
        ("text[]", "agency"),
        ("text[]", [1]),
        ("text[]", {"a": "b"}),
        ("text", {"a": "b"}),
        ("bigint", True),
    ],
)
def test_what_is_not_of_a_columns_kind_costs_its_own_field_only(kind: Kind, came: Any) -> None:
    wider = with_columns(Column("tried", kind, "Tried.", source="tried"))
    raw = msgspec.Raw(json.dumps({"id": 7, "subject": "Gala", "tried": came}).encode())
    found = decode_record(raw, wider)
    assert isinstance(found, Row)
    assert (found.tried, found.subject) == (None, "Gala")
    assert [(f.record, f.field, f.raw_value) for f in found.faults] == [
        (7, "tried", json.dumps(came))
    ]


def test_the_next_source_is_read_where_the_first_is_absent_or_at_fault() -> None:
    wider = with_columns(
        Column("tried", "numeric", "Tried.", source=("deal.price", "price", "charge_total"))
    )

    def read(**fields: Any) -> Row:
        found = decode_record(msgspec.Raw(json.dumps({"id": 7, **fields}).encode()), wider)
        assert isinstance(found, Row)
        return found

    assert read(deal={"price": "1.50"}, price="2").tried == Decimal("1.50")
    assert read(deal={"other": 1}, price="2").tried == Decimal("2")
    assert read(deal=None, price="", charge_total=3).tried == Decimal("3")
    odd = read(deal={"price": "much"}, price="2")
    assert odd.tried == Decimal("2")
    assert [(f.field, f.raw_value) for f in odd.faults] == [("deal.price", '"much"')]
    assert [f.field for f in read(deal="none", price="2").faults] == ["deal"]


@pytest.mark.parametrize(
    "columns",
    [
        (STATE, STATE),
        (Column("synced_at", "text", "Ours.", source="x"),),
        (Column("id", "text", "Ours.", source="x"),),
        (Column("deleted_because", "text", "Ours.", source="x"),),
    ],
)
def test_a_declaration_that_names_a_column_twice_is_refused(columns: tuple[Column, ...]) -> None:
    with pytest.raises(ValueError, match="more than one column"):
        with_columns(*columns)


def test_a_declaration_without_what_everything_rests_on_is_refused() -> None:
    with pytest.raises(ValueError, match="updated_at_rms"):
        replace(OPPORTUNITIES, columns=(STATE,))
    kept = tuple(c for c in OPPORTUNITIES.columns if c.name != "ends_at")
    with pytest.raises(ValueError, match="window"):
        replace(OPPORTUNITIES, columns=kept)


def test_a_field_that_is_declared_volatile_is_no_change() -> None:
    quiet = replace(OPPORTUNITIES, volatile=("looked_at", "seen"))

    def fingerprint(collection: Collection, **fields: Any) -> bytes:
        raw = msgspec.Raw(json.dumps({"id": 7, **fields}).encode())
        found = decode_record(raw, collection)
        assert isinstance(found, Row)
        return found.fingerprint

    one = fingerprint(quiet, subject="Gala", looked_at="2026-05-01", seen=1)
    assert one == fingerprint(quiet, subject="Gala", looked_at="2026-05-02")
    assert one != fingerprint(quiet, subject="Fair", looked_at="2026-05-01", seen=1)
    assert fingerprint(OPPORTUNITIES, seen=1) != fingerprint(OPPORTUNITIES, seen=2)


def test_a_column_that_postgresql_makes_itself_is_never_written(database: Database) -> None:
    made = Column("month", "bigint", "The month it starts in.")
    wider = with_columns(made)
    for table in (OPPORTUNITIES.name, OPPORTUNITIES.deleted, OPPORTUNITIES.past):
        query(
            database,
            f"ALTER TABLE {table} ADD COLUMN month bigint GENERATED ALWAYS AS"
            " (extract(month FROM starts_at AT TIME ZONE 'UTC')) STORED",
        )
    for starts in ("2026-05-01T08:00:00Z", "2026-07-01T08:00:00Z"):
        raw = msgspec.Raw(json.dumps({"id": 7, "starts_at": starts}).encode())
        store(database, wider, raw)
    assert query(database, "SELECT month FROM opportunities") == [(7,)]
    assert redecode(database, wider, "again").failed == 0
