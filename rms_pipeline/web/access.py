"""Who may: the API token, sent by programs and shown once by people, whose browser then has a
cookie made from it."""

import hashlib
import hmac
import time
from collections.abc import Callable
from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from fastapi.security import APIKeyCookie, HTTPBearer
from pydantic import SecretStr

from rms_pipeline.web.origins import (
    SAFE_METHODS,
    follows_a_link_elsewhere,
    local_address,
    own_address,
    refuse_foreign_origin,
    refuse_foreign_page,
)
from rms_pipeline.web.refusals import Answered, Refusal, wants_page
from rms_pipeline.web.templating import render
from rms_pipeline.web.throttle import Throttle

SESSION_COOKIE = "rms_session"
SESSION_SECONDS = 30 * 24 * 3600
_MOST_FORM_BYTES = 16_384

_BEARER = HTTPBearer(auto_error=False, scheme_name="token", description="The API token.")
_COOKIE = APIKeyCookie(name=SESSION_COOKIE, auto_error=False, scheme_name="session")
_WRONG = "That is not the API token of this service."


def matches(given: str, secret: SecretStr) -> bool:
    """Whether `given` is `secret`, in a time that tells nothing about it."""
    return hmac.compare_digest(given.encode(), secret.get_secret_value().encode())


class Access:
    """Lets through what knows `token`.

    `required` is the dependency of routes for programs: 401 in JSON. `page` is that of pages: a
    browser gets the form to log in, and `?token=` makes a session. Both raise Refusal 403 for what
    a page of another site does with a person's session, and 429 after too many wrong tokens.
    `clock` tells seconds.
    """

    def __init__(self, token: SecretStr, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._token = token
        # Made from the token, so that another token ends every session; and not the token, so that
        # a cookie that leaks opens no API.
        key = token.get_secret_value().encode()
        self._session = SecretStr(
            hmac.new(key, b"rms_pipeline session 1", hashlib.sha256).hexdigest()
        )
        self._throttle = Throttle(clock)

    async def required(
        self,
        request: Request,
        # Only so that the API's description says how to get in.
        _bearer: Annotated[object, Depends(_BEARER)] = None,
        _cookie: Annotated[object, Depends(_COOKIE)] = None,
    ) -> None:
        request.state.for_programs = True
        if not self._knows(request):
            raise _unauthorized()

    async def page(self, request: Request) -> None:
        given = request.query_params.get("token")
        if given is not None and request.method in SAFE_METHODS:
            if self._has_session(request):
                raise Answered(RedirectResponse(own_address(request), 303))
            if not self._tries(request, given):
                raise Answered(_ask(request, own_address(request), wrong=True))
            raise Answered(self._let_in(request, own_address(request)))
        if not self._knows(request):
            if not wants_page(request):
                raise _unauthorized()
            raise Answered(_ask(request, own_address(request)))

    def login(self) -> APIRouter:
        """The form to log in, and where it is sent to."""
        router = APIRouter(include_in_schema=False)

        @router.get("/login")
        async def show(request: Request) -> Response:
            if self._has_session(request):
                return RedirectResponse("/", 303)
            return _ask(request, "/", status=200)

        @router.post("/login")
        async def log_in(request: Request) -> Response:
            refuse_foreign_page(request)
            form = await _read_form(request)
            wanted = local_address(form.get("next", "/"))
            # People paste the whole link, too.
            given = form.get("token", "").strip().rpartition("token=")[2]
            if not given or not self._tries(request, given):
                return _ask(request, wanted, wrong=True)
            return self._let_in(request, wanted)

        return router

    def _knows(self, request: Request) -> bool:
        if self._has_session(request):
            refuse_foreign_page(request)
            return True
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not self._tries(request, given.strip()):
            return False
        refuse_foreign_origin(request)
        return True

    def _has_session(self, request: Request) -> bool:
        return matches(request.cookies.get(SESSION_COOKIE, ""), self._session)

    def _tries(self, request: Request, given: str) -> bool:
        """Whether `given` is the token. Raises Refusal (429) where too many were wrong."""
        address = request.client.host if request.client else ""
        if seconds := self._throttle.wait(address):
            raise Refusal(
                429,
                f"Too many wrong tokens came from this address. Try again in {seconds} seconds, "
                "with the token that `rms-pipeline up` prints.",
                headers={"Retry-After": str(seconds)},
            )
        if matches(given, self._token):
            return True
        self._throttle.note_failure(address)
        return False

    def _let_in(self, request: Request, wanted: str) -> Response:
        answer = RedirectResponse(wanted, 303)
        answer.set_cookie(
            SESSION_COOKIE,
            self._session.get_secret_value(),
            max_age=SESSION_SECONDS,
            path="/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return answer


def _unauthorized() -> Refusal:
    return Refusal(
        401,
        "Send the API token: `Authorization: Bearer <RMS_API_TOKEN>`. `rms-pipeline up` prints it, "
        "or where it is kept.",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _ask(request: Request, wanted: str, *, wrong: bool = False, status: int = 401) -> Response:
    # A link in a chat: the session may be there, but the browser held it back. It sends it when
    # this page, which is of our own origin, asks again.
    held_back = SESSION_COOKIE not in request.cookies and follows_a_link_elsewhere(request)
    return render(
        "login.html",
        status=status,
        headers={"WWW-Authenticate": "Bearer"} if status == 401 else None,
        wanted=wanted,
        error=_WRONG if wrong else "",
        reload=held_back and not wrong and status == 401,
    )


async def _read_form(request: Request) -> dict[str, str]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_FORM_BYTES:
            raise Refusal(413, "The form is too big: paste the API token and nothing else.")
    try:
        return dict(parse_qsl(body.decode("utf-8", "replace"), max_num_fields=10))
    except ValueError:
        raise Refusal(400, "The form has too many fields: paste the API token only.") from None
