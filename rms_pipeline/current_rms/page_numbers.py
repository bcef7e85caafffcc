"""The last resort: reading a list by page number, as often as it takes to be sure of it."""

from collections.abc import Callable, Iterator, Sequence

from rms_pipeline.current_rms.client import ListAnswer
from rms_pipeline.current_rms.errors import WalkIncomplete
from rms_pipeline.current_rms.lanes import Outbox, in_parallel
from rms_pipeline.current_rms.records import record_id

_READINGS = 6


def read_by_number(
    ask: Callable[[int], Sequence[ListAnswer | None]], *, lanes: int
) -> Iterator[tuple[int, ListAnswer]]:
    """Reads until two readings in a row are the same, page by page.

    `ask` gets the answers that make up a page, None in place of what cannot be had. A row can only
    be missed when another moves or goes, and that one stands differently in the next reading.
    Yields (number of the reading, answer). Raises WalkIncomplete when the list never rests, or its
    pages are all the same.
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
            if page == 2 and len(records) > 1 and records == reading[1]:
                raise WalkIncomplete(
                    "Current RMS sends the first page whatever page is asked for, so the list "
                    "cannot be read beyond it. What came is stored; ask Current RMS."
                )
        if reading == before:
            return
        before = reading
    raise WalkIncomplete(
        f"The list changed each of the {_READINGS} times that it was read. What was received is "
        "stored. Run the sync again at a quieter time to complete it."
    )


Pages = Sequence[ListAnswer | None]


def _one_reading(ask: Callable[[int], Pages], lanes: int) -> Iterator[tuple[int, Pages]]:
    first = ask(1)
    yield 1, first
    # A first page of nothing is the end, whatever is counted: no page number says where to go on.
    size = _size(first)
    total = max((a.page.meta.total_row_count for a in first if a is not None), default=0)
    page_count = -(-total // size) if size else 1
    sizes: dict[int, int] = {1: size}

    def lane(index: int, out: Outbox[tuple[int, Pages]]) -> None:
        for page in range(2 + index, page_count + 1, lanes):
            answers = ask(page)
            sizes[page] = _size(answers)
            out.put((page, answers))

    yield from in_parallel(lane, min(lanes, max(page_count - 1, 1)))
    # A last page that is full is not the end on the count's word.
    page = page_count
    ids = _ids(first) if page == 1 else None
    while size and sizes.get(page, 0) >= size:
        page += 1
        answers = ask(page)
        if _ids(answers) == ids:
            # Some send the last page for whatever lies behind it.
            return
        sizes[page], ids = _size(answers), _ids(answers)
        yield page, answers


def _ids(answers: Pages) -> list[int]:
    return [i for a in answers if a is not None for i in a.ids]


def _size(answers: Pages) -> int:
    return sum(1 if a is None else len(a.page.records) for a in answers)
