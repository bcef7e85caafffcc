"""What the API was found to grant this account: how long a page is, what it refuses or ignores.

What belongs here: what is known, and how an answer teaches it. What does not: asking (`client`),
and remembering it beyond this process (`mirror.api_terms`). The vendor changes the API without
notice, so everything here is what answers have shown, never what was promised.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

# Until an answer shows another: the most that lists of opportunities have held since June 2026.
PAGE_SIZE = 25
# What is asked for: more than is granted costs nothing, and shows when the account grants more.
MOST_PER_PAGE = 100
# What was refused is tried again after this long.
TRIED_AGAIN_AFTER = timedelta(days=7)

Kind = Literal["include", "per_page", "filter"]

# The parameter that asks for every state of an opportunity.
EVERY_STATE = "filtermode"
# What follows from a filter that nothing can be asked instead of.
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
        """ "include destination refused with 422 as of 2026-11-24", and what follows if known."""
        how = "ignored" if self.status is None else f"refused with {self.status}"
        said = f"{self.kind} {self.name} {how} as of {self.noted_at:%Y-%m-%d}"
        return f"{said} ({self.what_follows})" if self.what_follows else said

    @property
    def what_follows(self) -> str:
        """Of a filter without which nothing can be counted; '' of any other."""
        return _WHAT_FOLLOWS.get(self.name, "") if self.kind == "filter" else ""


class Terms:
    """The terms of one collection of one account, known in this process. Safe between threads.

    A subclass may keep what is learned somewhere: it overrides `_keep_page_size`, `_keep` and
    `_forget`, and `reload`.
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
        """All that is refused or ignored, in order of kind and name."""
        with self._lock:
            return tuple(self._refusals[k] for k in sorted(self._refusals))

    def refusal(self, kind: Kind, name: str) -> Refusal | None:
        """What is known against `name`, None when nothing is."""
        with self._lock:
            return self._refusals.get((kind, name))

    def is_to_be_asked(self, kind: Kind, name: str, now: datetime) -> bool:
        """Whether it was never refused, or so long ago that it is worth another try."""
        known = self.refusal(kind, name)
        return known is None or now - known.noted_at >= TRIED_AGAIN_AFTER

    def learn_page_size(
        self, *, asked: int, claimed: int | None, came: int, total: int, number: int
    ) -> None:
        """Learns from page `number`: `asked` and `claimed` are `per_page`, `came` are records.

        What came counts for more than what is claimed, and a claim only when it is no echo of what
        was asked. A short page says something only when more is left in the list.
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
        """Notes that a page holds `size` records."""
        with self._lock:
            if size == self._page_size and self._is_learned:
                return
            self._page_size, self._is_learned = size, True
        self._keep_page_size(size)

    def note(self, kind: Kind, name: str, status: int | None, now: datetime) -> None:
        """Notes that `name` was refused with `status`, or ignored (None), at `now`."""
        refusal = Refusal(kind, name, status, now)
        with self._lock:
            self._refusals[kind, name] = refusal
        self._keep(refusal)

    def forget(self, kind: Kind, name: str) -> None:
        """Notes that `name` is granted after all."""
        with self._lock:
            if self._refusals.pop((kind, name), None) is None:
                return
        self._forget(kind, name)

    def reload(self) -> None:
        """Takes over what other processes have found out meanwhile."""

    def _keep_page_size(self, size: int) -> None: ...

    def _keep(self, refusal: Refusal) -> None: ...

    def _forget(self, kind: Kind, name: str) -> None: ...
