"""What the mirror holds of each list that a full walk reads, to be compared with the API's counts.

A segment is named as in `current_rms.window`; a span is of ids, or of milliseconds since 1970 (UTC)
when rows are found by `created_at`.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812

from rms_pipeline.current_rms.spans import Span

_SEGMENTS = {
    "dated": "starts_at <= %(end)s AND ends_at >= %(start)s",
    "no_start": "starts_at IS NULL",
    "no_end": "ends_at IS NULL AND starts_at IS NOT NULL",
}
_KEYS = {
    "id": "id",
    # Whole milliseconds, rounded down, as in the API's own filter.
    "created_at": "floor(extract(epoch FROM created_at_rms) * 1000)",
}


@dataclass(frozen=True, slots=True)
class SegmentRows:
    """Rows of `opportunities` in `segment` of `window`, found by `key` ("id" or "created_at")."""

    segment: str
    window: tuple[datetime, datetime]
    key: str = "id"

    def count(self, connection: Connection, span: Span = (None, None)) -> int:
        return int(self._rows(connection, "count(*)", span)[0][0])

    def ids(self, connection: Connection, span: Span) -> set[int]:
        return {row[0] for row in self._rows(connection, "id", span)}

    def middle(self, connection: Connection, span: Span) -> int | None:
        """The key that halves the rows of `span`, None without rows."""
        key = _KEYS[self.key]
        median = f"percentile_disc(0.5) WITHIN GROUP (ORDER BY {key})"
        found = self._rows(connection, median, span)[0][0]
        return None if found is None else int(found)

    def _rows(self, connection: Connection, what: str, span: Span) -> list[tuple[Any, ...]]:
        key, (lower, upper) = _KEYS[self.key], span
        conditions = [_SEGMENTS[self.segment]]
        if lower is not None:
            conditions.append(f"{key} >= %(lower)s")
        if upper is not None:
            conditions.append(f"{key} <= %(upper)s")
        values = {
            "start": self.window[0],
            "end": self.window[1],
            "lower": lower,
            "upper": upper,
        }
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT {what} FROM opportunities WHERE {' AND '.join(conditions)}", values
            )
            found = cursor.fetchall()
        connection.commit()
        return found


def refused_ids(connection: Connection, walk: int, run: str) -> dict[str, set[int]]:
    """By segment, ids that `walk` brought but PostgreSQL refused: no row stands for them."""
    refused: dict[str, set[int]] = {}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT p.segment, f.opportunity_id FROM sync_faults f"
            " JOIN raw_rms_pages p ON p.walk = %s AND f.opportunity_id = ANY(p.record_ids)"
            " WHERE f.run = %s AND f.field = '(record)' AND f.opportunity_id IS NOT NULL"
            " AND NOT EXISTS (SELECT FROM opportunities o WHERE o.id = f.opportunity_id)",
            (walk, run),
        )
        for segment, id_ in cursor.fetchall():
            refused.setdefault(segment, set()).add(id_)
    connection.commit()
    return refused


def count_seen(connection: Connection, walk: int, segment: str) -> int:
    """Different ids on the pages of one segment of `walk`."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(DISTINCT seen) FROM raw_rms_pages, unnest(record_ids) AS seen"
            " WHERE walk = %s AND segment = %s",
            (walk, segment),
        )
        row = cursor.fetchone()
    connection.commit()
    return int(row[0]) if row else 0


def count_unreadable_dates(connection: Connection, run: str) -> int:
    """Records of `run` with unreadable dates, which we therefore file under another segment."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(DISTINCT opportunity_id) FROM sync_faults"
            " WHERE run = %s AND field IN ('starts_at', 'ends_at')",
            (run,),
        )
        row = cursor.fetchone()
    connection.commit()
    return int(row[0]) if row else 0
