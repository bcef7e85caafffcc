"""Reads the API into `raw_rms_pages`.

This module begins or continues a walk, stores its pages, and computes the watermark. How a list is
read is in `current_rms.scan`, how its records are stored in `storing`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rms_pipeline.current_rms.client import CallCounts, CurrentRmsClient
from rms_pipeline.current_rms.errors import CurrentRmsError, WalkIncomplete
from rms_pipeline.current_rms.failing import ONCE, is_of_the_question
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.current_rms.scan import Walk, WalkedPage, WalkReport
from rms_pipeline.current_rms.scope import Scope, hidden_ids, note_states
from rms_pipeline.current_rms.spans import Span, gaps
from rms_pipeline.current_rms.window import Segment, Window, changed_since, segments_of
from rms_pipeline.mirror import walks
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.progress import Progress, ProgressNotes
from rms_pipeline.mirror.raw_pages import (
    count_distinct_records,
    count_pages,
    land_page,
    seen_among,
)
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.mirror.unreadable import forget_unreadable, unreadable
from rms_pipeline.sync.storing import Watcher, name_unreadable, raw_page

# Some changes are committed a while after their `updated_at`, and clocks of servers differ a
# little.
OVERLAP = timedelta(minutes=5)
# Used if the API sends no `Date`. Our own clock then decides, and it may be well off.
_OVERLAP_WITHOUT_DATE = timedelta(minutes=30)
# How many records are tried again that could not be read before and are in no list of this sync.
_ASKED_AGAIN = 10


@dataclass(frozen=True, slots=True)
class LandedWalk:
    """The result of a walk. Counts are records, sizes are bytes, times are seconds.

    `watermark` is where an incremental sync may start once this is stored. It is by the API's clock
    or the database's, whichever is behind. `pages_kept` were landed by an earlier run that did not
    finish. `clock_skew` is how far the API's clock is ahead of the database's, or None if the API
    sends no time.

    `unreadable` are all records, by id, that exist and cannot be read, each with the reason.
    `counts_believed` and `listed_twice` are what the walk found out about the API's lists.
    """

    walk: int
    pages: int
    pages_kept: int
    records: int
    distinct_records: int
    bytes: int
    api_calls: int
    throttled_calls: int
    retried_calls: int
    watermark: datetime
    window: Window | None = None
    since: datetime | None = None
    clock_skew: float | None = None
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    unreadable: dict[int, str] = field(default_factory=dict)
    counts_believed: bool = True
    listed_twice: list[int] = field(default_factory=list)


def land_window(
    database: Database,
    client: CurrentRmsClient,
    window: Window | None,
    run: str,
    *,
    fresh_for: timedelta = timedelta(0),
    overlap: timedelta = OVERLAP,
    watch: Watcher = lambda _: None,
) -> LandedWalk:
    """Read everything in `window`, or everything if it is None.

    Each page is stored under `run` as it arrives. An unfinished walk over a window of the same
    length is continued, with its pages that are no older than `fresh_for`. At the end, the changes
    since the start are read. Raises a CurrentRmsError if the list could not be read completely.
    Pages that were stored stay.
    """
    began, before = time.monotonic(), client.counts.copy()
    with database.session() as connection:
        collection = client.collection
        bounds = None if window is None else (window.start, window.end)
        walk = walks.resume_walk(connection, collection, run, window=bounds, fresh_for=fresh_for)
        if walk is None:
            walk = walks.begin_walk(connection, collection, run, walks.FULL, window=bounds)
            # Also here, for an account of which no walk ever completes.
            walks.prune_walks(connection, collection)
        elif walk.window is not None:
            window = Window(*walk.window)
        landing = _Landing(connection, client, walk.id, run, window, watch)
        segments = segments_of(window)
        landing.read(segments, known=walks.covered_spans(connection, walk.id))
        landing.read_edges(window)
        watermark = landing.watermark(overlap)
        # A row may have moved from a list not read yet to one already read. It is then in neither.
        landing.read_changes(watermark)
        landing.demand_whole([s.name for s in segments])
        landing.verify_scope(window)
        landing.ask_again()
        return landing.complete(watermark, before, time.monotonic() - began, window=window)


def land_changes(
    database: Database,
    client: CurrentRmsClient,
    watermarks: Sequence[datetime],
    run: str,
    *,
    overlap: timedelta = OVERLAP,
    watch: Watcher = lambda _: None,
) -> LandedWalk:
    """Read everything that changed since the watermark, with any dates.

    `watermarks` are the possible starts, best first. A watermark that is ahead of the API's clock
    was set when that clock was wrong, so the next one counts. If all are ahead, the first one
    counts, corrected by the present clock.
    """
    began, before = time.monotonic(), client.counts.copy()
    with database.session() as connection:
        notes: list[str] = []
        starts, is_shifted = list(watermarks), False
        while True:
            since = starts.pop(0)
            walk = walks.begin_walk(connection, client.collection, run, walks.CHANGES, since=since)
            landing = _Landing(connection, client, walk.id, run, None, watch, Lane.INCREMENTAL)
            landing.read_changes(since)
            watermark = landing.watermark(overlap)
            if watermark + overlap >= since or is_shifted:
                break
            notes.append(f"watermark {since} is ahead of the API's clock")
            if not starts:
                # The API's clock was set back since the last sync. It now stamps edits with times
                # that were asked for already.
                starts.append(watermarks[0] - landing.behind())
                is_shifted = True
        landing.report.notes += notes
        landing.ask_again()
        return landing.complete(watermark, before, time.monotonic() - began, since=since)


def watermark_after(
    api_date: datetime | None, asked_at: datetime, overlap: timedelta = OVERLAP
) -> datetime:
    """Return the start of a reading by the API's clock or by ours, whichever is earlier, minus
    `overlap`.

    One of the two clocks stamps the edits, and it is not known which: a `Date` may come from a
    proxy whose clock is ahead. Edits in the time between would then never be read. With the earlier
    time, the worst case is that some records are fetched twice. `api_date` is None if the API sent
    no time.
    """
    if api_date is None:
        return asked_at - max(overlap, _OVERLAP_WITHOUT_DATE)
    return min(api_date, asked_at) - overlap


class _Landing:
    """Stores the pages of one walk."""

    def __init__(
        self,
        connection: Connection,
        client: CurrentRmsClient,
        walk: int,
        run: str,
        window: Window | None,
        watch: Watcher,
        lane: Lane = Lane.WALK,
    ) -> None:
        self.report = WalkReport(scope=Scope(client.collection.modes))
        self._collection = client.collection
        self._connection, self._client, self._walk, self._run = connection, client, walk, run
        self._window = window
        self._watch, self._lane = watch, lane
        self._pages_kept, self._records_kept = count_pages(connection, [walk])
        self._pages = self._size = 0
        self._progress = ProgressNotes(connection, run)
        self._suspects = unreadable(connection, self._collection)

    def read(
        self, segments: Sequence[Segment], known: Mapping[str, Sequence[Span]] | None = None
    ) -> None:
        undelivered = self.report.undelivered
        named = set(undelivered.unreadable)
        walk = Walk(
            self._client,
            segments,
            known=known,
            suspects={*self._suspects, *undelivered.unreadable, *undelivered.singly},
            undelivered=undelivered,
            lane=self._lane,
        )
        try:
            for page in walk.pages():
                self._land(page)
                self._note_progress(walk.report)
        finally:
            # Also if the walk fails: the next one then need not find them again.
            new = {i: why for i, why in undelivered.unreadable.items() if i not in named}
            name_unreadable(self._connection, self._collection, self._run, new)
        self._progress.finish()
        self.report.read_by.update(walk.report.read_by)
        self.report.nameless.update(walk.report.nameless)
        self.report.notes += walk.report.notes
        self.report.expected += walk.report.expected
        self.report.records += walk.report.records
        self.report.counts_believed &= walk.report.counts_believed
        self.report.listed_twice |= walk.report.listed_twice
        self.report.scope.add(walk.report.scope)

    def read_edges(self, window: Window | None) -> None:
        """Read the first and the last days of `window` if the API compares whole days.

        This also notes whether it does.
        """
        if window is None:
            return
        self.report.scope.note_dates(self._client.terms, self._client.now())
        if self._client.terms.compares_whole_days:
            self.read(window.edges())

    def read_changes(self, since: datetime) -> None:
        """Read everything that changed since `since` (the API's clock)."""
        whole_days = self._client.terms.compares_whole_days
        self.read([changed_since(since, whole_days=whole_days)])

    def ask_again(self) -> None:
        """Ask again for records that could not be read before and were in no list now.

        Records that can be read now are forgotten. Each costs one call. Only a few are asked for,
        those that waited longest.
        """
        failing = self.report.undelivered.unreadable
        came = seen_among(self._connection, self._walk, self._suspects) if self._suspects else set()
        over, still = set(came), dict[int, str]()
        left = [i for i in self._suspects if i not in came and i not in failing]
        for id_ in left[:_ASKED_AGAIN]:
            try:
                answer = self._client.get_record(id_, lane=self._lane, attempts=ONCE)
            except CurrentRmsError as error:
                if not is_of_the_question(error):
                    # To continue is useless. What the walk read is still correct.
                    break
                still[id_] = self._suspects[id_]
                continue
            if answer is None:
                over.add(id_)
            elif answer.ids == (id_,):
                self._land(WalkedPage("by_id", answer, None))
                over.add(id_)
        name_unreadable(self._connection, self._collection, self._run, still)
        forget_unreadable(self._connection, self._collection, over - failing.keys())

    def _land(self, page: WalkedPage) -> None:
        answer = page.answer
        self._pages += 1
        self._size += len(answer.body)
        raw = raw_page(answer, page.segment, covers=page.covers, window=self._window)
        land_page(self._connection, self._collection, self._run, self._walk, raw)

    def _note_progress(self, report: WalkReport) -> None:
        pages = self._pages_kept + self._pages
        records = self._records_kept + self.report.records + report.records
        expected = self._records_kept + self.report.expected + report.expected
        progress = Progress(
            "fetching",
            pages,
            max(-(-expected // self._client.page_size), pages),
            records,
            max(expected, records),
        )
        self._progress.note(progress)
        self._watch(progress)

    def watermark(self, overlap: timedelta) -> datetime:
        """Return where an incremental sync may start after this walk."""
        api_date, asked_at = walks.first_api_date(self._connection, self._walk)
        if api_date is None:
            self.report.notes.append("the API does not send its time (no Date header)")
        return watermark_after(api_date, asked_at or self._client.now(), overlap)

    def behind(self) -> timedelta:
        """Return how far the API's clock is behind ours, at least 0. 0 also if the API sends no
        time.
        """
        api_date, asked_at = walks.first_api_date(self._connection, self._walk)
        if api_date is None or asked_at is None:
            return timedelta(0)
        return max(asked_at - api_date, timedelta(0))

    def demand_whole(self, segments: Sequence[str]) -> None:
        """Check that the ranges add up to all ids. This does not depend on the walk itself."""
        covered = walks.covered_spans(self._connection, self._walk)
        for segment in segments:
            # Records that cannot be read are named. They count as present in the pages.
            named: list[Span] = [(i, i) for i in self.report.undelivered.unreadable]
            if self.report.read_by.get(segment) in ("id", "id ranges") and gaps(
                [*covered.get(segment, ()), *named]
            ):
                raise WalkIncomplete(
                    f"Pages of {segment} are missing from raw_rms_pages although the walk ended. "
                    "Everything that was received is stored. Run the sync again."
                )

    def verify_scope(self, window: Window | None) -> None:
        """Note whether the API obeyed `filtermode`.

        A record that only `filtermode` reaches shows that the API obeyed it. If none came, one more
        call asks for only such records, because the account may have none.
        """
        scope, terms, now = self.report.scope, self._client.terms, self._client.now
        modes = self._collection.modes
        if modes is None:
            return
        honoured = scope.has_hidden
        if not honoured:
            first = segments_of(window)[0]
            failing = self.report.undelivered
            hidden = hidden_ids(
                self._client, modes, first, self._lane, {*failing.unreadable, *failing.singly}
            )
            honoured = hidden is not None and (
                not hidden or bool(seen_among(self._connection, self._walk, hidden))
            )
        note_states(terms, now(), honoured=honoured)

    def complete(
        self,
        watermark: datetime,
        before: CallCounts,
        seconds: float,
        *,
        window: Window | None = None,
        since: datetime | None = None,
    ) -> LandedWalk:
        report, client = self.report, self._client
        report.notes += [r.sentence for r in client.terms.refusals]
        twice = sorted(report.listed_twice)
        if twice:
            report.notes.append(
                f"Current RMS lists {len(twice)} more than once: {', '.join(map(str, twice[:20]))}"
            )
        nameless = walks.nameless_by_segment(self._connection, self._walk) | report.nameless
        walks.complete_walk(
            self._connection,
            self._walk,
            watermark=watermark,
            read_by=report.read_by,
            nameless=nameless,
            notes=report.notes,
            counts_believed=report.counts_believed,
            listed_twice=twice,
        )
        distinct = count_distinct_records(self._connection, self._walk)
        walks.prune_walks(self._connection, self._collection)
        api_date, asked_at = walks.first_api_date(self._connection, self._walk)
        skew = None
        if api_date is not None and asked_at is not None:
            skew = (api_date - asked_at).total_seconds()
        return LandedWalk(
            walk=self._walk,
            pages=self._pages,
            pages_kept=self._pages_kept,
            records=report.records,
            distinct_records=distinct,
            bytes=self._size,
            api_calls=client.counts.calls - before.calls,
            throttled_calls=client.counts.throttled - before.throttled,
            retried_calls=client.counts.retried - before.retried,
            watermark=watermark,
            window=window,
            since=since,
            clock_skew=skew,
            seconds=seconds,
            notes=report.notes,
            unreadable=unreadable(self._connection, self._collection),
            counts_believed=report.counts_believed,
            listed_twice=twice,
        )
