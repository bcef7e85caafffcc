"""Saving lists by a name, and leading to them."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, RedirectResponse, Response

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.insight.saved_views import delete_view, make_default, save_view, saved_views
from rms_pipeline.mirror.criteria import without_nul
from rms_pipeline.mirror.database import Database
from rms_pipeline.web.access import Access
from rms_pipeline.web.forms import read_form
from rms_pipeline.web.listing import cleaned
from rms_pipeline.web.reading import Reader
from rms_pipeline.web.refusals import REFUSALS

_LONGEST_NAME = 100
_ALL = "/opportunities?sort=-updated"
_GONE = "This view does not exist any more, because somebody deleted it. The list shows the others."


def views(database: Database, reader: Reader, access: Access) -> APIRouter:
    """The routes of saved views. `/views/<id>` is the link to share: it leads to what the view asks
    for at the time."""
    router = APIRouter()
    visible: dict[str, Any] = {"dependencies": [Depends(access.page)], "include_in_schema": False}

    @router.get(
        "/api/views",
        summary="Lists that people saved",
        tags=["opportunities"],
        dependencies=[Depends(access.required)],
        responses=REFUSALS,
    )
    def tell() -> JSONResponse:
        with reader.session() as connection:
            found = saved_views(connection, OPPORTUNITIES)
        told = [{**asdict(view), "address": _address(view.query)} for view in found]
        return JSONResponse({"success": True, "views": told})

    @router.get("/views/{id_}", **visible)
    def go(id_: int) -> Response:
        with reader.session() as connection:
            found = {view.id: view for view in saved_views(connection, OPPORTUNITIES)}
        if id_ not in found:
            raise HTTPException(404, _GONE)
        return RedirectResponse(_address(found[id_].query), 303)

    @router.post("/views", **visible)
    async def save(request: Request) -> Response:
        form = await read_form(request, "use fewer or shorter filters.")
        name = without_nul(" ".join(form.get("name", "").split()))
        if not 0 < len(name) <= _LONGEST_NAME:
            raise HTTPException(
                422, f"name is the name of the view, in 1 to {_LONGEST_NAME} letters."
            )
        query = without_nul(cleaned(form.get("query", "")))

        def keep() -> None:
            with database.session() as connection:
                is_default = bool(form.get("default"))
                save_view(connection, OPPORTUNITIES, name, query, is_default=is_default)

        await run_in_threadpool(keep)
        return RedirectResponse(_address(query), 303)

    @router.post("/views/none/default", **visible)
    def prefer_none() -> Response:
        with database.session() as connection:
            make_default(connection, OPPORTUNITIES, None)
        return RedirectResponse(_ALL, 303)

    @router.post("/views/{id_}/default", **visible)
    def prefer(id_: int) -> Response:
        with database.session() as connection:
            if not make_default(connection, OPPORTUNITIES, id_):
                raise HTTPException(404, _GONE)
        return RedirectResponse("/opportunities", 303)

    @router.post("/views/{id_}/delete", **visible)
    def delete(id_: int) -> Response:
        with database.session() as connection:
            if not delete_view(connection, OPPORTUNITIES, id_):
                raise HTTPException(404, _GONE)
        return RedirectResponse(_ALL, 303)

    return router


def _address(query: str) -> str:
    return f"/opportunities?{query}" if query else _ALL
