"""Reads a list where the API ignores the order of ids: by ranges, or else by page number.

One answer holds everything in its range at its moment, and no record moves between ranges of a
field that never changes. So nothing is missed while the list changes. The price: about one call in
two only finds out where to cut. Page numbers are the last resort: the list is read until the result
is certain.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from rms_pipeline.current_rms.client import ListAnswer
from rms_pipeline.current_rms.errors import NotHonoured, WalkIncomplete
from rms_pipeline.current_rms.failing import PageFailed
from rms_pipeline.current_rms.parallel import Outbox, Stopped, in_parallel
from rms_pipeline.current_rms.records import record_id
from rms_pipeline.current_rms.spans import Key, Span

_FILL = 0.7

Asker = Callable[[Span], ListAnswer]
Stuck = Callable[[Span, PageFailed], Iterable[ListAnswer]]


def _fail(_: Span, failed: PageFailed) -> Iterable[ListAnswer]:
    raise failed


def read_ranges(
    ask: Asker,
    key: Key,
    spans: Sequence[Span],
    *,
    lanes: int,
    is_full: Callable[[ListAnswer], bool] = lambda _: False,
    stuck: Stuck = _fail,
) -> Iterator[tuple[Span, ListAnswer]]:
    """Yield every record of `spans`: each answer with the span that it covers completely.

    An answer for which `is_full` is true may not be its whole range, whatever the count says. If
    `ask` raises PageFailed, the range is halved. `stuck` returns the result for a range that cannot
    be halved. Raises NotHonoured if an answer holds records outside the range or without `key`, or
    if a range that cannot be cut does not fit one answer.
    """
    work = _Work(spans)

    def lane(_: int, out: Outbox[tuple[Span, ListAnswer]]) -> None:
        while (span := work.take(out.stopped)) is not None:
            try:
                answer = ask(span)
            except PageFailed as error:
                parts = halves(span, key.floor)
                for found in () if parts else stuck(span, error):
                    out.put((span, found))
                work.finish(parts)
                continue
            values = _values(answer, key, span)
            total = answer.page.meta.total_row_count
            if total <= len(values) and not (is_full(answer) and _can_be_cut(span, values)):
                out.put((span, answer))
                work.finish()
            else:
                total = max(total, len(values) + 1)
                work.finish(cut(span, values, total, floor=key.floor))

    yield from in_parallel(lane, lanes)


def halves(span: Span, floor: int) -> list[Span]:
    """Return two spans that together are `span`. Empty if it holds one value, or is below
    `floor`.
    """
    lower, upper = span
    if lower is None:
        if upper is not None and upper < floor:
            return []
        middle = floor - 1
    elif upper is None:
        # Ids and times are closer together at the beginning of an open range.
        middle = lower + max(abs(lower), 1_024)
    elif lower >= upper:
        return []
    else:
        middle = (lower + upper) // 2
    return [(lower, middle), (middle + 1, upper)]


def _can_be_cut(span: Span, values: Sequence[int]) -> bool:
    return span[0] is None or span[1] is None or values[0] != values[-1] or span[0] != span[1]


def _values(answer: ListAnswer, key: Key, span: Span) -> list[int]:
    lower, upper = span
    values: list[int] = []
    for record in answer.page.records:
        value = key.value(record)
        if value is None:
            raise NotHonoured(f"a record without {key.name}")
        if (lower is not None and value < lower) or (upper is not None and value > upper):
            raise NotHonoured(f"records outside the requested range of {key.name}")
        values.append(value)
    return sorted(values)


def cut(span: Span, values: Sequence[int], total: int, *, floor: int) -> list[Span]:
    """Return smaller spans that together are `span`. `values` (ascending) are some of its `total`
    values.

    `floor` is a value below which hardly any record is. Raises NotHonoured if it cannot be cut.
    """
    if not values:
        raise NotHonoured("records are counted, but none is sent")
    lower, upper = span
    low, high = values[0], values[-1]
    if lower is None or upper is None:
        cuts = [min(floor, low), high + 1]
    elif low == high:
        cuts = [low, low + 1]
    elif 2 * (high - low) >= upper - lower:
        parts = max(2, min(int(total / (_FILL * len(values))) + 1, len(values) // 2))
        cuts = [values[len(values) * part // parts] for part in range(1, parts)]
    else:
        # The answer shows only one end of the span, as when the API sends the newest first.
        cuts = [low, high + 1, (lower + upper) // 2]
    inside = sorted({c for c in cuts if (lower is None or c > lower) and not _above(c, upper)})
    if not inside:
        raise NotHonoured(
            "a range that cannot be divided has more records than one answer can hold"
        )
    starts = [lower, *inside]
    return list(zip(starts, [*(c - 1 for c in inside), upper], strict=True))


def _above(value: int, upper: int | None) -> bool:
    return upper is not None and value > upper


class _Work:
    """The spans that are still to be asked for. It ends when no span is left and none is being
    asked for.
    """

    def __init__(self, spans: Sequence[Span]) -> None:
        self._spans = list(reversed(spans))
        self._asked = 0
        self._changed = threading.Condition()

    def take(self, stopped: threading.Event) -> Span | None:
        with self._changed:
            while not self._spans:
                if not self._asked:
                    return None
                self._changed.wait(0.2)
                if stopped.is_set():
                    raise Stopped
            self._asked += 1
            return self._spans.pop()

    def finish(self, further: Sequence[Span] = ()) -> None:
        with self._changed:
            self._asked -= 1
            self._spans += reversed(further)
            self._changed.notify_all()


# Reading by page number


_READINGS = 6


def read_by_number(
    ask: Callable[[int], Sequence[ListAnswer | None]], *, lanes: int
) -> Iterator[tuple[int, ListAnswer]]:
    """Read the list until two readings in a row are the same, page by page.

    `ask` returns the answers that make up a page, with None for what cannot be fetched. A row is
    only missed if another row moves or goes, and that row then has another place in the next
    reading. Yields (number of the reading, answer). Raises WalkIncomplete if the list never stays
    the same, or if all its pages are the same.
    """
    before: dict[int, list[int | None]] = {}
    for number in range(1, _READINGS + 1):
        reading: dict[int, list[int | None]] = {}
        for page, answers in _one_reading(ask, lanes):
            records = reading.setdefault(page, [])
            for answer in answers:
                if answer is None:
                    records.append(None)
                    continue
                records += [record_id(r) for r in answer.page.records]
                yield number, answer
            if page == 2 and len(records) > 1 and any(records) and records == reading[1]:
                raise WalkIncomplete(
                    "Current RMS sends the first page for every page number, so the rest of the "
                    "list cannot be read. The first page is stored. Report this to the support "
                    "of Current RMS."
                )
        if reading == before:
            return
        before = reading
    raise WalkIncomplete(
        f"The list changed during each of {_READINGS} readings. Everything that was received is "
        "stored. Run the sync again at a quieter time to complete it."
    )


Pages = Sequence[ListAnswer | None]


def _one_reading(ask: Callable[[int], Pages], lanes: int) -> Iterator[tuple[int, Pages]]:
    sizes: dict[int, int] = {}
    counts: list[int] = []
    page = 0
    # A page of which nothing can be fetched does not say how many there are.
    while not counts:
        page += 1
        answers = ask(page)
        yield page, answers
        sizes[page] = _size(answers)
        counts = [a.page.meta.total_row_count for a in answers if a is not None]
    begun = page
    # An empty first page is the end, whatever the count says: no page number says where to
    # continue.
    size = sizes[1]
    page_count = max(-(-max(counts) // size) if size else 1, begun)

    def lane(index: int, out: Outbox[tuple[int, Pages]]) -> None:
        for page in range(begun + 1 + index, page_count + 1, lanes):
            answers = ask(page)
            sizes[page] = _size(answers)
            out.put((page, answers))

    yield from in_parallel(lane, min(lanes, max(page_count - begun, 1)))
    # A full last page may not be the end, even if the count says so.
    page = page_count
    ids = _ids(answers) if page == begun else None
    while size and sizes.get(page, 0) >= size:
        page += 1
        answers = ask(page)
        if _ids(answers) == ids:
            # Some APIs send the last page for every number behind it.
            return
        sizes[page], ids = _size(answers), _ids(answers)
        yield page, answers


def _ids(answers: Pages) -> list[int]:
    return [i for a in answers if a is not None for i in a.ids]


def _size(answers: Pages) -> int:
    return sum(1 if a is None else len(a.page.records) for a in answers)
