"""Which records changed, where the API ignores the filter that asks for them.

What belongs here: telling that it does, and reading in the order of change instead. What does not:
reading a list in other orders (`walk`).
"""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from rms_pipeline.current_rms.client import ListAnswer
from rms_pipeline.current_rms.errors import NotHonoured
from rms_pipeline.current_rms.records import Record, bare_record
from rms_pipeline.current_rms.window import Params

NEWEST_CHANGE: Params = (("q[s]", "updated_at desc"),)
# A filter may compare whole seconds.
_ROUNDED = timedelta(seconds=1)


def mostly_older(answer: ListAnswer, since: datetime) -> bool:
    """Whether most of what came changed before `since`, so that this is not what was asked for.

    One odd record proves nothing; and what all fits is right, whether the filter was obeyed or not.
    """
    moments = _moments(answer)
    older = sum(m < since - _ROUNDED for m in moments)
    return older > 1 and 2 * older > len(moments)


def read_newest(ask: Callable[[int], ListAnswer], since: datetime) -> Iterator[ListAnswer]:
    """Pages of the list in the order of NEWEST_CHANGE, until they are older than `since`.

    `ask` gives a page by its number. A record that changes meanwhile pushes others back, to be read
    twice. Raises NotHonoured when the order is not obeyed, or when a record went, which could hide
    another.
    """
    latest: datetime | None = None
    total: int | None = None
    came = number = 0
    while latest is None or latest >= since - _ROUNDED:
        number += 1
        answer = ask(number)
        counted = answer.page.meta.total_row_count
        if total is not None and counted < total:
            raise NotHonoured("records went while it was read")
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
    """`updated_at` of each record that tells it."""
    records = (bare_record(raw) for raw in answer.page.records)
    found = (r.updated_at() for r in records if isinstance(r, Record))
    return [moment for moment in found if moment is not None]
