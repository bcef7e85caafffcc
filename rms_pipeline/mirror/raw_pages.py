"""Pages of the API, landed as received before anything interprets them."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg2 import Binary
from psycopg2.extensions import connection as Connection  # noqa: N812
from psycopg2.extras import NumericRange

KEPT_WALKS = 3


@dataclass(frozen=True, slots=True)
class RawPage:
    """One answer of the API: `body` is what came over the wire (uncompressed JSON).

    `covers` is the range of ids `(lower, upper)` the page is the whole truth about, both ends
    included, None for unbounded; None itself when it proves no range.
    """

    page: int
    segment: str
    request: str
    body: bytes
    asked_at: datetime
    answered_at: datetime
    api_date: datetime | None
    record_ids: Sequence[int]
    record_count: int
    covers: tuple[int | None, int | None] | None
    window: tuple[datetime, datetime]


def land_page(connection: Connection, run: str, page: RawPage) -> None:
    """Stores `page` of `run` and commits. The same page of the same run replaces itself."""
    covers = None
    if page.covers is not None:
        covers = NumericRange(page.covers[0], page.covers[1], "[]")
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO raw_rms_pages (run, page, segment, request, asked_at, fetched_at,"
            " api_date, record_count, record_ids, covers, window_start, window_end,"
            " size_bytes, body)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s::bigint[], %s::int8range, %s, %s, %s, %s)"
            " ON CONFLICT (run, page) DO UPDATE SET segment = excluded.segment,"
            " request = excluded.request, asked_at = excluded.asked_at,"
            " fetched_at = excluded.fetched_at, api_date = excluded.api_date,"
            " record_count = excluded.record_count, record_ids = excluded.record_ids,"
            " covers = excluded.covers, window_start = excluded.window_start,"
            " window_end = excluded.window_end, size_bytes = excluded.size_bytes,"
            " body = excluded.body",
            (
                run,
                page.page,
                page.segment,
                page.request,
                page.asked_at,
                page.answered_at,
                page.api_date,
                page.record_count,
                list(page.record_ids),
                covers,
                *page.window,
                len(page.body),
                Binary(zlib.compress(page.body, 1)),
            ),
        )
    connection.commit()


@dataclass(frozen=True, slots=True)
class StoredPage:
    """A landed page read back; `body` as received."""

    page: int
    segment: str
    body: bytes
    asked_at: datetime
    answered_at: datetime
    window: tuple[datetime, datetime]


def read_pages(connection: Connection, run: str) -> Iterator[StoredPage]:
    """The pages of `run` in the order they were landed, one in memory at a time."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT page FROM raw_rms_pages WHERE run = %s ORDER BY page", (run,))
        numbers = [row[0] for row in cursor.fetchall()]
        for number in numbers:
            cursor.execute(
                "SELECT segment, body, asked_at, fetched_at, window_start, window_end"
                " FROM raw_rms_pages"
                " WHERE run = %s AND page = %s",
                (run, number),
            )
            row = cursor.fetchone()
            connection.commit()
            if row is not None:
                segment, body, asked, answered, start, end = row
                yield StoredPage(
                    number, segment, zlib.decompress(body), asked, answered, (start, end)
                )


def count_distinct_records(connection: Connection, run: str) -> int:
    """How many different ids the pages of `run` hold."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(DISTINCT r) FROM raw_rms_pages, unnest(record_ids) AS r WHERE run = %s",
            (run,),
        )
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def count_pages(connection: Connection, run: str) -> tuple[int, int]:
    """Pages and records (repeats included) that `run` has landed."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*), coalesce(sum(record_count), 0) FROM raw_rms_pages WHERE run = %s",
            (run,),
        )
        row = cursor.fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


def prune_walks(connection: Connection, keep: int = KEPT_WALKS) -> int:
    """Forgets the pages of all walks but the newest `keep`. Returns how many pages went."""
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM raw_rms_pages WHERE run NOT IN"
            " (SELECT run FROM raw_rms_pages GROUP BY run ORDER BY max(id) DESC LIMIT %s)",
            (keep,),
        )
        gone = cursor.rowcount
    connection.commit()
    return gone


def newest_run_with_pages(connection: Connection) -> str | None:
    """The run that landed pages last, for decoding again without asking the API."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT run FROM raw_rms_pages ORDER BY id DESC LIMIT 1")
        row = cursor.fetchone()
    return str(row[0]) if row else None
