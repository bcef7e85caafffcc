"""Pages of the API, stored as received before anything interprets them.

A full sync of an unchanged account receives the same pages byte for byte. Each time is noted, but
the body is stored once: pages name it by its digest. Pages of earlier versions contain their body,
until their walk is deleted.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

import psycopg2
from isal import isal_zlib  # zlib's format, four times as fast
from psycopg2 import Binary

from rms_pipeline.collections.base import Collection
from rms_pipeline.mirror.postgres_errors import DatabaseError, reason
from rms_pipeline.mirror.statements import Connection, range_of_ids

logger = logging.getLogger(__name__)

# Not flushed to disk page by page. Whatever relies on a page is committed after it, and that
# flushes it too. A page that is lost in a crash before that is fetched again.
_BEGIN = (
    "SET LOCAL synchronous_commit = off;"
    # One at a time among the processes of one name: there may be several web services. Each then
    # finds the next number free. None waits for another's page while that one waits for its body.
    " SELECT pg_advisory_xact_lock("
    "hashtextextended(current_schema || ' pages of ' || %(run)s, 0));"
)
_PAGE = (
    " INSERT INTO raw_rms_pages (collection, run, walk, page, segment, request, asked_at,"
    " fetched_at, api_date, record_count, record_ids, covers, window_start, window_end,"
    " size_bytes, digest)"
    " SELECT %(collection)s, %(run)s, %(walk)s,"
    " (SELECT coalesce(max(page), 0) + 1 FROM raw_rms_pages WHERE run = %(run)s),"
    " %(segment)s, %(request)s, %(asked_at)s, %(answered_at)s, %(api_date)s, %(record_count)s,"
    " %(record_ids)s::bigint[], %(covers)s::int8range, %(window_start)s, %(window_end)s,"
    " %(size)s, digest FROM raw_page_bodies"
    " WHERE collection = %(collection)s AND digest = %(digest)s"
    # So that nobody deletes the body before the page exists. This is the lock of the foreign key
    # itself, which several pages with the same body can share.
    " FOR KEY SHARE"
)
_BODY = (
    " INSERT INTO raw_page_bodies (collection, digest, body)"
    " VALUES (%(collection)s, %(digest)s, %(body)s)"
    " ON CONFLICT (collection, digest) DO NOTHING;"
)
# Each further attempt means that the body was deleted between two statements of a millisecond.
_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class RawPage:
    """One answer of the API. `body` is what came over the wire (uncompressed JSON).

    `covers` is the range of ids `(lower, upper)` that the page holds completely. Both ends are
    included, None is an open end. `covers` is None if the page proves no range.
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
    """Store `page` of `walk` through `collection`, fetched by `run`, and commit.

    The body is stored if no other page has the same one. Raises DatabaseError if the table refuses
    it.
    """
    covers = None
    if page.covers is not None:
        covers = range_of_ids(page.covers)
    start, end = page.window or (None, None)
    values = {
        "collection": collection.name,
        "run": run,
        "walk": walk,
        "segment": page.segment,
        "request": page.request,
        "asked_at": page.asked_at,
        "answered_at": page.answered_at,
        "api_date": page.api_date,
        "record_count": page.record_count,
        "record_ids": list(page.record_ids),
        "covers": covers,
        "window_start": start,
        "window_end": end,
        "size": len(page.body),
        "digest": Binary(sha256(page.body).digest()),
    }
    while not _landed(connection, values, page.body):
        # A process of an earlier version took the number. Earlier versions do not take turns.
        pass


def _landed(connection: Connection, values: dict[str, object], body: bytes) -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute(_BEGIN + _PAGE, values)
            for _ in range(_ATTEMPTS):
                if cursor.rowcount == 1:
                    break
                if "body" not in values:
                    values["body"] = Binary(isal_zlib.compress(body, 1))
                cursor.execute(_BODY + _PAGE, values)
            else:
                raise DatabaseError(
                    "The table raw_rms_pages did not store a page: a rule or a trigger that "
                    "somebody added to it, or to raw_page_bodies, discards pages. Remove that rule "
                    "or trigger, then run the sync again."
                )
    except psycopg2.errors.UniqueViolation as error:
        connection.rollback()
        if error.diag.table_name != "raw_rms_pages":
            raise
        return False
    connection.commit()
    return True


def forget_bodies(connection: Connection, collection: Collection) -> int:
    """Delete bodies that no page uses any more. Returns how many. Commits.

    If a page with one of them lands meanwhile, none is deleted until the next time.
    """
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "DELETE FROM raw_page_bodies b WHERE collection = %s AND NOT EXISTS"
                " (SELECT FROM raw_rms_pages p"
                " WHERE p.collection = b.collection AND p.digest = b.digest)",
                (collection.name,),
            )
            gone = cursor.rowcount
    except psycopg2.errors.IntegrityError as error:
        connection.rollback()
        logger.info("Bodies of pages stay until the next full sync: %s", reason(error))
        return 0
    connection.commit()
    return gone


@dataclass(frozen=True, slots=True)
class StoredPage:
    """A stored page read back. `body` is as received. `window` is None if there is none."""

    segment: str
    request: str
    body: bytes
    asked_at: datetime
    answered_at: datetime
    window: tuple[datetime, datetime] | None


def page_ids(
    connection: Connection,
    walks: Sequence[int],
    *,
    most_records: int = 0,
    most_bytes: int = 0,
    among: int = 1,
) -> list[list[int]]:
    """Return the pages of `walks` in the order they landed, as ids for `read_page`. Commits.

    Pages that follow each other are together as long as they hold no more than `most_records` and
    `most_bytes` of answers, and no more than one of `among` equal parts of the records that are
    left. So several readers end at about the same time. A page that holds more is alone.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, record_count, size_bytes FROM raw_rms_pages WHERE walk = ANY(%s)"
            " ORDER BY id",
            (list(walks),),
        )
        pages = cursor.fetchall()
    connection.commit()
    left = sum(count for _, count, _ in pages)
    together: list[list[int]] = []
    records = size = most = 0
    for id_, page_records, page_size in pages:
        records, size = records + page_records, size + page_size
        if together and records <= most and size <= most_bytes:
            together[-1].append(id_)
        else:
            together.append([id_])
            records, size = page_records, page_size
            most = min(most_records, left // among)
        left -= page_records
    return together


def read_page(connection: Connection, id_: int) -> StoredPage | None:
    """Return one page, or None if it was deleted meanwhile. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT segment, request, coalesce(p.body, b.body), asked_at, fetched_at,"
            " window_start, window_end FROM raw_rms_pages p"
            " LEFT JOIN raw_page_bodies b USING (collection, digest) WHERE p.id = %s",
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
    """Return how many different ids the pages of `walk` hold. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(DISTINCT r) FROM raw_rms_pages, unnest(record_ids) AS r WHERE walk = %s",
            (walk,),
        )
        row = cursor.fetchone()
    connection.commit()
    return int(row[0]) if row else 0


def seen_among(connection: Connection, walk: int, ids: Iterable[int]) -> set[int]:
    """Return those of `ids` that the pages of `walk` hold. Commits."""
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
    """Return how many rows exist for the records in the pages of `walk`. Commits."""
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
    """Return the pages and records (repeats included) that have landed for `walks`. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*), coalesce(sum(record_count), 0) FROM raw_rms_pages"
            " WHERE walk = ANY(%s)",
            (list(walks),),
        )
        row = cursor.fetchone()
    connection.commit()
    return (int(row[0]), int(row[1])) if row else (0, 0)
