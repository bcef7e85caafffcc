"""What our SQL is run with: psycopg2's connection and cursor, and the one row of a query."""

from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812
from psycopg2.extensions import cursor as Cursor  # noqa: N812

__all__ = ["Connection", "Cursor", "one_row"]


def one_row(cursor: Cursor) -> tuple[Any, ...]:
    """The one row of a query that always has one: counts, settings, what was just inserted.

    Where there may be none, `cursor.fetchone()` says so by None.
    """
    row: tuple[Any, ...] | None = cursor.fetchone()
    assert row is not None, "a query that always has a row had none"
    return row
