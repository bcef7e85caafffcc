"""Merges stored pages into the table of their collection, page by page."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Collection as Ids
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime

from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.client import ListAnswer
from rms_pipeline.current_rms.pages import decode_answer, is_list
from rms_pipeline.current_rms.parts import misplaced, parent_in
from rms_pipeline.current_rms.records import Fault, Record, read_record
from rms_pipeline.current_rms.spans import Span
from rms_pipeline.current_rms.window import Window
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.merge import (
    Brought,
    MergeResult,
    known_ids,
    merge,
    merge_together,
    note_faults,
)
from rms_pipeline.mirror.progress import Progress, ProgressNotes
from rms_pipeline.mirror.raw_pages import (
    RawPage,
    StoredPage,
    count_pages,
    land_page,
    page_ids,
    read_page,
)
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.mirror.unreadable import note_unreadable
from rms_pipeline.mirror.writers import WRITERS, by_writers

Watcher = Callable[[Progress], None]

# How many records, and bytes of answers, one transaction merges. A transaction costs as much as
# some ten records. Twice as many records gain little, and whoever waits for one of them, such as
# the fast lane, waits longer.
_RECORDS_TOGETHER = 400
_BYTES_TOGETHER = 4 * 1024 * 1024


@dataclass(slots=True)
class MergedWalk:
    """The result for the records of a walk. `outside_window` records arrived although they were not
    requested.
    """

    result: MergeResult = field(default_factory=MergeResult)
    pages: int = 0
    outside_window: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Stored:
    result: MergeResult
    pages: int = 0
    records: int = 0
    outside_window: int = 0


@dataclass(frozen=True, slots=True)
class _Manner:
    """How pages are merged. `merge_walks` says what each of these means."""

    counted_since: datetime | None
    doubting: bool
    only: Ids[int] | None
    redone_after_crash: bool


def merge_walks(
    database: Database,
    collection: Collection,
    walks: Sequence[int],
    run: str,
    *,
    counted_since: datetime | None = None,
    doubting: bool = False,
    only: Ids[int] | None = None,
    redone_after_crash: bool = False,
    watch: Watcher = lambda _: None,
) -> MergedWalk:
    """Merge the landed pages of `walks`, which read `collection`, on behalf of `run`.

    A record that was fetched at or after `counted_since`, the start of a walk, and has not changed
    since is not counted again. With `doubting`, records that a list shows in an older state are
    left (`sync.doubts`). With `only`, no other ids are merged. `redone_after_crash` is as in
    `merge`. A record outside its page's window only updates an existing row, because it may have
    left the window since. Several pages are merged at a time, so that decoding one does not wait
    for PostgreSQL's work on another. Their order changes nothing.
    """
    began = time.monotonic()
    merged = MergedWalk()

    manner = _Manner(counted_since, doubting, only, redone_after_crash)

    def store(connection: Connection, pages: Sequence[int]) -> _Stored:
        return _store(connection, collection, run, pages, manner)

    with database.session() as notes:
        page_count, record_count = count_pages(notes, walks)
        progress = ProgressNotes(notes, run)
        records = 0
        together = page_ids(
            notes,
            walks,
            most_records=_RECORDS_TOGETHER,
            most_bytes=_BYTES_TOGETHER,
            among=2 * WRITERS,
        )
        with closing(by_writers(database, store, together)) as pages:
            for stored in pages:
                merged.result += stored.result
                merged.pages += stored.pages
                merged.outside_window += stored.outside_window
                records += stored.records
                so_far = Progress("storing", merged.pages, page_count, records, record_count)
                progress.note(so_far)
                watch(so_far)
        progress.finish()
    merged.seconds = time.monotonic() - began
    return merged


def name_unreadable(
    connection: Connection, collection: Collection, run: str, found: Mapping[int, str]
) -> None:
    """Store which records exist and cannot be read, by id with the reason. Commits."""
    if not found:
        return
    # The error that ended the walk may have left a transaction open.
    connection.rollback()
    note_unreadable(connection, collection, found, run)
    with connection.cursor() as cursor:
        faults = [
            Fault(id_, "(record)", f"Current RMS cannot deliver it: {reason}", "")
            for id_, reason in found.items()
        ]
        note_faults(cursor, collection, run, faults)
    connection.commit()


def raw_page(
    answer: ListAnswer, segment: str, *, covers: Span | None = None, window: Window | None = None
) -> RawPage:
    """Return `answer` as it is stored."""
    return RawPage(
        segment=segment,
        request=answer.request,
        body=answer.body,
        asked_at=answer.asked_at,
        answered_at=answer.answered_at,
        api_date=answer.api_date,
        record_ids=answer.ids,
        record_count=len(answer.page.records),
        covers=covers,
        window=None if window is None else (window.start, window.end),
    )


def read_records(collection: Collection, answer: ListAnswer) -> list[Record | Fault]:
    """Return the records of an answer, whatever their dates."""
    return [read_record(raw, collection) for raw in answer.page.records]


def store_answer(
    connection: Connection,
    collection: Collection,
    run: str,
    walk: int,
    segment: str,
    answer: ListAnswer,
    *,
    window: Window | None = None,
    covers: Span | None = None,
    without: Ids[int] = (),
    doubting: bool = False,
) -> MergeResult:
    """Store an answer that was requested beside the walk, and merge its records.

    Ids in `without` are left out. Records outside `window` are only merged if they have a row.
    `doubting` is as in `merge`.
    """
    land_page(
        connection, collection, run, walk, raw_page(answer, segment, covers=covers, window=window)
    )
    records = [
        r for r in read_records(collection, answer) if isinstance(r, Fault) or r.id not in without
    ]
    inside, _ = _that_belong(connection, collection, records, window)
    return merge_answer(connection, collection, run, answer, inside, doubting=doubting)


def merge_answer(
    connection: Connection,
    collection: Collection,
    run: str,
    answer: ListAnswer,
    records: Sequence[Record | Fault],
    *,
    doubting: bool = False,
) -> MergeResult:
    """Merge `records`, all or some records of an answer that is stored."""
    return merge(
        connection,
        collection,
        run,
        records,
        asked_at=answer.asked_at,
        answered_at=answer.answered_at,
        doubting=doubting,
    )


def _that_belong(
    connection: Connection,
    collection: Collection,
    records: Iterable[Record | Fault],
    window: Window | None,
) -> tuple[list[Record | Fault], int]:
    """Return the records in `window` and those outside with a row, and how many are outside."""
    inside: list[Record | Fault] = []
    outside: list[Record] = []
    for record in records:
        if window is None or isinstance(record, Fault) or window.contains(*record.dates()):
            inside.append(record)
        else:
            outside.append(record)
    if outside:
        known = known_ids(connection, collection, [o.id for o in outside])
        inside += (o for o in outside if o.id in known)
    return inside, len(outside)


def _store(
    connection: Connection,
    collection: Collection,
    run: str,
    page_ids: Sequence[int],
    manner: _Manner,
) -> _Stored:
    brought, count, outside = [], 0, 0
    for page_id in page_ids:
        page = read_page(connection, page_id)
        if page is None:
            continue
        records = _records_of(page, collection)
        if manner.only is not None:
            records = [r for r in records if isinstance(r, Record) and r.id in manner.only]
        window = None if page.window is None else Window(*page.window)
        inside, page_outside = _that_belong(connection, collection, records, window)
        doubting = manner.doubting and is_list(page.request, collection)
        brought.append(Brought(inside, page.asked_at, page.answered_at, doubting))
        count += len(records)
        outside += page_outside
    result = merge_together(
        connection,
        collection,
        run,
        brought,
        counted_since=manner.counted_since,
        redone_after_crash=manner.redone_after_crash,
    )
    return _Stored(result, len(page_ids), count, outside)


def _records_of(page: StoredPage, collection: Collection) -> list[Record | Fault]:
    answer = decode_answer(page.request, page.body, collection)
    records = [read_record(raw, collection) for raw in answer.records]
    if (parent := parent_in(page.request, collection)) is None:
        return records
    return [
        misplaced(raw, found, collection, parent)
        for raw, found in zip(answer.records, records, strict=True)
    ]
