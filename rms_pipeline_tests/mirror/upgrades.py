"""Databases as earlier versions of this program left them."""

from collections.abc import Callable, Iterable, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.script import ScriptDirectory

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.mirror import schema
from rms_pipeline.mirror.database import Database
from rms_pipeline_tests.rows import asking

MIGRATIONS = Path(schema.__file__).with_name("migrations")


def versions() -> list[str]:
    """Return all versions of the schema, the first one first."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    walked = ScriptDirectory.from_config(config).walk_revisions()
    return [script.revision for script in walked][::-1]


def _day(n: int) -> date:
    return date(2026, 6, 1) + timedelta(n - 1)


# The value of each type in row `n`. A missing type raises a KeyError with its name.
_SAMPLES: dict[str, Callable[[int], str]] = {
    "bigint": lambda n: f"{n}",
    "integer": lambda n: f"{n}",
    "numeric": lambda n: f"{n}.50",
    "double precision": lambda n: f"0.{n}",
    "boolean": lambda n: "false",
    "text": lambda n: f"'text {n}'",
    "bytea": lambda n: f"'\\x{n:04x}'",
    "jsonb": lambda n: "'{}'",
    "date": lambda n: f"'{_day(n)}'",
    "timestamp with time zone": lambda n: f"'{_day(n)} 12:00:00Z'",
    "int8range": lambda n: f"'[{n}0,{n}9]'",
    "bigint[]": lambda n: f"'{{{n}}}'",
    "integer[]": lambda n: f"'{{{n}}}'",
    "tsvector": lambda n: f"'word{n}'",
    "text[]": lambda n: f"'{{run {n}}}'",
    "timestamp with time zone[]": lambda n: f"'{{{_day(n)} 12:00:00Z}}'",
}
# Columns that need a special text or number.
_MEANT: dict[tuple[str, str], Callable[[int], str]] = {
    ("opportunities", "data"): lambda n: f"""'{{"id": {n}, "subject": "text {n}"}}'""",
    ("deleted_opportunities", "id"): lambda n: f"1000 + {n}",
    ("deleted_opportunities", "data"): lambda n: f"""'{{"id": {1000 + n}, "subject": "text"}}'""",
    ("raw_rms_pages", "run"): lambda n: f"'run {n}'",
    ("sync_runs", "status"): lambda n: "'completed'",
    ("walks", "kind"): lambda n: "'full'",
    ("walks", "certificate"): lambda n: "NULL",
    ("walks", "deletions"): lambda n: "NULL",
    ("walks", "audit"): lambda n: "NULL",
    ("webhook_events", "subject_type"): lambda n: "'Opportunity'",
    ("required_fields", "phase"): lambda n: "'open'",
    **{
        (collection.past, "valid_from"): lambda n: "'2026-05-01 12:00:00Z'"
        for collection in COLLECTIONS
        if collection.remembers
    },
}
# Columns that an upgrade computes from the record. Their test value is not kept.
_DERIVED = {
    table: ["id", "data", "synced_at", "last_webhook_at", "deleted_at", "deleted_because"]
    for table in ("opportunities", "deleted_opportunities")
} | {"opportunity_words": ["id"]}
# Tables that hold rows as soon as they exist.
_FILLED_ALREADY = (schema.VERSION_TABLE, "mirror_state", "statuses")
# Tables whose rows stand for a column of another table.
_MEANING_COLUMNS = ("promoted_fields",)
_OURS = "relnamespace = current_schema()::regnamespace AND relkind = 'r'"

Rows = dict[str, list[tuple[object, ...]]]


def filled_at(database: Database, version: str, rows: int = 3) -> dict[str, list[str]]:
    """Make the tables of `version` in an empty database, with `rows` rows in each.

    Returns the columns, by table, that an upgrade must not change.
    """
    schema.upgrade_tables(database, version)
    return fill(database, rows)


def fill(database: Database, rows: int = 3) -> dict[str, list[str]]:
    """Put `rows` rows into each existing empty table.

    Returns the columns, by table, that an upgrade must not change.
    """
    with asking(database) as ask:
        columns = _columns(ask)
        for table, types in columns.items():
            if _takes_rows(table) and not ask(f"SELECT 1 FROM {table} LIMIT 1"):
                _insert(ask, table, types, 1, rows)
        return _kept(columns)


def add(database: Database, first: int, rows: int = 3) -> tuple[dict[str, list[str]], Rows]:
    """Add `rows` rows to each existing table, numbered from `first` on.

    Returns the columns, by table, that an upgrade must not change, and their values in those rows,
    as text.
    """
    with asking(database) as ask:
        columns = _columns(ask)
        kept = _kept(columns)
        return kept, {
            table: _insert(ask, table, columns[table], first, rows, names)
            for table, names in kept.items()
        }


def columns_kept(database: Database) -> dict[str, list[str]]:
    """The columns, by table, that an upgrade has to leave as they are."""
    with asking(database) as ask:
        return _kept(_columns(ask))


def _takes_rows(table: str) -> bool:
    return table not in _FILLED_ALREADY + _MEANING_COLUMNS


def _kept(columns: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
    return {
        table: [c for c in _DERIVED.get(table, types) if c in types]
        for table, types in columns.items()
        if _takes_rows(table)
    }


def _insert(
    ask: Callable[..., list[tuple[Any, ...]]],
    table: str,
    types: Mapping[str, str],
    first: int,
    rows: int,
    names: Iterable[str] = ("*",),
) -> list[tuple[Any, ...]]:
    numbers = range(first, first + rows)
    values = (
        ", ".join(_MEANT.get((table, c), _SAMPLES[types[c]])(n) for c in types) for n in numbers
    )
    put = ask(
        f"INSERT INTO {table} ({', '.join(types)}) OVERRIDING SYSTEM VALUE"
        f" VALUES ({'), ('.join(values)}) RETURNING {_as_text(names)}"
    )
    if types.get("id") == "bigint":
        ask("SELECT setval(pg_get_serial_sequence(%s, 'id'), %s)", table, numbers[-1])
    return put


def _as_text(names: Iterable[str]) -> str:
    return ", ".join(name if name == "*" else f"{name}::text" for name in names)


def rows_of(database: Database, columns: dict[str, list[str]]) -> Rows:
    """Return all rows of these columns, as text, by table."""
    with asking(database) as ask:
        there = _columns(ask)
        return {
            table: ask(
                f"SELECT {_as_text(c for c in names if c in there[table])} FROM {table} ORDER BY 1"
            )
            for table, names in columns.items()
        }


def lost(before: Rows, after: Rows) -> Rows:
    """Rows that are not there any more as they were, by table."""
    gone = {table: [r for r in rows if r not in after[table]] for table, rows in before.items()}
    return {table: rows for table, rows in gone.items() if rows}


def _columns(ask: Callable[..., list[tuple[Any, ...]]]) -> dict[str, dict[str, str]]:
    """Return the types of columns by table. Tables that others refer to come before those."""
    found = ask(
        "SELECT c.relname, a.attname, format_type(a.atttypid, NULL) FROM pg_class c"
        f" JOIN pg_attribute a ON a.attrelid = c.oid WHERE {_OURS}"
        " AND attnum > 0 AND NOT attisdropped AND attgenerated = ''"
        " ORDER BY (SELECT count(*) FROM pg_constraint WHERE conrelid = c.oid AND contype = 'f'),"
        " relname, attnum",
    )
    columns: dict[str, dict[str, str]] = {}
    for table, column, type_ in found:
        columns.setdefault(table, {})[column] = type_
    return columns
