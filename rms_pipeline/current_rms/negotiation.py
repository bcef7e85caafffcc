"""Finds out in few calls which include, or which `per_page`, an account refuses.

This module decides how to ask, and what caused a refusal. What is known about the account is in
`terms`. Sending requests is in `client`.

A refusal (400, 404, 410, 422) may be caused by a filter, an include, `per_page`, or a record that
is gone. What the account granted a moment ago is not the cause. Otherwise the question is asked
again without its other parts. Includes are halved until the refused one is found.
"""

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TypeVar

from rms_pipeline.current_rms.errors import NotFound, RequestRefused, Unprocessable
from rms_pipeline.current_rms.terms import MOST_PER_PAGE, Terms

T = TypeVar("T")

_GONE = frozenset({404, 410})
_REFUSALS = _GONE | {400, 422}
# For so many seconds, what was granted is assumed to be granted still.
_VOUCHED_FOR = 900.0


@dataclass(frozen=True, slots=True)
class Form:
    """The form of a question, whatever it is about: its includes and `per_page`."""

    includes: tuple[str, ...]
    per_page: int = 1


class Negotiation:
    """How questions about one collection are asked of one account. Threads may share it.

    `includes` are the ones wanted. `terms` and `now` return the present terms and time.
    """

    def __init__(
        self,
        includes: Sequence[str],
        terms: Callable[[], Terms],
        now: Callable[[], datetime],
    ) -> None:
        self._wanted = tuple(includes)
        self._terms, self._now = terms, now
        self._granted: dict[object, float] = {}
        self._lock = threading.Lock()

    def ask(
        self,
        ask: Callable[[Form], T],
        ask_plainly: Callable[[Form], object],
        *,
        per_page: int,
        parameters: Sequence[str] = (),
    ) -> T:
        """Return what `ask` returns for the form that the account grants.

        `ask_plainly` asks a question with nothing but the form. `parameters` are the names of the
        other parameters of `ask`. Raises what `ask` raises if the form is not the cause.
        """
        while True:
            form = self._form(per_page)
            try:
                answer = ask(form)
            except RequestRefused as error:
                if error.status not in _REFUSALS or not self._is_to_blame(
                    error, form, ask_plainly, per_page, parameters
                ):
                    raise
            else:
                self._grant(form, "list")
                return answer

    def ask_single(
        self,
        ask: Callable[[Form], T],
        ask_another: Callable[[Form], object],
        *,
        expected: bool = True,
    ) -> T:
        """Return what `ask`, a question about one record, returns. Raises NotFound if the record is
        gone.

        A record counts as gone only if it is not found without includes, or with includes that
        another record was just found with. `ask_another` asks about another record, because one
        record alone does not prove that an include is refused. A record that is not `expected` to
        exist is asked for without includes first. Raises what `ask` raises if no include is the
        cause.
        """
        while True:
            form = self._form(1)
            if not form.includes or self._is_vouched(form.includes, "single"):
                return self._granted_single(ask, form)
            if not expected:
                ask(Form(()))
            try:
                return self._granted_single(ask, form)
            except RequestRefused as error:
                if error.status not in _REFUSALS:
                    raise
                refusal = error
            if isinstance(refusal, NotFound):
                ask(Form(()))
            with self._lock:
                if self._form(1) != form:
                    continue
                found = _refused(partial(ask_another, form))
                if found is None:
                    self._grant(form, "single")
                    raise _of_this_record(refusal)
                self._find_includes(form.includes, lambda part: ask_another(Form(part)), found)
                if self._form(1) == form:
                    raise _of_this_record(refusal)

    def _granted_single(self, ask: Callable[[Form], T], form: Form) -> T:
        answer = ask(form)
        self._grant(form, "single")
        return answer

    def _form(self, per_page: int) -> Form:
        terms = self._terms()
        if not terms.refusals:
            return Form(self._wanted, min(per_page, MOST_PER_PAGE))
        now = self._now()
        includes = tuple(i for i in self._wanted if terms.is_to_be_asked("include", i, now))
        return Form(includes, min(per_page, self._most_per_page()))

    def _most_per_page(self) -> int:
        terms, now = self._terms(), self._now()
        most = MOST_PER_PAGE
        while most > 1 and not terms.is_to_be_asked("per_page", str(most), now):
            most = _next_lower(most, terms)
        return most

    def _is_to_blame(
        self,
        error: RequestRefused,
        form: Form,
        ask_plainly: Callable[[Form], object],
        per_page: int,
        parameters: Sequence[str],
    ) -> bool:
        """Return whether to ask again in another form. Raises what asking raises."""
        with self._lock:
            if self._form(per_page) != form:
                # Another thread has found it out meanwhile.
                return True
            self._terms().reload()
            if self._form(per_page) != form:
                return True
            includes_vouched = not form.includes or self._is_vouched(form.includes, "list")
            per_page_vouched = form.per_page == 1 or self._is_vouched(form.per_page, "list")
            if includes_vouched and per_page_vouched:
                return False
            if _names_any(error.said, parameters) and not _names_any(
                error.said, (*form.includes, "include", "per_page")
            ):
                return False

            def refused(includes: tuple[str, ...], size: int = 1) -> RequestRefused | None:
                return _refused(lambda: ask_plainly(Form(includes, size)))

            if error.status in _GONE and refused(()):
                # The list itself does not exist.
                return False
            if not includes_vouched:
                if found := refused(form.includes):
                    if form.includes and error.status not in _GONE and refused(()):
                        # The API does not answer even the plainest question.
                        return False
                    self._find_includes(form.includes, lambda part: ask_plainly(Form(part)), found)
                    return True
                self._grant(replace(form, per_page=1), "list")
            if not per_page_vouched:
                if found := refused((), form.per_page):
                    if includes_vouched and refused(()):
                        return False
                    return self._lower_per_page(form.per_page, found.status, refused)
                self._grant(Form((), form.per_page), "list")
            return False

    def _lower_per_page(
        self,
        size: int,
        status: int,
        refused: Callable[[tuple[str, ...], int], RequestRefused | None],
    ) -> bool:
        terms = self._terms()
        lower = size
        while lower > 1:
            terms.note("per_page", str(lower), status, self._now())
            lower = _next_lower(lower, terms)
            if not refused((), lower):
                terms.set_page_size(lower)
                return True
        return False

    def _find_includes(
        self,
        group: tuple[str, ...],
        ask: Callable[[tuple[str, ...]], object],
        error: RequestRefused,
    ) -> None:
        """Note which includes of `group` are refused. The whole group was refused with `error`."""
        named = tuple(i for i in group if _names_any(error.said, (i,)))
        rest = tuple(i for i in group if i not in named)
        within = named if named and rest and not _refused(lambda: ask(rest)) else group
        found = _halved(within, ask, None)
        if not found and (still := _refused(lambda: ask(group))):
            # Each is granted alone, but not all together. So ask for one fewer.
            found = [(group[-1], still.status)]
        terms = self._terms()
        for name, status in found:
            terms.note("include", name, status, self._now())

    def _grant(self, form: Form, where: str) -> None:
        now = time.monotonic()
        self._granted[form.includes, where] = self._granted[form.per_page, where] = now
        terms = self._terms()
        if terms.refusals:
            for name in form.includes:
                terms.forget("include", name)
            terms.forget("per_page", str(form.per_page))

    def _is_vouched(self, what: object, where: str) -> bool:
        granted_at = self._granted.get((what, where))
        return granted_at is not None and time.monotonic() - granted_at < _VOUCHED_FOR


