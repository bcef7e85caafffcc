"""Reading a whole list that changes while it is read.

Page numbers alone lose rows: when a row of a page already read is deleted, every later row moves up
by one and the first of the next page is never seen. So page numbers are only used to find where to
start; from there each lane asks for "ids after the last one I have, before the next lane's first",
in order of id. Every answer then is the whole truth about a range of ids at its moment, whatever
moved elsewhere, and it costs no call more than page numbers would. Order and range are verified on
what comes back. An API that ignores either is read by page number, again if need be, until one
reading is whole.
"""

import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from msgspec import Raw

from rms_pipeline.current_rms.client import PER_PAGE, CurrentRmsClient, ListAnswer
from rms_pipeline.current_rms.errors import Unprocessable, WalkIncomplete
from rms_pipeline.current_rms.payloads import Opportunity, decode_record, record_id
from rms_pipeline.current_rms.window import EVERYTHING, Params, Segment, Window

BY_ID: Params = (("q[s]", "id asc"),)
_READINGS_BY_PAGE_NUMBER = 4


@dataclass(frozen=True, slots=True)
class WalkedPage:
    """A page of one segment. `ids` are those of its records, in the order received.

    `covers` is the range of ids `(lower, upper)` that the page is the whole truth about, both ends
    included, None for no bound; it is None itself for a page read by number.
    """

    segment: str
    answer: ListAnswer
    ids: tuple[int, ...]
    covers: tuple[int | None, int | None] | None


@dataclass(slots=True)
class WalkReport:
    """What a walk found out. Counts are the API's own, summed over the segments."""

    count_at_start: int = 0
    count_at_end: int = 0
    pages: int = 0
    records: int = 0
    notes: list[str] = field(default_factory=list)


class _NotHonoured(Exception):
    """The API ignored the order, a range or a filter that was asked for."""


