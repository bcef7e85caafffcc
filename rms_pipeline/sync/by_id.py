"""Asking for opportunities by their ids: which are still there, and which are gone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from rms_pipeline.current_rms.client import CurrentRmsClient, ListAnswer
from rms_pipeline.current_rms.errors import Unprocessable
from rms_pipeline.current_rms.pacing import Lane


@dataclass(slots=True)
class Verdict:
    """What became of some ids: `answers` hold the records that are there, `gone` when (UTC) each
    absence was asked for and answered."""

    answers: list[ListAnswer] = field(default_factory=list)
    gone: dict[int, tuple[datetime, datetime]] = field(default_factory=dict)


def ask_by_id(
    client: CurrentRmsClient, ids: Sequence[int], *, witness: int | None, lane: Lane
) -> Iterator[Verdict]:
    """One verdict for each call's worth of ids, as many as a page holds.

    An id that a list by id leaves out is gone only if the list shows that it works: nothing but
    what was asked for comes, and `witness`, an id known to be there, among it. Otherwise, and
    without a witness, each absent id is asked for alone, and only a 404 means gone.
    """
    waiting = list(ids)
    while waiting:
        size = max(client.page_size - (witness is not None), 1)
        chunk, waiting = waiting[:size], waiting[size:]
        verdict = Verdict()
        wanted = {*chunk} if witness is None else {*chunk, witness}
        answer = _list(client, sorted(wanted), lane)
        came = set() if answer is None else set(answer.ids)
        if answer is not None:
            verdict.answers.append(answer)
        missing = [i for i in chunk if i not in came]
        is_whole = answer is not None and len(came) == answer.page.meta.total_row_count
        if not is_whole and came & set(chunk):
            # The page was shorter than it was taken to be: it says nothing of the others.
            waiting, missing = missing + waiting, []
        if answer is not None and is_whole and witness is not None and witness in came:
            verdict.gone = dict.fromkeys(missing, (answer.asked_at, answer.answered_at))
        else:
            for id_ in missing:
                asked_at = client.now()
                single = client.get_opportunity(id_, lane=lane)
                if single is None:
                    verdict.gone[id_] = (asked_at, client.now())
                else:
                    verdict.answers.append(single)
        yield verdict


def _list(client: CurrentRmsClient, ids: Sequence[int], lane: Lane) -> ListAnswer | None:
    """None when the API does not obey the filter."""
    try:
        answer = client.list_opportunities(tuple(("q[id_in][]", str(i)) for i in ids), lane=lane)
    except Unprocessable:
        return None
    came, records = set(answer.ids), len(answer.page.opportunities)
    obeyed = came <= set(ids) and len(came) == records
    obeyed = obeyed and records <= answer.page.meta.total_row_count <= len(ids)
    return answer if obeyed else None
