"""Tools for our SQL: psycopg2's connection and cursor, statements in files, and one-row queries.

A whole statement that people want to read is a file in `queries/`, with a word on what it returns.
SQL that is generated from a declaration, or that is short, is written where it is run.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from psycopg2.extensions import connection as Connection  # noqa: N812
from psycopg2.extensions import cursor as Cursor  # noqa: N812
from psycopg2.extras import NumericRange

__all__ = [
    "Connection",
    "Cursor",
    "array_of",
    "described",
    "in_the_future",
    "one_row",
    "range_of_ids",
]

_QUERIES = Path(__file__).parent / "queries"

_BIGINT_MAX = 2**63 - 1


@cache
def described(name: str, **parts: str) -> str:
    """Return the statement of `queries/<name>.sql` without comments.

    Each name between @ is replaced by that value of `parts`. Raises KeyError if one is missing.
    """
    text = re.sub(r"^\s*--.*\n", "", (_QUERIES / f"{name}.sql").read_text(), flags=re.MULTILINE)
    return re.sub(r"@(\w+)@", lambda found: parts[found[1]], text)


def in_the_future(column: str) -> str:
    """Return the condition that the time `column` was written while the clock was ahead.

    Clocks are set right, and such a time then lies ahead for hours or years. Nothing may wait for
    it. A minute is how far the clocks of two servers may differ, after a failover.
    """
    return f"{column} > clock_timestamp() + interval '1 min'"


def one_row(cursor: Cursor) -> tuple[Any, ...]:
    """Return the row of a query that always has exactly one: counts, settings, an inserted row.

    If there may be none, use `cursor.fetchone()`, which then returns None.
    """
    row: tuple[Any, ...] | None = cursor.fetchone()
    assert row is not None, "a query that always has a row had none"
    return row


# Twenty times as fast as datetime.isoformat.
_quoted = msgspec.json.Encoder().encode


def array_of(values: Iterable[str | int | datetime | None]) -> str:
    """`values` as PostgreSQL reads an array from one text.

    A list would be written as an expression with a node for each value, and reading and planning
    those takes several times as long as finding the rows. The statement names the array's type,
    unless it compares a column with it.
    """
    return "{" + ",".join(map(_element, values)) + "}"


def _element(value: str | int | datetime | None) -> str:
    if isinstance(value, str):
        if '"' in value or "\\" in value:
            value = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{value}"'
    if value is None:
        return "NULL"
    return _quoted(value).decode() if isinstance(value, datetime) else str(value)


def range_of_ids(span: tuple[int | None, int | None]) -> NumericRange:
    """Return `span`, with both ends included, as an int8range.

    PostgreSQL stores the value after the end. The greatest bigint has none, so a range that ends
    there gets no end.
    """
    lower, upper = span
    if lower is not None:
        lower = min(lower, _BIGINT_MAX)
    if upper is not None and upper >= _BIGINT_MAX:
        upper = None
    return NumericRange(lower, upper, "[]")
