"""Headers of every answer, and the handling of unexpected errors. Plain ASGI, so that streams stay
streams."""

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import Headers as Given
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rms_pipeline.mirror.database import Database
from rms_pipeline.web.origins import local_address
from rms_pipeline.web.refusals import newer_version_in, refuse_outdated, refuse_unexpected

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: browsers would then send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
_ONE_YEAR = "max-age=31536000"


class Headers:
    """Adds the security headers to each answer of `app`, turns an unexpected error into an answer,
    and answers HEAD like GET.

    An error can have a simple cause: a newer version of this program has upgraded `database`. The
    answer then says so.
    """

    def __init__(self, app: ASGIApp, database: Database) -> None:
        self._app, self._database = app, database

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head, started = scope["method"] == "HEAD", False
        if head:
            scope = {**scope, "method": "GET"}
        request = Request(scope, receive)

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                _add_headers(MutableHeaders(scope=message), scope, message["status"])
            if head and message["type"] == "http.response.body":
                # A stream goes on: what follows the end of an answer would be an error.
                message = {**message, "body": b""}
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except ClientDisconnect:
            return
        except Exception as error:
            newer = await run_in_threadpool(newer_version_in, self._database)
            if newer is None:
                answer = refuse_unexpected(request, error)
            else:
                answer = refuse_outdated(request, newer)
            if started:
                # Half of another answer is out already: hang up.
                raise
            await answer(scope, receive, send_with_headers)


def _add_headers(headers: MutableHeaders, scope: Scope, status: int) -> None:
    headers.update(_HEADERS)
    own = f"{scope['scheme']}://{Given(scope=scope).get('host', '')}"
    if headers.get("Location", "").startswith(f"{own}/"):
        # The router names host and scheme as it was asked. That is http behind a proxy that
        # encrypts, and whatever a client wrote.
        headers["Location"] = local_address(headers["Location"].removeprefix(own))
    if scope["scheme"] == "https":
        headers["Strict-Transport-Security"] = _ONE_YEAR
    if not scope["path"].startswith("/static/"):
        headers["Cache-Control"] = "no-store"
    elif scope["query_string"].startswith(b"v=") and status < 400:
        # The address bears a mark of the content. That a file is not there may end.
        headers["Cache-Control"] = f"public, {_ONE_YEAR}, immutable"
    else:
        headers["Cache-Control"] = "no-cache"
