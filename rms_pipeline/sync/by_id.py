"""Requests records by their ids: which still exist, and which were deleted."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Collection as Ids
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.client import CurrentRmsClient, ListAnswer
from rms_pipeline.current_rms.errors import (
    ApiUnavailable,
    CurrentRmsError,
    FindsNone,
    Forbidden,
    NotFound,
    RequestRefused,
    Unprocessable,
    WrongRecord,
)
from rms_pipeline.current_rms.failing import (
    FEW,
    Health,
    PageFailed,
    PageSizes,
    is_of_the_question,
)
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.current_rms.pages import is_list
from rms_pipeline.current_rms.records import Fault, bare_record
from rms_pipeline.current_rms.terms import MOST_PER_PAGE
from rms_pipeline.current_rms.window import Params

# The oldest record is used to try whether records are found by their ids. A record that only a late
# list still shows was rarely there for long.
_OLDEST: Params = (("q[s]", "id asc"),)
_NEWEST: Params = (("q[s]", "id desc"),)
_WITNESSES = 2
T = TypeVar("T")

# An event is written a moment after the change that it reports.
SLACK = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is known of the records that are asked for, by their ids.

    - `told`: when an event says that a record last changed, by Current RMS's clock.
    - `held`: the record's `updated_at` in the mirror.
    - `gone`: ids that the mirror knows as deleted. A list is late if it shows one of these, or a
      record that is older than `told` or `held` says.
    - `singly`: no list is asked about these ids.
    - `most_absent`: at most this many of `strangers` are asked for singly.
    - `sampled`: lists are tested with one record, and not believed if they are late.
    - `alive`: if one of these ids is absent, nothing follows from it.
    - `once_is_enough`: if one of these ids is absent, that needs no second witness. The mirror
      knows it as deleted, an event reported it, or no row would be deleted.
    - `missing`: a complete list lacked these ids.
    - `unlisted`: returns those of some ids that lists do not show even if they exist. A list is no
      witness of these.
    """

    told: Mapping[int, datetime] = field(default_factory=dict)
    held: Mapping[int, datetime] = field(default_factory=dict)
    gone: Ids[int] = ()
    singly: Ids[int] = ()
    strangers: Ids[int] = ()
    most_absent: int | None = None
    sampled: bool = False
    alive: Ids[int] = ()
    once_is_enough: Ids[int] = ()
    missing: Ids[int] = ()
    unlisted: Callable[[Ids[int]], Ids[int]] = lambda _: ()


@dataclass(slots=True)
class Verdict:
    """The result for some ids.

    `answers` hold the records that exist. What a list among them says about `superseded` ids does
    not count. `gone` says when (UTC) each absence was asked for and answered. `outdated` came
    singly and are older than an event says. `unasked` were missing from a list, and are asked for
    another time. `failed` holds the reason for each id of which the API says nothing, although it
    answers other requests. `shown_none`: there are absences, and the API showed no record at all
    after them, neither by its id nor in a list. This is either the end of the account or that of
    the key's rights.
    """

    answers: list[ListAnswer] = field(default_factory=list)
    superseded: set[int] = field(default_factory=set)
    gone: dict[int, tuple[datetime, datetime]] = field(default_factory=dict)
    outdated: set[int] = field(default_factory=set)
    unasked: set[int] = field(default_factory=set)
    failed: dict[int, CurrentRmsError] = field(default_factory=dict)
    shown_none: bool = False

    def outdone(self, answer: ListAnswer, collection: Collection) -> set[int]:
        """Return the records in `answer` for which another answer has the last word."""
        return self.superseded if is_list(answer.request, collection) else set()


