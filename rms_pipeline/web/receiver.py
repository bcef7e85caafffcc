"""POST /api/webhook: an event is stored before it is acknowledged.

Deliveries are not signed. The secret in the address is the only protection, and is checked before
the body is read. If an event cannot be stored, the answer makes Current RMS deliver it again.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, cast

import psycopg2
from fastapi import APIRouter, HTTPException, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel, SecretStr
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool

from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.deliveries import BIGINT_MAX, Delivered, NotADelivery, read_delivery
from rms_pipeline.mirror.database import Database, DatabaseError
from rms_pipeline.mirror.intake import MOST_KEPT, Intake
from rms_pipeline.mirror.queue import Event, store_event
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.web.metrics import Metrics
from rms_pipeline.web.refusals import RETRY_SECONDS, Refused
from rms_pipeline.web.sessions import matches

MOST_BYTES = 8 * 1024 * 1024
_TOO_MUCH_SECONDS = 60

_EXAMPLE = {
    "action": {
        "id": 91,
        "subject_id": 1234,
        "subject_type": "Opportunity",
        "action_type": "update",
        "member_id": 7,
        "member": {"id": 7, "name": "Ada Example"},
    }
}


class Acknowledged(BaseModel):
    success: bool
    eventId: int
    message: str


# What both routes have in the description of the API.
_DOCUMENTED: dict[str, Any] = {
    "response_model": Acknowledged,
    "responses": {
        400: {"model": Refused, "description": "Not a webhook delivery."},
        401: {"model": Refused, "description": "Wrong token."},
        413: {"model": Refused, "description": "More than 8 MiB."},
        # Replaces FastAPI's own description of a 422, because no answer here has that shape.
        422: {"model": Refused, "description": "A parameter is not valid."},
        429: {
            "model": Refused,
            "description": "Too many events arrived. Deliver this one again later.",
        },
        503: {
            "model": Refused,
            "description": "The database is down. Deliver the event again.",
        },
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["action"],
                        "properties": {
                            "action": {
                                "type": "object",
                                "required": ["subject_id"],
                                "properties": {
                                    "id": {"type": "integer"},
                                    "subject_id": {
                                        "type": "integer",
                                        "minimum": 0,
                                        "maximum": BIGINT_MAX,
                                    },
                                    "subject_type": {"type": "string"},
                                    "action_type": {"type": "string"},
                                },
                            }
                        },
                    },
                    "example": _EXAMPLE,
                }
            },
        }
    },
}


class _TooMuch(Exception):
    """More events arrived than are accepted. The text says which limit was reached."""


def _keep(connection: Connection, delivered: Delivered, intake: Intake) -> tuple[int, bool]:
    """Stores a delivery. Returns its id and whether it is new. Raises _TooMuch."""
    if reason := intake.refusal(connection, delivered.collection, delivered.record):
        raise _TooMuch(reason)
    whole = len(delivered.payload) <= MOST_KEPT and intake.keeps_bodies
    kept = delivered.payload if whole else delivered.shortened()
    intake.note_kept(len(kept))
    event = Event(
        action_id=delivered.action_id,
        action_type=delivered.action_type,
        subject_type=delivered.subject_type,
        collection=delivered.collection,
        record=delivered.record,
        member_id=delivered.member_id,
        member_name=delivered.member_name,
        happened_at=delivered.happened_at,
        payload=delivered.payload,
        kept=kept,
        because=delivered.because,
    )
    try:
        return store_event(connection, event)
    except psycopg2.DataError:
        # Something in it, such as a number of too many digits. The record that it is about is
        # known.
        connection.rollback()
        short = delivered.shortened()
        return store_event(connection, replace(event, payload=short, kept=short))


class _Store:
    """Stores deliveries, each on a connection of a pool."""

    def __init__(self, database: Database) -> None:
        self._pool: QueuePool = QueuePool(
            cast(Any, database.connect), pool_size=8, max_overflow=0, timeout=5
        )
        self._intake = Intake()

    def keep(self, delivered: Delivered) -> tuple[int, bool]:
        """As `_keep`."""
        # If PostgreSQL was restarted, all connections of the pool are dead. If it is down, opening
        # a new one fails, which ends this loop at once.
        for stale in range(self._pool.size() + 1):
            connection = None
            try:
                connection = self._pool.connect()
                return _keep(cast(Connection, connection.dbapi_connection), delivered, self._intake)
            except (psycopg2.OperationalError, psycopg2.InterfaceError):
                if connection is not None:
                    connection.invalidate()
                if stale == self._pool.size():
                    raise
            finally:
                if connection is not None:
                    connection.close()
        raise AssertionError

    async def keep_or_refuse(self, delivered: Delivered) -> tuple[int, bool]:
        """As `keep`. Raises HTTPException, which says whether to deliver it again."""
        try:
            return await run_in_threadpool(self.keep, delivered)
        except _TooMuch as error:
            raise HTTPException(
                429,
                f"{error} This event was not stored. Deliver it again.",
                headers={"Retry-After": str(_TOO_MUCH_SECONDS)},
            ) from None
        except psycopg2.DataError as error:
            reason = str(error).splitlines()[0]
            raise HTTPException(400, f"PostgreSQL cannot store this body: {reason}") from None
        except (psycopg2.Error, DatabaseError, PoolTimeout):
            raise HTTPException(
                503,
                "The database cannot store the event at the moment. Deliver it again.",
                headers={"Retry-After": str(RETRY_SECONDS)},
            ) from None


def receiver(
    database: Database,
    tokens: Sequence[SecretStr],
    metrics: Metrics,
    collections: Sequence[Collection],
) -> APIRouter:
    """The routes to which Current RMS delivers. Each of `tokens` is accepted. Events of
    `collections` are refreshed."""
    router = APIRouter(tags=["webhook"])
    store = _Store(database)

    async def event_in(request: Request, given: str) -> Delivered:
        if not any(matches(given, token) for token in tokens):
            raise HTTPException(
                401,
                "The token in the address is not this service's webhook token. Register the "
                "webhooks again: `rms-pipeline webhooks register https://this.host`.",
            )
        body = await _read(request)
        try:
            return read_delivery(body, collections)
        except NotADelivery as error:
            raise HTTPException(400, str(error)) from None

    async def receive(request: Request, given: str) -> JSONResponse:
        began = time.monotonic()
        metrics.received.inc()
        try:
            event = await event_in(request, given)
            id_, new = await store.keep_or_refuse(event)
        except HTTPException as error:
            metrics.refused.labels(str(error.status_code)).inc()
            raise
        (metrics.stored if new else metrics.repeated).inc()
        metrics.acknowledged.observe(time.monotonic() - began)
        message = "Stored." if new else "Stored before."
        if event.record is None:
            no_record = " and ".join(f"no {c.single}" for c in collections)
            message += f" Nothing is refreshed, because it is about {no_record}: {event.because}."
        return JSONResponse({"success": True, "eventId": id_, "message": message})

    @router.post("/api/webhook/{token}", **_DOCUMENTED, summary="Receive a webhook")
    async def receive_by_path(
        request: Request,
        token: Annotated[str, Path(description="The webhook token (RMS_WEBHOOK_TOKEN).")],
    ) -> JSONResponse:
        return await receive(request, token)

    @router.post("/api/webhook", **_DOCUMENTED, summary="Receive a webhook (token as a parameter)")
    async def receive_by_query(
        request: Request,
        token: Annotated[str, Query(description="The webhook token (RMS_WEBHOOK_TOKEN).")] = "",
    ) -> JSONResponse:
        return await receive(request, token)

    return router


async def _read(request: Request) -> bytes:
    body = bytearray()
    declared = request.headers.get("Content-Length", "")
    too_big = declared.isdigit() and int(declared) > MOST_BYTES
    if not too_big:
        async for chunk in request.stream():
            body += chunk
            too_big = len(body) > MOST_BYTES
            if too_big:
                break
    if too_big:
        raise HTTPException(413, "The body is bigger than 8 MiB.")
    return bytes(body)
