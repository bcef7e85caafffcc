"""The opportunities of Current RMS over HTTP.

What belongs here: which requests there are about opportunities. What does not: how one is sent
(`transport`), which requests make a walk (`walk`), what is in a record (`payloads`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode

from rms_pipeline.current_rms.errors import NotFound
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.current_rms.pages import Page, decode_page, decode_single
from rms_pipeline.current_rms.payloads import record_id
from rms_pipeline.current_rms.transport import CallCounts, Patience, Transport
from rms_pipeline.current_rms.window import Params

__all__ = ["LIST_PARAMS", "PER_PAGE", "CallCounts", "CurrentRmsClient", "ListAnswer", "Patience"]

PER_PAGE = 100
# Every state of an opportunity, and the objects that names are read from.
LIST_PARAMS: Params = (
    ("filtermode", "all"),
    ("include[]", "member"),
    ("include[]", "owner"),
    ("include[]", "venue"),
)


@dataclass(frozen=True, slots=True)
class ListAnswer:
    """A page of a list: bytes as received, what they say, and when (UTC) it was asked and came.

    `ids` are those of the records that have one, in the order received.
    """

    request: str
    body: bytes
    page: Page
    ids: tuple[int, ...]
    asked_at: datetime
    answered_at: datetime
    api_date: datetime | None


class CurrentRmsClient(Transport):
    """Asks Current RMS for opportunities. Safe to share between threads.

    Every method may raise a RequestRefused (final) or ApiUnavailable.
    """

    def __enter__(self) -> "CurrentRmsClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def list_opportunities(
        self, params: Params, *, page: int = 1, per_page: int = PER_PAGE, lane: Lane = Lane.WALK
    ) -> ListAnswer:
        """One page of `GET /opportunities`, filtered by `params`, of every state."""
        query = (("page", str(page)), ("per_page", str(per_page)), *LIST_PARAMS, *params)
        return self._get(f"/opportunities?{urlencode(query, safe='[]:')}", decode_page, lane)

    def get_opportunity(self, id_: int, *, lane: Lane = Lane.LIVE) -> ListAnswer | None:
        """`GET /opportunities/{id}` as a page of one record; None when it is gone (404)."""
        query = urlencode(tuple(p for p in LIST_PARAMS if p[0] == "include[]"), safe="[]")
        try:
            return self._get(f"/opportunities/{id_}?{query}", decode_single, lane)
        except NotFound:
            return None

    def count(self, params: Params, *, lane: Lane = Lane.WALK) -> int:
        """How many opportunities the list filtered by `params` holds, by the API's own count."""
        return self.list_opportunities(params, per_page=1, lane=lane).page.meta.total_row_count

    def _get(self, request: str, decode: Callable[[bytes], Page], lane: Lane) -> ListAnswer:
        answer = self.read(request, decode, lane)
        return ListAnswer(
            request=request,
            body=answer.body,
            page=answer.decoded,
            ids=tuple(i for r in answer.decoded.opportunities if (i := record_id(r)) is not None),
            asked_at=answer.asked_at,
            answered_at=answer.answered_at,
            api_date=answer.api_date,
        )
