"""Reading a whole list that changes while it is read.

Page numbers alone lose rows: when a row of a page already read is deleted, every later row moves up
by one and the first of the next page is never seen. So page numbers are only used to find where to
start; from there each lane asks for "ids after the last one I have, before the next lane's first",
in order of id. Every answer then is the whole truth about a range of ids at its moment, whatever
moved elsewhere, and it costs no call more than page numbers would; and a walk that was cut short
goes on with the ranges it has not. Order and range are verified on what comes back. Where the API
ignores them, the list is cut into ranges instead (`ranges`), and read by page number only where
even that is impossible.
"""

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from msgspec import Raw

from rms_pipeline.current_rms.changes import NEWEST_CHANGE, mostly_older, read_newest
from rms_pipeline.current_rms.client import CurrentRmsClient, ListAnswer
from rms_pipeline.current_rms.errors import NotHonoured, Unprocessable, WalkIncomplete
from rms_pipeline.current_rms.keys import BY_CREATION, BY_ID, Key
from rms_pipeline.current_rms.lanes import Outbox, in_parallel
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.current_rms.page_numbers import read_by_number
from rms_pipeline.current_rms.payloads import Record, read_record
from rms_pipeline.current_rms.ranges import read_ranges
from rms_pipeline.current_rms.seeds import Seeds, ascending
from rms_pipeline.current_rms.spans import WHOLE, Span, gaps
from rms_pipeline.current_rms.window import CHANGED_SINCE, EVERYTHING, Params, Segment

ORDER: Params = (("q[s]", "id asc"),)


@dataclass(frozen=True, slots=True)
class WalkedPage:
    """A page of one segment; `covers` is the span of ids it is the whole truth about, or None."""

    segment: str
    answer: ListAnswer
    covers: Span | None


@dataclass(slots=True)
class WalkReport:
    """What a walk found out.

    `expected` is how many records the API counted, `read_by` how each segment was read ("id",
    "id ranges", "created_at ranges", "page numbers"), `nameless` how many records without an id a
    segment read by page number holds.
    """

    expected: int = 0
    records: int = 0
    notes: list[str] = field(default_factory=list)
    read_by: dict[str, str] = field(default_factory=dict)
    nameless: dict[str, int] = field(default_factory=dict)


