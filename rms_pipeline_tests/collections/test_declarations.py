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
from alembic.migration import MigrationContext
from alembic.operations import Operations

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.collections.base import TIMES, Collection, Column, Kind, Modes
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.records import Row, decode_record
from rms_pipeline.current_rms.window import Window
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.merge import merge
from rms_pipeline.mirror.migrations.frozen import make_collection
from rms_pipeline.mirror.record_history import make_history
from rms_pipeline.mirror.redecode import adopt_mapping, redecode
from rms_pipeline.mirror.walks import watermarks
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline_tests.core import full_sync, proved_sync
from rms_pipeline_tests.rows import query

CATALOG = {"timestamptz": "timestamp with time zone"}
# Its name is one that nobody gives a column of the program.
STATE = Column(
    "state_of_a_test", "bigint", "Enquiry, Quotation or Order, by number.", source="state"
)


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
        query(database, "ALTER TABLE opportunities ADD COLUMN state_of_a_test bigint")
        query(database, "ALTER TABLE deleted_opportunities ADD COLUMN state_of_a_test bigint")
        query(database, "ALTER TABLE opportunity_past ADD COLUMN state_of_a_test bigint")
        # and the line.
        wider = with_columns(STATE)
        done = full_sync(database, client_for(sandbox.url, collection=wider), window, "after")
    found = dict(query(database, "SELECT id, state_of_a_test FROM opportunities"))
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
        query(database, f"ALTER TABLE {table} ADD COLUMN state_of_a_test bigint")
    wider = with_columns(STATE)
    adopt_mapping(database, wider)
    found = dict(query(database, "SELECT id, state_of_a_test FROM opportunities"))
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
    assert other.state_of_a_test == 2


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


PRODUCTS = Collection(
    name="products",
    single="product",
    says="One row for each product.",
    says_of_deleted="Products that Current RMS no longer has.",
    columns=(
        Column("name", "text", "Its name.", source="name", otherwise="Product {id}"),
        Column("weight", "numeric", "Its weight in kilograms.", source="weight"),
        Column("product_group", "text", "The name of its group.", source="product_group.name",
               index="ascending"),
        Column("active", "boolean", "Whether it is in use.", source="active"),
        *TIMES,
    ),
    modes=Modes("all", "inactive", "active", frozenset({False}), frozenset({True})),
    remembers=True,
)  # fmt: skip


def migration_of(collection: Collection) -> None:
    """What a migration that adds the collection does."""
    order = {"ascending": "", "descending": " DESC"}
    make_collection(
        collection.name,
        collection.single,
        {c.name: f"{c.kind}{' NOT NULL' * c.is_required}" for c in collection.columns},
        indexes=[f"{c.name}{order[c.index]}" for c in collection.columns if c.index],
        remembers=collection.remembers,
    )


def execute_migration(database: Database, migrates: Callable[[], None]) -> None:
    """Runs it as Alembic does."""
    engine = database.engine()
    with engine.begin() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table_schema": database.schema}
        )
        with Operations.context(context):
            migrates()
    engine.dispose()


def test_a_new_collection_is_a_declaration_and_a_migration_and_has_all_that_others_have(
    database: Database, client_for: Callable[..., CurrentRmsClient]
) -> None:
    execute_migration(database, lambda: migration_of(PRODUCTS))
    with database.session() as connection:
        make_history(connection, PRODUCTS)
    products = "SELECT id, name, product_group, data FROM products ORDER BY id"
    with SandboxServer(Store(12)) as sandbox:
        client = client_for(sandbox.url, collection=PRODUCTS)
        client.now = database.clock()
        done = full_sync(database, client, None)
        assert done.settled.certificate.shown, done.settled.certificate.sentence
        # Those that are out of use, too.
        of_the_account = sandbox.store.products.all()
        assert query(database, products) == [
            (r["id"], r["name"], r["product_group"]["name"], r) for r in of_the_account
        ]
        gone, edited = (r["id"] for r in of_the_account[:2])
        sandbox.store.products.delete(gone)
        sandbox.store.products.edit(edited, {"name": "Another name"})
        with database.session() as connection:
            since = watermarks(connection, PRODUCTS)
        _, _, proof = proved_sync(database, client, since)
    assert proof is not None
    assert proof.shown, proof.sentence
    assert query(database, "SELECT id FROM deleted_products") == [(gone,)]
    assert query(database, "SELECT name FROM products WHERE id = %s", edited) == [("Another name",)]
    names = "SELECT name FROM product_history WHERE product_id = %s ORDER BY valid_from"
    assert query(database, names, edited) == [(of_the_account[1]["name"],), ("Another name",)]


@pytest.mark.parametrize("single", ["member", "invoice", "opportunity_item"])
def test_a_migration_makes_the_tables_of_a_collection_as_they_are_now(
    database: Database, single: str
) -> None:
    (collection,) = (c for c in COLLECTIONS if c.single == single)
    copy = replace(collection, name=f"other_{collection.name}", single=f"other_{single}")
    execute_migration(database, lambda: migration_of(copy))

    def shape(of: Collection) -> list[tuple[Any, ...]]:
        columns = query(
            database,
            "SELECT t.i, attname, format_type(atttypid, atttypmod), attnotnull,"
            " pg_get_expr(adbin, adrelid)"
            " FROM unnest(%s::regclass[]) WITH ORDINALITY AS t (oid, i)"
            " JOIN pg_attribute a ON attrelid = t.oid AND attnum > 0 AND NOT attisdropped"
            " LEFT JOIN pg_attrdef d ON adrelid = t.oid AND adnum = attnum"
            " WHERE attname <> %s",
            [of.name, of.deleted, of.versions, of.past],
            of.key,
        )
        objects = query(
            database,
            "SELECT t.i, 'trigger', tgname, tgtype, '' FROM unnest(%s::regclass[])"
            " WITH ORDINALITY AS t (oid, i) JOIN pg_trigger ON tgrelid = t.oid UNION ALL"
            " SELECT t.i, 'index', replace(substring(pg_get_indexdef(indexrelid) FROM"
            " 'USING .*'), %s, 'key'), 0, '' FROM unnest(%s::regclass[])"
            " WITH ORDINALITY AS t (oid, i) JOIN pg_index ON indrelid = t.oid",
            [of.name, of.deleted, of.versions, of.past],
            of.key,
            [of.name, of.deleted, of.versions, of.past],
        )
        return sorted(map(repr, columns + objects))  # type: ignore[arg-type]

    assert shape(copy) == shape(collection)
