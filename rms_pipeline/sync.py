"""The full sync without Dagster: walk the API into `raw_rms_pages`, merge those into the mirror.

What belongs here: putting `current_rms` and `mirror` together. What does not: requests, SQL,
assets.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

from rms_pipeline.current_rms.client import PER_PAGE, CurrentRmsClient
from rms_pipeline.current_rms.errors import WalkIncomplete
from rms_pipeline.current_rms.pages import decode_page
from rms_pipeline.current_rms.payloads import Fault, Opportunity, decode_record
from rms_pipeline.current_rms.walk import Walk
from rms_pipeline.current_rms.window import Window
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.merge import MergeResult, merge
from rms_pipeline.mirror.progress import Progress, note_progress
from rms_pipeline.mirror.raw_pages import (
    RawPage,
    StoredPage,
    count_distinct_records,
    count_pages,
    land_page,
    prune_walks,
    read_pages,
)

Watcher = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class LandedWalk:
    """What a walk brought. Counts are records, sizes bytes, times seconds."""

    pages: int
    records: int
    distinct_records: int
    bytes: int
    api_calls: int
    throttled_calls: int
    retried_calls: int
    count_at_start: int
    count_at_end: int
    seconds: float
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class MergedWalk:
    """What became of the records of a walk: `outside_window` came though nobody asked for them."""

    result: MergeResult = field(default_factory=MergeResult)
    pages: int = 0
    outside_window: int = 0
    seconds: float = 0.0


def land_walk(
    database: Database,
    client: CurrentRmsClient,
    window: Window,
    run: str,
    watch: Watcher = lambda _: None,
) -> LandedWalk:
    """Reads everything in `window`, landing each page under `run` as it arrives.

    Raises a CurrentRmsError when the list could not be read as a whole; what came stays landed.
    """
    began = time.monotonic()
    walk = Walk(client, window)
    pages = size = 0
    with database.session() as connection:
        for walked in walk.pages():
            answer = walked.answer
            pages += 1
            size += len(answer.body)
            land_page(
                connection,
                run,
                RawPage(
                    page=pages,
                    segment=walked.segment,
                    request=answer.request,
                    body=answer.body,
                    asked_at=answer.asked_at,
                    answered_at=answer.answered_at,
                    api_date=answer.api_date,
                    record_ids=walked.ids,
                    record_count=len(answer.page.opportunities),
                    covers=walked.covers,
                    window=(window.start, window.end),
                ),
            )
            expected = walk.report.count_at_start
            progress = Progress(
                "fetching",
                pages,
                max(-(-expected // PER_PAGE), pages),
                walk.report.records,
                max(expected, walk.report.records),
            )
            note_progress(connection, run, progress)
            watch(progress)
        distinct = count_distinct_records(connection, run)
        prune_walks(connection)
    report = walk.report
    quiet = report.count_at_start == report.count_at_end and not report.notes
    if quiet and max(distinct, report.records) < report.count_at_end:
        raise WalkIncomplete(
            f"Current RMS counts {report.count_at_end} opportunities in the window but sent "
            f"{distinct}. What came is stored. Run the sync again."
        )
    return LandedWalk(
        pages=pages,
        records=report.records,
        distinct_records=distinct,
        bytes=size,
        api_calls=client.counts.calls,
        throttled_calls=client.counts.throttled,
        retried_calls=client.counts.retried,
        count_at_start=report.count_at_start,
        count_at_end=report.count_at_end,
        seconds=time.monotonic() - began,
        notes=report.notes,
    )


@dataclass(frozen=True, slots=True)
class _Decoded:
    records: list[Opportunity | Fault]
    outside: int
    asked_at: datetime
    answered_at: datetime


def merge_walk(
    database: Database, source_run: str, run: str, watch: Watcher = lambda _: None
) -> MergedWalk:
    """Merges the landed pages of `source_run` on behalf of `run`, page by page.

    One page is decoded while PostgreSQL works on the one before.
    """
    began = time.monotonic()
    merged = MergedWalk()
    with (
        database.session() as reader,
        database.session() as writer,
        database.session() as notes,
        ThreadPoolExecutor(1, thread_name_prefix="merge") as pool,
    ):
        page_count, record_count = count_pages(reader, source_run)
        pending: Future[MergeResult] | None = None
        records = 0

        def settle() -> None:
            nonlocal pending
            if pending is not None:
                merged.result += pending.result()
                pending = None

        for decoded in _decode(read_pages(reader, source_run)):
            settle()
            pending = pool.submit(
                merge,
                writer,
                run,
                decoded.records,
                asked_at=decoded.asked_at,
                answered_at=decoded.answered_at,
            )
            merged.pages += 1
            merged.outside_window += decoded.outside
            records += len(decoded.records) + decoded.outside
            progress = Progress("storing", merged.pages, page_count, records, record_count)
            note_progress(notes, run, progress)
            watch(progress)
        settle()
    merged.seconds = time.monotonic() - began
    return merged


def _decode(pages: Iterator[StoredPage]) -> Iterator[_Decoded]:
    for page in pages:
        window = Window(*page.window)
        inside: list[Opportunity | Fault] = []
        outside = 0
        for raw in decode_page(page.body).opportunities:
            record = decode_record(raw)
            if isinstance(record, Fault) or window.contains(record.starts_at, record.ends_at):
                inside.append(record)
            else:
                outside += 1
        yield _Decoded(inside, outside, page.asked_at, page.answered_at)
