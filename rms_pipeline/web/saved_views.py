"""Saves lists under a name, and links to them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from fastapi import APIRouter, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, RedirectResponse, Response

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.insight.saved_views import (
    MOST_VIEWS,
    OtherViewError,
    TooManyViewsError,
    delete_view,
    make_default,
    save_view,
    saved_views,
)
from rms_pipeline.mirror.criteria import without_nul
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.web.desk import Desk
from rms_pipeline.web.forms import read_form
from rms_pipeline.web.list_address import asked_by, cleaned, with_known_fields
from rms_pipeline.web.refusals import REFUSALS, WrongParameter, wants_page

_LONGEST_NAME = 100
_ALL = "/opportunities?sort=-updated"
_OTHER = (
    "There is already a view with this name, and it shows another list. Send `replaces=?` "
    "and what it asks for to replace it, or choose another name."
)
_GONE = "This view does not exist any more, because somebody deleted it. The list shows the others."


@dataclass(frozen=True, slots=True)
class _View:
    """A view that somebody wants to save. `replaces` is the query that this person saw under the
    same name, None if the form did not say."""

    name: str
    query: str
    is_default: bool
    replaces: str | None


def saved_view_routes(desk: Desk) -> APIRouter:
    """The routes of saved views. `/views/<id>` is the link to share: it leads to what the view asks
    for at the time, or says why that cannot be shown any more."""
    router = APIRouter()

    @router.get(
        "/api/views",
        summary="Lists that people saved",
        tags=["opportunities"],
        **desk.for_programs,
        responses=REFUSALS,
    )
    def tell() -> JSONResponse:
        with desk.reader.session() as connection:
            found = saved_views(connection, OPPORTUNITIES)
        told = [{**asdict(view), "address": _address(view.query)} for view in found]
        return JSONResponse({"success": True, "views": told})

    @router.get("/views/{id_}", **desk.for_people)
    def go(request: Request, id_: int) -> Response:
        with desk.reader.session() as connection:
            found = {view.id: view for view in saved_views(connection, OPPORTUNITIES)}
            if id_ not in found:
                raise HTTPException(404, _GONE)
            view = found[id_]
            why = why_not_shown(connection, view.query, desk.time_zone)
        if not why:
            return RedirectResponse(_address(view.query), 303)
        if not wants_page(request):
            raise HTTPException(422, why)
        return desk.render("view_broken.html", status=422, here="opportunities", view=view, why=why)

    @router.post("/views", **desk.for_people)
    async def save(request: Request) -> Response:
        view = _view_in(await read_form(request, "use fewer or shorter filters."))
        try:
            await run_in_threadpool(_save, desk, view)
        except OtherViewError as other:
            if not wants_page(request):
                raise HTTPException(409, _OTHER) from None
            return await run_in_threadpool(_ask_whether_to_replace, desk, view, other.query)
        except TooManyViewsError:
            raise HTTPException(
                409,
                f"There are {MOST_VIEWS} saved views. That is the most that is allowed. Delete one "
                "that nobody uses.",
            ) from None
        return RedirectResponse(_address(view.query), 303)

    @router.post("/views/none/default", **desk.for_people)
    def prefer_none() -> Response:
        with desk.database.session() as connection:
            make_default(connection, OPPORTUNITIES, None)
        return RedirectResponse(_ALL, 303)

    @router.post("/views/{id_}/default", **desk.for_people)
    def prefer(id_: int) -> Response:
        with desk.database.session() as connection:
            if not make_default(connection, OPPORTUNITIES, id_):
                raise HTTPException(404, _GONE)
        return RedirectResponse("/opportunities", 303)

    @router.post("/views/{id_}/delete", **desk.for_people)
    def delete(id_: int) -> Response:
        with desk.database.session() as connection:
            if not delete_view(connection, OPPORTUNITIES, id_):
                raise HTTPException(404, _GONE)
        return RedirectResponse(_ALL, 303)

    return router


def _view_in(form: Mapping[str, str]) -> _View:
    """Raises WrongParameter for a name that is missing or too long."""
    name = without_nul(" ".join(form.get("name", "").split()))
    if not 0 < len(name) <= _LONGEST_NAME:
        raise WrongParameter("name", "“Name”", f"has to have 1 to {_LONGEST_NAME} letters.")
    # The form sends it like an address, with a `?`, because an empty field would be left out.
    replaces = without_nul(form["replaces"]).removeprefix("?") if "replaces" in form else None
    query = without_nul(cleaned(form.get("query", "")))
    return _View(name, query, bool(form.get("default")), replaces)


def _save(desk: Desk, view: _View) -> None:
    """Raises HTTPException (422) if no list answers its query, and what `save_view` raises."""
    with desk.database.session() as connection:
        if why := why_not_shown(connection, view.query, desk.time_zone):
            raise HTTPException(422, why)
        save_view(
            connection,
            OPPORTUNITIES,
            view.name,
            view.query,
            is_default=view.is_default,
            replaces=view.replaces,
        )


def _ask_whether_to_replace(desk: Desk, view: _View, other: str) -> Response:
    return desk.render(
        "view_exists.html",
        status=409,
        here="opportunities",
        title=view.name,
        query=view.query,
        is_default=view.is_default,
        other=other,
        addresses=(_address(other), _address(view.query)),
        was_seen=view.replaces is not None,
    )


def why_not_shown(connection: Connection, query: str, time_zone: str) -> str:
    """Why no list answers `query`, which may be older than what there is to filter by; '' where one
    does. Commits."""
    try:
        with_known_fields(connection, asked_by(query, time_zone))
    except WrongParameter as refused:
        return refused.for_people
    except HTTPException as refused:
        return str(refused.detail)
    return ""


def _address(query: str) -> str:
    return f"/opportunities?{query}" if query else _ALL
