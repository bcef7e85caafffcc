"""Pages of the API, landed as received before anything interprets them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg2
from isal import isal_zlib  # zlib's format, four times as fast
from psycopg2 import Binary
from psycopg2.extras import NumericRange

from rms_pipeline.collections.base import Collection
from rms_pipeline.mirror.postgres_errors import DatabaseError
from rms_pipeline.mirror.statements import Connection

# Not flushed to the disk page by page: whatever rests on a page is committed after it and flushes
# it too, and one that a crash of the server takes with it before that is fetched again.
_LAND = (
    "SET LOCAL synchronous_commit = off;"
    " INSERT INTO raw_rms_pages (collection, run, walk, page, segment, request, asked_at,"
    " fetched_at, api_date, record_count, record_ids, covers, window_start, window_end,"
    " size_bytes, body)"
    " SELECT %s, %s, %s, coalesce(max(page), 0) + 1, %s, %s, %s, %s, %s, %s, %s::bigint[],"
    " %s::int8range, %s, %s, %s, %s FROM raw_rms_pages WHERE run = %s"
)


@dataclass(frozen=True, slots=True)
class RawPage:
    """One answer of the API: `body` is what came over the wire (uncompressed JSON).

    `covers` is the range of ids `(lower, upper)` the page is the whole truth about, both ends
    included, None for unbounded; None itself when it proves no range.
    """

    segment: str
    request: str
    body: bytes
    asked_at: datetime
    answered_at: datetime
    api_date: datetime | None
    record_ids: Sequence[int]
    record_count: int
    covers: tuple[int | None, int | None] | None
    window: tuple[datetime, datetime] | None


def land_page(
    connection: Connection, collection: Collection, run: str, walk: int, page: RawPage
) -> None:
    """Stores `page` of `walk` through `collection`, fetched by `run`, and commits.

    Raises DatabaseError where the table does not take it.
    """
    covers = None
    if page.covers is not None:
        covers = NumericRange(page.covers[0], page.covers[1], "[]")
    values = (
        collection.name,
        run,
        walk,
        page.segment,
        page.request,
        page.asked_at,
        page.answered_at,
        page.api_date,
        page.record_count,
        list(page.record_ids),
        covers,
        *(page.window or (None, None)),
        len(page.body),
        Binary(isal_zlib.compress(page.body, 1)),
        run,
    )
    while not _landed(connection, values):
        # Another process of the same name (there may be several web services) took the number.
        pass


def _landed(connection: Connection, values: tuple[object, ...]) -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute(_LAND, values)
            if cursor.rowcount != 1:
                raise DatabaseError(
                    "The table raw_rms_pages did not take a page: a rule or a trigger that was "
                    "added to it leaves pages out. Take that away, and run the sync again."
                )
    except psycopg2.errors.UniqueViolation:
        connection.rollback()
        return False
    connection.commit()
    return True


@dataclass(frozen=True, slots=True)
class StoredPage:
    """A landed page read back; `body` as received, `window` None where there is none."""

    segment: str
    request: str
    body: bytes
    asked_at: datetime
    answered_at: datetime
    window: tuple[datetime, datetime] | None


def page_ids(connection: Connection, walks: Sequence[int]) -> list[int]:
    """The pages of `walks` in the order they were landed, as `read_page` finds them. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM raw_rms_pages WHERE walk = ANY(%s) ORDER BY id", (list(walks),)
        )
        ids = [row[0] for row in cursor.fetchall()]
    connection.commit()
    return ids


def read_page(connection: Connection, id_: int) -> StoredPage | None:
    """One landed page, None when it was pruned meanwhile. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT segment, request, body, asked_at, fetched_at, window_start, window_end"
            " FROM raw_rms_pages WHERE id = %s",
            (id_,),
        )
        row = cursor.fetchone()
    connection.commit()
    if row is None:
        return None
    segment, request, body, asked, answered, start, end = row
    window = None if start is None or end is None else (start, end)
    return StoredPage(segment, request, isal_zlib.decompress(body), asked, answered, window)


def count_distinct_records(connection: Connection, walk: int) -> int:
    """How many different ids the pages of `walk` hold. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(DISTINCT r) FROM raw_rms_pages, unnest(record_ids) AS r WHERE walk = %s",
            (walk,),
        )
        row = cursor.fetchone()
    connection.commit()
    return int(row[0]) if row else 0


def seen_among(connection: Connection, walk: int, ids: Iterable[int]) -> set[int]:
    """Those of `ids` that the pages of `walk` hold. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT seen FROM raw_rms_pages, unnest(record_ids) AS seen"
            " WHERE walk = %s AND record_ids && %s::bigint[] AND seen = ANY(%s)",
            (walk, list(ids), list(ids)),
        )
        found = {row[0] for row in cursor.fetchall()}
    connection.commit()
    return found


def count_stored(connection: Connection, collection: Collection, walk: int) -> int:
    """How many rows the pages of `walk` speak of. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT count(*) FROM {collection.name} o JOIN"
            " (SELECT DISTINCT unnest(record_ids) AS id FROM raw_rms_pages WHERE walk = %s) seen"
            " USING (id)",
            (walk,),
        )
        row = cursor.fetchone()
    connection.commit()
    return int(row[0]) if row else 0


def count_pages(connection: Connection, walks: Sequence[int]) -> tuple[int, int]:
    """Pages and records (repeats included) that have landed for `walks`. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*), coalesce(sum(record_count), 0) FROM raw_rms_pages"
            " WHERE walk = ANY(%s)",
            (list(walks),),
        )
        row = cursor.fetchone()
    connection.commit()
    return (int(row[0]), int(row[1])) if row else (0, 0)
