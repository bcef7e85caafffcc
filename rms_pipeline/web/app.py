"""The FastAPI application put together."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import psycopg2
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import SecretStr
from starlette.exceptions import HTTPException

from rms_pipeline.mirror.database import Database, DatabaseError
from rms_pipeline.web.access import api_token_required
from rms_pipeline.web.metrics import Metrics
from rms_pipeline.web.receiver import receiver


class Service(Protocol):
    """Something that works beside the requests."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


def create_app(
    database: Database,
    *,
    account: str,
    webhook_token: SecretStr,
    api_token: SecretStr,
    metrics: Metrics,
    services: Sequence[Service] = (),
) -> FastAPI:
    """The service over `database`. `services` start and stop with it, the last one first."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for service in services:
            service.start()
        yield
        for service in reversed(services):
            service.stop()

    app = FastAPI(
        title="rms_pipeline",
        description="Receives the webhooks of Current RMS and keeps the mirror fresh.",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(receiver(database, webhook_token, metrics))

    @app.get(
        "/openapi.json",
        include_in_schema=False,
        dependencies=[Depends(api_token_required(api_token))],
    )
    def describe() -> JSONResponse:
        return JSONResponse(app.openapi())

    @app.get("/healthz", summary="Whether the service and its database are there")
    def healthz() -> JSONResponse:
        try:
            with database.session() as connection, connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        except (psycopg2.Error, DatabaseError):
            return _refuse(503, "The database does not answer.", {"Retry-After": "30"})
        return JSONResponse({"success": True})

    @app.get(
        "/metrics",
        summary="For Prometheus",
        dependencies=[Depends(api_token_required(api_token))],
        response_class=Response,
    )
    def read_metrics() -> Response:
        try:
            with database.session() as connection:
                text = metrics.render(connection, account)
        except (psycopg2.Error, DatabaseError):
            return _refuse(503, "The database does not answer.", {"Retry-After": "30"})
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        return _refuse(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return _refuse(422, "; ".join(str(e["msg"]) for e in error.errors()), {})

    return app


def _refuse(status: int, text: str, headers: dict[str, str]) -> JSONResponse:
    return JSONResponse({"success": False, "error": text}, status_code=status, headers=headers)
