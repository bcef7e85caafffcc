"""Where the lanes of a walk start: one page each, found by its number in a list that is in order.

What belongs here: what the lanes' first pages say of each other. What does not: asking for them,
and for what lies between (`walk`).
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

from rms_pipeline.current_rms.client import ListAnswer
from rms_pipeline.current_rms.errors import NotHonoured
from rms_pipeline.current_rms.spans import Span


class Seeds:
    """The first pages of `lanes` lanes; that of the first lane, `first`, is there already. The list
    begins at the id `lower`.

    At the limit they come one by one, so each lane waits for no more of them than it needs. What
    their lanes fetch is good for anything only once `in_order` has returned.
    """

    def __init__(self, first: ListAnswer, lanes: int, lower: int | None = None) -> None:
        self._seeds: list[Future[ListAnswer | None]] = [Future() for _ in range(lanes)]
        self._lower = lower
        self._seeds[0].set_result(first)
        self.in_order = functools.cache(self._in_order)

    def fetch(self, lane: int, ask: Callable[[], ListAnswer | None]) -> None:
        """Takes what `ask` returns or raises for the first page of `lane`; raises that too.

        None when there is no such page to be had: the lane before then reads on.
        """
        try:
            self._seeds[lane].set_result(ask())
        except BaseException as error:
            self._seeds[lane].set_exception(error)
            raise

    def rest_of(self, lane: int) -> Span | None:
        """The ids between the first page of `lane` and the next lane's, None if there are none.

        Waits for both. Raises what `fetch` did for either.
        """
        ids = self._ids(self._seeds[lane])
        # A lane that starts behind the end of a list that has become shorter has no first page.
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
        """Waits for all; each with the span of ids it covers.

        Raises NotHonoured when they are not in the order of id, and what `fetch` did for any.
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


def ascending(ids: Sequence[int]) -> bool:
    """Whether they are in order; one that is listed twice is, beside itself."""
    return all(a <= b for a, b in itertools.pairwise(ids))
