"""Finding out which include, or which `per_page`, an account refuses, in few calls.

What belongs here: what to ask for, and who is to blame for a refusal. What does not: what is known
about the account (`terms`), and sending requests (`client`).

A refusal (400, 404, 410, 422) may be meant for a filter, for an include, for `per_page`, or for a
record that is gone. What was granted a moment ago is not to blame. Otherwise the question is put
again without what else there was in it; includes are halved until the one that is refused is found.
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
# Seconds for which what was granted is taken to be granted still.
_VOUCHED_FOR = 900.0


@dataclass(frozen=True, slots=True)
class Form:
    """How a question is put, whatever it is about."""

    includes: tuple[str, ...]
    per_page: int = 1


class Negotiation:
    """How questions about one collection are put to one account. Safe between threads.

    `includes` are those that are wanted. `terms` and `now` give the present ones.
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
        """What `ask` returns for the form that the account grants.

        `ask_plainly` puts a question that holds nothing but the form. `parameters` are the names
        of what else there is in the one of `ask`. Raises what `ask` raises where the form is not
        to blame.
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
        """What `ask`, a question about one record, returns. Raises NotFound when that is gone.

        A record is only gone when it is not found without any include, or with those that another
        was just found with. `ask_another` puts the question about another record, for one record
        alone condemns no include. One that is not `expected` to be there is asked for plainly
        first. Raises what `ask` raises where no include is to blame.
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
        """Whether the question may be put again, in another form. Raises what asking raises."""
        with self._lock:
            if self._form(per_page) != form:
                # Somebody else found it out meanwhile.
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
                # Not the list itself is there.
                return False
            if not includes_vouched:
                if found := refused(form.includes):
                    if form.includes and error.status not in _GONE and refused(()):
                        # Not even the plainest question is answered.
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
        """Notes which of `group`, refused as a whole with `error`, are refused."""
        named = tuple(i for i in group if _names_any(error.said, (i,)))
        rest = tuple(i for i in group if i not in named)
        within = named if named and rest and not _refused(lambda: ask(rest)) else group
        found = _halved(within, ask, None)
        if not found and (still := _refused(lambda: ask(group))):
            # None alone, but all together: then one fewer.
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
    """`refusal`, but never as if the record were gone: it was found without includes."""
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
    """Which of `group` are refused, with what; `status` is that of asking for all of it, if known.

    Nobody is condemned because the others were granted: the refusal may have been a mishap.
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
    """The refusal that `ask` meets, None for an answer."""
    try:
        ask()
    except RequestRefused as error:
        if error.status not in _REFUSALS:
            raise
        return error
    return None


def _next_lower(size: int, terms: Terms) -> int:
    """What is asked for when `size` records a page are refused."""
    if size > terms.page_size:
        return terms.page_size
    return max(size // 2, 1)


def _names_any(said: str, names: Sequence[str]) -> bool:
    return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", said) for name in names)