def ask_by_id(
    client: CurrentRmsClient,
    ids: Sequence[int],
    *,
    lane: Lane,
    wanted: Wanted | None = None,
    expected: bool = True,
    calls: int | None = None,
    witnesses: Sequence[int] = (),
) -> Iterator[Verdict]:
    """Yield one verdict for each page's worth of `ids`.

    One id is asked for singly: that costs the same call as a list, and a single record is never
    late. More ids are asked for by list. A record that came older than `wanted` says is then asked
    for singly.

    A list never proves that a record is gone, because lists can be late and filters can be ignored.
    Each id that is missing from a list is asked for alone. It is gone only if `GET
    /opportunities/{id}` answers 404 or 410. If no record came singly since, the API is asked for
    one of `witnesses`, which should exist, or for a record that a list shows. If it finds none of
    them, the API is not reliable now. An id that no other witness shows to be gone, neither a list
    nor an event, is then asked for once more.

    A list that fails is halved, down to the one record that the API cannot deliver. `expected` only
    affects the cost: whether the records probably exist. After `calls` calls nothing more is asked
    for (except that check), and the last verdict has fewer ids. Raises RequestRefused (NotFound if
    the address is wrong) or ApiUnavailable (FindsNone).
    """
    asking = _Asking(client, lane, wanted or Wanted(), witnesses)
    singly = set(asking.wanted.singly)
    limit = None if calls is None else client.counts.calls + calls
    waiting = [i for i in ids if i not in singly] + [i for i in ids if i in singly]
    most = PageSizes(client).expected
    while waiting:
        most = min(most, PageSizes(client).expected)
        chunk, waiting = waiting[:most], waiting[most:]
        listed = [i for i in chunk if i not in singly]
        verdict, behind, left_out = Verdict(), list[int](), list[int]()
        try:
            answer = asking.listed(listed) if len(listed) > 1 else None
        except PageFailed:
            if limit is not None and client.counts.calls >= limit:
                return
            waiting, most = chunk + waiting, len(listed) // 2
            continue
        most *= 2
        if answer is None:
            missing = chunk
        else:
            came = set(answer.ids)
            behind = asking.behind(answer, verdict)
            left_out = [i for i in listed if i not in came]
            if came and len(answer.page.records) < answer.page.meta.total_row_count:
                # The page was shorter than expected, so it says nothing about the other ids.
                waiting, left_out = left_out + waiting, []
            missing = behind + left_out + [i for i in chunk if i in singly]
            verdict.answers.insert(0, answer)
        for id_ in missing:
            if limit is not None and client.counts.calls >= limit:
                waiting = []
                break
            asking.single(id_, verdict, expected=expected and (answer is None or id_ in behind))
        if verdict.gone.keys() - set(asking.wanted.alive):
            before = client.counts.calls
            verdict.shown_none = not asking.demand_singles()
            if not verdict.shown_none:
                asking.ask_twice(verdict, missing=left_out)
            if limit is not None:
                limit += client.counts.calls - before
        yield verdict


