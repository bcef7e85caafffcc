"""Walks of the API in the database: begun, continued, complete, settled.

A walk is complete when all its pages have landed. It is settled when its pages are merged, what it
did not see is handled, and the result was compared with the API's own count.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rms_pipeline.collections.base import Collection
from rms_pipeline.mirror.mirrored_windows import note_covered
from rms_pipeline.mirror.postgres_errors import delete_sparing
from rms_pipeline.mirror.raw_pages import forget_bodies
from rms_pipeline.mirror.statements import Connection

FULL, CHANGES, REFRESH = "full", "changes", "refresh"
KEPT_WALKS = 3
# A walk that was read may not be merged yet. The first version did not note the time of what it
# read.
_STORED = "settled_at IS NOT NULL AND watermark IS NOT NULL"
# The time from which the age of what is to be deleted counts. If the clock of the database is ahead
# by days, it is that of Current RMS: no later sync brings back what was too old for a moment.
AGES_FROM = (
    "least(now(), (SELECT watermark + interval '1 day' FROM walks"
    f" WHERE {_STORED} ORDER BY id DESC LIMIT 1))"
)

_COLUMNS = (
    "id, kind, started_at, window_start, window_end, since, watermark, completed_at, settled_at,"
    " read_by, nameless, certificate, deletions, audit, counts_believed, listed_twice"
)


@dataclass(frozen=True, slots=True)
class StoredWalk:
    """A walk. `window` is set for a full walk, `since` (the API's clock) for one over changes.

    `watermark` is the new watermark if the walk succeeds. `read_by` says how each segment was read,
    `nameless` counts records without an id in each segment, `audit` says what webhooks had missed.
    `counts_believed` means that no record came that the API's count had left out. `listed_twice`
    are ids that the API's lists contain, and count, more than once.
    """

    id: int
    kind: str
    started_at: datetime
    window: tuple[datetime, datetime] | None
    since: datetime | None
    watermark: datetime | None
    completed_at: datetime | None
    settled_at: datetime | None
    read_by: dict[str, str]
    nameless: dict[str, int]
    certificate: dict[str, Any] | None
    deletions: dict[str, Any] | None
    audit: dict[str, Any] | None
    counts_believed: bool
    listed_twice: list[int]


def begin_walk(
    connection: Connection,
    collection: Collection,
    run: str,
    kind: str,
    *,
    window: tuple[datetime, datetime] | None = None,
    since: datetime | None = None,
) -> StoredWalk:
    """Begin a new walk of `run` through `collection`. It has no pages yet. Commits."""
    start, end = window or (None, None)
    walk = _one(
        connection,
        "INSERT INTO walks (collection, kind, runs, window_start, window_end, since)"
        f" VALUES (%s, %s, ARRAY[%s], %s, %s, %s) RETURNING {_COLUMNS}",
        (collection.name, kind, run, start, end, since),
    )
    assert walk is not None
    return walk


def resume_walk(
    connection: Connection,
    collection: Collection,
    run: str,
    *,
    window: tuple[datetime, datetime] | None,
    fresh_for: timedelta,
) -> StoredWalk | None:
    """Return the unfinished full walk that `run` may continue, or None. Commits.

    It is the newest full walk, if its window is the same except for the time since, and if it has
    pages no older than `fresh_for`. Its older pages are deleted, so that their ranges are read
    again.
    """
    if fresh_for <= timedelta(0):
        return None
    same = "window_end - window_start = %s AND window_start BETWEEN %s AND %s"
    values: tuple[object, ...] = ()
    if window is None:
        same = "window_start IS NULL"
    else:
        values = (window[1] - window[0], window[0] - fresh_for, window[0] + fresh_for)
    walk = _one(
        connection,
        f"SELECT {_COLUMNS} FROM walks WHERE id = (SELECT max(id) FROM walks"
        " WHERE kind = 'full' AND collection = %s)"
        f" AND completed_at IS NULL AND {same} FOR UPDATE",
        (collection.name, *values),
    )
    if walk is None:
        return None
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM raw_rms_pages WHERE walk = %s AND asked_at < clock_timestamp() - %s",
            (walk.id, fresh_for),
        )
        cursor.execute("SELECT min(asked_at) FROM raw_rms_pages WHERE walk = %s", (walk.id,))
        row = cursor.fetchone()
    if row is None or row[0] is None:
        connection.commit()
        return None
    return _one(
        connection,
        "UPDATE walks SET runs = runs || %s::text, started_at = %s WHERE id = %s"
        f" RETURNING {_COLUMNS}",
        (run, row[0], walk.id),
    )


def covered_spans(
    connection: Connection, walk: int
) -> dict[str, list[tuple[int | None, int | None]]]:
    """Return for each segment the spans of ids that landed pages hold completely."""
    spans: dict[str, list[tuple[int | None, int | None]]] = {}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT segment, lower(s), upper(s) - 1 FROM"
            " (SELECT segment, unnest(range_agg(covers)) AS s FROM raw_rms_pages"
            " WHERE walk = %s AND covers IS NOT NULL GROUP BY segment) spans",
            (walk,),
        )
        for segment, lower, upper in cursor.fetchall():
            spans.setdefault(segment, []).append((lower, upper))
    connection.commit()
    return spans


def first_api_date(connection: Connection, walk: int) -> tuple[datetime | None, datetime | None]:
    """Return when the walk began by the API's clock, and by ours (both UTC). None without pages."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT min(api_date), min(asked_at) FROM raw_rms_pages WHERE walk = %s", (walk,)
        )
        row = cursor.fetchone()
    connection.commit()
    return (row[0], row[1]) if row else (None, None)