class Walk:
    """One reading of everything in `segments`. Iterate `pages()` once; `report` fills meanwhile.

    `known` are the spans of each segment that need not be read again. `lanes` requests are in
    flight at a time. Pages come in no particular order.
    """

    def __init__(
        self,
        client: CurrentRmsClient,
        segments: Sequence[Segment],
        *,
        known: Mapping[str, Sequence[Span]] | None = None,
        lanes: int = 12,
        lane: Lane = Lane.WALK,
    ) -> None:
        self.report = WalkReport()
        self._client = client
        self._segments = segments
        self._known = known or {}
        self._lanes = lanes
        self._lane = lane
        # By segment: the order to ask for, where the API refused the usual one; records so far.
        self._orders: dict[str, Params] = {}
        self._came: dict[str, int] = {}
        self._lock = threading.Lock()

    def pages(self) -> Iterator[WalkedPage]:
        """Every page, as it arrives.

        Raises RequestRefused, ApiUnavailable, or WalkIncomplete when the list could not be read as
        a whole. The pages before that are good, but nothing follows from what they do not hold.
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
                if segment.lacking is None:
                    raise
                not_honoured.append(f"filter of {segment.name} not honoured: {error}")

        # Where the API refuses (a wrong key) one call is enough to learn it.
        head = self._segments[0]
        opening = None
        if head.since is None and not self._known.get(head.name):
            opening = self._first(head)
        # Side by side, for a short list leaves most of the limit unused: each of its calls waits
        # for the one before.
        yield from in_parallel(lane, len(self._segments))
        if not_honoured:
            # Records without dates are then only to be found among all there are.
            self.report.notes += not_honoured
            yield from self._segment(EVERYTHING)

    def _changes(self, segment: Segment, since: datetime) -> Iterator[WalkedPage]:
        """What changed, whether or not the API can be asked for it: in the order of change if it
        obeys that, else by reading everything, which the report then says."""
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
        except (NotHonoured, Unprocessable) as error:
            self.report.notes.append(
                f"the whole account was read to find what changed, for the API obeys neither "
                f"{CHANGED_SINCE} nor the order of updated_at ({error})"
            )
            yield from self._segment(all_there_are)

    def _by_change(self, segment: Segment, since: datetime) -> Iterator[WalkedPage]:
        def ask(number: int) -> ListAnswer:
            return self._client.list_opportunities(NEWEST_CHANGE, page=number, lane=self._lane)

        for answer in read_newest(ask, since):
            yield self._seen(segment, answer, None)
        self.report.read_by[segment.name] = "order of change"

    def _segment(
        self, segment: Segment, opening: ListAnswer | None = None
    ) -> Generator[WalkedPage, None, None]:
        missing = gaps(self._known.get(segment.name, ()))
        if not missing:
            self.report.read_by[segment.name] = "id"
            return
        total = None
        if missing == [WHOLE]:
            first = opening or self._first(segment)
            total = first.page.meta.total_row_count
            with self._lock:
                self.report.expected += total
            if total <= len(first.page.opportunities):
                self.report.read_by[segment.name] = "id"
                yield self._seen(segment, first, WHOLE)
                return
            if not first.page.opportunities:
                raise WalkIncomplete(
                    f"Current RMS counts {total} opportunities but sends none of them. "
                    "Run the sync again; if it stays so, ask Current RMS."
                )
            by_id = self._by_id(segment, first)
        else:
            by_id = self._by_gaps(segment, missing)
        ways = {
            "id": by_id,
            "id ranges": self._by_ranges(segment, BY_ID, missing),
            "created_at ranges": self._by_ranges(segment, BY_CREATION, [WHOLE]),
            "page numbers": self._by_page_number(segment),
        }
        for name, pages in ways.items():
            try:
                yield from pages
                self.report.read_by[segment.name] = name
                break
            except (NotHonoured, Unprocessable) as error:
                if isinstance(error, _FilterNotHonoured):
                    raise
                if isinstance(error, Unprocessable):
                    self._orders[segment.name] = ()
                self.report.notes.append(f"{segment.name} not read by {name}: {error}")
        came = self._came.get(segment.name, 0)
        if total is not None and name == "id" and came != total:
            self.report.notes.append(
                f"{segment.name} moved while it was read: {total} at first, {came} came"
            )

    def _first(self, segment: Segment) -> ListAnswer:
        try:
            return self._list(segment)
        except Unprocessable:
            self._orders[segment.name] = ()
        return self._list(segment)

    def _by_id(self, segment: Segment, first: ListAnswer) -> Iterator[WalkedPage]:
        size = len(first.page.opportunities)
        page_count = -(-first.page.meta.total_row_count // size)
        # A lane of one page would need a call more, to show that nothing lies behind it.
        lanes = max(1, min(self._lanes, page_count // 2))
        seeds = Seeds(first, lanes)

        def lane(index: int, out: Outbox[WalkedPage]) -> None:
            def put(page: WalkedPage) -> None:
                seeds.in_order()
                out.put(page)

            if index > 0:
                number = 1 + index * page_count // lanes
                seeds.fetch(index, lambda: self._list(segment, page=number))
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

    def _read_span(
        self,
        segment: Segment,
        span: Span,
        put: Callable[[WalkedPage], None],
        *,
        expect: bool = False,
    ) -> None:
        lower, upper = span
        while upper is None or lower is None or lower <= upper:
            answer = self._list(segment, BY_ID.params((lower, upper)))
            ids, rest = answer.ids, answer.page.meta.total_row_count
            if expect:
                with self._lock:
                    self.report.expected += rest
                expect = False
            inside = all(
                (lower is None or i >= lower) and (upper is None or i <= upper) for i in ids
            )
            if not inside or not ascending(ids):
                raise NotHonoured("ids outside the range asked for, or not in order")
            if rest <= len(answer.page.opportunities):
                put(self._seen(segment, answer, (lower, upper)))
                return
            if not ids:
                raise NotHonoured("an empty page in the middle of the list")
            put(self._seen(segment, answer, (lower, ids[-1])))
            lower = ids[-1] + 1

    def _by_ranges(
        self, segment: Segment, key: Key, missing: Sequence[Span]
    ) -> Iterator[WalkedPage]:
        def ask(span: Span) -> ListAnswer:
            return self._list(segment, key.params(span))

        for span, answer in read_ranges(ask, key, missing, lanes=self._lanes):
            yield self._seen(segment, answer, span if key is BY_ID else None)

    def _by_page_number(self, segment: Segment) -> Iterator[WalkedPage]:
        self._first(segment)  # finds out whether an order may be asked for
        nameless: dict[int, int] = {}
        for reading, answer in read_by_number(
            lambda number: self._list(segment, page=number), lanes=self._lanes
        ):
            page = self._seen(segment, answer, None)
            absent = len(answer.page.opportunities) - len(answer.ids)
            nameless[reading] = nameless.get(reading, 0) + absent
            yield page
        self.report.nameless[segment.name] = nameless[max(nameless)]

    def _list(self, segment: Segment, params: Params = (), *, page: int = 1) -> ListAnswer:
        params = segment.params + params + self._orders.get(segment.name, ORDER)
        answer = self._client.list_opportunities(params, page=page, lane=self._lane)
        if segment.lacking and not all(_fits(segment, r) for r in answer.page.opportunities):
            raise _FilterNotHonoured(f"records with a date of {segment.lacking} came back")
        if segment.since is not None and mostly_older(answer, segment.since):
            raise _FilterNotHonoured("records that changed earlier came back")
        return answer

    def _seen(self, segment: Segment, answer: ListAnswer, covers: Span | None) -> WalkedPage:
        with self._lock:
            records = len(answer.page.opportunities)
            self.report.records += records
            self._came[segment.name] = self._came.get(segment.name, 0) + records
        return WalkedPage(segment.name, answer, covers)


class _FilterNotHonoured(NotHonoured):
    """Not a matter of how the segment is read: what came is not the segment."""


def _fits(segment: Segment, record: Raw) -> bool:
    found = read_record(record)
    return not isinstance(found, Record) or segment.fits(*found.dates())
