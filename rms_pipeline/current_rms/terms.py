"""What the API is known to grant this account: how long a page is, and what it refuses or ignores.

This module holds what is known, and learns it from answers. Asking is in `client`, storing it
beyond this process in `mirror.api_terms`. The vendor changes the API without notice. So everything
here comes from answers, never from a promise.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

# Used until an answer shows another size: the most that lists of opportunities have held since June
# 2026.
PAGE_SIZE = 25
# The number asked for. Asking for more than is granted costs nothing, and shows when the account
# grants more.
MOST_PER_PAGE = 100
# What was refused is tried again after this long.
TRIED_AGAIN_AFTER = timedelta(days=7)

Kind = Literal["include", "per_page", "filter"]

# The parameter that asks for opportunities in every state.
EVERY_STATE = "filtermode"
# Where it is ignored, filters compare whole days, in a time zone that is not known.
TIME_OF_DAY = "time of day"
# What follows if a filter is refused and no other question can replace it.
_WHAT_FOLLOWS = {
    EVERY_STATE: (
        "completed, cancelled, lost and dead opportunities are only mirrored when they "
        "are requested by id"
    ),
    "q[ends_at_gteq]": "syncs also read what ended before the window, and leave it out",
    "q[starts_at_lteq]": "syncs also read what starts after the window, and leave it out",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """`name` of its `kind` is refused with `status`, or ignored (None), as of `noted_at` (UTC)."""

    kind: Kind
    name: str
    status: int | None
    noted_at: datetime

    @property
    def sentence(self) -> str:
        """Return "include destination refused with 422 as of 2026-11-24", and what follows if that
        is known.
        """
        how = "ignored" if self.status is None else f"refused with {self.status}"
        said = f"{self.kind} {self.name} {how} as of {self.noted_at:%Y-%m-%d}"
        return f"{said} ({self.what_follows})" if self.what_follows else said

    @property
    def what_follows(self) -> str:
        """Return what follows from losing a filter that the counts need, or '' for any other."""
        return _WHAT_FOLLOWS.get(self.name, "") if self.kind == "filter" else ""


class Terms:
    """The terms of one collection of one account, as known in this process. Threads may share them.

    A subclass may store what is learned: it overrides `_keep_page_size`, `_keep`, `_forget` and
    `reload`.
    """

    def __init__(self, page_size: int | None = None, refusals: Iterable[Refusal] = ()) -> None:
        self._page_size = page_size or PAGE_SIZE
        self._is_learned = page_size is not None
        self._refusals = {(r.kind, r.name): r for r in refusals}
        self._lock = threading.Lock()

    @property
    def page_size(self) -> int:
        """How many records a page holds at most, as far as is known."""
        return self._page_size

    @property
    def knows_page_size(self) -> bool:
        """Whether an answer has shown it."""
        return self._is_learned

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Return all that is refused or ignored, ordered by kind and name."""
        with self._lock:
            return tuple(self._refusals[k] for k in sorted(self._refusals))

    def refusal(self, kind: Kind, name: str) -> Refusal | None:
        """Return what is known against `name`, or None."""
        with self._lock:
            return self._refusals.get((kind, name))

    @property
    def compares_whole_days(self) -> bool:
        """Whether filters by a time were seen to compare days."""
        return self.refusal("filter", TIME_OF_DAY) is not None

    def is_to_be_asked(self, kind: Kind, name: str, now: datetime) -> bool:
        """Return whether `name` was never refused, or so long ago that it is worth another try.

        So is what a clock noted that was far ahead.
        """
        known = self.refusal(kind, name)
        return known is None or abs(now - known.noted_at) >= TRIED_AGAIN_AFTER

    def learn_page_size(
        self, *, asked: int, claimed: int | None, came: int, total: int, number: int
    ) -> None:
        """Learn from page `number`. `asked` and `claimed` are values of `per_page`, `came` is the
        number of records.

        The records that came count for more than the claim. A claim that only repeats the request
        counts for nothing. A short page proves something only if the list has more.
        """
        size = self._page_size
        if came > size:
            size = came
        elif claimed is not None and claimed != asked and claimed > 0:
            size = max(claimed, came)
        elif number == 1 and 0 < came < min(asked, total):
            size = came
        else:
            return
        self.set_page_size(size)

    def set_page_size(self, size: int) -> None:
        """Note that a page holds `size` records."""
        with self._lock:
            if size == self._page_size and self._is_learned:
                return
            self._page_size, self._is_learned = size, True
        self._keep_page_size(size)

    def note(self, kind: Kind, name: str, status: int | None, now: datetime) -> None:
        """Note that `name` was refused with `status`, or ignored (None), at `now`."""
        refusal = Refusal(kind, name, status, now)
        with self._lock:
            self._refusals[kind, name] = refusal
        self._keep(refusal)

    def forget(self, kind: Kind, name: str) -> None:
        """Note that `name` is granted after all."""
        with self._lock:
            if self._refusals.pop((kind, name), None) is None:
                return
        self._forget(kind, name)

    def reload(self) -> None:
        """Load what other processes have found out meanwhile."""

    def _keep_page_size(self, size: int) -> None: ...

    def _keep(self, refusal: Refusal) -> None: ...

    def _forget(self, kind: Kind, name: str) -> None: ...
