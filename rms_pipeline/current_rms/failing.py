"""Pages that fail: told from an API that is down, and narrowed down to the one record at fault.

What belongs here: which failures are those of one question, and how a list is read past them. What
does not: how a list is read where nothing fails (`scan`).

An API that is down fails whatever is asked. A record that the API cannot deliver fails each page
that would hold it, at once and every time. So a page that fails is asked for a few times only; if
the API then answers a question about nothing, what was asked is at fault and is made smaller:
fewer records a page, then ranges of ids, until one id is left. Each step is one call.
"""

import contextlib
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rms_pipeline.current_rms.client import CurrentRmsClient, ListAnswer
from rms_pipeline.current_rms.errors import (
    ApiUnavailable,
    CurrentRmsError,
    NotHonoured,
    Redirected,
    RequestRefused,
    Throttled,
    Unauthorized,
)
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.current_rms.spans import Span
from rms_pipeline.current_rms.terms import MOST_PER_PAGE
from rms_pipeline.current_rms.window import Params

# How often a page is asked for before it is held to fail, and a part of one that failed already.
FEW, ONCE, TWICE = 3, 1, 2
# Failures of other questions that may come in a row until it is asked again whether the API is up.
_FAILURES_IN_A_ROW = 6
# More in one scan than these are no matter of single records.
MOST_UNDELIVERED = 100
# No id is beyond: where nothing fails up to here, nothing fails.
_HIGHEST_ID = 2**63 - 1
# A list of nothing, and a record that is nowhere, for they hold nothing that could fail.
_NOTHING: Params = (("q[id_gt]", "0"), ("q[id_lt]", "1"))
_NOBODY = 0

Ask = Callable[[Span, int | None, int], ListAnswer]
# Takes an answer about a span in, and says from which id to go on, None where the span is over.
Take = Callable[[Span, int | None, ListAnswer], int | None]


class PageFailed(CurrentRmsError):
    """What was asked fails, though the API answers other questions. `reason` is short."""

    def __init__(self, error: CurrentRmsError) -> None:
        super().__init__(*error.args)
        self.error = error
        is_passing = isinstance(error, ApiUnavailable) and error.reason
        self.reason = error.reason if is_passing else str(error)[:200]  # type: ignore[attr-defined]


def is_of_the_question(error: CurrentRmsError) -> bool:
    """Whether another question might be answered: not so with a wrong key, or a limit reached."""
    final = isinstance(error, Throttled | Unauthorized | Redirected)
    return isinstance(error, ApiUnavailable | RequestRefused) and not final


@dataclass(slots=True)
class Undelivered:
    """Records of one scan that no list delivers: `singly` those that came when asked for by their
    id, `unreadable` the others, with the reason."""

    singly: set[int] = field(default_factory=set)
    unreadable: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.singly) + len(self.unreadable)


class Health:
    """Whether the API answers at all, asked as seldom as will do. Shared by the lanes of a scan."""

    def __init__(self, client: CurrentRmsClient, lane: Lane) -> None:
        self._client, self._lane = client, lane
        self._lock = threading.Lock()
        # None before the first answer.
        self._failures: int | None = None

    def answered(self) -> None:
        """A question of the scan was answered."""
        with self._lock:
            self._failures = 0

    def is_up(self, params: Params, *, for_sure: bool = False) -> bool:
        """Whether the API answers other questions than the one that just failed."""
        with self._lock:
            if self._failures is not None:
                self._failures += 1
                if self._failures <= _FAILURES_IN_A_ROW and not for_sure:
                    return True
        return self.accepts(params) or self._knows_nobody()

    def accepts(self, params: Params) -> bool:
        """Whether a list of nothing, filtered and ordered as `params` say, is answered."""
        try:
            self._client.list_records(params + _NOTHING, per_page=1, lane=self._lane, attempts=ONCE)
        except (ApiUnavailable, RequestRefused) as error:
            if not is_of_the_question(error):
                raise
            return False
        self.answered()
        return True

    def _knows_nobody(self) -> bool:
        """Whether the API says so of a record that is nowhere: for one that ignores ranges."""
        try:
            self._client.get_record(_NOBODY, lane=self._lane, attempts=ONCE)
        except (ApiUnavailable, RequestRefused) as error:
            if not is_of_the_question(error):
                raise
            return False
        self.answered()
        return True

    def ask(
        self, params: Params, question: Callable[[int | None], ListAnswer], attempts: int
    ) -> ListAnswer:
        """What `question` answers when it is given so many attempts, None for all there are.

        Raises PageFailed when it fails though the API is up. While the API is down it is borne for
        as long as patience lasts. `params` are the question's, but for its range.
        """
        try:
            answer = question(attempts)
        except RequestRefused as error:
            # Refused for its form, unless the same form is accepted when it asks for nothing.
            if not is_of_the_question(error) or not self.accepts(params):
                raise
            raise PageFailed(error) from error
        except ApiUnavailable as error:
            if not is_of_the_question(error):
                raise
            if self.is_up(params):
                raise PageFailed(error) from error
            try:
                answer = question(None)
            except ApiUnavailable as last:
                if not is_of_the_question(last) or not self.is_up(params, for_sure=True):
                    raise
                raise PageFailed(last) from last
        self.answered()
        return answer


