"""Merging landed pages into `opportunities`, page by page."""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from queue import SimpleQueue

from psycopg2.extensions import connection as Connection  # noqa: N812

from rms_pipeline.current_rms.client import ListAnswer
from rms_pipeline.current_rms.fields import Fault
from rms_pipeline.current_rms.pages import decode_answer
from rms_pipeline.current_rms.payloads import Record, read_record
from rms_pipeline.current_rms.spans import Span
from rms_pipeline.current_rms.window import Window
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.merge import MergeResult, known_ids, merge, note_faults
from rms_pipeline.mirror.progress import Progress, ProgressNotes
from rms_pipeline.mirror.raw_pages import (
    RawPage,
    count_pages,
    land_page,
    page_ids,
    read_page,
)
from rms_pipeline.mirror.unreadable import OPPORTUNITIES, note_unreadable

Watcher = Callable[[Progress], None]

# Pages merged at a time, each by a connection of its own. More would only wait for the processor.
WRITERS = 2


@dataclass(slots=True)
class MergedWalk:
    """What became of the records of a walk: `outside_window` came though nobody asked for them."""

    result: MergeResult = field(default_factory=MergeResult)
    pages: int = 0
    outside_window: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Stored:
    result: MergeResult
    records: int = 0
    outside_window: int = 0


def merge_walks(
    database: Database,
    walks: Sequence[int],
    run: str,
    *,
    counted_since: datetime | None = None,
    doubting: bool = False,
    only: Collection[int] | None = None,
    watch: Watcher = lambda _: None,
) -> MergedWalk:
    """Merges the landed pages of `walks` on behalf of `run`.

    What was fetched at or after `counted_since`, the start of a walk, and has not changed since,
    is not counted again. `doubting`: what a list shows as it was before is left (`sync.doubts`);
    only the ids `only` are merged, if those are given. A record outside its page's window only
    updates a row that is there already: it may have left the window since. Several pages are merged
    at a time, so that decoding one does not wait for PostgreSQL's work on another; which comes
    first decides nothing.
    """
    began = time.monotonic()
    merged = MergedWalk()
    with ExitStack() as stack:
        notes = stack.enter_context(database.session())
        idle: SimpleQueue[Connection] = SimpleQueue()
        for _ in range(WRITERS):
            idle.put(stack.enter_context(database.session()))

        def store(page: int) -> _Stored:
            connection = idle.get()
            try:
                return _store(connection, run, page, counted_since, doubting, only)
            finally:
                idle.put(connection)

        page_count, record_count = count_pages(notes, walks)
        progress = ProgressNotes(notes, run)
        records = 0
        # The last to enter, so that no writer is at work when its connection is closed.
        pool = stack.enter_context(ThreadPoolExecutor(WRITERS, thread_name_prefix="merge"))
        for stored in _few_ahead(pool, store, page_ids(notes, walks)):
            merged.result += stored.result
            merged.pages += 1
            merged.outside_window += stored.outside_window
            records += stored.records
            so_far = Progress("storing", merged.pages, page_count, records, record_count)
            progress.note(so_far)
            watch(so_far)
        progress.finish()
    merged.seconds = time.monotonic() - began
    return merged


def _few_ahead(
    pool: ThreadPoolExecutor, store: Callable[[int], _Stored], pages: Sequence[int]
) -> Iterator[_Stored]:
    """Like `pool.map`, but what waits its turn does not grow with the walk."""
    waiting: deque[Future[_Stored]] = deque()
    for page in pages:
        waiting.append(pool.submit(store, page))
        if len(waiting) > 2 * WRITERS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def name_unreadable(connection: Connection, run: str, found: Mapping[int, str]) -> None:
    """Names records that exist and cannot be read, by id with the reason. Commits."""
    if not found:
        return
    # What broke a walk off may have left its transaction open.
    connection.rollback()
    note_unreadable(connection, OPPORTUNITIES, found, run)
    with connection.cursor() as cursor:
        faults = [
            Fault(id_, "(record)", f"Current RMS cannot deliver it: {reason}", "")
            for id_, reason in found.items()
        ]
        note_faults(cursor, run, faults)
    connection.commit()


def raw_page(
    answer: ListAnswer, segment: str, *, covers: Span | None = None, window: Window | None = None
) -> RawPage:
    """`answer` as it lands."""
    return RawPage(
        segment=segment,
        request=answer.request,
        body=answer.body,
        asked_at=answer.asked_at,
        answered_at=answer.answered_at,
        api_date=answer.api_date,
        record_ids=answer.ids,
        record_count=len(answer.page.opportunities),
        covers=covers,
        window=None if window is None else (window.start, window.end),
    )


def is_list(request: str) -> bool:
    """Whether `request` asked for a list, not for one record by its id."""
    return request.partition("?")[0] == "/opportunities"


def read_records(answer: ListAnswer) -> list[Record | Fault]:
    """The records of an answer, whatever their dates."""
    return [read_record(raw) for raw in answer.page.opportunities]


def store_answer(
    connection: Connection,
    run: str,
    walk: int,
    segment: str,
    answer: ListAnswer,
    *,
    window: Window | None = None,
    covers: Span | None = None,
    without: Collection[int] = (),
    doubting: bool = False,
) -> MergeResult:
    """Lands an answer asked for beside the walk, and merges what is in it but the ids `without`.

    Of records outside `window` only those are merged that have a row. `doubting` as in `merge`.
    """
    land_page(connection, run, walk, raw_page(answer, segment, covers=covers, window=window))
    records = [r for r in read_records(answer) if isinstance(r, Fault) or r.id not in without]
    inside, _ = _that_belong(connection, records, window)
    return merge(
        connection,
        run,
        inside,
        asked_at=answer.asked_at,
        answered_at=answer.answered_at,
        doubting=doubting,
    )


def merge_answer(
    connection: Connection, run: str, answer: ListAnswer, records: Sequence[Record | Fault]
) -> MergeResult:
    """Merges `records`, those of an answer that has landed or some of them."""
    return merge(connection, run, records, asked_at=answer.asked_at, answered_at=answer.answered_at)


def _that_belong(
    connection: Connection, records: Iterable[Record | Fault], window: Window | None
) -> tuple[list[Record | Fault], int]:
    """The records in `window` and those outside it that have a row; how many are outside."""
    inside: list[Record | Fault] = []
    outside: list[Record] = []
    for record in records:
        if window is None or isinstance(record, Fault) or window.contains(*record.dates()):
            inside.append(record)
        else:
            outside.append(record)
    if outside:
        known = known_ids(connection, [o.id for o in outside])
        inside += (o for o in outside if o.id in known)
    return inside, len(outside)


def _store(
    connection: Connection,
    run: str,
    page_id: int,
    counted_since: datetime | None,
    doubting: bool,
    only: Collection[int] | None,
) -> _Stored:
    page = read_page(connection, page_id)
    if page is None:
        return _Stored(MergeResult())
    window = None if page.window is None else Window(*page.window)
    records = [read_record(raw) for raw in decode_answer(page.request, page.body).opportunities]
    if only is not None:
        records = [r for r in records if isinstance(r, Record) and r.id in only]
    inside, outside = _that_belong(connection, records, window)
    result = merge(
        connection,
        run,
        inside,
        asked_at=page.asked_at,
        answered_at=page.answered_at,
        counted_since=counted_since,
        doubting=doubting and is_list(page.request),
    )
    return _Stored(result, len(records), outside)
