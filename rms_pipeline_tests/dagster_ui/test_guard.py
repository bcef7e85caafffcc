"""What reaches Dagster through the guard, and what does not: over real sockets, before an
application that answers everything and remembers what it was asked."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import requests
import uvicorn
from pydantic import SecretStr
from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from rms_pipeline.dagster_ui.guard import ENTRANCE, Guard
from rms_pipeline.web.server import server_config
from rms_pipeline.web.sessions import Sessions, Tickets

TOKEN = "planted-api-token-0417"
SESSIONS = Sessions(SecretStr(TOKEN))
SIGN_IN = "https://rms.example.com"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
COOKIE = {"Cookie": f"{SESSIONS.dagster_cookie}={SESSIONS.dagster_session.get_secret_value()}"}
SESSION_OF_WEB = {"Cookie": f"{SESSIONS.cookie}={SESSIONS.session.get_secret_value()}"}
JSON = {"Content-Type": "application/json"}
PAGE = {"Accept": "text/html,*/*;q=0.8"}
MUTATION = 'mutation { deleteRun(runId: "x") { __typename } }'
REPORTS = [f"/report_asset_{kind}/x" for kind in ("materialization", "check", "observation")]


@dataclass
class Inside:
    """In Dagster's place."""

    port: int = 0
    asked: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            self.asked.append("websocket")
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": "in"})
            await send({"type": "websocket.close"})
            return
        assert scope["type"] == "http"
        body = await Request(scope, receive).body()
        self.asked.append(f"{scope['method']} {scope['path']} {body.decode()}".strip())
        headers = [(b"content-type", b"text/plain"), (b"x-frame-options", b"ALLOWALL")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"in"})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        return requests.request(
            method, f"{self.url}{path}", timeout=30, allow_redirects=False, **options
        )

    def raw(self, *lines: str) -> tuple[int, bytes]:
        """What nobody's library sends: the status, and all that came."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            closing = [] if any("Upgrade" in line for line in lines) else ["Connection: close"]
            connection.sendall("\r\n".join([*lines, *closing, "", ""]).encode("latin-1"))
            answer = b""
            while received := connection.recv(65_536):
                answer += received
        return int(answer.split()[1]), answer


@pytest.fixture(scope="module")
def server() -> Iterator[Inside]:
    inside = Inside()
    guard = Guard(inside, SESSIONS, hosts=["dagster.example.com"], sign_in=SIGN_IN)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    inside.port = listener.getsockname()[1]
    config = server_config(guard, "127.0.0.1", 0, websockets=True)
    config.lifespan = "off"
    served = uvicorn.Server(config)
    thread = threading.Thread(target=served.run, args=([listener],), daemon=True)
    thread.start()
    while not served.started:
        time.sleep(0.01)
    yield inside
    served.should_exit = True
    thread.join(timeout=30)
    listener.close()


@pytest.fixture
def inside(server: Inside) -> Inside:
    server.asked.clear()
    return server


@pytest.mark.parametrize("proof", [BEARER, COOKIE, SESSION_OF_WEB], ids=["token", "ui", "web"])
def test_a_person_who_signed_in_reaches_dagster(inside: Inside, proof: dict[str, str]) -> None:
    own = {**proof, "Origin": inside.url, "Sec-Fetch-Site": "same-origin"}
    assert inside.ask("GET", "/runs", headers={**own, **PAGE}).text == "in"
    posted = inside.ask("POST", "/graphql", json={"query": MUTATION}, headers=own)
    assert posted.text == "in"
    assert MUTATION in json.loads(inside.asked[-1].partition("/graphql ")[2])["query"]
    for path in REPORTS:
        assert inside.ask("POST", path, headers=own, json={}).status_code == 200
    url, origin = f"ws://127.0.0.1:{inside.port}/graphql", Origin(inside.url)
    with connect(url, additional_headers=proof, origin=origin) as socket_:
        assert socket_.recv() == "in"


def test_our_own_programs_send_a_token_that_opens_only_dagster(inside: Inside) -> None:
    derived = SESSIONS.dagster_token.get_secret_value()
    headers = {"Authorization": f"bearer {derived}"}
    assert inside.ask("GET", "/runs", headers=headers).status_code == 200
    assert derived != TOKEN


WITHOUT = [
    {},
    {"Authorization": "Bearer wrong"},
    {"Authorization": f"Basic {TOKEN}"},
    {"Cookie": f"{SESSIONS.dagster_cookie}={TOKEN}"},
    {"Cookie": f"{SESSIONS.dagster_cookie}=; rms_dagster={SESSIONS.dagster_session}"},
    # The two values are not interchangeable.
    {"Cookie": f"{SESSIONS.cookie}={SESSIONS.dagster_session.get_secret_value()}"},
]


@pytest.mark.parametrize("proof", WITHOUT)
def test_nothing_reaches_dagster_without_a_session_or_the_token(
    inside: Inside, proof: dict[str, str]
) -> None:
    asked = [("GET", "/"), ("GET", "/graphql"), ("POST", "/graphql"), ("GET", "/logs/x"),
             ("GET", "/download_debug/x"), ("DELETE", "/x"), ("POST", "/server_info"),
             *(("POST", path) for path in REPORTS)]  # fmt: skip
    for method, path in asked:
        answer = inside.ask(method, path, headers={**proof, **JSON}, data="{}")
        assert (answer.status_code, answer.json()["success"]) == (401, False), (method, path)
        assert "Bearer" in answer.headers["WWW-Authenticate"]
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://127.0.0.1:{inside.port}/graphql", additional_headers=proof)
    assert inside.asked == []
    # Whether it is up is no secret.
    assert inside.ask("GET", "/server_info", headers=proof).status_code == 200


def test_a_browser_without_a_session_is_sent_to_sign_in_and_comes_back(inside: Inside) -> None:
    sent = inside.ask("GET", "/runs/1?a=b%20c", headers=PAGE)
    assert sent.status_code == 303
    where = urlsplit(sent.headers["Location"])
    assert f"{where.scheme}://{where.netloc}{where.path}" == f"{SIGN_IN}/dagster"
    wanted = parse_qs(where.query)["to"][0]
    assert wanted == "/runs/1?a=b%20c"
    back = f"{ENTRANCE}?ticket={SESSIONS.ticket()}&to={quote(wanted)}"
    entered = inside.ask("GET", back, headers=PAGE)
    assert (entered.status_code, entered.headers["Location"]) == (303, wanted)
    cookie = entered.headers["Set-Cookie"]
    assert f"{SESSIONS.dagster_cookie}=" in cookie
    assert {"HttpOnly", "SameSite=lax", "Path=/"} <= set(cookie.split("; "))
    assert TOKEN not in cookie
    assert entered.headers["Cache-Control"] == sent.headers["Cache-Control"] == "no-store"
    # Once only: an address stays in histories and logs.
    again = inside.ask("GET", back, headers=PAGE)
    assert again.headers["Location"] == sent.headers["Location"]
    assert "Set-Cookie" not in again.headers
    # Who has a session already, and goes back in the browser, needs no other ticket.
    reloaded = inside.ask("GET", back, headers={**PAGE, **COOKIE})
    assert (reloaded.status_code, reloaded.headers["Location"]) == (303, wanted)
    assert inside.asked == []


def test_a_ticket_is_good_for_a_minute_and_cannot_be_made_or_changed() -> None:
    now = 1_000_000.0
    ticket = SESSIONS.ticket(now=now)
    tickets = Tickets(SESSIONS, clock=lambda: now + 59)
    other = Sessions(SecretStr("another-token-0123")).ticket(now=now)
    ends, nonce, mark = ticket.split(".")
    for forged in ("", ".", "..", "é", other, f"{int(ends) + 60}.{nonce}.{mark}",
                   f"{ends}.{nonce}.{mark[:-1]}", f"x.{nonce}.{mark}", f"{ticket} "):  # fmt: skip
        assert not tickets.take(forged), forged
    assert tickets.take(ticket)
    assert not tickets.take(ticket)
    assert not Tickets(SESSIONS, clock=lambda: now + 61).take(ticket)


@pytest.mark.parametrize("elsewhere", ["//evil.example", "https://evil.example", "/\\evil.example",
                                       "/\t/evil.example", "javascript:x", ""])  # fmt: skip
def test_coming_back_leads_to_no_other_host(inside: Inside, elsewhere: str) -> None:
    back = f"{ENTRANCE}?ticket={SESSIONS.ticket()}&to={quote(elsewhere)}"
    assert inside.ask("GET", back).headers["Location"] == "/"


HOSTS = ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "127.0.0.1:{port}@evil",
         "localhost.evil.example", "0.0.0.0:{port}", "169.254.1.1", "rms_dagster", "[::2]",
         "evil.example#127.0.0.1", "127.0.0.1/evil", "", "127.1", "2130706433"]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_another_name_that_leads_here_is_refused_whoever_asks(inside: Inside, host: str) -> None:
    """DNS rebinding: the page and Dagster are then one origin to the browser."""
    host = host.format(port=inside.port)
    for line in ("GET /server_info HTTP/1.1", "POST /graphql HTTP/1.1", "GET / HTTP/1.0"):
        auth = f"Authorization: Bearer {TOKEN}"
        status, answer = inside.raw(line, f"Host: {host}", auth, "Content-Length: 0")
        assert status in (400, 403), answer
    upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
               "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]  # fmt: skip
    status, _ = inside.raw("GET /graphql HTTP/1.1", f"Host: {host}", auth, *upgrade)
    assert status in (400, 403)
    assert inside.asked == []


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:{port}", "127.0.0.1", "[::1]:{port}",
                                  "dagster.example.com", "Dagster.Example.com:443"])  # fmt: skip
def test_its_own_names_are_answered(inside: Inside, host: str) -> None:
    headers = {**BEARER, "Host": host.format(port=inside.port)}
    assert inside.ask("GET", "/runs", headers=headers).status_code == 200


def test_a_request_without_a_host_or_with_two_is_refused(inside: Inside) -> None:
    auth = f"Authorization: Bearer {TOKEN}"
    assert inside.raw("GET / HTTP/1.0", auth)[0] == 403
    assert inside.raw("GET / HTTP/1.1", auth)[0] == 400
    assert inside.raw("GET / HTTP/1.1", "Host: localhost", "Host: evil.example", auth)[0] == 400
    assert inside.asked == []


ORIGINS = ["https://evil.example", "null", "http://localhost.evil.example", "file://", "",
           "http://127.0.0.1", "http://127.0.0.1:1", "http://evil@127.0.0.1:{port}",
           "http://127.0.0.1:{port}.evil.example", "http://localhost:{port}",
           "chrome-extension://abc", "http://[", "127.0.0.1:{port}"]  # fmt: skip


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("proof", [BEARER, COOKIE, SESSION_OF_WEB], ids=["token", "ui", "web"])
def test_a_page_of_another_origin_reaches_nothing_even_with_the_session(
    inside: Inside, proof: dict[str, str], origin: str
) -> None:
    headers = {**proof, **JSON, "Origin": origin.format(port=inside.port)}
    for method, path in [("POST", "/graphql"), ("GET", "/graphql?query={a}"), ("GET", "/"),
                         *(("POST", path) for path in REPORTS)]:  # fmt: skip
        answer = inside.ask(method, path, headers=headers, data="{}")
        assert answer.status_code == 403, (method, path)
        assert not [h for h in answer.headers if h.lower().startswith("access-control")]
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://127.0.0.1:{inside.port}/graphql", additional_headers=headers)
    assert inside.asked == []


@pytest.mark.parametrize("site", ["cross-site", "same-site", "nonsense"])
def test_what_another_site_has_a_browser_ask_is_refused_unless_it_is_a_link(
    inside: Inside, site: str
) -> None:
    foreign = {**COOKIE, "Sec-Fetch-Site": site}
    for mode, kind in [("no-cors", "image"), ("cors", "empty"), ("navigate", "iframe"),
                       ("navigate", "embed"), ("websocket", "empty")]:  # fmt: skip
        asked = {**foreign, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": kind}
        assert inside.ask("GET", "/runs", headers=asked).status_code == 403, (mode, kind)
    link = {**foreign, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    # A form: without an Origin, as by browsers that a policy of the page makes leave it out.
    assert inside.ask("POST", "/graphql", headers={**link, **JSON}).status_code == 403
    assert inside.asked == []
    assert inside.ask("GET", "/runs", headers={**link, **PAGE}).status_code == 200


def test_a_session_alone_sends_nothing_that_no_page_of_ours_stands_behind(inside: Inside) -> None:
    """Browsers say nothing of sites over plain http to another machine, but send the Origin."""
    assert inside.ask("POST", "/graphql", headers={**COOKIE, **JSON}).status_code == 403
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://127.0.0.1:{inside.port}/graphql", additional_headers=COOKIE)
    assert inside.asked == []
    assert inside.ask("POST", "/graphql", headers={**COOKIE, **JSON, "Origin": inside.url}).ok


MUTATIONS = [
    MUTATION,
    "query Harmless { version } " + MUTATION,
    "# query\nmutation M { a }",
    "\ufeffmutation { a }",
    "subscription { a }",
    "mutation{a}query{b}",
    "no GraphQL",
    '[{"query": "mutation { a }"}]',
    "{a " * 5_000,
]


@pytest.mark.parametrize("query", MUTATIONS)
def test_a_mutation_by_get_is_refused_to_everybody(inside: Inside, query: str) -> None:
    for proof in (BEARER, COOKIE):
        one = f"query={quote(query)}"
        for path in (f"/graphql?{one}", f"/graphql/?{one}", f"/%67raphql?{one}",
                     f"/graphql//?{one}", f"/graphql?query={{a}}&{one}",
                     f"/graphql?{one}&query={{a}}",
                     f"/graphql?{one}&operationName=Harmless"):  # fmt: skip
            for method in ("GET", "HEAD"):
                headers = {**proof, "Accept": "application/json"}
                answer = inside.ask(method, path, headers=headers)
                assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    assert inside.asked == []


@pytest.mark.parametrize("path", ["/graphql%0A", "/graphql/%0a", "/%0Agraphql", "/graphql%00",
                                  "/graphql%0d", "/graphql%09", "/graphql%7F", "/runs%0A",
                                  "/report_asset_check/x%0a"])  # fmt: skip
def test_an_address_with_a_control_character_is_refused(inside: Inside, path: str) -> None:
    """Starlette's router takes "/graphql" and a line feed for /graphql."""
    for method in ("GET", "HEAD", "POST"):
        answer = inside.ask(method, f"{path}?query={quote(MUTATION)}", headers=BEARER)
        assert answer.status_code == 400
    opening = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
               "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]  # fmt: skip
    own = ["Host: localhost", f"Authorization: Bearer {TOKEN}"]
    assert inside.raw(f"GET {path} HTTP/1.1", *own, *opening)[0] == 403
    assert inside.asked == []


