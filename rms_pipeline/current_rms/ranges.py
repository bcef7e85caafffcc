"""Reading a list without its order: cut into ranges until each fits one answer.

One answer is the whole truth about its range at its moment, and no record moves between ranges of
a field that never changes; so nothing is missed however the list moves, at the price of about one
call in two being spent on finding out where to cut.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from rms_pipeline.current_rms.client import ListAnswer
from rms_pipeline.current_rms.errors import NotHonoured
from rms_pipeline.current_rms.failing import PageFailed
from rms_pipeline.current_rms.keys import Key
from rms_pipeline.current_rms.lanes import Outbox, Stopped, in_parallel
from rms_pipeline.current_rms.spans import Span

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
    """Every record of `spans`, each answer with the span it is the whole truth about.

    A page that `is_full` is not believed to be all of its range, whatever is counted. Where `ask`
    raises PageFailed the range is halved; `stuck` returns what there is to say of one that cannot
    be. Raises NotHonoured when what comes back is outside the range asked for, has no `key`, or is
    too much for one answer in a range that cannot be cut.
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
    """Two spans that together are `span`, none when it is of one value, or below `floor`."""
    lower, upper = span
    if lower is None:
        if upper is not None and upper < floor:
            return []
        middle = floor - 1
    elif upper is None:
        # Ids, and times, lie denser at the beginning than out there.
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
            raise NotHonoured(f"records outside the range of {key.name} asked for")
        values.append(value)
    return sorted(values)


def cut(span: Span, values: Sequence[int], total: int, *, floor: int) -> list[Span]:
    """Smaller spans that together are `span`, of which `values` (ascending) are some of `total`.

    Raises NotHonoured when it cannot be cut. `floor` is a value below which hardly any record is.
    """
    if not values:
        raise NotHonoured("records are counted but none of them sent")
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
        # The answer shows one corner only, as when the API sends the newest first.
        cuts = [low, high + 1, (lower + upper) // 2]
    inside = sorted({c for c in cuts if (lower is None or c > lower) and not _above(c, upper)})
    if not inside:
        raise NotHonoured("more records than one answer holds in a range that cannot be cut")
    starts = [lower, *inside]
    return list(zip(starts, [*(c - 1 for c in inside), upper], strict=True))


def _above(value: int, upper: int | None) -> bool:
    return upper is not None and value > upper


class _Work:
    """The spans still to be asked for; at its end when none is left and none is being asked."""

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
