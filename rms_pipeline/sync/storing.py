"""Merging landed pages into `opportunities`, page by page."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

from psycopg2.extensions import connection as Connection  # noqa: N812

from rms_pipeline.current_rms.client import ListAnswer
from rms_pipeline.current_rms.pages import decode_answer
from rms_pipeline.current_rms.payloads import Fault, Opportunity, decode_record, record_id
from rms_pipeline.current_rms.spans import Span
from rms_pipeline.current_rms.window import Window
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.merge import MergeResult, known_ids, merge
from rms_pipeline.mirror.progress import Progress, note_progress
from rms_pipeline.mirror.raw_pages import (
    RawPage,
    StoredPage,
    count_pages,
    land_page,
    read_pages,
)

Watcher = Callable[[Progress], None]


@dataclass(slots=True)
class MergedWalk:
    """What became of the records of a walk: `outside_window` came though nobody asked for them."""

    result: MergeResult = field(default_factory=MergeResult)
    pages: int = 0
    outside_window: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Decoded:
    inside: list[Opportunity | Fault]
    outside: list[Opportunity]
    asked_at: datetime
    answered_at: datetime


def merge_walk(
    database: Database,
    walk: int,
    run: str,
    *,
    counted_since: datetime | None = None,
    watch: Watcher = lambda _: None,
) -> MergedWalk:
    """Merges the landed pages of `walk` on behalf of `run`.

    What was fetched at or after `counted_since`, the start of the walk, and has not changed since,
    is not counted again. A record outside the walk's window only updates a row that is there
    already: it may have left the window since. One page is decoded while PostgreSQL works on the
    one before.
    """
    began = time.monotonic()
    merged = MergedWalk()
    with (
        database.session() as reader,
        database.session() as writer,
        database.session() as notes,
        ThreadPoolExecutor(1, thread_name_prefix="merge") as pool,
    ):
        page_count, record_count = count_pages(reader, walk)
        records = 0
        pending: Future[MergeResult] | None = None

        def settle() -> None:
            nonlocal pending
            if pending is not None:
                merged.result += pending.result()
                pending = None

        for page in _decode(read_pages(reader, walk)):
            settle()
            pending = pool.submit(_store, writer, run, page, counted_since)
            merged.pages += 1
            merged.outside_window += len(page.outside)
            records += len(page.inside) + len(page.outside)
            progress = Progress("storing", merged.pages, page_count, records, record_count)
            note_progress(notes, run, progress)
            watch(progress)
        settle()
    merged.seconds = time.monotonic() - began
    return merged


def raw_page(
    answer: ListAnswer, segment: str, *, covers: Span | None = None, window: Window | None = None
) -> RawPage:
    """`answer` as it lands."""
    records = answer.page.opportunities
    return RawPage(
        segment=segment,
        request=answer.request,
        body=answer.body,
        asked_at=answer.asked_at,
        answered_at=answer.answered_at,
        api_date=answer.api_date,
        record_ids=[i for r in records if (i := record_id(r)) is not None],
        record_count=len(records),
        covers=covers,
        window=None if window is None else (window.start, window.end),
    )


def decode_records(answer: ListAnswer) -> list[Opportunity | Fault]:
    """The records of an answer, whatever their dates."""
    return [decode_record(raw) for raw in answer.page.opportunities]


def store_answer(
    connection: Connection, run: str, walk: int, segment: str, answer: ListAnswer
) -> MergeResult:
    """Lands an answer asked for beside the walk, and merges all that is in it."""
    land_page(connection, run, walk, raw_page(answer, segment))
    return merge(
        connection,
        run,
        decode_records(answer),
        asked_at=answer.asked_at,
        answered_at=answer.answered_at,
    )


def _store(
    connection: Connection, run: str, page: _Decoded, counted_since: datetime | None
) -> MergeResult:
    records: Sequence[Opportunity | Fault] = page.inside
    if page.outside:
        known = known_ids(connection, [o.id for o in page.outside])
        records = [*page.inside, *(o for o in page.outside if o.id in known)]
    return merge(
        connection,
        run,
        records,
        asked_at=page.asked_at,
        answered_at=page.answered_at,
        counted_since=counted_since,
    )


def _decode(pages: Iterator[StoredPage]) -> Iterator[_Decoded]:
    for page in pages:
        window = None if page.window is None else Window(*page.window)
        inside: list[Opportunity | Fault] = []
        outside: list[Opportunity] = []
        for raw in decode_answer(page.request, page.body).opportunities:
            record = decode_record(raw)
            if (
                window is None
                or isinstance(record, Fault)
                or window.contains(record.starts_at, record.ends_at)
            ):
                inside.append(record)
            else:
                outside.append(record)
        yield _Decoded(inside, outside, page.asked_at, page.answered_at)