class _Asking:
    def __init__(
        self, client: CurrentRmsClient, lane: Lane, wanted: Wanted, witnesses: Sequence[int]
    ) -> None:
        self.wanted = wanted
        self._witnesses = list(witnesses)
        self._client, self._lane = client, lane
        self._health = Health(client, lane)
        self._lists = True
        self._found_singly = False
        self._gone = set[int]()
        self._to_sample = wanted.sampled
        self._strangers = set(wanted.strangers)
        self._left = wanted.most_absent

    def listed(self, ids: Sequence[int]) -> ListAnswer | None:
        """Return the list of `ids`. None if the API ignores the filter, or if its lists were found
        to be late.
        """
        if not self._lists:
            return None
        params = tuple(("q[id_in][]", str(i)) for i in ids)
        try:
            answer = self._ask(
                lambda attempts: self._client.list_records(
                    params, lane=self._lane, attempts=attempts
                )
            )
        except Unprocessable:
            self._lists = False
            return None
        if set(answer.ids) <= set(ids):
            self._witnesses = [*answer.ids[:1], *self._witnesses]
            return answer
        self._lists = False
        return None

    def behind(self, answer: ListAnswer, verdict: Verdict) -> list[int]:
        """Return the ids of a list's records that must be asked for singly, because the list may be
        late.
        """
        times = times_of(answer)
        found = {
            i
            for i, at in times.items()
            if i in self.wanted.gone
            # A record without a time may be newer.
            or (at is not None and _is_older(at, self.wanted.held.get(i)))
            or _is_older(at, self.wanted.told.get(i), SLACK)
        }
        if self._to_sample and times:
            self._to_sample = False
            sample = max(found or times)
            self.single(sample, verdict, expected=True)
            if verdict.failed.pop(sample, None) is not None:
                # The list delivers records that the API does not deliver alone.
                self._to_sample = True
                return sorted(found - {sample})
            alone = times_of(verdict.answers[-1]).get(sample) if verdict.answers else None
            verdict.superseded.add(sample)
            found.discard(sample)
            if sample in verdict.gone or _is_older(times[sample], alone):
                self._lists = False
                found = set(times) - {sample}
        verdict.superseded |= found
        return sorted(found)

    def single(self, id_: int, verdict: Verdict, *, expected: bool) -> None:
        if id_ in self._strangers and self._left is not None and self._left <= 0:
            verdict.unasked.add(id_)
            return
        asked_at = self._client.now()
        try:
            answer = self._ask(
                lambda attempts: self._client.get_record(
                    id_, lane=self._lane, expected=expected, attempts=attempts
                )
            )
            if answer is not None and answer.ids != (id_,):
                raise WrongRecord(
                    f"Instead of {self._client.collection.single} {id_}, Current RMS sent "
                    f"{answer.ids[0] if answer.ids else 'something else'}. Look at the "
                    f"{self._client.collection.single} there. If it looks right, report this to "
                    "the support of Current RMS."
                )
        except PageFailed as failed:
            verdict.failed[id_] = failed.error
            return
        except WrongRecord as error:
            verdict.failed[id_] = error
            return
        except (Forbidden, Unprocessable) as error:
            if not self._health.is_up((), for_sure=True):
                raise
            verdict.failed[id_] = error
            return
        if answer is None:
            verdict.gone[id_] = (asked_at, self._client.now())
            # The API may have become unreliable just now.
            self._found_singly = False
            self._gone.add(id_)
            if id_ in self._strangers and self._left is not None:
                self._left -= 1
            return
        self._found_singly = True
        verdict.answers.append(answer)
        if _is_older(times_of(answer).get(id_), self.wanted.told.get(id_), SLACK):
            verdict.outdated.add(id_)

    def ask_twice(self, verdict: Verdict, *, missing: Ids[int]) -> None:
        """Ask once more for each absent id that nothing else shows to be gone. One wrong answer
        must not delete a row.

        A list lacks those of `missing`. Call this when another record has just come by its id.
        """
        alone = verdict.gone.keys() - {*self.wanted.once_is_enough, *self.wanted.alive}
        if lacked := alone & {*missing, *self.wanted.missing}:
            alone -= lacked - {*self.wanted.unlisted(lacked)}
        for id_ in sorted(alone):
            del verdict.gone[id_]
            self.single(id_, verdict, expected=False)
        self._found_singly = True

    def _ask(self, question: Callable[[int | None], T]) -> T:
        """Return what `question` answers for the given number of attempts (None: as many as
        patience allows).

        Raises PageFailed if the question fails although the API answers others.
        """
        try:
            return question(FEW)
        except ApiUnavailable as error:
            if not is_of_the_question(error):
                raise
            if self._health.is_up((), for_sure=True):
                raise PageFailed(error) from error
            if self._client.patience.attempts <= FEW:
                # All attempts that patience allows were made.
                raise
        try:
            return question(None)
        except ApiUnavailable as error:
            if is_of_the_question(error) and self._health.is_up((), for_sure=True):
                raise PageFailed(error) from error
            raise

    def demand_singles(self) -> bool:
        """Raise NotFound or ApiUnavailable if the API may find no record at all by its id.

        That is possible until a record comes by its id after the last absent one. Of the first
        records in the list, one must come. An account that lists no record is not believed if the
        mirror knows a witness. Otherwise this returns False: the API shows no record at all.
        """
        gone = self._gone
        others = [i for i in self._witnesses if i not in gone]
        if self._found_singly or self._finds(others[:1]):
            return True
        try:
            answer = self._some_list(min(len(gone) + _WITNESSES, MOST_PER_PAGE))
        except NotFound:
            raise
        except RequestRefused:
            # The API knows the address, even if it refuses the question.
            return True
        if self._finds([i for i in answer.ids if i not in gone][:_WITNESSES]):
            return True
        name = self._client.collection.single
        if answer.ids or answer.page.meta.total_row_count:
            told = f"finds no {name} by its id, not even those in its own list"
        elif others:
            told = f"lists no {name} at all, and finds none by its id"
        else:
            return False
        raise FindsNone(
            f"Current RMS {told}. So no record is treated as deleted. If this goes on, report it "
            "to the support of Current RMS.",
            reason="no record is found by its id",
        )

    def _finds(self, ids: Sequence[int]) -> bool:
        """Return whether one of these is found by its id. It stops at the first that is."""
        for id_ in ids:
            with contextlib.suppress(ApiUnavailable, RequestRefused):
                found = self._client.get_record(id_, lane=self._lane, attempts=FEW)
                if found is not None and found.ids == (id_,):
                    self._found_singly = True
                    return True
        return False

    def _some_list(self, size: int) -> ListAnswer:
        """Return the list from one end, or from the other end if a record makes the first one
        fail.
        """
        try:
            return self._client.list_records(_OLDEST, per_page=size, lane=self._lane, attempts=FEW)
        except ApiUnavailable as error:
            if not is_of_the_question(error):
                raise
            return self._client.list_records(_NEWEST, per_page=size, lane=self._lane)


def times_of(answer: ListAnswer) -> dict[int, datetime | None]:
    """Return `updated_at` of each record, as the mirror reads it."""
    records = [bare_record(raw) for raw in answer.page.records]
    return {r.id: r.updated_at() for r in records if not isinstance(r, Fault)}


def _is_older(at: datetime | None, than: datetime | None, slack: timedelta = timedelta(0)) -> bool:
    """Return whether a record of time `at` is older than `than`. A record without a time counts as
    older.
    """
    if than is None:
        return False
    # `than - slack` would fail for the first moment that exists.
    return at is None or than - at > slack
