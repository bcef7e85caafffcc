"""Access control.

Programs send the API token. A person enters it once. The browser then has a cookie that is made
from it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from fastapi.security import APIKeyCookie, HTTPBearer
from pydantic import SecretStr

from rms_pipeline.web.forms import read_form
from rms_pipeline.web.origins import (
    SAFE_METHODS,
    address_to_return_to,
    follows_a_link_elsewhere,
    local_address,
    own_address,
    refuse_foreign_origin,
    refuse_foreign_page,
)
from rms_pipeline.web.refusals import Answered, Refusal, wants_page
from rms_pipeline.web.sessions import SESSION_SECONDS, Sessions, matches
from rms_pipeline.web.templating import render
from rms_pipeline.web.throttle import Throttle
from rms_pipeline.web.visited import forget_visits

_BEARER = HTTPBearer(auto_error=False, scheme_name="token", description="The API token.")
# The real name ends in a mark of the token: see Sessions.
_COOKIE = APIKeyCookie(name="rms_session", auto_error=False, scheme_name="session")
_WRONG = "That is not the API token of this service."


class Access:
    """Accepts requests that have `token`.

    `required` is the dependency of routes for programs: it answers 401 in JSON. `page` is that of
    pages: a browser gets the form to log in, and `?token=` begins a session. Both raise Refusal:
    403 if a page of another site uses a person's session, and 429 after too many wrong tokens. The
    right token always works. `clock` gives seconds, and `sleep` waits. `public_url` is the address
    that people use.
    """

    def __init__(
        self,
        token: SecretStr,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        public_url: str | None = None,
    ) -> None:
        self.sessions = Sessions(token)
        self._public = urlsplit(public_url or "")
        self._throttle = Throttle(clock, sleep)

    async def required(
        self,
        request: Request,
        # Only so that the API's description says how to get in.
        _bearer: Annotated[object, Depends(_BEARER)] = None,
        _cookie: Annotated[object, Depends(_COOKIE)] = None,
    ) -> None:
        request.state.for_programs = True
        if not await self._knows(request):
            raise _unauthorized()

    async def page(self, request: Request) -> None:
        given = request.query_params.get("token")
        if given is not None and request.method in SAFE_METHODS:
            if self._has_session(request):
                raise Answered(RedirectResponse(own_address(request), 303))
            if not await self._tries(request, given):
                if not wants_page(request):
                    raise _unauthorized()
                raise Answered(self._ask(request, own_address(request), wrong=True))
            raise Answered(self._let_in(request, own_address(request)))
        if not await self._knows(request):
            if not wants_page(request):
                raise _unauthorized()
            raise Answered(self._ask(request, address_to_return_to(request)))

    def login(self) -> APIRouter:
        """The form to log in, the address that it sends to, and the way to log out again."""
        router = APIRouter(include_in_schema=False)

        @router.get("/login")
        async def show(request: Request) -> Response:
            if self._has_session(request):
                return RedirectResponse("/", 303)
            return self._ask(request, "/", status=200)

        @router.post("/login")
        async def log_in(request: Request) -> Response:
            refuse_foreign_page(request)
            form = await read_form(request, "paste only the API token.")
            wanted = local_address(form.get("next", "/"))
            # People paste the whole link, too.
            given = form.get("token", "").strip().rpartition("token=")[2]
            if not given or not await self._tries(request, given):
                return self._ask(request, wanted, wrong=True)
            return self._let_in(request, wanted)

        @router.post("/logout", dependencies=[Depends(self.page)])
        async def log_out() -> Response:
            # Only this browser forgets it. Others stay logged in until the token changes.
            answer = RedirectResponse("/login", 303)
            answer.delete_cookie(self.sessions.cookie, path="/", httponly=True, samesite="strict")
            # That of Dagster's UI opens what this page links to. It is here if both have one host.
            answer.delete_cookie(self.sessions.dagster_cookie, path="/", httponly=True)
            forget_visits(answer)
            return answer

        return router

    async def _knows(self, request: Request) -> bool:
        if self._has_session(request):
            refuse_foreign_page(request)
            return True
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not await self._tries(request, given.strip()):
            return False
        refuse_foreign_origin(request)
        return True

    def is_signed_in(self, request: Request) -> bool:
        """Whether this browser or program has shown the token. Does not count as an attempt."""
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        shown = scheme.lower() == "bearer" and matches(given.strip(), self.sessions.token)
        return shown or self._has_session(request)

    def _has_session(self, request: Request) -> bool:
        return matches(request.cookies.get(self.sessions.cookie, ""), self.sessions.session)

    async def _tries(self, request: Request, given: str) -> bool:
        """Whether `given` is the token. Raises Refusal (429) for a wrong one after many others."""
        # Before anything is counted: a person who knows it gets in, whatever others have sent from
        # the same address (or had a person's browser send).
        if matches(given, self.sessions.token):
            return True
        if seconds := await self.slow_down(request):
            raise Refusal(
                429,
                "Too many wrong tokens came from this address, and this one is wrong too. The "
                "right token works at any time. `rms-pipeline up` prints it, or the path of the "
                "file that holds it.",
                headers={"Retry-After": str(seconds)},
            )
        return False

    async def slow_down(self, request: Request) -> int:
        """Counts a wrong token from the address of `request`, and delays the answer if there were
        many. Returns the whole seconds until the address is answered at once again, 0 if it is
        now."""
        return await self._throttle.slow_down(request.client.host if request.client else "")

    def _let_in(self, request: Request, wanted: str) -> Response:
        answer = RedirectResponse(wanted, 303)
        answer.set_cookie(
            self.sessions.cookie,
            self.sessions.session.get_secret_value(),
            max_age=SESSION_SECONDS,
            path="/",
            secure=request.url.scheme == "https" or self._is_behind_tls(request),
            httponly=True,
            samesite="strict",
        )
        return answer

    def _is_behind_tls(self, request: Request) -> bool:
        """Whether a proxy encrypts, as far as this is known without trusting its headers."""
        asked = request.headers.get("Host", "").lower()
        return self._public.scheme == "https" and asked == self._public.netloc.lower()

    def _ask(
        self, request: Request, wanted: str, *, wrong: bool = False, status: int = 401
    ) -> Response:
        # A link in a chat: the session may be there, but the browser held it back. It sends it when
        # this page, which is of our own origin, asks again.
        held_back = self.sessions.cookie not in request.cookies and follows_a_link_elsewhere(
            request
        )
        return render(
            "login.html",
            status=status,
            headers={"WWW-Authenticate": "Bearer"} if status == 401 else None,
            wanted=wanted,
            error=_WRONG if wrong else "",
            undone=request.method not in SAFE_METHODS and request.url.path != "/login",
            reload=held_back and not wrong and status == 401,
        )


def _unauthorized() -> Refusal:
    return Refusal(
        401,
        "Send the API token: `Authorization: Bearer <RMS_API_TOKEN>`. `rms-pipeline up` prints "
        "it, or the path of the file that holds it.",
        headers={"WWW-Authenticate": "Bearer"},
    )
