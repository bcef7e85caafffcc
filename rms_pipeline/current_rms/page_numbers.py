"""The last resort: reading a list by page number, as often as it takes to be sure of it."""

from collections.abc import Callable, Iterator

from rms_pipeline.current_rms.client import ListAnswer
from rms_pipeline.current_rms.errors import WalkIncomplete
from rms_pipeline.current_rms.lanes import Outbox, in_parallel
from rms_pipeline.current_rms.payloads import record_id

_READINGS = 6


def read_by_number(
    ask: Callable[[int], ListAnswer], *, lanes: int
) -> Iterator[tuple[int, ListAnswer]]:
    """Reads until two readings in a row are the same, page by page.

    A row can only be missed when another moves or goes, and that one stands differently in the next
    reading. Yields (number of the reading, answer). Raises WalkIncomplete when the list never
    rests.
    """
    before: dict[int, list[int | None]] = {}
    for number in range(1, _READINGS + 1):
        reading: dict[int, list[int | None]] = {}
        for page, answer in _one_reading(ask, lanes):
            reading[page] = [record_id(r) for r in answer.page.opportunities]
            yield number, answer
        if reading == before:
            return
        before = reading
    raise WalkIncomplete(
        f"The list kept moving while it was read {_READINGS} times. What came is stored; run the "
        "sync again at a quieter time to complete it."
    )


def _one_reading(ask: Callable[[int], ListAnswer], lanes: int) -> Iterator[tuple[int, ListAnswer]]:
    first = ask(1)
    yield 1, first
    # A first page of nothing is the end, whatever is counted: no page number says where to go on.
    size = len(first.page.opportunities)
    page_count = -(-first.page.meta.total_row_count // size) if size else 1

    def lane(index: int, out: Outbox[tuple[int, ListAnswer]]) -> None:
        for page in range(2 + index, page_count + 1, lanes):
            out.put((page, ask(page)))

    yield from in_parallel(lane, min(lanes, max(page_count - 1, 1)))
