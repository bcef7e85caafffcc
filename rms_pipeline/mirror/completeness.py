"""What the mirror holds of each list that the API can count.

Segments have the names of `current_rms.window`. A span is a range of ids, or of milliseconds since
1970 (UTC) if rows are found by `created_at`.
"""

from collections.abc import Collection as Ids
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.records import Record
from rms_pipeline.current_rms.spans import Span
from rms_pipeline.mirror.statements import Connection

_SEGMENTS = {
    "all": "true",
    "dated": "starts_at <= %(end)s AND ends_at >= %(start)s",
    "undated": "(starts_at IS NULL OR ends_at IS NULL)",
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
    """Rows of `collection` in `segment` of `window` (None: all rows), without the ids `apart`.

    They are found by `key` ("id" or "created_at").
    """

    collection: Collection
    segment: str
    window: tuple[datetime, datetime] | None
    key: str = "id"
    apart: Ids[int] = ()

    def count(self, connection: Connection, span: Span = (None, None)) -> int:
        return int(self._rows(connection, "count(*)", span)[0][0])

    def ids(self, connection: Connection, span: Span) -> set[int]:
        return {row[0] for row in self._rows(connection, "id", span)}

    def among(self, connection: Connection, ids: Ids[int]) -> set[int]:
        """Return those of `ids` that have such a row."""
        wanted = list(ids)
        if not wanted:
            return set()
        found = self._rows(connection, "id", (None, None), " AND id = ANY(%(among)s)", among=wanted)
        return {row[0] for row in found}

    def middle(self, connection: Connection, span: Span, share: float = 0.5) -> int | None:
        """Return the key up to which that `share` of the rows of `span` lie, or None without
        rows.
        """
        key = _KEYS[self.key]
        place = f"percentile_disc(%(share)s) WITHIN GROUP (ORDER BY {key})"
        found = self._rows(connection, place, span, share=share)[0][0]
        return None if found is None else int(found)

    def _rows(
        self, connection: Connection, what: str, span: Span, further: str = "", **values: object
    ) -> list[tuple[Any, ...]]:
        key, (lower, upper) = _KEYS[self.key], span
        conditions = [_SEGMENTS[self.segment]]
        if lower is not None:
            conditions.append(f"{key} >= %(lower)s")
        if upper is not None:
            conditions.append(f"{key} <= %(upper)s")
        if self.apart:
            conditions.append("id <> ALL(%(apart)s)")
        values |= {
            "start": self.window and self.window[0],
            "end": self.window and self.window[1],
            "lower": lower,
            "upper": upper,
            "apart": list(self.apart),
        }
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT {what} FROM {self.collection.name}"
                f" WHERE {' AND '.join(conditions)}{further}",
                values,
            )
            found = cursor.fetchall()
        connection.commit()
        return found


