"""What our SQL is run with: psycopg2's connection and cursor, statements that stand in files, and
the one row of a query.

A whole statement that people want to read stands in `queries/`, with a word on what it gives. What
is made of a collection's declaration, or fits on some lines, stands where it is run.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812
from psycopg2.extensions import cursor as Cursor  # noqa: N812
from psycopg2.extras import NumericRange

__all__ = ["Connection", "Cursor", "described", "one_row", "range_of_ids"]

_QUERIES = Path(__file__).parent / "queries"

_BIGINT_MAX = 2**63 - 1


@cache
def described(name: str, **parts: str) -> str:
    """The statement of `queries/<name>.sql`, without its comments, `parts` standing where that has
    their names between @. Raises KeyError where it has one that is not given."""
    text = re.sub(r"^\s*--.*\n", "", (_QUERIES / f"{name}.sql").read_text(), flags=re.MULTILINE)
    return re.sub(r"@(\w+)@", lambda found: parts[found[1]], text)


def one_row(cursor: Cursor) -> tuple[Any, ...]:
    """The one row of a query that always has one: counts, settings, what was just inserted.

    Where there may be none, `cursor.fetchone()` says so by None.
    """
    row: tuple[Any, ...] | None = cursor.fetchone()
    assert row is not None, "a query that always has a row had none"
    return row


def range_of_ids(span: tuple[int | None, int | None]) -> NumericRange:
    """`span`, both of whose ends are part of it, as an int8range.

    PostgreSQL keeps what comes after the end, and of the greatest bigint there is none: a range
    that ends there has no end.
    """
    lower, upper = span
    if lower is not None:
        lower = min(lower, _BIGINT_MAX)
    if upper is not None and upper >= _BIGINT_MAX:
        upper = None
    return NumericRange(lower, upper, "[]")
