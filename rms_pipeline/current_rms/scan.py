"""Reads a whole list that changes while it is read.

Page numbers alone lose rows. When a row of an earlier page is deleted, every later row moves up by
one, and the first row of the next page is never seen. So page numbers only find where to start.
From there each lane asks for "ids after my last one, before the next lane's first", in the order of
id. Every answer then holds everything in a range of ids at its moment, whatever changes elsewhere.
This costs no more calls than page numbers, and a walk that was interrupted continues with the
missing ranges.

Order and range are verified on every answer. If the API ignores them, the list is cut into ranges
instead (`ranges`). If even that is impossible, it is read by page number. Failing pages are read
past (`failing`). If the API refuses the page numbers that lanes start from, fewer lanes are used.
"""

import contextlib
import functools
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from msgspec import Raw

from rms_pipeline.current_rms.client import CurrentRmsClient, ListAnswer
from rms_pipeline.current_rms.errors import (
    CurrentRmsError,
    NotHonoured,
    Unprocessable,
    WalkIncomplete,
)
from rms_pipeline.current_rms.failing import (
    FEW,
    MOST_UNDELIVERED,
    ONCE,
    Health,
    Narrowing,
    PageFailed,
    PageSizes,
    Undelivered,
    is_of_the_question,
)
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.current_rms.parallel import Outbox, in_parallel
from rms_pipeline.current_rms.ranges import read_by_number, read_ranges
from rms_pipeline.current_rms.records import Record, bare_record, read_record
from rms_pipeline.current_rms.scope import Scope, note_refused_dates
from rms_pipeline.current_rms.spans import BY_CREATION, BY_ID, WHOLE, Key, Span, ascending, gaps
from rms_pipeline.current_rms.terms import MOST_PER_PAGE
from rms_pipeline.current_rms.window import CHANGED_SINCE, EVERYTHING, Params, Segment

ORDER: Params = (("q[s]", "id asc"),)


@dataclass(frozen=True, slots=True)
class WalkedPage:
    """A page of one segment. `covers` is the span of ids that it holds completely, or None."""

    segment: str
    answer: ListAnswer
    covers: Span | None


@dataclass(slots=True)
class WalkReport:
    """What a walk found out.

    `expected` is how many records the API counted. `read_by` says how each segment was read ("id",
    "id ranges", "created_at ranges", "page numbers"). `nameless` counts the records without an id
    in each segment that was read by page number.

    `counts_believed` is True if no record came that the API's count had left out. `listed_twice`
    are ids that came twice in one page. `undelivered` are records that no list delivers. `scope`
    says whether what came is what was asked for.
    """

    expected: int = 0
    records: int = 0
    notes: list[str] = field(default_factory=list)
    read_by: dict[str, str] = field(default_factory=dict)
    nameless: dict[str, int] = field(default_factory=dict)
    counts_believed: bool = True
    listed_twice: set[int] = field(default_factory=set)
    undelivered: Undelivered = field(default_factory=Undelivered)
    scope: Scope = field(default_factory=Scope)


Put = Callable[[WalkedPage], None]