def clock_ahead(connection: Connection, walk: int) -> timedelta:
    """Return how far the API's clock was ahead of ours, at least zero. Zero also if it sent no
    time.
    """
    api_date, asked_at = first_api_date(connection, walk)
    if api_date is None or asked_at is None:
        return timedelta(0)
    return max(api_date - asked_at, timedelta(0))


def nameless_by_segment(connection: Connection, walk: int) -> dict[str, int]:
    """Return how many records without an id the pages hold, by segment."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT segment, sum(record_count - cardinality(record_ids)) FROM raw_rms_pages"
            " WHERE walk = %s GROUP BY segment"
            " HAVING sum(record_count - cardinality(record_ids)) > 0",
            (walk,),
        )
        return {segment: int(count) for segment, count in cursor.fetchall()}


def complete_walk(
    connection: Connection,
    walk: int,
    *,
    watermark: datetime,
    read_by: Mapping[str, str],
    nameless: Mapping[str, int],
    notes: Sequence[str],
    counts_believed: bool = True,
    listed_twice: Sequence[int] = (),
) -> StoredWalk:
    """Note that all pages of `walk` have landed. Commits."""
    found = _one(
        connection,
        "UPDATE walks SET completed_at = clock_timestamp(), watermark = %s, read_by = %s,"
        " nameless = %s, notes = %s, counts_believed = %s, listed_twice = %s::bigint[]"
        f" WHERE id = %s RETURNING {_COLUMNS}",
        (
            watermark,
            json.dumps(dict(read_by)),
            json.dumps(dict(nameless)),
            list(notes),
            counts_believed,
            list(listed_twice),
            walk,
        ),
    )
    assert found is not None
    return found


def settle_walk(
    connection: Connection,
    walk: int,
    *,
    certificate: Mapping[str, Any] | None = None,
    deletions: Mapping[str, Any] | None = None,
    audit: Mapping[str, Any] | None = None,
) -> None:
    """Note the result of `walk`. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE walks SET settled_at = clock_timestamp(), certificate = %s, deletions = %s,"
            " audit = %s WHERE id = %s",
            (_json(certificate), _json(deletions), _json(audit), walk),
        )
    note_covered(connection, walk)
    connection.commit()


def find_walk(connection: Connection, walk: int) -> StoredWalk | None:
    """Return one walk by its id."""
    return _one(connection, f"SELECT {_COLUMNS} FROM walks WHERE id = %s", (walk,))


def walk_of_run(connection: Connection, collection: Collection, *runs: str) -> StoredWalk | None:
    """Return the newest walk through `collection` on which one of `runs` worked."""
    return _one(
        connection,
        f"SELECT {_COLUMNS} FROM walks WHERE collection = %s AND runs && %s::text[]"
        " ORDER BY id DESC LIMIT 1",
        (collection.name, list(runs)),
    )


def newest_walk(
    connection: Connection,
    collection: Collection,
    *,
    kind: str | None = None,
    settled: bool = False,
) -> StoredWalk | None:
    """Return the newest complete walk (of `kind`)."""
    return _one(
        connection,
        f"SELECT {_COLUMNS} FROM walks WHERE collection = %s AND completed_at IS NOT NULL"
        " AND (%s::text IS NULL OR kind = %s) AND (NOT %s OR settled_at IS NOT NULL)"
        " ORDER BY id DESC LIMIT 1",
        (collection.name, kind, kind, settled),
    )