def test_a_query_by_get_is_answered(inside: Inside) -> None:
    asked = "/graphql?query=query+A+{version}+fragment+F+on+Query+{version}"
    assert inside.ask("GET", asked, headers=BEARER).status_code == 200
    assert inside.ask("GET", "/graphql", headers={**COOKIE, **PAGE}).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "",
                                  "multipart/form-data; boundary=application/json",
                                  "text/plain; application/json"])  # fmt: skip
def test_graphql_is_taken_as_json_only_which_no_form_can_send(inside: Inside, kind: str) -> None:
    headers = {**BEARER, "Content-Type": kind}
    answer = inside.ask("POST", f"/graphql?query={quote(MUTATION)}", headers=headers, data="{}")
    assert answer.status_code == 415
    assert inside.asked == []


def test_a_preflight_is_granted_to_nobody(inside: Inside) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = inside.ask("OPTIONS", "/graphql", headers=asked)
    assert answer.status_code == 401
    assert not [h for h in answer.headers if h.lower().startswith("access-control")]


def test_no_page_has_it_in_a_frame(inside: Inside) -> None:
    for headers in (BEARER, {}):
        answer = inside.ask("GET", "/runs", headers=headers)
        assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_no_shared_cache_keeps_what_a_session_opened(inside: Inside) -> None:
    for path in ("/runs", "/graphql?query={a}"):
        assert inside.ask("GET", path, headers=COOKIE).headers["Cache-Control"] == "private"
    assert inside.ask("GET", "/runs").headers["Cache-Control"] == "no-store"


def test_a_second_request_in_one_connection_is_looked_at_like_the_first(inside: Inside) -> None:
    """Pipelined, or one hidden in the body of another."""
    first = f"GET /runs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    status, answer = inside.raw(f"{first}POST /report_asset_check/x HTTP/1.1", "Host: localhost",
                                "Content-Length: 0")  # fmt: skip
    assert status == 200
    assert answer.count(b"HTTP/1.1 401") == 1
    assert inside.asked == ["GET /runs"]


def test_the_connection_of_a_keeping_browser_is_used_again(inside: Inside) -> None:
    connection = HTTPConnection("127.0.0.1", inside.port, timeout=10)
    for _ in range(3):
        connection.request("GET", "/runs", headers=BEARER)
        assert connection.getresponse().read() == b"in"
    connection.close()
