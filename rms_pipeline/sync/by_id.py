"""Asking for opportunities by their ids: which are still there, and which are gone."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rms_pipeline.current_rms.client import CurrentRmsClient, ListAnswer
from rms_pipeline.current_rms.errors import NotFound, RequestRefused, Unprocessable
from rms_pipeline.current_rms.fields import Fault
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.current_rms.payloads import read_record

# An event is written down a moment after the record it tells of.
SLACK = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is known of the records that are asked for, by their ids.

    `told`: when, by Current RMS's clock, they were last changed by the word of an event; `held`:
    their `updated_at` in the mirror. A list that brings an older one is behind. `singly`: no list
    is asked about these. `most_absent`: so many of `strangers` are asked for singly, none more.
    `sampled`: lists are tried on one record, and not believed where they are behind.
    """

    told: Mapping[int, datetime] = field(default_factory=dict)
    held: Mapping[int, datetime] = field(default_factory=dict)
    singly: Collection[int] = ()
    strangers: Collection[int] = ()
    most_absent: int | None = None
    sampled: bool = False


@dataclass(slots=True)
class Verdict:
    """What became of some ids.

    `answers` hold the records that are there; what a list among them says of `superseded` does not
    count. `gone`: when (UTC) each absence was asked for and answered. `outdated` came singly and
    are older than an event says. `unasked` were left out by a list and are asked for another time.
    """

    answers: list[ListAnswer] = field(default_factory=list)
    superseded: set[int] = field(default_factory=set)
    gone: dict[int, tuple[datetime, datetime]] = field(default_factory=dict)
    outdated: set[int] = field(default_factory=set)
    unasked: set[int] = field(default_factory=set)


def ask_by_id(
    client: CurrentRmsClient,
    ids: Sequence[int],
    *,
    lane: Lane,
    wanted: Wanted | None = None,
    expected: bool = True,
    calls: int | None = None,
) -> Iterator[Verdict]:
    """One verdict for each page's worth of `ids`, which are told apart.

    One id is asked for singly, which costs the same call as a list of it and is never behind as
    lists are; more are asked for by list, and what came older than `wanted` says singly too.
    Nothing is gone on a list's word: lists lag, and filters are ignored. Each id that a list left
    out is asked for alone, and only what `GET /opportunities/{id}` answers with 404 or 410 is gone.
    Where the API has answered nothing else, it is asked whether it answers at all: a wrong address
    has none of anything. Whether they are `expected` to be there matters to the cost only. After
    `calls` nothing more is asked for (but that), and the last verdict speaks of fewer ids. Raises
    RequestRefused (NotFound when the address is wrong) or ApiUnavailable.
    """
    asking = _Asking(client, lane, wanted or Wanted())
    singly = set(asking.wanted.singly)
    limit = None if calls is None else client.counts.calls + calls
    waiting = [i for i in ids if i not in singly] + [i for i in ids if i in singly]
    while waiting:
        size = client.page_size
        chunk, waiting = waiting[:size], waiting[size:]
        listed = [i for i in chunk if i not in singly]
        verdict, behind = Verdict(), list[int]()
        answer = asking.listed(listed) if len(listed) > 1 else None
        if answer is None:
            missing = chunk
        else:
            came = set(answer.ids)
            behind = asking.behind(answer, verdict)
            left_out = [i for i in listed if i not in came]
            if came and len(answer.page.opportunities) < answer.page.meta.total_row_count:
                # The page was shorter than it was taken to be: it says nothing of the others.
                waiting, left_out = left_out + waiting, []
            missing = behind + left_out + [i for i in chunk if i in singly]
            verdict.answers.insert(0, answer)
        for id_ in missing:
            if limit is not None and client.counts.calls >= limit:
                waiting = []
                break
            asking.single(id_, verdict, expected=expected and (answer is None or id_ in behind))
        if verdict.gone:
            asking.demand_an_answer()
        yield verdict


class _Asking:
    def __init__(self, client: CurrentRmsClient, lane: Lane, wanted: Wanted) -> None:
        self.wanted = wanted
        self._client, self._lane = client, lane
        self._answered, self._lists = False, True
        self._to_sample = wanted.sampled
        self._strangers = set(wanted.strangers)
        self._left = wanted.most_absent

    def listed(self, ids: Sequence[int]) -> ListAnswer | None:
        """None when the API does not obey the filter, or its lists were found to be behind."""
        if not self._lists:
            return None
        params = tuple(("q[id_in][]", str(i)) for i in ids)
        try:
            answer = self._client.list_opportunities(params, lane=self._lane)
        except Unprocessable:
            self._lists = False
            return None
        self._answered = True
        if set(answer.ids) <= set(ids):
            return answer
        self._lists = False
        return None

    def behind(self, answer: ListAnswer, verdict: Verdict) -> list[int]:
        """Those of a list's records that are to be asked for singly, for it may be behind."""
        times = _times(answer)
        found = {
            i
            for i, at in times.items()
            if _is_older(at, self.wanted.held.get(i))
            or _is_older(at, self.wanted.told.get(i), SLACK)
        }
        if self._to_sample and times:
            self._to_sample = False
            sample = max(found or times)
            self.single(sample, verdict, expected=True)
            alone = _times(verdict.answers[-1]).get(sample) if verdict.answers else None
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
        answer = self._client.get_opportunity(id_, lane=self._lane, expected=expected)
        if answer is None:
            verdict.gone[id_] = (asked_at, self._client.now())
            if id_ in self._strangers and self._left is not None:
                self._left -= 1
            return
        self._answered = True
        verdict.answers.append(answer)
        if _is_older(_times(answer).get(id_), self.wanted.told.get(id_), SLACK):
            verdict.outdated.add(id_)

    def demand_an_answer(self) -> None:
        if not self._answered:
            try:
                self._client.list_opportunities((), per_page=1, lane=self._lane)
            except NotFound:
                raise
            except RequestRefused:
                # It knows the place, whatever it thinks of the question.
                pass
            self._answered = True


def _times(answer: ListAnswer) -> dict[int, datetime | None]:
    """`updated_at` of each record, as the mirror reads it."""
    records = [read_record(raw) for raw in answer.page.opportunities]
    return {r.id: r.updated_at() for r in records if not isinstance(r, Fault)}


def _is_older(at: datetime | None, than: datetime | None, slack: timedelta = timedelta(0)) -> bool:
    """Whether a record of `at`, None for one that does not tell, is not yet that of `than`."""
    if than is None:
        return False
    # Not `than - slack`: the first moment there is has none before it.
    return at is None or than - at > slack