def kept_walks(connection: Connection, collection: Collection) -> list[int]:
    """Return all complete walks and refreshes whose pages are still stored, oldest first."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM walks w WHERE (completed_at IS NOT NULL OR kind = 'refresh')"
            " AND collection = %s AND EXISTS"
            " (SELECT FROM raw_rms_pages p WHERE p.walk = w.id) ORDER BY id",
            (collection.name,),
        )
        found = [row[0] for row in cursor.fetchall()]
    connection.commit()
    return found


def prune_walks(connection: Connection, collection: Collection, keep: int = KEPT_WALKS) -> int:
    """Delete pages of old walks, and bodies that no page uses. Returns how many pages. Commits.

    The newest `keep` complete full walks keep their pages. So does the newest full walk, which may
    be continued. Everything before the newest `keep` full walks of any result goes. So failing
    walks do not push out a complete one, and do not pile up. The walks themselves stay with what
    they proved. Pages to which people's own tables refer stay too.
    """
    full = "SELECT id FROM walks WHERE kind = 'full' AND collection = %(collection)s"
    newest = "ORDER BY id DESC LIMIT %(keep)s"
    gone, _ = delete_sparing(
        connection,
        "raw_rms_pages",
        "walk IN (SELECT id FROM walks WHERE collection = %(collection)s AND CASE kind"
        f" WHEN 'full' THEN id < (SELECT max(id) FROM ({full}) every)"
        f" AND id NOT IN ({full} AND completed_at IS NOT NULL {newest})"
        f" ELSE id < (SELECT min(id) FROM ({full} {newest}) latest) END)",
        {"keep": keep, "collection": collection.name},
        by="walk",
    )
    if gone:
        forget_bodies(connection, collection)
    return gone


def _json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value)


def _one(connection: Connection, query: str, values: tuple[object, ...]) -> StoredWalk | None:
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        row = cursor.fetchone()
    connection.commit()
    return None if row is None else _stored(row)


def _stored(row: tuple[Any, ...]) -> StoredWalk:
    id_, kind, started, start, end, *rest = row
    window = None if start is None or end is None else (start, end)
    return StoredWalk(id_, kind, started, window, *rest)


def watermarks(connection: Connection, collection: Collection, limit: int = 20) -> list[datetime]:
    """Return where an incremental sync of `collection` may start, by the API's clock, best first.

    First come incremental syncs that stored what they read, newest first, then full syncs, oldest
    first: a full sync reads only its window, and must not hide earlier changes outside it. The
    values come from our own tables, so that syncs continue after a restore of only these tables.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT watermark FROM walks WHERE {_STORED} AND kind IN ('changes', 'full')"
            " AND collection = %s"
            # By their numbers, which no clock gives: while the time of a clock that was ahead came
            # first, each sync began again where that one did.
            " ORDER BY CASE kind WHEN 'changes' THEN id END DESC NULLS LAST, id"
            " LIMIT %s",
            (collection.name, limit),
        )
        return [row[0] for row in cursor.fetchall()]


def newest_watermarks(
    connection: Connection, collection: Collection, limit: int = 20
) -> list[datetime]:
    """Return the watermarks of the last walks of `collection`, the newest walk first. Commits.

    It is for collections whose every walk also reads what changed, whatever else it reads.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT watermark FROM walks WHERE {_STORED} AND kind IN ('changes', 'full')"
            " AND collection = %s ORDER BY id DESC LIMIT %s",
            (collection.name, limit),
        )
        found = [row[0] for row in cursor.fetchall()]
    connection.commit()
    return found


def emptied_at(connection: Connection, collection: Collection) -> datetime | None:
    """Return when the last sync was stored, if a full sync left the collection without a row."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT max(settled_at) FROM walks WHERE collection = %s AND {_STORED}"
            f" AND NOT EXISTS (SELECT FROM {collection.name})"
            f" HAVING bool_or(kind = 'full')",
            (collection.name,),
        )
        row = cursor.fetchone()
    return row[0] if row else None


def has_full_sync(connection: Connection, collection: Collection) -> bool:
    """Return whether a full sync of `collection` has ever stored everything that it read."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM walks WHERE kind = 'full' AND collection = %s"
            f" AND {_STORED})",
            (collection.name,),
        )
        row = cursor.fetchone()
    return bool(row and row[0])