def ids_at_the_edges(
    connection: Connection,
    collection: Collection,
    window: tuple[datetime, datetime],
    margin: timedelta,
) -> set[int]:
    """Return rows that end within `margin` of the start of `window`, or start within `margin` of
    its end. Commits.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT id FROM {collection.name}"
            " WHERE ends_at BETWEEN %(start)s - %(margin)s AND %(start)s + %(margin)s"
            " OR starts_at BETWEEN %(end)s - %(margin)s AND %(end)s + %(margin)s",
            {"start": window[0], "end": window[1], "margin": margin},
        )
        found = {row[0] for row in cursor.fetchall()}
    connection.commit()
    return found


def refused_ids(connection: Connection, collection: Collection) -> set[int]:
    """Return ids whose newest record PostgreSQL refused: they have no row, or an older one.
    Commits.
    """
    return _ids(
        connection,
        "SELECT DISTINCT f.opportunity_id FROM sync_faults f WHERE f.field = '(record)'"
        " AND f.collection = %s"
        " AND f.opportunity_id IS NOT NULL AND NOT EXISTS"
        f" (SELECT FROM {collection.versions} v WHERE v.id = f.opportunity_id"
        " AND v.asked_at > f.seen_at)",
        collection.name,
    )


def some_other_row(connection: Connection, collection: Collection, ids: Ids[int]) -> list[int]:
    """Return the id of the oldest row that is none of `ids`, if there is one. Commits.

    It is read from a table that only this program locks, so that a refresh does not wait for
    others.
    """
    found = _ids(
        connection,
        f"SELECT id FROM {collection.versions} WHERE NOT deleted AND id <> ALL(%s)"
        " ORDER BY id LIMIT 1",
        list(ids),
    )
    return sorted(found)


def known_as_gone(connection: Connection, collection: Collection, ids: Ids[int]) -> set[int]:
    """Return those of `ids` that are gone by the newest information about them. Commits."""
    return _ids(
        connection,
        f"SELECT id FROM {collection.versions} WHERE deleted AND id = ANY(%s)",
        list(ids),
    )


def ids_with_unreadable_dates(connection: Connection, collection: Collection) -> set[int]:
    """Return rows whose dates came but could not be read. Only the API knows their list.
    Commits.
    """
    if not collection.has_window:
        return set()
    return _ids(
        connection,
        f"SELECT DISTINCT f.opportunity_id FROM sync_faults f JOIN {collection.name} o"
        " ON o.id = f.opportunity_id WHERE f.field IN ('starts_at', 'ends_at')"
        " AND f.collection = %s AND (o.starts_at IS NULL OR o.ends_at IS NULL)",
        collection.name,
    )


def fetched_singly(
    connection: Connection, collection: Collection, ids: Ids[int], seconds: float
) -> set[int]:
    """Return those of `ids` that were asked for singly in the last `seconds`. Commits."""
    return _ids(
        connection,
        "SELECT DISTINCT seen FROM raw_rms_pages, unnest(record_ids) AS seen"
        " WHERE segment = 'by_id' AND request LIKE %s AND seen = ANY(%s)"
        " AND fetched_at > clock_timestamp() - make_interval(secs => %s)",
        f"/{collection.name}/%",
        list(ids),
        seconds,
    )


def unlisted(connection: Connection, collection: Collection, ids: Ids[int]) -> set[int]:
    """Return those of `ids` that no list is known to have shown when they last came. Commits.

    That a list lacks one of these says nothing.
    """
    listed = _ids(
        connection,
        f"SELECT DISTINCT v.id FROM {collection.versions} v JOIN raw_rms_pages p"
        " ON p.asked_at = v.asked_at AND p.collection = %s AND p.request NOT LIKE %s"
        " AND v.id = ANY(p.record_ids) WHERE v.id = ANY(%s)",
        *(collection.name, f"/{collection.name}/%", list(ids)),
    )
    return {*ids} - listed


def delivered_singly(connection: Connection, collection: Collection, scan: int) -> set[int]:
    """Return ids of records that make their lists fail, and that came when asked for singly.

    The walk `scan` or a later one found them. Commits.
    """
    return _ids(
        connection,
        "SELECT DISTINCT seen FROM raw_rms_pages, unnest(record_ids) AS seen"
        " WHERE collection = %s AND walk >= %s AND covers IS NOT NULL AND request LIKE %s",
        *(collection.name, scan, f"/{collection.name}/%"),
    )


def is_held(connection: Connection, collection: Collection, record: Record) -> bool:
    """Return whether the existing row stands for `record` as received, or for one with faults.

    The row's `updated_at` is then the same. Commits.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT fingerprint, updated_at_rms FROM {collection.versions}"
            " WHERE id = %s AND NOT deleted",
            (record.id,),
        )
        row = cursor.fetchone()
    connection.commit()
    if row is None:
        return False
    fingerprint, updated_at = row
    if fingerprint is None:
        return bool(updated_at == record.updated_at())
    return bytes(fingerprint) == record.fingerprint


def _ids(connection: Connection, query: str, *values: object) -> set[int]:
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        found = {row[0] for row in cursor.fetchall()}
    connection.commit()
    return found
