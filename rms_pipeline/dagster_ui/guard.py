"""Passes requests to Dagster's application if the person or program has signed in.

Plain ASGI. A refused request never reaches Dagster.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from graphql import GraphQLError, OperationDefinitionNode, OperationType, parse
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rms_pipeline.settings import LOOPBACK_HOSTS
from rms_pipeline.web.origins import local_address
from rms_pipeline.web.sessions import SESSION_SECONDS, Sessions, Tickets, matches

# Where the web service sends a browser that has just signed in.
ENTRANCE = "/signed-in"
# It shows only versions. Every client that reaches this host may ask whether it is up.
_OPEN = "/server_info"
_SAFE = frozenset({"GET", "HEAD"})
_OWN_SITES = ("same-origin", "none")
_JSON = ("application/json", "application/graphql")
# A subscription each; more would be a leak, and each costs Dagster a thread.
_MOST_WEBSOCKETS = 200
_HEADERS = {
    # A page of another site must not have this one in a frame, and its buttons under a picture.
    "X-Frame-Options": "SAMEORIGIN",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class _Refusal(Exception):
    status: int
    text: str
    headers: Mapping[str, str] | None = None

    def response(self) -> Response:
        body = {"success": False, "error": self.text}
        return JSONResponse(body, self.status, dict(self.headers or {}))


class Guard:
    """`dagster` for requests with a session of the web service, or with the API token.

    `hosts` are its host names, besides those of this machine. Any other name in `Host` is one that
    somebody else points to this machine. `sign_in` is the web service's address for people. A
    person without a session is sent there, and returns with a ticket.
    """

    def __init__(
        self, dagster: ASGIApp, sessions: Sessions, *, hosts: Iterable[str], sign_in: str
    ) -> None:
        self._dagster, self._sessions = dagster, sessions
        self._tickets = Tickets(sessions)
        self._hosts = LOOPBACK_HOSTS | {host.lower() for host in hosts}
        self._sign_in = sign_in
        self._websockets = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._connect(scope, receive, send)
        else:
            await self._dagster(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                # Caches take a cookie for no reason to keep an answer to themselves.
                headers.setdefault("Cache-Control", "private" if answer is None else "no-store")
            await send(message)

        answer: Response | None
        try:
            _demand_plain_path(request)
            self._demand_own_host(request)
            is_entrance = request.scope["path"] == ENTRANCE
            answer = self._enter(request) if is_entrance else self._let_through(request)
        except _Refusal as refusal:
            answer = refusal.response()
        await (answer or self._dagster)(scope, receive, send_with_headers)

    async def _connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = HTTPConnection(scope)
        try:
            _demand_plain_path(connection)
            self._demand_own_host(connection)
            # Browsers always say who opens a websocket; they ask nobody whether it may.
            self._demand_own_origin(connection, needed=self._has_session(connection))
            if not self._knows(connection) or self._websockets >= _MOST_WEBSOCKETS:
                raise _Refusal(401, "")
        except _Refusal:
            await receive()
            # Before it was accepted: the server answers 403.
            await send({"type": "websocket.close", "code": 1008})
            return
        self._websockets += 1
        try:
            await self._dagster(scope, receive, send)
        finally:
            self._websockets -= 1

    def _is_behind_tls(self, request: Request) -> bool:
        """Whether a proxy encrypts, as far as this is known without trusting its headers."""
        asked = _host_name(request.headers["Host"])
        return self._sign_in.startswith("https:") and asked not in LOOPBACK_HOSTS

    def _let_through(self, request: Request) -> Response | None:
        """The refusal, or None if Dagster may answer."""
        if request.scope["path"] == _OPEN and request.method in _SAFE:
            return None
        if self._has_session(request):
            self._demand_own_page(request)
        elif self._has_token(request):
            self._demand_own_origin(request, needed=False)
        elif request.method == "GET" and "text/html" in request.headers.get("Accept", ""):
            path = quote(request.scope["path"], safe="/:@!$&'()*+,;=~-._")
            query = request.url.query
            return self._send_to_sign_in(local_address(f"{path}?{query}" if query else path))
        else:
            raise _Refusal(
                401,
                "Sign in at the dashboard first, or send the API token: `Authorization: Bearer "
                "<RMS_API_TOKEN>`.",
                {"WWW-Authenticate": "Bearer"},
            )
        if request.scope["path"].rstrip("/") == "/graphql":
            _demand_harmless_graphql(request)
        return None

    def _demand_own_host(self, connection: HTTPConnection) -> None:
        """Refuses another name that leads to this machine (DNS rebinding): a browser would treat it
        as the same origin as the page that opened it."""
        given = connection.headers.getlist("Host")
        if len(given) != 1 or _host_name(given[0]) not in self._hosts:
            raise _Refusal(
                403,
                "Dagster's UI does not answer under this host name. Use 127.0.0.1 or localhost. "
                "If a proxy shares it, set RMS_DAGSTER_URL to its public address, and let the "
                "proxy pass on the header `Host`.",
            )

    def _demand_own_page(self, request: Request) -> None:
        """Checks requests that a browser authenticates automatically. A link on another site may
        lead here, but such a request may change nothing."""
        self._demand_own_origin(request, needed=False)
        site = request.headers.get("Sec-Fetch-Site")
        if site is None:
            # Browsers do not say over plain http to another machine.
            if request.method not in _SAFE:
                self._demand_own_origin(request, needed=True)
        elif site not in _OWN_SITES:
            is_link = (
                request.method in _SAFE
                and request.headers.get("Sec-Fetch-Mode") == "navigate"
                and request.headers.get("Sec-Fetch-Dest", "document") == "document"
            )
            if not is_link:
                raise _foreign()

    def _demand_own_origin(self, connection: HTTPConnection, *, needed: bool) -> None:
        given = connection.headers.getlist("Origin")
        if not given and not needed:
            return
        own = connection.headers["Host"].lower()
        if not given or any(_authority(origin) != own for origin in given):
            raise _foreign()

    def _knows(self, connection: HTTPConnection) -> bool:
        return self._has_session(connection) or self._has_token(connection)

    def _has_session(self, connection: HTTPConnection) -> bool:
        """The cookies of this UI and of the web service: on one host browsers send both to both
        ports."""
        cookies, sessions = connection.cookies, self._sessions
        return matches(
            cookies.get(sessions.dagster_cookie, ""), sessions.dagster_session
        ) or matches(cookies.get(sessions.cookie, ""), sessions.session)

    def _has_token(self, connection: HTTPConnection) -> bool:
        scheme, _, given = connection.headers.get("Authorization", "").partition(" ")
        given = given.strip()
        return scheme.lower() == "bearer" and (
            matches(given, self._sessions.token) or matches(given, self._sessions.dagster_token)
        )

    def _send_to_sign_in(self, wanted: str) -> Response:
        return RedirectResponse(f"{self._sign_in}/dagster?{urlencode({'to': wanted})}", 303)

    def _enter(self, request: Request) -> Response:
        wanted = local_address(request.query_params.get("to", "/"))
        ticket = request.query_params.get("ticket", "")
        if request.method != "GET" or not self._tickets.take(ticket):
            # Used before, or too late. The way back through the web service has a new one.
            if self._has_session(request):
                return RedirectResponse(wanted, 303)
            return self._send_to_sign_in(wanted)
        answer = RedirectResponse(wanted, 303)
        answer.set_cookie(
            self._sessions.dagster_cookie,
            self._sessions.dagster_session.get_secret_value(),
            max_age=SESSION_SECONDS,
            path="/",
            secure=request.url.scheme == "https" or self._is_behind_tls(request),
            httponly=True,
            # Not strict: a link to a run, in a chat, leads to the run. Following a link changes
            # nothing here, whatever it says.
            samesite="lax",
        )
        return answer


def _demand_plain_path(connection: HTTPConnection) -> None:
    """Refuses control characters in a path. The router behind the guard ignores a line feed at the
    end, so guard and router would compare different paths."""
    if re.search(r"[\x00-\x1f\x7f]", connection.scope["path"]):
        raise _Refusal(400, "The address contains a control character. Remove it.")


def _demand_harmless_graphql(request: Request) -> None:
    """Allows mutations by POST only, and only in a form that no page of another site can send."""
    if request.method in _SAFE:
        pairs = parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)
        queries = [value for name, value in pairs if name == "query"]
        if not all(_only_asks(query) for query in queries):
            raise _Refusal(
                405,
                "/graphql accepts only queries by GET. Send mutations by POST.",
                {"Allow": "POST"},
            )
    elif request.headers.get("Content-Type", "").partition(";")[0].strip().lower() not in _JSON:
        raise _Refusal(415, "Send GraphQL as JSON: `Content-Type: application/json`.")


def _only_asks(text: str) -> bool:
    try:
        document = parse(text)
    except (GraphQLError, RecursionError):
        return False
    return all(
        each.operation is OperationType.QUERY
        for each in document.definitions
        if isinstance(each, OperationDefinitionNode)
    )


def _host_name(host: str) -> str:
    """The host name of a `Host` header, without its port. Empty if it is not valid."""
    if not re.fullmatch(r"[A-Za-z0-9._-]+(:\d*)?|\[[0-9A-Fa-f:.]+\](:\d*)?", host):
        return ""
    return (urlsplit(f"//{host}").hostname or "").lower()


def _authority(origin: str) -> str:
    """Host and port of an `Origin` header. Empty for `null` and if it is not valid."""
    found = re.fullmatch(r"https?://([A-Za-z0-9._:\[\]-]+)", origin)
    return found[1].lower() if found else ""


def _foreign() -> _Refusal:
    return _Refusal(
        403,
        "A page of another site sent this request, or the browser is too old to say which site "
        "did. So it is refused. Open Dagster's UI at its own address. Programs send the API "
        "token: `Authorization: Bearer <RMS_API_TOKEN>`.",
    )
