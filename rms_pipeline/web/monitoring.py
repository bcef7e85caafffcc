"""What programs that watch this service ask for: whether it is up, figures for Prometheus, and the
description of the API."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from rms_pipeline.web.desk import Desk
from rms_pipeline.web.metrics import Metrics
from rms_pipeline.web.refusals import REFUSALS, Refused


def monitoring_routes(desk: Desk, metrics: Metrics) -> APIRouter:
    """`/healthz`, which is open to everybody, and `/metrics` and `/openapi.json` for programs with
    the token."""
    router = APIRouter()

    @router.get("/openapi.json", include_in_schema=False, **desk.for_programs)
    def describe(request: Request) -> JSONResponse:
        return JSONResponse(request.app.openapi())

    @router.get(
        "/healthz",
        summary="Whether the service and its database are up",
        description="Readiness: send requests only to a service that answers 200. Liveness: "
        "restart a service only when it does not answer with `live=true`. That check "
        "does not use the database, because a restart would not bring the database "
        "back.",
        responses={503: {"model": Refused, "description": "The database does not answer."}},
    )
    def healthz(
        live: Annotated[
            bool, Query(description="Check the process only, not the database.")
        ] = False,
    ) -> dict[str, bool]:
        if not live:
            with desk.database.session() as connection, connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        return {"success": True}

    @router.get(
        "/metrics",
        summary="Figures for Prometheus",
        description="docs/reference/metrics.md has each metric.",
        **desk.for_programs,
        # FastAPI would take the content type of another class for that of the refusals, too.
        response_class=Response,
        responses={**REFUSALS, 200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    def read_metrics() -> Response:
        with desk.reader.session() as connection:
            text = metrics.render(connection, desk.account, desk.settings.collections)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return router