class PageSizes:
    """How many records a scan asks for in a page: fewer, once pages failed and nobody in them."""

    def __init__(self, client: CurrentRmsClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._failed: dict[int, int] = {}
        refused = [int(r.name) for r in client.terms.refusals if r.kind == "per_page"
                   and r.name.isdigit()
                   and not client.terms.is_to_be_asked(r.kind, r.name, client.now())]  # fmt: skip
        self._most = max(1, min(refused) // 2) if refused else None

    @property
    def most(self) -> int | None:
        """What to ask for, None for as many as there are."""
        return self._most

    @property
    def expected(self) -> int:
        """How many records such a page holds, as far as is known."""
        return min(self._most or MOST_PER_PAGE, self._client.page_size)

    def note_failure(self, size: int, smaller: int, reason: str) -> None:
        """A page of `size` failed, and all of its records came in pages of `smaller`."""
        with self._lock:
            self._failed[size] = self._failed.get(size, 0) + 1
            # Once may have been an accident, but for what says itself that it was too much.
            is_too_much = any(word in reason for word in ("504", "413", "more than", "in time"))
            if self._failed[size] < TWICE and not is_too_much:
                return
            if self._most is not None and self._most <= smaller:
                return
            self._most = max(1, smaller)
        found = re.search(r"status (\d{3})", reason)
        status = int(found[1]) if found else None
        self._client.terms.note("per_page", str(max(1, smaller) * 2), status, self._client.now())


class Narrowing:
    """Reads a list of one segment past what fails in it.

    `ask` gets a page of a span, in the order of id, with so many records and attempts, or raises
    PageFailed. `take` takes an answer in. `place` gets the one record of a span that stands there,
    counted from 1. `suspects` are ids that failed in earlier scans.
    """

    def __init__(
        self,
        client: CurrentRmsClient,
        lane: Lane,
        health: Health,
        sizes: PageSizes,
        undelivered: Undelivered,
        suspects: Iterable[int],
        *,
        params: Params,
        ask: Ask,
        take: Take,
        place: Callable[[Span, int], ListAnswer],
        take_single: Callable[[int, ListAnswer], None],
    ) -> None:
        self._client, self._lane = client, lane
        self._health, self._sizes, self._undelivered = health, sizes, undelivered
        self._suspects = sorted(suspects)
        self._params, self._ask, self._take, self._take_single = params, ask, take, take_single
        self._place = place

    def has_suspect(self, span: Span) -> bool:
        return self._suspect(span) is not None

    def read_past(self, span: Span, failed: PageFailed, *, beside: bool = False) -> int | None:
        """Reads what can be read at the beginning of `span`, whose first page `failed`.

        `beside` a record at fault the very first is the likeliest. Returns the id to go on from,
        None when the span is over. Raises ApiUnavailable when the API is down, or delivers too
        little for this to end.
        """
        lower, upper = span
        suspect = self._suspect(span)
        if suspect is None:
            return self._by_halves(span, failed, beside)
        if lower is None or lower < suspect:
            before = (lower, suspect - 1)
            try:
                answer = self._ask(before, None, ONCE)
            except PageFailed as error:
                after = self._by_halves(before, error, beside)
            else:
                after = self._take(before, None, answer)
            if after is not None:
                return after
        return self._at(suspect, upper, failed, ONCE)

    def _suspect(self, span: Span) -> int | None:
        lower, upper = span
        return next(
            (
                i
                for i in self._suspects
                if (lower is None or i >= lower) and (upper is None or i <= upper)
            ),
            None,
        )

    def _by_halves(self, span: Span, failed: PageFailed, beside: bool) -> int | None:
        """By fewer records a page, until the first record of the rest is the one at fault."""
        lower, upper = span
        size = failing = self._sizes.expected
        largest, is_proven = 1, False
        while failing > 0:
            if failing == 1 and is_proven:
                return self._by_ids((lower, upper), failed)
            wanted = 1 if beside else max(1, failing // 2)
            beside = False
            try:
                answer = self._ask((lower, upper), wanted, ONCE)
            except PageFailed as error:
                failing, failed, is_proven = wanted, error, True
                continue
            lower = self._take((lower, upper), wanted, answer)
            if lower is None:
                return None
            largest = max(largest, wanted)
            # Those left of the page that failed: it is one of them, if it is anyone.
            failing, is_proven = failing - max(len(answer.page.records), 1), False
        self._sizes.note_failure(size, largest, failed.reason)
        return lower

    def _by_ids(self, span: Span, failed: PageFailed) -> int | None:
        """By ranges of ids, until one holds nothing but the first record of `span`."""
        lower, upper = span
        if lower is None:
            below: Span = (None, 0)
            after = self._take(below, None, self._ask(below, None, TWICE))
            lower = 1 if after is None else after
        # Ids are dense where people have worked on end.
        last = _HIGHEST_ID if upper is None else upper
        widths, gallop = [1, 2], 2
        known_to_fail: int | None = None
        while lower <= last:
            if widths:
                width = widths.pop(0)
            elif known_to_fail is None and gallop == 2:
                known_to_fail = self._before_the_next(failed_from=lower, upper=upper)
                width = gallop = 4 if known_to_fail is None else known_to_fail - lower
            elif known_to_fail is None:
                # What comes next cannot be had either.
                width = gallop = gallop * 2
            else:
                width = (min(known_to_fail, last) - lower + 1) // 2
            end = min(lower + max(width, 1) - 1, known_to_fail or last, last)
            try:
                answer = self._ask((lower, end), None, ONCE)
            except PageFailed as error:
                if lower == end:
                    return self._at(lower, upper, error, TWICE)
                known_to_fail, widths = end, []
                continue
            after = self._take((lower, end), None, answer)
            lower = end + 1 if after is None else after
            if answer.ids or lower > (known_to_fail or last):
                # It does not fail any more.
                break
        return lower if upper is None or lower <= upper else None

    def _before_the_next(self, *, failed_from: int, upper: int | None) -> int | None:
        """The highest id that the first record from `failed_from` on can have, None if unknown.

        It is below that of the next one that comes.
        """
        for place in (2, 3):
            with contextlib.suppress(PageFailed, NotHonoured):
                answer = self._place((failed_from, upper), place)
                if answer.ids:
                    return answer.ids[0] - 1
                return upper
        return None

    def _at(self, id_: int, upper: int | None, failed: PageFailed, attempts: int) -> int | None:
        """Reads the one record that fails its lists, singly if need be; where to go on."""
        self.read_one(id_, failed, attempts)
        return id_ + 1 if upper is None or id_ < upper else None

    def read_one(self, id_: int, failed: PageFailed, attempts: int) -> None:
        """Takes in the record `id_`, by a list of itself or alone, or names it as unreadable."""
        here: Span = (id_, id_)
        if id_ in self._undelivered.unreadable:
            # Named a moment ago, when another list of the same sync was read.
            return
        if attempts == ONCE:
            # Nobody has asked for a list of it alone, in this scan.
            try:
                self._take(here, None, self._ask(here, None, ONCE))
            except PageFailed as error:
                failed = error
            else:
                return
        if len(self._undelivered) >= MOST_UNDELIVERED:
            raise ApiUnavailable(
                f"Current RMS cannot deliver {MOST_UNDELIVERED} {self._client.collection.name} or "
                f"more. Every list that includes one of them fails (the last: {id_}, "
                f"{failed.reason}). So the cause is not a single record. Ask the support of "
                "Current RMS. Everything that was received is stored.",
                reason=failed.reason,
            ) from failed
        reason = f"every list that includes it: {failed.reason}"
        try:
            single = self._health.ask(
                self._params, lambda attempts: self._single(id_, attempts), attempts
            )
        except _IsNowhere:
            try:
                self._take(here, None, self._ask(here, None, TWICE))
            except PageFailed:
                if not self._health.accepts(self._params):
                    # Any other id would fail its list as well.
                    raise NotHonoured(f"even a list of no ids fails ({failed.reason})") from failed
                self._give_up(id_, f"{reason}; Current RMS does not find it by its id")
        except (PageFailed, RequestRefused) as error:
            if not is_of_the_question(error) and not isinstance(error, PageFailed):
                raise
            if not self._health.is_up(self._params, for_sure=True):
                raise ApiUnavailable(*error.args) from error
            said = error.reason if isinstance(error, PageFailed) else str(error)[:200]
            self._give_up(id_, f"{reason}; the request for its id fails: {said}")
        else:
            if single.ids == (id_,):
                self._take_single(id_, single)
                self._undelivered.singly.add(id_)
            else:
                self._give_up(id_, f"{reason}; the request for its id returns another record")

    def _single(self, id_: int, attempts: int | None) -> ListAnswer:
        answer = self._client.get_record(id_, lane=self._lane, attempts=attempts)
        if answer is None:
            raise _IsNowhere
        return answer

    def _give_up(self, id_: int, reason: str) -> None:
        self._undelivered.unreadable[id_] = reason


class _IsNowhere(Exception):
    """A record that is not found by its id."""
