"""Saves lists under a name, and links to them."""

from dataclasses import asdict

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
        form = await read_form(request, "use fewer or shorter filters.")
        name = without_nul(" ".join(form.get("name", "").split()))
        if not 0 < len(name) <= _LONGEST_NAME:
            raise WrongParameter("name", "“Name”", f"has to have 1 to {_LONGEST_NAME} letters.")
        query = without_nul(cleaned(form.get("query", "")))
        is_default = bool(form.get("default"))
        # As in an address, because forms leave out what is empty.
        replaces = without_nul(form["replaces"]).removeprefix("?") if "replaces" in form else None

        def keep() -> None:
            with desk.database.session() as connection:
                if why := why_not_shown(connection, query, desk.time_zone):
                    raise HTTPException(422, why)
                save_view(
                    connection,
                    OPPORTUNITIES,
                    name,
                    query,
                    is_default=is_default,
                    replaces=replaces,
                )

        try:
            await run_in_threadpool(keep)
        except OtherViewError as other:
            if not wants_page(request):
                raise HTTPException(409, _OTHER) from None
            return await run_in_threadpool(
                desk.render,
                "view_exists.html",
                status=409,
                here="opportunities",
                title=name,
                query=query,
                is_default=is_default,
                other=other.query,
                addresses=(_address(other.query), _address(query)),
                was_seen=replaces is not None,
            )
        except TooManyViewsError:
            raise HTTPException(
                409,
                f"There are {MOST_VIEWS} saved views. That is the most that is allowed. Delete one "
                "that nobody uses.",
            ) from None
        return RedirectResponse(_address(query), 303)

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