class Walk:
    """One reading of everything in `segments`. Iterate `pages()` once; it fills `report`.

    `known` are the spans of each segment that need no reading. `suspects` are ids of records that
    no list delivered recently. `undelivered` are those that an earlier reading of the same sync
    found. `lanes` requests are sent at a time. Pages come in no particular order.
    """

    def __init__(
        self,
        client: CurrentRmsClient,
        segments: Sequence[Segment],
        *,
        known: Mapping[str, Sequence[Span]] | None = None,
        suspects: Iterable[int] = (),
        undelivered: Undelivered | None = None,
        lanes: int = 12,
        lane: Lane = Lane.WALK,
    ) -> None:
        self.report = WalkReport(scope=Scope(client.collection.modes))
        if undelivered is not None:
            self.report.undelivered = undelivered
        self._client = client
        self._segments = segments
        self._known = known or {}
        self._suspects = tuple(suspects)
        self._lanes = lanes
        self._lane = lane
        self._health = Health(client, lane)
        self._sizes = PageSizes(client)
        # By segment: the order to ask for if the API refused the usual one, and the records so far.
        self._orders: dict[str, Params] = {}
        self._came: dict[str, int] = {}
        # Segments of which any answer had records, also an answer that was not believed.
        self._sent: set[str] = set()
        # Full pages that are the last by the count, by the id that the next page begins with: the
        # span that was asked for, and its count. The flag says whether a next page was asked for.
        self._doubted: dict[tuple[str, int], tuple[Span, int]] = {}
        self._doubts_answered = False
        self._highest_count = self._largest = 0
        self._lock = threading.Lock()

    def pages(self) -> Iterator[WalkedPage]:
        """Yield every page as it arrives.

        Raises RequestRefused, ApiUnavailable, or WalkIncomplete if the list could not be read as a
        whole. Pages before the error are correct, but records missing from them prove nothing.
        """
        not_honoured: list[str] = []

        def lane(index: int, out: Outbox[WalkedPage]) -> None:
            segment = self._segments[index]
            if segment.since is not None:
                for page in self._changes(segment, segment.since):
                    out.put(page)
                return
            try:
                opened = opening if index == 0 else None
                with contextlib.closing(self._segment(segment, opened)) as pages:
                    for page in pages:
                        out.put(page)
            except (_FilterNotHonoured, Unprocessable) as error:
                if segment.window is not None and isinstance(error, Unprocessable):
                    note_refused_dates(self._client.terms, self._client.now(), error)
                elif segment.lacking is None:
                    raise
                not_honoured.append(f"filter of {segment.name} not applied by the API: {error}")

        # If the API refuses (a wrong key), one call is enough to find out.
        head = self._segments[0]
        opening: ListAnswer | PageFailed | None = None
        if head.since is None and not self._known.get(head.name):
            try:
                opening = self._opening(head, None)
            except Unprocessable:
                # It may be answered without the dates.
                if head.window is None:
                    raise
        # Segments are read at the same time. A short list uses little of the limit, because each of
        # its calls waits for the one before.
        yield from in_parallel(lane, len(self._segments))
        if not_honoured:
            # Then these records can only be found by reading all records.
            self.report.notes += not_honoured
            yield from self._segment(EVERYTHING)

    def _changes(self, segment: Segment, since: datetime) -> Iterator[WalkedPage]:
        """Yield what changed since `since`.

        If the API obeys the order of change, only the newest are read. Otherwise everything is
        read, and the report says so.
        """
        terms, now = self._client.terms, self._client.now
        if terms.is_to_be_asked("filter", CHANGED_SINCE, now()):
            try:
                yield from self._segment(segment)
            except (_FilterNotHonoured, Unprocessable) as error:
                status = error.status if isinstance(error, Unprocessable) else None
                terms.note("filter", CHANGED_SINCE, status, now())
            else:
                terms.forget("filter", CHANGED_SINCE)
                return
        all_there_are = Segment(segment.name, ())
        try:
            yield from self._by_change(all_there_are, since)
        except (NotHonoured, Unprocessable, PageFailed) as error:
            self.report.notes.append(
                "the whole account was read to find what changed, because the API ignores both "
                f"{CHANGED_SINCE} and the order of updated_at ({error})"
            )
            yield from self._segment(all_there_are)

    def _by_change(self, segment: Segment, since: datetime) -> Iterator[WalkedPage]:
        def ask(number: int) -> ListAnswer:
            return self._health.ask_list(
                NEWEST_CHANGE,
                lambda attempts: self._client.list_records(
                    NEWEST_CHANGE, page=number, lane=self._lane, attempts=attempts
                ),
                FEW,
            )

        for answer in read_newest(ask, since):
            yield self._seen(segment, answer, None)
        self.report.read_by[segment.name] = "order of change"

    def _segment(
        self, segment: Segment, opening: ListAnswer | PageFailed | None = None
    ) -> Generator[WalkedPage, None, None]:
        missing = gaps(self._known.get(segment.name, ()))
        if not missing:
            self.report.read_by[segment.name] = "id"
            return
        is_whole = missing == [WHOLE]
        by_id = self._from_the_start(segment, opening) if is_whole else None
        ways = {
            "id": by_id or self._by_gaps(segment, missing),
            "id ranges": self._by_ranges(segment, BY_ID, missing),
            "created_at ranges": self._by_ranges(segment, BY_CREATION, [WHOLE]),
            "page numbers": self._by_page_number(segment),
        }
        last: CurrentRmsError | None = None
        for name, pages in ways.items():
            try:
                yield from pages
                self.report.read_by[segment.name] = name
                return
            except (NotHonoured, Unprocessable, PageFailed) as error:
                if isinstance(error, _FilterNotHonoured):
                    raise
                if isinstance(error, Unprocessable):
                    self._orders[segment.name] = ()
                self.report.notes.append(f"{segment.name} not read by {name}: {error}")
                last = error
        if isinstance(last, Unprocessable):
            raise last
        raise WalkIncomplete(
            f"The list of {segment.name} {self._client.collection.name} could not be read. The "
            f"last error: {last} Everything that was received is stored. Run the sync again."
        ) from last

    def _opening(self, segment: Segment, lower: int | None) -> ListAnswer | PageFailed:
        """Return the first page from the id `lower` on, or why there is none."""
        for attempt in range(2):
            try:
                return self._ask(segment, (lower, None))
            except PageFailed as failed:
                return failed
            except Unprocessable:
                if attempt or self._orders.get(segment.name) == ():
                    raise
                self._orders[segment.name] = ()
        raise AssertionError

    def _from_the_start(
        self, segment: Segment, opening: ListAnswer | PageFailed | None
    ) -> Iterator[WalkedPage]:
        lower: int | None = None
        while True:
            first = opening or self._opening(segment, lower)
            opening = None
            if isinstance(first, ListAnswer):
                break
            passed: list[WalkedPage] = []
            after = self._narrowing(segment, passed.append).read_past((lower, None), first)
            yield from passed
            if after is None:
                return
            lower = after
        total = first.page.meta.total_row_count
        with self._lock:
            self.report.expected += total
        if 0 < total <= self._sizes.expected and not first.page.records:
            # A few records that are counted but never sent are no obstacle, if page numbers do not
            # find them either.
            raise NotHonoured(f"{total} are counted, but none is sent")
        if total and not first.page.records:
            raise WalkIncomplete(
                f"Current RMS counts {total} {self._client.collection.name} but sends none of "
                "them. Run the sync again. If that does not help, ask the support of Current RMS."
            )
        before = self._came.get(segment.name, 0)
        if total <= len(first.page.records):
            begin: list[WalkedPage] = []
            after = self._take(segment, begin.append, (lower, None), None, first)
            yield from begin
            if after is not None:
                yield from self._by_gaps(segment, [(after, None)])
            return
        yield from self._by_id(segment, first, lower)
        came = self._came.get(segment.name, 0) - before
        explained = len(self.report.undelivered.unreadable) + len(self.report.listed_twice)
        if segment.since is not None and came + explained < total:
            # A record that changed stays in this list, and no count misses it later. Short pages
            # may be in the order of id by chance although the API ignores the order.
            raise NotHonoured(f"{total} are counted, but {came} came")
        if came != total:
            self.report.notes.append(
                f"{segment.name} changed while it was read: {total} at first, {came} received"
            )

    def _by_id(
        self, segment: Segment, first: ListAnswer, lower: int | None
    ) -> Iterator[WalkedPage]:
        size = len(first.page.records)
        page_count = -(-first.page.meta.total_row_count // size)
        # A lane of one page would need one more call, to show that nothing follows.
        lanes = max(1, min(self._lanes, page_count // 2))
        seeds = Seeds(first, lanes, lower)

        def seed(index: int) -> ListAnswer | None:
            number = 1 + index * page_count // lanes
            params = BY_ID.params((lower, None))
            try:
                return self._list(segment, params, page=number, attempts=ONCE)
            except CurrentRmsError as error:
                if not is_of_the_question(error):
                    raise
                # Only a starting point is lost: the lane before continues past it.
                with self._lock:
                    self.report.notes.append(f"{segment.name} not read from page {number}: {error}")
                return None

        def lane(index: int, out: Outbox[WalkedPage]) -> None:
            def put(page: WalkedPage) -> None:
                seeds.in_order()
                out.put(page)

            if index > 0:
                seeds.fetch(index, lambda: seed(index))
            if (rest := seeds.rest_of(index)) is not None:
                self._read_span(segment, rest, put)

        def put_seeds(out: Outbox[WalkedPage]) -> None:
            for answer, span in seeds.in_order():
                out.put(self._seen(segment, answer, span))

        yield from in_parallel(
            lambda index, out: lane(index, out) if index < lanes else put_seeds(out), lanes + 1
        )

    def _by_gaps(self, segment: Segment, missing: Sequence[Span]) -> Iterator[WalkedPage]:
        todo = iter(missing)

        def lane(_: int, out: Outbox[WalkedPage]) -> None:
            while True:
                with self._lock:
                    span = next(todo, None)
                if span is None:
                    return
                self._read_span(segment, span, out.put, expect=True)

        yield from in_parallel(lane, min(self._lanes, len(missing)))

    def _read_span(self, segment: Segment, span: Span, put: Put, *, expect: bool = False) -> None:
        lower, upper = span
        narrowing = self._narrowing(segment, put)
        attempts = FEW
        while upper is None or lower is None or lower <= upper:
            here: Span = (lower, upper)
            # A page that is known to fail needs no three attempts.
            few = ONCE if narrowing.has_suspect(here) else attempts
            try:
                answer = self._ask(segment, here, None, few)
            except PageFailed as failed:
                after = narrowing.read_past(here, failed, beside=attempts == ONCE)
                # Broken records are often neighbours, because one event damaged them all.
                attempts = ONCE
            else:
                if expect:
                    with self._lock:
                        self.report.expected += answer.page.meta.total_row_count
                    expect = False
                after = self._take(segment, put, here, None, answer)
                attempts = FEW
            if after is None:
                return
            lower = after

    def _narrowing(self, segment: Segment, put: Put) -> Narrowing:
        return Narrowing(
            self._client,
            self._lane,
            self._health,
            self._sizes,
            self.report.undelivered,
            self._suspects,
            params=self._form(segment),
            ask=functools.partial(self._ask, segment),
            take=functools.partial(self._take, segment, put),
            place=functools.partial(self._place, segment),
            take_single=lambda id_, answer: put(self._seen(segment, answer, (id_, id_))),
        )

    def _take(
        self, segment: Segment, put: Put, span: Span, asked: int | None, answer: ListAnswer
    ) -> int | None:
        """Verify one page of `span` and put it. Returns the id to continue from, or None at the
        end.
        """
        lower, upper = span
        ids, records = answer.ids, len(answer.page.records)
        inside = all((lower is None or i >= lower) and (upper is None or i <= upper) for i in ids)
        if not inside or not ascending(ids):
            raise NotHonoured("ids outside the requested range, or not in order")
        counted = answer.page.meta.total_row_count
        left_over = counted - records
        with self._lock:
            # A counter with a maximum cannot have stopped below what it has counted already.
            stops = counted >= self._highest_count
            ended = self._doubted.get((segment.name, lower)) if lower is not None else None
        has_more = ended is not None and records > 0 and not self._has_grown(segment, *ended)
        with self._lock:
            if ended is not None:
                self._doubts_answered = True
            if has_more:
                self._disbelieve(f"{segment.name} has more records than the API counts")
            is_believed = self._doubts_answered and self.report.counts_believed
        if left_over > 0 and not ids:
            raise NotHonoured("an empty page in the middle of the list")
        is_doubtful = (upper is None or stops) and not is_believed and self._is_full(answer, asked)
        is_over = left_over <= 0 and (not ids or not is_doubtful)
        if is_over or ids[-1] == upper:
            put(self._seen(segment, answer, span))
            return None
        put(self._seen(segment, answer, (lower, ids[-1])))
        if left_over <= 0:
            with self._lock:
                self._doubted[segment.name, ids[-1] + 1] = span, counted
        return ids[-1] + 1

    def _has_grown(self, segment: Segment, span: Span, counted: int) -> bool:
        """Return whether `span` counts more than it did, so that the next page may be new."""
        try:
            answer = self._ask(segment, span, 1)
        except PageFailed:
            return False
        return answer.page.meta.total_row_count > counted

    def _is_full(self, answer: ListAnswer, asked: int | None) -> bool:
        """Return whether the page is full, so that more may follow whatever the count says."""
        most, size = asked or self._sizes.most or MOST_PER_PAGE, self._client.page_size
        if not self._client.terms.knows_page_size:
            # The length of a page is only known from the longest page that came.
            size = min(size, max(self._largest, 1))
        return len(answer.page.records) >= min(most, size)

    def _disbelieve(self, note: str) -> None:
        if self.report.counts_believed:
            self.report.counts_believed = False
            self.report.notes.append(f"{note}: its counts are ignored")

    def _by_ranges(
        self, segment: Segment, key: Key, missing: Sequence[Span]
    ) -> Iterator[WalkedPage]:
        counted: int | None = None
        distinct: set[int] = set()

        def ask(span: Span) -> ListAnswer:
            nonlocal counted
            answer = self._page_of(segment, key.params(span), None, FEW)
            if span == WHOLE:
                counted = answer.page.meta.total_row_count
            return answer

        def stuck(span: Span, failed: PageFailed) -> Iterable[ListAnswer]:
            if key is not BY_ID or span[0] is None or span[0] != span[1]:
                raise failed
            found: list[WalkedPage] = []
            self._narrowing(segment, found.append).read_one(span[0], failed, FEW)
            with self._lock:
                # The reader that takes over from here puts them again.
                self.report.records -= len(found)
                self._came[segment.name] = self._came.get(segment.name, 0) - len(found)
            return [page.answer for page in found]

        for span, answer in read_ranges(
            ask,
            key,
            missing,
            lanes=self._lanes,
            is_full=lambda answer: self._is_full(answer, None),
            stuck=stuck,
        ):
            distinct.update(answer.ids)
            yield self._seen(segment, answer, span if key is BY_ID else None)
        # Some records may have been added meanwhile, but not as many as that.
        if counted is not None and len(distinct) > counted + max(
            self._sizes.expected, counted // 9
        ):
            with self._lock:
                self._disbelieve(f"{segment.name} has far more records than the API counts")

    def _by_page_number(self, segment: Segment) -> Iterator[WalkedPage]:
        # The first page also shows whether the API accepts an order.
        opening = self._opening(segment, None)
        size = len(opening.page.records) if isinstance(opening, ListAnswer) else 0
        size = size or self._sizes.expected
        nameless: dict[int, int] = {}
        lost: set[int] = set()

        def get(number: int, per_page: int | None) -> ListAnswer:
            return self._health.ask_list(
                self._form(segment),
                lambda attempts: self._list(
                    segment, page=number, per_page=per_page, attempts=attempts
                ),
                FEW,
            )

        def ask(number: int) -> list[ListAnswer | None]:
            try:
                return [get(number, self._sizes.most)]
            except PageFailed:
                pass
            answers: list[ListAnswer | None] = []
            for position in range((number - 1) * size + 1, number * size + 1):
                try:
                    answers.append(get(position, 1))
                except PageFailed:
                    lost.add(position)
                    if len(lost) > MOST_UNDELIVERED:
                        raise
                    answers.append(None)
            return answers

        has_any = False
        for reading, answer in read_by_number(ask, lanes=self._lanes):
            has_any = has_any or bool(answer.page.records)
            page = self._seen(segment, answer, None)
            absent = len(answer.page.records) - len(answer.ids)
            nameless[reading] = nameless.get(reading, 0) + absent
            yield page
        if segment.name in self._sent and not has_any and not lost:
            # The other ways of reading have seen records. Nobody deletes all of them meanwhile.
            raise WalkIncomplete(
                f"Current RMS sent {self._client.collection.name} of {segment.name}, and then an "
                "empty list. Run the sync again. If that does not help, ask the support of "
                "Current RMS."
            )
        self.report.nameless[segment.name] = nameless[max(nameless)] if nameless else 0
        if lost:
            places = ", ".join(map(str, sorted(lost)[:20]))
            self.report.nameless[segment.name] += len(lost)
            self.report.notes.append(
                f"{segment.name}: Current RMS cannot deliver {len(lost)} of the list, which has no"
                f" order to find their ids by; their places in it: {places}"
            )

    def _form(self, segment: Segment) -> Params:
        """Return the parameters that all questions about `segment` share."""
        return segment.params + self._orders.get(segment.name, ORDER)

    def _ask(
        self, segment: Segment, span: Span, per_page: int | None = None, attempts: int = FEW
    ) -> ListAnswer:
        """Return one page of `span`. Raises PageFailed, or the error of an API that is down or
        refuses.
        """
        return self._page_of(segment, BY_ID.params(span), per_page, attempts)

    def _page_of(
        self, segment: Segment, params: Params, per_page: int | None, attempts: int
    ) -> ListAnswer:
        for is_last in (False, True):
            answer = self._health.ask_list(
                self._form(segment),
                lambda attempts: self._list(segment, params, per_page=per_page, attempts=attempts),
                attempts,
            )
            # An answer that counts records but sends none may be an accident, once.
            if answer.page.records or not answer.page.meta.total_row_count or is_last:
                return answer
        raise AssertionError

    def _place(self, segment: Segment, span: Span, number: int) -> ListAnswer:
        """Return the record at this position of `span`, counted from 1, or raise PageFailed."""
        try:
            answer = self._list(segment, BY_ID.params(span), page=number, per_page=1, attempts=ONCE)
        except CurrentRmsError as error:
            if not is_of_the_question(error):
                raise
            raise PageFailed(error) from error
        self._health.answered()
        return answer

    def _list(
        self,
        segment: Segment,
        params: Params = (),
        *,
        page: int = 1,
        per_page: int | None = None,
        attempts: int | None = None,
    ) -> ListAnswer:
        answer = self._client.list_records(
            segment.params + params + self._orders.get(segment.name, ORDER),
            page=page,
            per_page=per_page or self._sizes.most or MOST_PER_PAGE,
            lane=self._lane,
            attempts=attempts,
        )
        with self._lock:
            self._highest_count = max(self._highest_count, answer.page.meta.total_row_count)
            self._largest = max(self._largest, len(answer.page.records))
        if segment.lacking and not all(self._fits(segment, r) for r in answer.page.records):
            raise _FilterNotHonoured(f"records with a date of {segment.lacking} came back")
        if segment.since is not None and mostly_older(answer, segment.since):
            raise _FilterNotHonoured("records that changed earlier came back")
        if answer.page.records:
            self._sent.add(segment.name)
        return answer

    def _seen(self, segment: Segment, answer: ListAnswer, covers: Span | None) -> WalkedPage:
        self.report.scope.look(segment, answer)
        twice = len(answer.ids) - len({*answer.ids})
        with self._lock:
            records = len(answer.page.records) - twice
            self.report.records += records
            self._came[segment.name] = self._came.get(segment.name, 0) + records
            if twice:
                times = Counter(answer.ids)
                self.report.listed_twice |= {i for i, n in times.items() if n > 1}
        return WalkedPage(segment.name, answer, covers)

    def _fits(self, segment: Segment, record: Raw) -> bool:
        found = read_record(record, self._client.collection)
        return not isinstance(found, Record) or segment.fits(*found.dates())


class _FilterNotHonoured(NotHonoured):
    """The answer does not belong to the segment. Another way of reading would not help."""


# Where lanes start: one page for each lane, found by its number in a list that is in order


class Seeds:
    """The first pages of `lanes` lanes. `first` is the page of the first lane, which is there
    already. The list begins at the id `lower`.

    At the limit of calls, first pages come one by one. So each lane waits only for the pages that
    it needs. What lanes fetch may be used only after `in_order` has returned.
    """

    def __init__(self, first: ListAnswer, lanes: int, lower: int | None = None) -> None:
        self._seeds: list[Future[ListAnswer | None]] = [Future() for _ in range(lanes)]
        self._lower = lower
        self._seeds[0].set_result(first)
        self.in_order = functools.cache(self._in_order)

    def fetch(self, lane: int, ask: Callable[[], ListAnswer | None]) -> None:
        """Take what `ask` returns or raises for the first page of `lane`. Raises that error again.

        `ask` returns None if there is no such page: the lane before then continues.
        """
        try:
            self._seeds[lane].set_result(ask())
        except BaseException as error:
            self._seeds[lane].set_exception(error)
            raise

    def rest_of(self, lane: int) -> Span | None:
        """Return the ids between the first page of `lane` and that of the next lane, or None if
        there are none.

        Waits for both pages. Raises what `fetch` raised for either.
        """
        ids = self._ids(self._seeds[lane])
        # The list may have become shorter. A lane that starts behind its end has no first page.
        behind = (self._ids(later) for later in self._seeds[lane + 1 :])
        end = next((later[0] - 1 for later in behind if later), None)
        if not ids or not ascending(ids) or (end is not None and ids[-1] >= end):
            return None
        return ids[-1] + 1, end

    @staticmethod
    def _ids(seed: "Future[ListAnswer | None]") -> Sequence[int]:
        answer = seed.result()
        return answer.ids if answer is not None else ()

    def _in_order(self) -> Sequence[tuple[ListAnswer, Span]]:
        """Wait for all first pages. Returns each with the span of ids that it covers.

        Raises NotHonoured if they are not in the order of id, or what `fetch` raised for one of
        them.
        """
        came = [answer for answer in (seed.result() for seed in self._seeds) if answer]
        came = [answer for answer in came if answer.ids]
        if not all(ascending(answer.ids) for answer in came):
            raise NotHonoured("not in the order of id")
        starts = [answer.ids[0] for answer in came]
        if not ascending(starts) or len({*starts}) < len(starts):
            raise NotHonoured("pages not in the order of id")
        return list(self._spans(came))

    def _spans(self, came: Sequence[ListAnswer]) -> Iterator[tuple[ListAnswer, Span]]:
        for answer in came:
            start = self._lower if answer is came[0] else answer.ids[0]
            yield answer, (start, answer.ids[-1])


# Which records changed, if the API ignores the filter for changes


NEWEST_CHANGE: Params = (("q[s]", "updated_at desc"),)
# A filter may compare whole seconds.
_ROUNDED = timedelta(seconds=1)


def mostly_older(answer: ListAnswer, since: datetime) -> bool:
    """Return whether most records changed before `since`, so that the API ignored the filter.

    One odd record proves nothing. An answer in which all records fit is correct, whether the filter
    was obeyed or not.
    """
    moments = _moments(answer)
    older = sum(m < since - _ROUNDED for m in moments)
    return older > 1 and 2 * older > len(moments)


def read_newest(ask: Callable[[int], ListAnswer], since: datetime) -> Iterator[ListAnswer]:
    """Yield pages of the list in the order of NEWEST_CHANGE, until they are older than `since`.

    `ask` returns a page by its number. A record that changes meanwhile moves others back, and they
    are read twice. Raises NotHonoured if the order is not obeyed, or if a record went away, because
    that could hide another.
    """
    latest: datetime | None = None
    total: int | None = None
    came = number = 0
    while latest is None or latest >= since - _ROUNDED:
        number += 1
        answer = ask(number)
        counted = answer.page.meta.total_row_count
        if total is not None and counted < total:
            raise NotHonoured("records disappeared while it was read")
        moments = _moments(answer)
        ordered = moments if latest is None else [latest, *moments]
        if ordered != sorted(ordered, reverse=True):
            raise NotHonoured("not in the order of updated_at")
        yield answer
        total, came = counted, came + len(answer.page.records)
        if not answer.page.records or came >= total:
            return
        latest = moments[-1] if moments else latest


def _moments(answer: ListAnswer) -> list[datetime]:
    """Return `updated_at` of each record that has it."""
    records = (bare_record(raw) for raw in answer.page.records)
    found = (r.updated_at() for r in records if isinstance(r, Record))
    return [moment for moment in found if moment is not None]