def _of_this_record(refusal: RequestRefused) -> RequestRefused:
    """Return `refusal` without the meaning "gone": the record was found without includes."""
    if not isinstance(refusal, NotFound):
        return refusal
    error = Unprocessable(
        f"Current RMS answered {refusal.status} for a record that it does return without "
        "associations. Open the record in Current RMS: one of its associations may be damaged."
    )
    error.status, error.said = refusal.status, refusal.said
    return error


def _halved(
    group: tuple[str, ...], ask: Callable[[tuple[str, ...]], object], status: int | None
) -> list[tuple[str, int]]:
    """Return which includes of `group` are refused, and with which status.

    `status` is the status for the whole group, if it was asked for. An include does not count as
    refused only because the others were granted: the refusal may have been an accident.
    """
    if len(group) == 1:
        if status is None and (alone := _refused(lambda: ask(group))):
            status = alone.status
        return [] if status is None else [(group[0], status)]
    left, right = group[: len(group) // 2], group[len(group) // 2 :]
    in_left = _refused(lambda: ask(left))
    if in_left is None:
        return _halved(right, ask, None)
    found = _halved(left, ask, in_left.status)
    if in_right := _refused(lambda: ask(right)):
        found += _halved(right, ask, in_right.status)
    return found


def _refused(ask: Callable[[], object]) -> RequestRefused | None:
    """Return the refusal that `ask` raises, or None if it is answered."""
    try:
        ask()
    except RequestRefused as error:
        if error.status not in _REFUSALS:
            raise
        return error
    return None


def _next_lower(size: int, terms: Terms) -> int:
    """Return the page size to ask for when `size` is refused."""
    if size > terms.page_size:
        return terms.page_size
    return max(size // 2, 1)


def _names_any(said: str, names: Sequence[str]) -> bool:
    return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", said) for name in names)
