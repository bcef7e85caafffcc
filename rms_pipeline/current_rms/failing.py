"""Tells pages that fail from an API that is down, and finds the one record that causes the failure.

This module decides which failures depend on the question, and reads a list past them. How a list is
read when nothing fails is in `scan`.

When the API is down, every request fails. When the API cannot deliver one record, each page with
that record fails, at once and every time. So a page that fails is asked for only a few times. Then
the API is asked a question about nothing. If it answers that, the page itself is at fault, and
smaller pieces are asked for: fewer records a page, then ranges of ids, until one id is left. Each
step is one call.
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

# How often a page is asked for before it counts as failing. Parts of a page that failed get fewer
# attempts.
FEW, ONCE, TWICE = 3, 1, 2
# After so many failures of other questions in a row, the scan checks again whether the API is up.
_FAILURES_IN_A_ROW = 6
# After so many lists failed in a row, and none came, the scan checks whether lists come at all.
_LISTS_IN_A_ROW = 12
# If a scan meets more than this, single records are not the cause.
MOST_UNDELIVERED = 100
# No id is higher. If a range up to here does not fail, nothing fails.
_HIGHEST_ID = 2**63 - 1
# A range that holds no record, so that nothing in it can fail.
_NOTHING: Params = (("q[id_gt]", "0"), ("q[id_lt]", "1"))
_NOBODY = 0
# No list has so many pages. Whichever filters the API ignores, this page holds no record.
_BEYOND_ALL = 1_000_000

Ask = Callable[[Span, int | None, int], ListAnswer]
# Stores an answer about a span. Returns the id to continue from, or None if the span is complete.
Take = Callable[[Span, int | None, ListAnswer], int | None]


class PageFailed(CurrentRmsError):
    """This question fails although the API answers other questions. `reason` is short."""

    def __init__(self, error: CurrentRmsError) -> None:
        super().__init__(*error.args)
        self.error = error
        passing = error.reason if isinstance(error, ApiUnavailable) else ""
        self.reason = passing or str(error)[:200]


def is_of_the_question(error: CurrentRmsError) -> bool:
    """Return whether the API might answer another question. False for a wrong key or a used-up
    limit.
    """
    final = isinstance(error, Throttled | Unauthorized | Redirected)
    return isinstance(error, ApiUnavailable | RequestRefused) and not final


@dataclass(slots=True)
class Undelivered:
    """Records of one scan that no list delivers.

    `singly` are the ids of records that came when they were asked for by id. `unreadable` maps the
    other ids to the reason.
    """

    singly: set[int] = field(default_factory=set)
    unreadable: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.singly) + len(self.unreadable)


class Health:
    """Whether the API answers at all. It is asked as rarely as possible. The lanes of a scan share
    it.
    """

    def __init__(self, client: CurrentRmsClient, lane: Lane) -> None:
        self._client, self._lane = client, lane
        self._lock = threading.Lock()
        # None until the first answer.
        self._failures: int | None = None
        self._failed_lists = 0

    def answered(self) -> None:
        """Note that the API answered a question of the scan."""
        with self._lock:
            self._failures = 0

    def is_up(self, params: Params, *, for_sure: bool = False) -> bool:
        """Return whether the API answers other questions than the one that just failed."""
        with self._lock:
            if self._failures is not None:
                self._failures += 1
                if self._failures <= _FAILURES_IN_A_ROW and not for_sure:
                    return True
        return self.accepts(params) or self._knows_nobody()

    def accepts(self, params: Params) -> bool:
        """Return whether the API answers a list of nothing with the form of `params`."""
        try:
            self._client.list_records(params + _NOTHING, per_page=1, lane=self._lane, attempts=ONCE)
        except (ApiUnavailable, RequestRefused) as error:
            if not is_of_the_question(error):
                raise
            return False
        self.answered()
        return True

    def _lists_come(self, params: Params) -> bool:
        """Return whether the API answers lists in which no record can be at fault."""
        if self.accepts(params):
            return True
        try:
            self._client.list_records(
                params, page=_BEYOND_ALL, per_page=1, lane=self._lane, attempts=ONCE
            )
        except ApiUnavailable as error:
            return not is_of_the_question(error)
        except RequestRefused:
            # An API may refuse deep pages. That says nothing about lists.
            return True
        return True

    def _note_list(self, params: Params, failed: CurrentRmsError | None) -> None:
        """Note that a list came, or that it failed. Raises `failed` if no list comes at all.

        Single records may come although every list is broken. Without this check, each record would
        be looked for, in twenty calls.
        """
        with self._lock:
            self._failed_lists = 0 if failed is None else self._failed_lists + 1
            is_due = self._failed_lists >= _LISTS_IN_A_ROW
            if is_due:
                self._failed_lists = 0
        if failed is not None and is_due and not self._lists_come(params):
            raise failed

    def _knows_nobody(self) -> bool:
        """Return whether the API answers "not found" for a record that does not exist.

        This question also works where the API ignores ranges.
        """
        try:
            self._client.get_record(_NOBODY, lane=self._lane, attempts=ONCE)
        except (ApiUnavailable, RequestRefused) as error:
            if not is_of_the_question(error):
                raise
            return False
        self.answered()
        return True

    def ask_list(
        self, params: Params, question: Callable[[int | None], ListAnswer], attempts: int
    ) -> ListAnswer:
        """Return `ask` of a question for a list. If no list comes at all, raises ApiUnavailable."""
        try:
            answer = self.ask(params, question, attempts)
        except PageFailed as failed:
            self._note_list(params, failed.error)
            raise
        self._note_list(params, None)
        return answer

    def ask(
        self, params: Params, question: Callable[[int | None], ListAnswer], attempts: int
    ) -> ListAnswer:
        """Return what `question` answers for the given number of attempts (None: as many as
        patience allows).

        `params` are the parameters of the question without its range. Raises PageFailed if the
        question fails although the API is up. If the API is down, the question is repeated until
        patience runs out.
        """
        try:
            answer = question(attempts)
        except RequestRefused as error:
            # The API refused the form of the question, unless it accepts the same form for a list
            # of nothing.
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
    """How many records a scan asks for in a page. It asks for fewer after pages failed because of
    their size.
    """

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
        """The number to ask for. None means as many as the API allows."""
        return self._most

    @property
    def expected(self) -> int:
        """How many records such a page holds, as far as is known."""
        return min(self._most or MOST_PER_PAGE, self._client.page_size)

    def note_failure(self, size: int, smaller: int, reason: str) -> None:
        """Note that a page of `size` failed, and that all of its records came in pages of
        `smaller`.
        """
        with self._lock:
            self._failed[size] = self._failed.get(size, 0) + 1
            # One failure may be an accident. If the answer itself says that the page was too large,
            # it is not.
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
    """Reads the list of one segment past the records that make it fail.

    `ask` fetches a page of a span in the order of id, with a number of records and of attempts. It
    raises PageFailed. `take` stores an answer. `place` fetches the record at a position of a span,
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
        """Read what can be read at the beginning of `span`, whose first page `failed`.

        Set `beside` if the record before `span` was at fault: the first record is then the
        likeliest cause. Returns the id to continue from, or None if the span is complete. Raises
        ApiUnavailable if the API is down, or delivers too little for this search to end.
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
        """Ask for fewer records a page until the first remaining record is the one at fault."""
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
            # These are the other records of the page that failed. If a record is at fault, it is
            # one of them.
            failing, is_proven = failing - max(len(answer.page.records), 1), False
        self._sizes.note_failure(size, largest, failed.reason)
        return lower

    def _by_ids(self, span: Span, failed: PageFailed) -> int | None:
        """Ask for ranges of ids until one holds only the first record of `span`."""
        lower, upper = span
        if lower is None:
            below: Span = (None, 0)
            after = self._take(below, None, self._ask(below, None, TWICE))
            lower = 1 if after is None else after
        # Ids lie close together in accounts that are used every day.
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
                # The next record cannot be fetched either.
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
                # The range no longer fails.
                break
        return lower if upper is None or lower <= upper else None

    def _before_the_next(self, *, failed_from: int, upper: int | None) -> int | None:
        """Return the highest id that the first record from `failed_from` on can have, or None if
        unknown.

        It is below the id of the next record that the API delivers.
        """
        for place in (2, 3):
            with contextlib.suppress(PageFailed, NotHonoured):
                answer = self._place((failed_from, upper), place)
                if answer.ids:
                    return answer.ids[0] - 1
                return upper
        return None

    def _at(self, id_: int, upper: int | None, failed: PageFailed, attempts: int) -> int | None:
        """Read the record that makes its lists fail, by its id if necessary. Returns where to
        continue.
        """
        self.read_one(id_, failed, attempts)
        return id_ + 1 if upper is None or id_ < upper else None

    def read_one(self, id_: int, failed: PageFailed, attempts: int) -> None:
        """Fetch the record `id_`, in a list of its own or by id. If that fails, note it as
        unreadable.
        """
        here: Span = (id_, id_)
        if id_ in self._undelivered.unreadable:
            # Another list of the same sync has already named it.
            return
        if attempts == ONCE:
            # No list of only this record was asked for in this scan.
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
                    # A list of any other id would fail as well.
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
