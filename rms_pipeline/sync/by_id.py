"""Asking for opportunities by their ids: which are still there, and which are gone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from rms_pipeline.current_rms.client import CurrentRmsClient, ListAnswer
from rms_pipeline.current_rms.errors import NotFound, RequestRefused, Unprocessable
from rms_pipeline.current_rms.pacing import Lane


@dataclass(slots=True)
class Verdict:
    """What became of some ids: `answers` hold the records that are there, `gone` when (UTC) each
    absence was asked for and answered."""

    answers: list[ListAnswer] = field(default_factory=list)
    gone: dict[int, tuple[datetime, datetime]] = field(default_factory=dict)


def ask_by_id(
    client: CurrentRmsClient,
    ids: Sequence[int],
    *,
    lane: Lane,
    expected: bool = True,
    calls: int | None = None,
) -> Iterator[Verdict]:
    """One verdict for each page's worth of `ids`, which are told apart.

    One id is asked for singly, which costs the same call as a list of it and is never behind as
    lists are; more are asked for by list. Nothing is gone on a list's word: lists lag, and filters
    are ignored. Each id that a list left out is asked for alone, and only what
    `GET /opportunities/{id}` answers with 404 or 410 is gone. Where the API has answered nothing
    else, it is asked whether it answers at all: a wrong address has none of anything. Whether they
    are `expected` to be there matters to the cost only. After `calls` nothing more is asked for
    (but that), and the last verdict speaks of fewer ids. Raises RequestRefused (NotFound when the
    address is wrong) or ApiUnavailable.
    """
    asking = _Asking(client, lane)
    waiting = list(ids)
    limit = None if calls is None else client.counts.calls + calls
    while waiting:
        size = client.page_size
        chunk, waiting = waiting[:size], waiting[size:]
        verdict = Verdict()
        answer = asking.list(chunk) if len(chunk) > 1 else None
        came = set() if answer is None else set(answer.ids)
        missing = [i for i in chunk if i not in came]
        if answer is not None:
            verdict.answers.append(answer)
            if came and len(answer.page.opportunities) < answer.page.meta.total_row_count:
                # The page was shorter than it was taken to be: it says nothing of the others.
                waiting, missing = missing + waiting, []
        for id_ in missing:
            if limit is not None and client.counts.calls >= limit:
                waiting = []
                break
            asking.single(id_, verdict, expected=expected and answer is None)
        if verdict.gone:
            asking.demand_an_answer()
        yield verdict


class _Asking:
    def __init__(self, client: CurrentRmsClient, lane: Lane) -> None:
        self._client, self._lane = client, lane
        self._answered, self._lists = False, True

    def list(self, ids: Sequence[int]) -> ListAnswer | None:
        """None when the API does not obey the filter."""
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

    def single(self, id_: int, verdict: Verdict, *, expected: bool) -> None:
        asked_at = self._client.now()
        answer = self._client.get_opportunity(id_, lane=self._lane, expected=expected)
        if answer is None:
            verdict.gone[id_] = (asked_at, self._client.now())
        else:
            self._answered = True
            verdict.answers.append(answer)

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
