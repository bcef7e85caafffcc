"""One collection of Current RMS over HTTP.

This module builds the requests for the records of a collection. It does not send them
(`transport`), does not decide which requests make a full scan (`scan`), and does not interpret
records (`records`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.errors import NotFound
from rms_pipeline.current_rms.negotiation import Form, Negotiation
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.current_rms.pages import Page, decode_page, decode_single
from rms_pipeline.current_rms.records import record_id
from rms_pipeline.current_rms.terms import EVERY_STATE, MOST_PER_PAGE, Terms
from rms_pipeline.current_rms.transport import CallCounts, Patience, Transport
from rms_pipeline.current_rms.window import Params

__all__ = ["CallCounts", "CurrentRmsClient", "ListAnswer", "Patience"]


@dataclass(frozen=True, slots=True)
class ListAnswer:
    """A page of a list: the bytes as received, the decoded page, and when it was asked for and
    received (both UTC).

    `ids` are the ids of the records that have one, in the order received.
    """

    request: str
    body: bytes
    page: Page
    ids: tuple[int, ...]
    asked_at: datetime
    answered_at: datetime
    api_date: datetime | None


class CurrentRmsClient(Transport):
    """Asks Current RMS for the records of `collection`. Threads may share one client.

    `terms` holds what the account is known to grant. The client updates it from answers. When the
    account refuses an include or a `per_page`, the client finds out which, and does not ask for it
    again. Every method may raise RequestRefused (final) or ApiUnavailable.
    """

    def __init__(
        self, *, collection: Collection, terms: Terms | None = None, **transport: Any
    ) -> None:
        super().__init__(**transport)
        self.collection = collection
        self.terms = terms or Terms()
        self._path = f"/{collection.name}"
        self._negotiation = Negotiation(collection.includes, lambda: self.terms, lambda: self.now())

    @property
    def page_size(self) -> int:
        """How many records a page of the list holds at most, as far as is known."""
        return self.terms.page_size

    def __enter__(self) -> "CurrentRmsClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def list_records(
        self,
        params: Params,
        *,
        page: int = 1,
        per_page: int = MOST_PER_PAGE,
        lane: Lane = Lane.WALK,
        attempts: int | None = None,
        mode: str | None = None,
    ) -> ListAnswer:
        """Return one page of `GET /<collection>`, filtered by `params`.

        Without `mode` the list covers records in every state. `mode` names another `filtermode`.
        The page may hold fewer records than `per_page` although the list has more: at most
        `page_size`. `attempts` limits how often a failed request is repeated.
        """

        def ask(form: Form) -> ListAnswer:
            return self._list(form, self._mode(mode) + params, page, lane, attempts)

        def ask_plainly(form: Form) -> ListAnswer:
            return self._list(form, (), 1, lane, attempts)

        return self._negotiation.ask(
            ask, ask_plainly, per_page=per_page, parameters=tuple(name for name, _ in params)
        )

    def list_below(
        self,
        parent: int,
        params: Params,
        *,
        page: int = 1,
        lane: Lane = Lane.WALK,
        attempts: int | None = None,
    ) -> ListAnswer:
        """Return one page of `GET /<parents>/{parent}/<collection>`: the parts of one record.

        Raises NotFound if the parent is gone or has no such list.
        """
        parts = self.collection.parts
        assert parts is not None
        below = f"/{parts.of.name}/{parent}{self._path}"

        def ask(form: Form) -> ListAnswer:
            return self._list(form, params, page, lane, attempts, below)

        def ask_plainly(form: Form) -> ListAnswer:
            return self._list(form, (), 1, lane, attempts, below)

        return self._negotiation.ask(
            ask, ask_plainly, per_page=MOST_PER_PAGE, parameters=tuple(name for name, _ in params)
        )

    def get_record(
        self,
        id_: int,
        *,
        lane: Lane = Lane.LIVE,
        expected: bool = True,
        attempts: int | None = None,
    ) -> ListAnswer | None:
        """Return `GET /<collection>/{id}` as a page of one record, or None if the record is gone
        (404, 410).

        An account may also answer 404 because of an include. So a record counts as gone only if it
        is not found without includes, or if another record was just found with the same includes.
        Set `expected` to False for a record that is probably gone: that check then costs fewer
        calls.
        """

        def ask(form: Form, wanted: int = id_) -> ListAnswer:
            query = urlencode([("include[]", name) for name in form.includes], safe="[]")
            mark = "?" if query else ""
            request = f"{self._path}/{wanted}{mark}{query}"
            return self._get(request, decode_single, lane, attempts)

        others: list[int] = []

        def ask_another(form: Form) -> ListAnswer:
            if not others:
                others.extend(self._list(Form((), 2), self._mode(), 1, lane, attempts).ids)
            return ask(form, next((i for i in others if i != id_), id_))

        try:
            return self._negotiation.ask_single(ask, ask_another, expected=expected)
        except NotFound:
            return None

    def count(self, params: Params, *, lane: Lane = Lane.WALK) -> int:
        """Return how many records the list filtered by `params` holds, as the API counts them."""
        return self.list_records(params, per_page=1, lane=lane).page.meta.total_row_count

    def _mode(self, mode: str | None = None) -> Params:
        modes = self.collection.modes
        return ((EVERY_STATE, mode or modes.every),) if modes else ()

    def _list(
        self,
        form: Form,
        params: Params,
        page: int,
        lane: Lane,
        attempts: int | None,
        path: str | None = None,
    ) -> ListAnswer:
        includes = tuple(("include[]", name) for name in form.includes)
        query = (("page", str(page)), ("per_page", str(form.per_page)), *includes, *params)
        request = f"{path or self._path}?{urlencode(query, safe='[]:')}"
        answer = self._get(request, decode_page, lane, attempts)
        self.terms.learn_page_size(
            asked=form.per_page,
            claimed=answer.page.meta.claimed_per_page,
            came=len(answer.page.records),
            total=answer.page.meta.total_row_count,
            number=page,
        )
        return answer

    def _get(
        self,
        request: str,
        decode: Callable[[bytes, Collection], Page],
        lane: Lane,
        attempts: int | None = None,
    ) -> ListAnswer:
        answer = self.read(
            request, lambda body: decode(body, self.collection), lane, attempts=attempts
        )
        return ListAnswer(
            request=request,
            body=answer.body,
            page=answer.decoded,
            ids=tuple(i for r in answer.decoded.records if (i := record_id(r)) is not None),
            asked_at=answer.asked_at,
            answered_at=answer.answered_at,
            api_date=answer.api_date,
        )