class Walk:
    """One reading of everything in `window`. Iterate `pages()` once; `report` fills meanwhile.

    `lanes` requests are in flight at a time. Pages come in no particular order.
    """

    def __init__(self, client: CurrentRmsClient, window: Window, *, lanes: int = 8) -> None:
        self.window = window
        self.report = WalkReport()
        self._client = client
        self._lanes = lanes
        self._lock = threading.Lock()

    def pages(self) -> Iterator[WalkedPage]:
        """Every page, as it arrives.

        Raises RequestRefused, ApiUnavailable, or WalkIncomplete when the list could not be read as
        a whole. The pages before that are good, but nothing follows from what they do not hold.
        """
        for segment in self.window.segments():
            try:
                yield from self._segment(segment)
            except (_NotHonoured, Unprocessable) as error:
                if not segment.undated:
                    raise
                # Records without dates are then only to be found among all there are.
                self.report.notes.append(f"filter of {segment.name} not honoured: {error}")
                yield from self._segment(EVERYTHING)
                return

    def _segment(self, segment: Segment) -> Iterator[WalkedPage]:
        first = self._client.list_opportunities(segment.params + BY_ID)
        total = first.page.meta.total_row_count
        if segment.undated and not all(_lacks_a_date(r) for r in first.page.opportunities):
            raise _NotHonoured("records with both dates came back")
        self.report.count_at_start += total
        if total <= len(first.page.opportunities):
            self.report.count_at_end += total
            yield self._seen(segment, first, (None, None))
            return
        if not first.page.opportunities:
            raise WalkIncomplete(
                f"Current RMS counts {total} opportunities but sends none of them. "
                "Run the sync again; if it stays so, ask Current RMS."
            )
        try:
            yield from self._by_id(segment, first, total)
        except (_NotHonoured, Unprocessable) as error:
            self.report.notes.append(f"{segment.name} read by page number: {error}")
            yield from self._by_page_number(segment)
        self.report.count_at_end += self._client.count(segment.params)

    def _by_id(self, segment: Segment, first: ListAnswer, total: int) -> Iterator[WalkedPage]:
        size = len(first.page.opportunities)
        page_count = -(-total // size)
        # A lane of one page would need a call more, to show that nothing lies behind it.
        lanes = max(1, min(self._lanes, page_count // 2))
        numbers = [1 + lane * page_count // lanes for lane in range(lanes)]
        with ThreadPoolExecutor(lanes) as pool:
            seeds = [first]
            seeds += pool.map(
                lambda n: self._client.list_opportunities(segment.params + BY_ID, page=n),
                numbers[1:],
            )
        seeds = [seed for seed in seeds if _ids(seed)]
        if not all(_ascending(_ids(seed)) for seed in seeds):
            raise _NotHonoured("not in the order of id")
        bounds = [_ids(seed)[0] for seed in seeds[1:]]
        if not _ascending(bounds):
            raise _NotHonoured("pages not in the order of id")

        def lane(index: int, out: "_Outbox") -> None:
            seed, last = seeds[index], _ids(seeds[index])[-1]
            bound = bounds[index] if index < len(bounds) else None
            lower = None if index == 0 else _ids(seed)[0]
            out.put(self._seen(segment, seed, (lower, last)))
            while bound is None or last < bound - 1:
                ranged: Params = (("q[id_gt]", str(last)),)
                if bound is not None:
                    ranged += (("q[id_lt]", str(bound)),)
                answer = self._client.list_opportunities(segment.params + ranged + BY_ID)
                ids, rest = _ids(answer), answer.page.meta.total_row_count
                inside = all(last < i and (bound is None or i < bound) for i in ids)
                if not inside or not _ascending(ids):
                    raise _NotHonoured("ids outside the range asked for, or not in order")
                if rest <= len(answer.page.opportunities):
                    end = None if bound is None else bound - 1
                    out.put(self._seen(segment, answer, (last + 1, end)))
                    return
                if not ids:
                    raise _NotHonoured("an empty page in the middle of the list")
                out.put(self._seen(segment, answer, (last + 1, ids[-1])))
                last = ids[-1]

        yield from _in_parallel(lane, len(seeds))

    def _by_page_number(self, segment: Segment) -> Iterator[WalkedPage]:
        """Reads the list until one reading holds as many distinct ids as the API counts."""
        seen: set[int] = set()
        total = 0
        for _ in range(_READINGS_BY_PAGE_NUMBER):
            reading: set[int] = set()
            totals: set[int] = set()
            nameless = 0
            for page in self._numbered_pages(segment):
                reading.update(page.ids)
                nameless += len(page.answer.page.opportunities) - len(page.ids)
                totals.add(page.answer.page.meta.total_row_count)
                yield page
            total = max(totals)
            if len(totals) == 1 and len(reading) + nameless == total:
                return
            seen |= reading
        raise WalkIncomplete(
            f"The list kept moving while it was read {_READINGS_BY_PAGE_NUMBER} times: Current RMS "
            f"counts {total} opportunities, {len(seen)} different ones came. What came is stored; "
            "run the sync again at a quieter time to complete it."
        )

    def _numbered_pages(self, segment: Segment) -> Iterator[WalkedPage]:
        first = self._client.list_opportunities(segment.params + BY_ID)
        yield self._seen(segment, first, None)
        size = len(first.page.opportunities) or PER_PAGE
        page_count = -(-first.page.meta.total_row_count // size)

        def lane(index: int, out: "_Outbox") -> None:
            for number in range(2 + index, page_count + 1, self._lanes):
                answer = self._client.list_opportunities(segment.params + BY_ID, page=number)
                out.put(self._seen(segment, answer, None))

        yield from _in_parallel(lane, min(self._lanes, max(page_count - 1, 1)))

    def _seen(
        self, segment: Segment, answer: ListAnswer, covers: tuple[int | None, int | None] | None
    ) -> WalkedPage:
        with self._lock:
            self.report.pages += 1
            self.report.records += len(answer.page.opportunities)
        return WalkedPage(segment.name, answer, tuple(_ids(answer)), covers)


class _Outbox:
    """Where lanes put pages for the one consumer; full when the consumer is behind."""

    def __init__(self, size: int) -> None:
        self.queue: queue.Queue[WalkedPage | BaseException | None] = queue.Queue(size)
        self.stopped = threading.Event()

    def put(self, item: "WalkedPage | BaseException | None") -> None:
        while not self.stopped.is_set():
            try:
                self.queue.put(item, timeout=0.2)
                return
            except queue.Full:
                continue
        raise _Stopped


class _Stopped(Exception):
    """The consumer has gone, or another lane failed."""


def _in_parallel(lane: Callable[[int, _Outbox], None], count: int) -> Iterator[WalkedPage]:
    """Runs `lane(index, outbox)` for each index in a thread, yielding what they put.

    The first error of a lane stops the others and is raised here.
    """
    out = _Outbox(2 * count)

    def run(index: int) -> None:
        try:
            lane(index, out)
            out.put(None)
        except _Stopped:
            return
        except BaseException as error:
            out.put(error)

    threads = [
        threading.Thread(target=run, args=(i,), name=f"walk-{i}", daemon=True) for i in range(count)
    ]
    for thread in threads:
        thread.start()
    try:
        running = count
        while running:
            item = out.queue.get()
            if item is None:
                running -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        out.stopped.set()


def _ids(answer: ListAnswer) -> list[int]:
    return [i for r in answer.page.opportunities if (i := record_id(r)) is not None]


def _ascending(ids: list[int]) -> bool:
    return all(a < b for a, b in itertools.pairwise(ids))


def _lacks_a_date(record: Raw) -> bool:
    decoded = decode_record(record)
    return not isinstance(decoded, Opportunity) or None in (decoded.starts_at, decoded.ends_at)
