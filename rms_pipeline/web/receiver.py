"""POST /api/webhook: an event is kept before it is acknowledged.

Deliveries are not signed; the secret in the address is the only gate, and is looked at before the
body is. What cannot be kept is answered so that Current RMS delivers it again.
"""

import time
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import psycopg2
from fastapi import APIRouter, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel, SecretStr
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool

from rms_pipeline.current_rms.lenient import storable_json
from rms_pipeline.mirror.database import Database, DatabaseError
from rms_pipeline.mirror.queue import Event, store_event
from rms_pipeline.sessions import matches
from rms_pipeline.web.metrics import Metrics
from rms_pipeline.web.refusals import RETRY_SECONDS, Refused

MOST_BYTES = 8 * 1024 * 1024
_BIGINT_MAX = 2**63 - 1

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
    eventId: int  # noqa: N815
    message: str


class _Shape(msgspec.Struct, frozen=True):
    action: dict[str, Any]


class NotAnEvent(ValueError):
    """The body is no webhook delivery; the text says why."""


def parse_event(body: bytes) -> Event:
    """Raises NotAnEvent when `body` is not JSON with a whole-number `action.subject_id`."""
    payload = storable_json(body)
    try:
        action = msgspec.json.decode(payload, type=_Shape).action
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise NotAnEvent(
            f'The body is not JSON of the form {{"action": {{...}}}}: {error}'
        ) from None
    subject = _whole(action.get("subject_id"))
    if subject is None:
        raise NotAnEvent("action.subject_id is not a whole number.")
    kind = _text(action.get("subject_type"))
    member = action.get("member")
    name = member.get("name") if isinstance(member, dict) else None
    return Event(
        action_id=_whole(action.get("id")),
        action_type=_text(action.get("action_type")),
        subject_type=kind,
        opportunity_id=subject if kind == "Opportunity" else None,
        member_id=_whole(action.get("member_id")),
        member_name=_text(name),
        payload=payload,
    )


def _whole(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 19:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _BIGINT_MAX:
        return None
    return value


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def receiver(database: Database, tokens: Sequence[SecretStr], metrics: Metrics) -> APIRouter:
    """The routes that Current RMS delivers to; any of `tokens` opens them."""
    router = APIRouter(tags=["webhook"])
    pool: QueuePool = QueuePool(cast(Any, database.connect), pool_size=8, max_overflow=0, timeout=5)

    def store(event: Event) -> tuple[int, bool]:
        # A restarted server has forgotten all of the pool's connections. Where it is down no new
        # one can be had, and that ends this at once.
        for stale in range(pool.size() + 1):
            connection = None
            try:
                connection = pool.connect()
                return store_event(connection.dbapi_connection, event)  # type: ignore[arg-type]
            except (psycopg2.OperationalError, psycopg2.InterfaceError):
                if connection is not None:
                    connection.invalidate()
                if stale == pool.size():
                    raise
            finally:
                if connection is not None:
                    connection.close()
        raise AssertionError

    async def receive(request: Request, given: str) -> JSONResponse:
        began = time.monotonic()
        metrics.received.inc()
        try:
            if not any(matches(given, token) for token in tokens):
                raise HTTPException(
                    401,
                    "The token in the address is not this service's webhook token. Register the "
                    "webhooks again: `rms-pipeline webhooks register https://this.host`.",
                )
            body = await _read(request)
            try:
                event = parse_event(body)
            except NotAnEvent as error:
                raise HTTPException(400, str(error)) from None
            try:
                id_, new = await run_in_threadpool(store, event)
            except psycopg2.DataError as error:
                reason = str(error).splitlines()[0]
                raise HTTPException(400, f"PostgreSQL cannot keep this body: {reason}") from None
            except (psycopg2.Error, DatabaseError, PoolTimeout):
                raise HTTPException(
                    503,
                    "The database does not take the event at the moment; deliver it again.",
                    headers={"Retry-After": str(RETRY_SECONDS)},
                ) from None
        except HTTPException as error:
            metrics.refused.labels(str(error.status_code)).inc()
            raise
        (metrics.stored if new else metrics.repeated).inc()
        metrics.acknowledged.observe(time.monotonic() - began)
        message = "Stored." if new else "Stored before."
        if event.opportunity_id is None:
            message += " Its subject is no opportunity, so nothing is refreshed."
        return JSONResponse({"success": True, "eventId": id_, "message": message})

    documented: dict[str, Any] = {
        "response_model": Acknowledged,
        "responses": {
            400: {"model": Refused, "description": "Not a webhook delivery."},
            401: {"model": Refused, "description": "Wrong token."},
            413: {"model": Refused, "description": "More than 8 MiB."},
            # In place of FastAPI's own description, whose shape nothing here answers with.
            422: {"model": Refused, "description": "A parameter is not what is taken."},
            503: {"model": Refused, "description": "The database is down; deliver again."},
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
                                            "maximum": _BIGINT_MAX,
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

    @router.post("/api/webhook/{token}", **documented, summary="Receive a webhook")
    async def receive_by_path(request: Request, token: str) -> JSONResponse:
        return await receive(request, token)

    @router.post("/api/webhook", **documented, summary="Receive a webhook (token as a parameter)")
    async def receive_by_query(request: Request, token: str = "") -> JSONResponse:
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
