"""Reads the parts of records completely: `GET /opportunities/{id}/opportunity_items`.

This module decides when a list was received completely, and checks that it holds the parts of the
right records. Whose parts are read is in `mirror.parts`, what happens to them in `sync.parts`.

A list of several pages is read in the order of id, each page above the last id. So nothing that is
added or removed meanwhile can hide a part. If the API ignores such a range, pages are counted, and
the list is read until two readings are the same.

The account also has one list of all parts. If it obeys a filter by parents, one call brings the
parts of many parents. Each reading tries that, and compares the result with the list of one parent.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Any

import msgspec
from msgspec import Raw

from rms_pipeline.collections.base import Collection, Parts
from rms_pipeline.current_rms.client import CurrentRmsClient, ListAnswer
from rms_pipeline.current_rms.errors import (
    ApiUnavailable,
    CurrentRmsError,
    Forbidden,
    NotFound,
    NotHonoured,
    RequestRefused,
    Throttled,
    Unprocessable,
    WalkIncomplete,
)
from rms_pipeline.current_rms.failing import FEW, ONCE, is_of_the_question
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.current_rms.pages import decode_page
from rms_pipeline.current_rms.records import (
    Fault,
    Record,
    decode_record,
    excerpt,
    read_record,
    to_whole,
)
from rms_pipeline.current_rms.spans import ascending
from rms_pipeline.current_rms.terms import EVERY_STATE
from rms_pipeline.current_rms.window import CHANGED_SINCE, Params, iso

# Parents in one call of the account's list: as many ids as other lists are asked for.
PARENTS_A_CALL = 25
# Fewer parents than this are cheaper through their own lists.
_FEWEST_A_CALL = 3
_BY_ID: Params = (("q[s]", "id asc"),)
_MOST_PAGES = 50
_READINGS, _READINGS_BY_RANGES = 3, 2
# After so many failed lists in a row without one answer, nothing more is asked.
_NONE_ANSWERED = 5


@dataclass(frozen=True, slots=True)
class PartList:
    """The whole list of the parts of `parent`.

    `ids` are the ids of the parts, some of them twice if the list has them twice. `nameless` counts
    parts without a readable id. `asked_at` and `answered_at` (UTC) are when the first page was
    asked for and the last one came. `api_date` is the API's own time of the first page.
    """

    parent: int
    ids: tuple[int, ...]
    nameless: int
    asked_at: datetime
    answered_at: datetime
    api_date: datetime | None


@dataclass(slots=True)
class ReadParts:
    """What some calls brought: `answers` as received, and the parents whose whole list they hold.

    `failed` maps the other parents to the reason. For those in `absent`, the API says that there is
    no list.
    """

    answers: list[ListAnswer] = field(default_factory=list)
    lists: list[PartList] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    absent: set[int] = field(default_factory=set)


@dataclass(slots=True)
class ChangedParents:
    """The parents of parts that changed, as far as a list of changed parts showed them.

    `is_whole` means that the whole list came. `is_given` is False if the account has no such list,
    or one that ignores the filter. `api_date` is the API's time (UTC) of the first page.
    """

    parents: set[int] = field(default_factory=set)
    is_whole: bool = False
    is_given: bool = True
    api_date: datetime | None = None


class NotWhole(WalkIncomplete):
    """A list of parts could not be read completely."""


class _MoreCounted(NotWhole):
    """Page above page, fewer parts came than are counted."""


class PartsReader:
    """Reads lists of parts through `client`, whose collection has `parts`.

    `by_account` says whether the account's own list worked, or is None before it was tried. `notes`
    say what else could not be read.
    """

    def __init__(self, client: CurrentRmsClient, lane: Lane) -> None:
        parts = client.collection.parts
        if parts is None:
            raise ValueError(f"{client.collection} are not parts of other records")
        self.by_account: bool | None = None
        self.notes: list[str] = []
        self._client, self._lane, self._parts = client, lane, parts
        self._by_parents = f"q[{parts.key}_in][]"
        self._answered = self._in_a_row = 0

    @property
    def collection(self) -> Collection:
        """The parts that are read."""
        return self._client.collection

    def read(self, parents: Sequence[int], *, calls: int) -> Iterator[ReadParts]:
        """Read the lists of `parents` in that order, until `calls` calls are spent.

        A list that cannot be read costs only its own parent. Raises a CurrentRmsError if the API
        does not answer, or gives no list of any parent.
        """
        limit = self._client.counts.calls + calls
        waiting, singly = list(parents), 0
        while waiting and self._client.counts.calls < limit:
            is_worth_it = singly <= 0 and len(waiting) >= _FEWEST_A_CALL
            if is_worth_it and self._may_ask(self._by_parents):
                chunk = waiting[:PARENTS_A_CALL]
                found = self._read_many(chunk)
                if found is not None:
                    waiting = waiting[len(chunk) :]
                    yield found
                    continue
                # Whatever was wrong with these, no parent may cost the others their call.
                singly = len(chunk)
            singly -= 1
            yield self._read_one(waiting.pop(0))

    def changed_parents(self, since: datetime, *, pages: int = _MOST_PAGES) -> ChangedParents:
        """Return the parents of parts that changed at or after `since` (the API's clock).

        The parent's own record need not have changed. At most about `pages` pages are read. If the
        list cannot be read whole, `notes` say so. Raises a CurrentRmsError if the API does not
        answer at all.
        """
        found = ChangedParents(is_given=self._may_ask(CHANGED_SINCE))
        if not found.is_given:
            return found
        terms, now = self._client.terms, self._client.now

        def ask(params: Params, page: int) -> ListAnswer:
            answer = self._client.list_records(
                (*params, (CHANGED_SINCE, iso(since))), page=page, lane=self._lane, attempts=FEW
            )
            records = [read_record(raw, self._client.collection) for raw in answer.page.records]
            times = [r.updated_at() for r in records if not isinstance(r, Fault)]
            if any(at is not None and at < since - timedelta(seconds=1) for at in times):
                raise NotHonoured("parts that changed earlier came back")
            terms.forget("filter", CHANGED_SINCE)
            found.api_date = found.api_date or answer.api_date
            found.parents.update(p for raw in answer.page.records if (p := self._parent_of(raw)))
            return answer

        try:
            self._whole(ask, most=max(pages, _MOST_PAGES))
            found.is_whole = True
        except (NotFound, Unprocessable, Forbidden) as error:
            terms.note("filter", CHANGED_SINCE, error.status, now())
            return ChangedParents(is_given=False)
        except NotHonoured:
            terms.note("filter", CHANGED_SINCE, None, now())
            return ChangedParents(is_given=False)
        except (NotWhole, ApiUnavailable) as error:
            is_down = isinstance(error, ApiUnavailable) and not is_of_the_question(error)
            if is_down or isinstance(error, Throttled):
                raise
            # The lists of parents may be readable all the same.
            name = self._client.collection.name
            self.notes.append(f"the account's list of changed {name} was not read whole: {error}")
        return found

    # Reading one parent, by its own list

    def _read_one(self, parent: int) -> ReadParts:
        read = ReadParts()
        try:
            read.answers = self._whole(partial(self._below, parent))
            read.lists = self._lists_of([parent], read.answers)
        except (NotFound, Forbidden, Unprocessable, NotWhole, NotHonoured) as error:
            read.failed[parent] = self._failed(error, parent)
            read.absent = {parent} if isinstance(error, NotFound) else set()
        except ApiUnavailable as error:
            if isinstance(error, Throttled) or not is_of_the_question(error):
                raise
            read.failed[parent] = self._failed(error, parent)
        else:
            self._answered += 1
            self._in_a_row = 0
        return read

    def _failed(self, error: CurrentRmsError, parent: int) -> str:
        """Return why the list of `parent` could not be read. Raises `error` if the cause is not
        that list.
        """
        self._in_a_row += 1
        is_refused = isinstance(error, RequestRefused)
        if is_refused and not self._answered and self._in_a_row >= _NONE_ANSWERED:
            if not isinstance(error, NotFound) or not self._is_gone(parent):
                raise error
            # Many parents may have been deleted together. That says nothing of the other lists.
            self._in_a_row = 0
        if isinstance(error, ApiUnavailable):
            # One list may be too much for the API. If other lists fail too, the API is down.
            if (not self._answered or self._in_a_row > 1) and not self._is_up():
                raise error
            return f"no usable answer: {error.reason}"
        if isinstance(error, NotFound):
            return f"Current RMS answers {error.status} for them"
        return str(error)

    def _is_gone(self, parent: int) -> bool:
        """Return whether the API has the parents' own list, and not this one of them."""
        if not self._is_up():
            return False
        try:
            self._client.read(
                f"/{self._parts.of.name}/{parent}", lambda body: body, self._lane, attempts=ONCE
            )
        except NotFound:
            return True
        except (ApiUnavailable, RequestRefused) as error:
            if not is_of_the_question(error):
                raise
        return False

    def _is_up(self) -> bool:
        parents = self._parts.of
        try:
            self._client.read(
                f"/{parents.name}?page=1&per_page=1",
                lambda body: decode_page(body, parents),
                self._lane,
                attempts=ONCE,
            )
        except (ApiUnavailable, RequestRefused) as error:
            if not is_of_the_question(error):
                raise
            return isinstance(error, RequestRefused)
        return True

    def _below(self, parent: int, params: Params, page: int) -> ListAnswer:
        client = self._client
        every: Params = ((EVERY_STATE, "all"),) if self._may_ask(EVERY_STATE) else ()
        try:
            return client.list_below(
                parent, every + params, page=page, lane=self._lane, attempts=FEW
            )
        except Unprocessable as error:
            if not every:
                raise
            answer = client.list_below(parent, params, page=page, lane=self._lane, attempts=FEW)
            # The API does not accept this word.
            client.terms.note("filter", EVERY_STATE, error.status, client.now())
            return answer

    # Reading many parents, by the account's list

    def _read_many(self, parents: Sequence[int]) -> ReadParts | None:
        """Read many parents in one call. Returns None if the account's list does not work."""
        named = tuple((self._by_parents, str(parent)) for parent in parents)
        try:
            answers = self._whole(
                lambda params, page: self._client.list_records(
                    named + params, page=page, lane=self._lane, attempts=FEW
                )
            )
            lists = self._lists_of(parents, answers)
        except (NotFound, Forbidden, Unprocessable) as error:
            self._do_without(error.status)
            return None
        except NotHonoured:
            self._do_without(None)
            return None
        except NotWhole:
            # It may work parent by parent.
            return None
        except ApiUnavailable as error:
            if not is_of_the_question(error):
                raise
            # It may be too much at once.
            return None
        read = ReadParts(answers, lists)
        if self.by_account is None and not self._verify(lists, read):
            return None
        self._answered += 1
        self._in_a_row = 0
        return read

    def _do_without(self, status: int | None) -> None:
        self.by_account = False
        client = self._client
        client.terms.note("filter", self._by_parents, status, client.now())

    def _verify(self, lists: Sequence[PartList], read: ReadParts) -> bool:
        """Return whether the account's list shows the same parts of one parent as that parent's own
        list.
        """
        witness = max(lists, key=lambda each: len(each.ids))
        if not witness.ids:
            # A list without parts proves nothing: a broken list is also empty.
            return False
        for _ in range(2):
            own = self._read_one(witness.parent)
            if not own.lists:
                return False
            read.answers += own.answers
            if set(own.lists[0].ids) == set(witness.ids):
                self.by_account = True
                self._client.terms.forget("filter", self._by_parents)
                return True
            again = self._read_many_of_one(witness.parent)
            if again is None:
                break
            # Somebody may have edited the parent between the two calls.
            witness = again
        self._do_without(None)
        return False

    def _read_many_of_one(self, parent: int) -> PartList | None:
        try:
            answers = self._whole(
                lambda params, page: self._client.list_records(
                    ((self._by_parents, str(parent)), *params),
                    page=page,
                    lane=self._lane,
                    attempts=FEW,
                )
            )
            return self._lists_of([parent], answers)[0]
        except (NotFound, Forbidden, Unprocessable, NotHonoured, NotWhole):
            return None

    # Reading one list completely

    def _whole(
        self, ask: Callable[[Params, int], ListAnswer], *, most: int = _MOST_PAGES
    ) -> list[ListAnswer]:
        """Return all pages of the list, at most `most`. `ask` takes a filter and a page number.
        Raises NotWhole.

        A part that is listed twice may stand in the place of another, if the pages had different
        orders. So such a list is read again.
        """
        answers = self._once(ask, most)
        listed = _ids_of(answers)
        if len(listed) == len(set(listed)):
            return answers
        again = self._once(ask, most)
        if set(_ids_of(again)) != set(listed):
            raise NotWhole("its list was different each time that it was read")
        return again

    def _once(self, ask: Callable[[Params, int], ListAnswer], most: int) -> list[ListAnswer]:
        first = ask(_BY_ID, 1)
        if self._ends(first, len(first.page.records)):
            return [first]
        if first.page.meta.total_row_count > most * max(len(first.page.records), 1):
            raise NotWhole(_too_long(most))
        try:
            answers = self._by_ranges(ask, first, most)
        except _MoreCounted:
            # Where the API ignores the order, a page may be in the order of id by chance.
            with contextlib.suppress(NotWhole):
                return self._by_pages(ask, most)
            raise
        return answers if answers is not None else self._by_pages(ask, most)

    def _ends(self, answer: ListAnswer, came: int) -> bool:
        """Return whether the list ends with this answer. `came` records have come, including this
        answer's.
        """
        return came >= answer.page.meta.total_row_count and not self._is_full(answer)

    def _is_full(self, answer: ListAnswer) -> bool:
        """Return whether more may follow whatever the count says, because a counter may stop at a
        maximum.
        """
        claimed, size = answer.page.meta.claimed_per_page, self._client.page_size
        # The API may claim the size that was asked for, whatever a page holds.
        return len(answer.page.records) >= (min(claimed, size) if claimed else size)

    def _by_ranges(
        self, ask: Callable[[Params, int], ListAnswer], first: ListAnswer, most: int
    ) -> list[ListAnswer] | None:
        """Read each page above the last id. Returns None if order or range is ignored. Raises
        _MoreCounted if more are counted than come.
        """
        never_sent = 0
        for _ in range(_READINGS_BY_RANGES):
            answers = self._once_by_ranges(ask, first, most)
            if answers is None:
                return None
            never_sent = _never_sent(answers)
            if not never_sent:
                return answers
            # Something may have been deleted between two pages.
            first = ask(_BY_ID, 1)
            if self._ends(first, len(first.page.records)):
                return [first]
        raise _MoreCounted(f"Current RMS counts {never_sent} more than it sends")

    def _once_by_ranges(
        self, ask: Callable[[Params, int], ListAnswer], first: ListAnswer, most: int
    ) -> list[ListAnswer] | None:
        answers = [first]
        while True:
            ids = answers[-1].ids
            if not ids or len(ids) < len(answers[-1].page.records) or not ascending(ids):
                return None
            if len(answers) >= most:
                raise NotWhole(_too_long(most))
            try:
                answer = ask((*_BY_ID, ("q[id_gt]", str(ids[-1]))), 1)
            except Unprocessable:
                return None
            if answer.ids and min(answer.ids) <= ids[-1]:
                return None
            answers.append(answer)
            if not answer.page.records or self._ends(answer, len(answer.page.records)):
                break
        return answers if self._are_all(ask, answers) else None

    def _are_all(self, ask: Callable[[Params, int], ListAnswer], came: list[ListAnswer]) -> bool:
        """Return whether no page has records other than those that came above one another.

        The count may stop at one page. Then it does not show whether the order of id is obeyed.
        """
        if came[0].page.meta.total_row_count > len(came[0].page.records):
            return True
        ids = set(_ids_of(came))
        for number in range(2, len(came) + 2):
            page = ask(_BY_ID, number)
            if not ids.issuperset(page.ids):
                return False
            if not self._is_full(page):
                break
        return True

    def _by_pages(self, ask: Callable[[Params, int], ListAnswer], most: int) -> list[ListAnswer]:
        """Read page after page, until two readings are the same. Raises NotWhole."""
        before: tuple[set[int], int] | None = None
        for _ in range(_READINGS):
            answers: list[ListAnswer] = []
            ids: set[int] = set()
            came = 0
            while len(answers) < most:
                answer = ask(_BY_ID, len(answers) + 1)
                new = set(answer.ids) - ids
                answers.append(answer)
                came += len(answer.page.records)
                ids |= new
                if self._ends(answer, came) or not answer.page.records:
                    break
                if not new and answer.ids:
                    raise NotWhole("all pages of its list are the same")
            else:
                raise NotWhole(_too_long(most))
            total = answers[-1].page.meta.total_row_count
            if came < total:
                raise NotWhole(f"Current RMS counts {total} but sends {came}")
            if before == (ids, came):
                return answers
            before = (ids, came)
        raise NotWhole("its list was different each time that it was read")

    def _lists_of(self, parents: Sequence[int], answers: Sequence[ListAnswer]) -> list[PartList]:
        """Sort the pages of a list of several parents into one list for each of `parents`.

        Raises NotHonoured if parts of other parents came, and NotWhole if a part does not name its
        parent.
        """
        ids: dict[int, list[int]] = {parent: [] for parent in parents}
        nameless = dict.fromkeys(parents, 0)
        for answer in answers:
            for raw in answer.page.records:
                parent = self._parent_of(raw)
                if parent is None:
                    raise NotWhole(f"one of its parts has no {self._parts.key}")
                if parent not in ids:
                    raise NotHonoured(f"the answer has parts of {parent}, which were not requested")
                record = read_record(raw, self._client.collection)
                if isinstance(record, Fault):
                    nameless[parent] += 1
                else:
                    ids[parent].append(record.id)
        first, last = answers[0], answers[-1]
        return [
            PartList(
                parent,
                tuple(ids[parent]),
                nameless[parent],
                first.asked_at,
                last.answered_at,
                first.api_date,
            )
            for parent in parents
        ]

    def _parent_of(self, raw: Raw) -> int | None:
        return parent_of(raw, self._client.collection, self._parts)

    def _may_ask(self, name: str) -> bool:
        return self._client.terms.is_to_be_asked("filter", name, self._client.now())


def _too_long(most: int) -> str:
    return f"its list has more than {most} pages"


def _ids_of(answers: Sequence[ListAnswer]) -> list[int]:
    return [id_ for answer in answers for id_ in answer.ids]


def _never_sent(answers: Sequence[ListAnswer]) -> int:
    """Return how many records were counted that no page has. Each page begins above the last id of
    the page before.
    """
    left = [answer.page.meta.total_row_count - len(answer.page.records) for answer in answers]
    counted = [answer.page.meta.total_row_count for answer in answers[1:]] + [0]
    return sum(max(a - b, 0) for a, b in zip(left, counted, strict=True))


def parent_of(raw: Raw, collection: Collection, parts: Parts) -> int | None:
    """Return the id of the record that a part belongs to, or None if the part does not name it."""
    try:
        return to_whole(_decoder_of(parts.key).decode(raw).parent)
    except (msgspec.DecodeError, ValueError, RecursionError):
        # What strict JSON refuses may still be readable.
        row = decode_record(raw, collection)
        found = None if isinstance(row, Fault) else getattr(row, parts.key)
        return found if isinstance(found, int) else None


def parent_in(request: str, collection: Collection) -> int | None:
    """Return the parent whose list of parts `request` asked for, or None if it asked for something
    else.
    """
    if collection.parts is None:
        return None
    place = request.partition("?")[0].strip("/").split("/")
    is_list_below = len(place) == 3 and place[::2] == [collection.parts.of.name, collection.name]
    return int(place[1]) if is_list_below and place[1].lstrip("-").isdigit() else None


def misplaced(
    raw: Raw, found: Record | Fault, collection: Collection, parent: int
) -> Record | Fault:
    """Return `found`, or a fault if the part does not say that it belongs to `parent`.

    The part came in the list of `parent`. If it names no parent or another one, nobody knows whose
    it is.
    """
    assert collection.parts is not None
    if isinstance(found, Fault):
        return found
    said = parent_of(raw, collection, collection.parts)
    if said == parent:
        return found
    of = collection.parts.of
    whose = f"does not say of which {of.single} it is" if said is None else f"says {said}"
    problem = f"{whose}, in the list of {of.single} {parent}; what was known of it stays"
    return Fault(found.id, collection.parts.key, problem, excerpt(bytes(raw)))


@cache
def _decoder_of(key: str) -> "msgspec.json.Decoder[Any]":
    named = msgspec.defstruct("part", [("parent", Any, None)], rename={"parent": key}, frozen=True)
    return msgspec.json.Decoder(named)
