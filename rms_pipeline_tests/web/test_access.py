"""Who gets in, by which way, and what every answer carries."""

import asyncio
import hashlib
import hmac
import html
import logging
import re
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import requests
from fastapi import Depends
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import SecretStr
from starlette.routing import Mount

from rms_pipeline.mirror.database import Database
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.settings import SettingsError, load_settings
from rms_pipeline.web.headers import CONTENT_POLICY
from rms_pipeline.web.sessions import Sessions, Tickets
from rms_pipeline.web.throttle import WITHIN_SECONDS, Throttle
from rms_pipeline_tests.web.conftest import (
    API_TOKEN,
    BEARER,
    WEBHOOK_TOKEN,
    Web,
    delivery,
    serving,
)

SESSION_COOKIE = Sessions(SecretStr(API_TOKEN)).cookie
SESSION = hmac.new(API_TOKEN.encode(), b"rms_pipeline session 1", hashlib.sha256).hexdigest()
COOKIE = {"Cookie": f"{SESSION_COOKIE}={SESSION}"}
PAGE = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
LINK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
# All that is open. A route that is not here asks for the token, or a test fails.
OPEN = {
    ("POST", "/api/webhook/{token}"),
    ("POST", "/api/webhook"),
    ("GET", "/healthz"),
    ("GET", "/login"),
    ("POST", "/login"),
    # A calendar asks without a session: the secret is in the address, see web/test_feeds.py.
    ("GET", "/calendar/feeds/{secret}.ics"),
}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def held() -> list[float]:
    """For how long answers were held back, in seconds; nobody waits for them here."""
    return []


@pytest.fixture(scope="module")
def guarded(migrated: Database, clock: Clock, held: list[float]) -> Iterator[Web]:
    """One service for the module, with two pages of its own, over `migrated`."""

    async def hold(seconds: float) -> None:
        held.append(seconds)

    with (
        SandboxServer(Store(1)) as sandbox,
        serving(migrated, sandbox, clock=clock, sleep=hold) as web,
    ):
        add_pages(web)
        yield web


@pytest.fixture
def web(guarded: Web, emptied: Database, clock: Clock, held: list[float]) -> Web:
    """`guarded`, which has forgotten all wrong tokens, with nothing in its database."""
    assert guarded.database is emptied
    clock.now += 10 * WITHIN_SECONDS
    held.clear()
    return guarded


def add_pages(served: Web) -> None:
    @served.app.get("/a page", dependencies=[Depends(served.access.page)])
    @served.app.post("/a page", dependencies=[Depends(served.access.page)])
    def show() -> dict[str, str]:
        return {"page": "shown"}

    @served.app.get("/broken/{secret}", dependencies=[Depends(served.access.page)])
    def fail() -> None:
        raise RuntimeError("planted detail")


def ask(web: Web, method: str, path: str, **options: Any) -> requests.Response:
    return requests.request(
        method, f"{web.url}{path}", timeout=30, allow_redirects=False, **options
    )


def routes_of(web: Web) -> list[tuple[str, str]]:
    """(method, path with its parameters filled in) of all that is not open."""
    found: list[tuple[str, str]] = []
    for route in iter_route_contexts(web.app.routes):
        if isinstance(route.original_route, Mount):
            assert route.path == "/static"
            continue
        assert isinstance(route.original_route, APIRoute), route
        for method in route.methods or ():
            if (method, route.path) not in OPEN:
                assert route.path is not None
                found.append((method, route.path.replace("{", "").replace("}", "")))
    return found


def test_every_route_but_the_open_ones_refuses_without_the_token(web: Web) -> None:
    routes = routes_of(web)
    assert {("GET", "/metrics"), ("POST", "/api/sync/initial"), ("GET", "/a page")} <= set(routes)
    wrong: list[dict[str, str]] = [
        {},
        {"Authorization": f"Basic {API_TOKEN}"},
        {"Authorization": API_TOKEN},
        {"Cookie": f"{SESSION_COOKIE}={API_TOKEN}"},
        {"Cookie": f"{SESSION_COOKIE}="},
        {"Cookie": f"{SESSION_COOKIE}={SESSION[:-1]}é".encode().decode("latin-1")},
        # A page of ours behind it is no proof of anything.
        {"Sec-Fetch-Site": "same-origin", "Origin": web.url},
    ]
    for method, path in routes:
        for headers in wrong:
            answer = ask(web, method, path, headers=headers)
            assert answer.status_code == 401, (method, path, headers)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert answer.json()["success"] is False
            assert "Authorization: Bearer" in answer.json()["error"]


def test_every_route_but_the_open_ones_refuses_a_wrong_token(web: Web, clock: Clock) -> None:
    wrong = ["wrong", "", f"{API_TOKEN}x", API_TOKEN.upper(), "é", WEBHOOK_TOKEN]
    for method, path in routes_of(web):
        for token in wrong:
            headers = {"Authorization": f"Bearer {token}".encode().decode("latin-1")}
            assert ask(web, method, path, headers=headers).status_code == 401
            # Only a page may take it from the address, and only the right one.
            assert ask(web, method, f"{path}?token={token}").status_code == 401
            clock.now += 61
        programs = path.startswith("/api/") or path in ("/metrics", "/openapi.json")
        if programs or method not in ("GET", "HEAD"):
            assert ask(web, method, f"{path}?token={API_TOKEN}").status_code == 401


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_every_route_refuses_a_session_behind_which_another_site_is(web: Web, site: str) -> None:
    sent_by = [
        {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors", "Origin": web.url},
    ]
    for method, path in [*routes_of(web), ("POST", "/login")]:
        hostile = list(sent_by)
        if method != "GET":
            hostile.append({"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"})
            hostile += [{"Origin": o} for o in ("https://evil.example", "null", "", "http://[")]
            hostile += [{"Origin": web.url.replace("http://", "http://evil.example@")}, {}]
        for headers in hostile:
            answer = ask(web, method, path, headers={**COOKIE, **headers})
            assert answer.status_code == 403, (method, path, headers)
            assert "page of another site" in answer.json()["error"]


def test_every_route_refuses_a_script_of_another_site_even_with_the_token(web: Web) -> None:
    for method, path in routes_of(web):
        for origin in ("https://evil.example", "null"):
            answer = ask(web, method, path, headers={**BEARER, "Origin": origin})
            assert answer.status_code == 403, (method, path)
            assert "Access-Control-Allow-Origin" not in answer.headers


def test_no_route_answers_a_preflight(web: Web) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for _, path in routes_of(web):
        answer = ask(web, "OPTIONS", path, headers=asked)
        assert answer.status_code == 405
        assert not [h for h in answer.headers if h.lower().startswith("access-control")]


def test_a_person_and_a_script_get_in(web: Web) -> None:
    own: list[dict[str, str]] = [
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": web.url},
        {"Origin": web.url.upper()},
    ]
    for headers in own:
        assert ask(web, "POST", "/a page", headers={**COOKIE, **headers}).status_code == 200
    assert ask(web, "GET", "/metrics", headers=COOKIE).status_code == 200
    assert ask(web, "GET", "/a page", headers={**COOKIE, **LINK}).status_code == 200
    assert ask(web, "POST", "/a page", headers=BEARER).status_code == 200
    assert ask(web, "POST", "/a page", headers={**BEARER, "Origin": web.url}).status_code == 200
    lower = {"Authorization": f"bearer  {API_TOKEN}"}
    assert ask(web, "GET", "/metrics", headers=lower).status_code == 200


def test_the_printed_link_makes_a_session_and_drops_the_token(web: Web) -> None:
    answer = ask(web, "GET", f"/a page?x=1&token={API_TOKEN}&y=%26%C3%A9&x=", headers=PAGE)
    assert answer.status_code == 303
    assert answer.headers["Location"] == "/a%20page?x=1&y=%26%C3%A9&x="
    assert API_TOKEN not in str(answer.headers)
    morsel = SimpleCookie(answer.headers["Set-Cookie"])[SESSION_COOKIE]
    assert morsel.value == SESSION
    assert (morsel["httponly"], morsel["path"], morsel["max-age"]) == (True, "/", "2592000")
    assert (morsel["samesite"].lower(), morsel["secure"], morsel["domain"]) == ("strict", "", "")
    assert ask(web, "GET", "/a page", headers=COOKIE).json() == {"page": "shown"}
    # Opened again, by a browser that is logged in.
    again = ask(web, "GET", "/a page?token=an-old-one", headers=COOKIE)
    assert (again.status_code, again.headers["Location"]) == (303, "/a%20page")


def behind_a_proxy(serve: Callable[..., Web], proxies: str, **options: Any) -> Web:
    current = load_settings(_env_file=None, RMS_TRUSTED_PROXIES=proxies)
    return serve(fast_lane=False, current=current, **options)


def test_behind_a_proxy_with_tls_the_session_never_travels_in_clear(
    serve: Callable[..., Web],
) -> None:
    web = behind_a_proxy(serve, "127.0.0.1")
    https = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"}
    answer = ask(web, "GET", f"/?token={API_TOKEN}", headers=https)
    assert "; Secure" in answer.headers["Set-Cookie"]
    assert "max-age=31536000" in answer.headers["Strict-Transport-Security"]
    assert "Strict-Transport-Security" not in ask(web, "GET", "/healthz").headers


def test_a_session_begun_at_the_public_address_is_for_https_only(
    serve: Callable[..., Web],
) -> None:
    current = load_settings(_env_file=None, RMS_PUBLIC_URL="https://rms.example.com")
    web = serve(fast_lane=False, current=current)
    for host, secure in (("rms.example.com", True), ("127.0.0.1", False)):
        answer = ask(web, "GET", f"/?token={API_TOKEN}", headers={"Host": host})
        assert ("; Secure" in answer.headers["Set-Cookie"]) == secure


@pytest.mark.parametrize("proxies", ["", "10.0.0.0/8,::1", "127.0.0.2"])
def test_only_a_configured_proxy_can_say_whom_it_forwards(
    serve: Callable[..., Web], clock: Clock, proxies: str
) -> None:
    web = behind_a_proxy(serve, proxies, clock=clock)
    https = {"X-Forwarded-Proto": "https", "Forwarded": "proto=https"}
    assert "Strict-Transport-Security" not in ask(web, "GET", "/healthz", headers=https).headers
    answers = [
        ask(web, "GET", "/metrics", headers={"Authorization": "Bearer x", **from_}).status_code
        for from_ in ({"X-Forwarded-For": f"203.0.113.{n}"} for n in range(12))
    ]
    assert answers == [401] * 10 + [429] * 2


def test_a_configured_proxy_says_who_asks_and_nobody_before_it_does(
    serve: Callable[..., Web], clock: Clock
) -> None:
    web = behind_a_proxy(serve, "127.0.0.0/8, ::1", clock=clock)
    # What the client itself has put in comes first, and counts for nothing.
    answers = [
        ask(web, "GET", "/metrics", headers={"Authorization": "Bearer x", **from_}).status_code
        for from_ in ({"X-Forwarded-For": f"198.51.100.{n}, 203.0.113.9"} for n in range(12))
    ]
    assert answers == [401] * 10 + [429] * 2
    other = {"Authorization": "Bearer x", "X-Forwarded-For": "203.0.113.10"}
    assert ask(web, "GET", "/metrics", headers=other).status_code == 401


@pytest.mark.parametrize("proxies", ["*", "localhost", "127.0.0.1;::1", "10.0.0.0/33"])
def test_a_proxy_is_an_address_and_never_everybody(proxies: str) -> None:
    with pytest.raises(SettingsError, match=r"RMS_TRUSTED_PROXIES holds .* Example: "):
        load_settings(_env_file=None, RMS_TRUSTED_PROXIES=proxies)


def test_a_wrong_token_in_the_address_leads_to_the_form(web: Web) -> None:
    answer = ask(web, "GET", "/a page?token=wrong&x=1", headers=PAGE)
    assert answer.status_code == 401
    assert "Set-Cookie" not in answer.headers
    assert "That is not the API token" in answer.text
    assert 'value="/a%20page?x=1"' in answer.text
    # A program cannot fill in a form.
    answer = ask(web, "GET", "/a page?token=wrong&x=1", headers={"Accept": "application/json"})
    assert (answer.status_code, answer.json()["success"]) == (401, False)


def test_a_browser_is_asked_to_log_in_and_then_is_where_it_wanted_to_go(web: Web) -> None:
    asked = ask(web, "GET", "/a page?x=%22%3E%3Cscript%3E", headers=PAGE)
    assert asked.status_code == 401
    assert "rms-pipeline up" in asked.text
    assert "<script" not in asked.text
    assert 'value="/a%20page?x=%22%3E%3Cscript%3E"' in asked.text
    # Who only opens a page, or mistypes the token, has sent nothing that was lost.
    assert "nothing was changed" not in asked.text
    own = {"Sec-Fetch-Site": "same-origin", **PAGE}
    wrong = ask(web, "POST", "/login", data={"token": "wrong", "next": "/a%20page"}, headers=own)
    assert wrong.status_code == 401
    assert "That is not the API token" in wrong.text
    assert 'value="/a%20page"' in wrong.text
    assert "nothing was changed" not in wrong.text
    for token in (API_TOKEN, f" {API_TOKEN}\n", f"http://127.0.0.1:8400/?token={API_TOKEN}"):
        done = ask(web, "POST", "/login", data={"token": token, "next": "/a%20page"}, headers=own)
        assert (done.status_code, done.headers["Location"]) == (303, "/a%20page")
        assert SimpleCookie(done.headers["Set-Cookie"])[SESSION_COOKIE].value == SESSION
    assert ask(web, "GET", "/login", headers=PAGE).status_code == 200
    assert ask(web, "GET", "/login", headers=COOKIE).headers["Location"] == "/"


def test_a_browser_that_is_logged_out_has_to_show_the_token_again(web: Web) -> None:
    own = {"Sec-Fetch-Site": "same-origin", **PAGE}
    assert 'action="/logout"' in ask(web, "GET", "/", headers={**COOKIE, **own}).text
    done = ask(web, "POST", "/logout", headers={**COOKIE, **own})
    assert (done.status_code, done.headers["Location"]) == (303, "/login")
    forgotten = SimpleCookie(done.headers["Set-Cookie"])[SESSION_COOKIE]
    assert (forgotten.value, forgotten["max-age"], forgotten["path"]) == ("", "0", "/")
    # Dagster's UI takes a cookie of its own, and the last visits are those of another person.
    cookies = SimpleCookie(", ".join(done.raw.headers.getlist("Set-Cookie")))
    assert {(name, c.value, c["max-age"], c["path"]) for name, c in cookies.items()} == {
        (SESSION_COOKIE, "", "0", "/"),
        (Sessions(SecretStr(API_TOKEN)).dagster_cookie, "", "0", "/"),
        ("rms_visited", "", "0", "/opportunities"),
    }
    assert done.headers["Cache-Control"] == "no-store"
    # A link of another site must not do it, and whoever is logged out already is asked to log in.
    assert ask(web, "GET", "/logout", headers={**COOKIE, **own}).status_code in (404, 405)
    assert ask(web, "POST", "/logout", headers=own).status_code == 401
    # A person who opens it is told so in other words than a program.
    opened = ask(web, "GET", "/logout", headers={**COOKIE, **own}).text
    assert "There is no page here" in opened
    assert "openapi" not in opened
    told = ask(web, "GET", "/logout", headers={**COOKIE, "Accept": "application/json"})
    assert (told.status_code, "/openapi.json" in told.json()["error"]) == (405, True)


@pytest.mark.parametrize(
    ("page", "wanted"),
    [
        ("{url}/opportunities?status=Open&token=x", "/opportunities?status=Open"),
        ("{url}/today", "/today"),
        ("{url}//evil.example", "/"),
        ("https://evil.example/today", "/"),
        ("http://[", "/"),
        ("", "/"),
    ],
)
@pytest.mark.parametrize("form", ["/logout", "/sync/initial", "/views"])
def test_who_sends_a_form_after_the_session_is_led_back_to_its_page_and_told_so(
    web: Web, form: str, page: str, wanted: str
) -> None:
    own = {"Sec-Fetch-Site": "same-origin", **PAGE, "Referer": page.format(url=web.url)}
    asked = ask(web, "POST", form, headers=own)
    assert asked.status_code == 401
    assert f'name="next" value="{wanted}"' in asked.text
    assert "so nothing was changed" in asked.text


@pytest.mark.parametrize(
    "elsewhere",
    ["https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil.example", "///x",
     "/\t/evil.example", "/\n/evil.example", " //evil.example", "evil.example", "javascript:x",
     "/%0d%0aSet-Cookie:x=1\r\nSet-Cookie: x=1", "", "/é"],
)  # fmt: skip
def test_logging_in_leads_to_no_other_host(web: Web, elsewhere: str) -> None:
    own = {"Sec-Fetch-Site": "same-origin"}
    form = {"token": API_TOKEN, "next": elsewhere}
    answer = ask(web, "POST", "/login", data=form, headers=own)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    assert "x=1" not in answer.headers["Set-Cookie"]


@pytest.mark.parametrize("path", ["//evil.example/a page", "/\\evil.example", "/%09/evil.example"])
def test_no_address_makes_the_service_redirect_elsewhere(
    serve: Callable[..., Web], path: str
) -> None:
    web = serve(fast_lane=False)

    @web.app.get("/{anything:path}", dependencies=[Depends(web.access.page)])
    def show(anything: str) -> None:
        raise AssertionError

    connection = HTTPConnection(web.url.removeprefix("http://"), timeout=10)
    connection.request("GET", f"{quote(path, safe='/%')}?token={API_TOKEN}")
    answer = connection.getresponse()
    assert answer.status == 303
    location = answer.headers["Location"]
    assert location.startswith("/")
    assert not location.startswith("//")
    assert "\\" not in location
    connection.close()


@pytest.mark.parametrize("path", ["/opportunities/?q=a%20b", "/api/webhook/x/", "/healthz/"])
def test_a_slash_too_many_leads_to_the_same_host_whatever_the_client_calls_it(
    web: Web, path: str
) -> None:
    method = "POST" if "webhook" in path else "GET"
    for host in ({}, {"Host": "evil.example"}, {"Host": "hire.example", "X-Forwarded-Proto": "x"}):
        answer = ask(web, method, path, headers=host)
        assert answer.status_code == 307
        assert answer.headers["Location"] == path.replace("/?", "?").removesuffix("/")


def test_a_hostile_form_is_refused(web: Web) -> None:
    own = {"Sec-Fetch-Site": "same-origin"}
    for body, expected in (
        (b"token=" + b"x" * 20_000, 413),
        (b"&".join(b"a=1" for _ in range(50)), 400),
        (b"\xff\xfe%ff%zz", 401),
        (b"", 401),
        (f'{{"token": "{API_TOKEN}"}}'.encode(), 401),
    ):
        answer = ask(web, "POST", "/login", data=body, headers=own)
        assert answer.status_code == expected, body[:30]
        assert "Set-Cookie" not in answer.headers


def test_a_link_on_another_site_is_opened_by_asking_once_more(web: Web) -> None:
    refresh = '<meta http-equiv="refresh" content="0">'
    held_back = ask(web, "GET", "/a page", headers={**PAGE, **LINK})
    assert held_back.status_code == 401
    assert refresh in held_back.text
    reloaded = {**PAGE, **LINK, "Sec-Fetch-Site": "same-origin"}
    assert refresh not in ask(web, "GET", "/a page", headers=reloaded).text
    stale = {**PAGE, **LINK, "Cookie": f"{SESSION_COOKIE}=ended"}
    assert refresh not in ask(web, "GET", "/a page", headers=stale).text
    assert refresh not in ask(web, "GET", "/a page?token=wrong", headers={**PAGE, **LINK}).text
    assert refresh not in ask(web, "POST", "/a page", headers={**PAGE, **LINK}).text


def test_the_right_token_always_works_and_wrong_ones_are_slowed(
    web: Web, clock: Clock, held: list[float]
) -> None:
    own = {"Sec-Fetch-Site": "same-origin"}
    wrong = {"Authorization": "Bearer wrong"}
    for _ in range(4):
        assert ask(web, "GET", "/metrics", headers=wrong).status_code == 401
    for _ in range(3):
        # What a picture on any page in the world can ask for.
        assert ask(web, "GET", "/a page?token=wrong", headers=PAGE).status_code == 401
        assert ask(web, "POST", "/login", data={"token": "x"}, headers=own).status_code == 401
        clock.now += 10
    assert held == []
    for shut in (
        ask(web, "GET", "/metrics", headers=wrong),
        ask(web, "GET", "/a page?token=wrong"),
        ask(web, "POST", "/login", data={"token": "wrong"}, headers=own),
    ):
        assert shut.status_code == 429
        assert int(shut.headers["Retry-After"]) > 0
        assert "Set-Cookie" not in shut.headers
        assert "right token works at any time" in shut.json()["error"]
    assert held == [1.0, 1.0, 1.0]
    assert ask(web, "GET", "/metrics", headers=BEARER).status_code == 200
    assert ask(web, "GET", f"/a page?token={API_TOKEN}").status_code == 303
    assert ask(web, "POST", "/login", data={"token": API_TOKEN}, headers=own).status_code == 303
    # Who is in stays in, and no event is lost.
    assert ask(web, "GET", "/metrics", headers=COOKIE).status_code == 200
    assert web.post(delivery(1, 1)).status_code == 200
    assert web.post(delivery(1, 1), token="wrong").status_code == 401
    clock.now += 61
    assert ask(web, "GET", "/metrics", headers=wrong).status_code == 401


def test_guessing_is_counted_by_network_and_in_bounded_memory() -> None:
    clock, held = Clock(), list[float]()

    async def hold(seconds: float) -> None:
        held.append(seconds)

    throttle = Throttle(clock, hold)

    def fail(address: str) -> int:
        return asyncio.run(throttle.slow_down(address))

    assert {fail(f"2001:db8:1:2::{i:x}") for i in range(10)} == {0}
    assert fail("2001:db8:1:2:ffff::1") == 60
    assert fail("2001:db8:1:3::1") == 0
    assert fail("") == 0
    assert len(held) == 1

    async def fail_from_everywhere() -> None:
        for i in range(20_000):
            await throttle.slow_down(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}")

    asyncio.run(fail_from_everywhere())
    assert len(throttle._failures) == 10_000


def test_few_answers_are_held_back_at_once() -> None:
    holding = 0

    async def hold(seconds: float) -> None:
        nonlocal holding
        holding += 1
        await asyncio.sleep(0)
        assert holding <= 20
        holding -= 1

    async def guess() -> list[int]:
        throttle = Throttle(Clock(), hold)
        return await asyncio.gather(*(throttle.slow_down("192.0.2.1") for _ in range(200)))

    assert asyncio.run(guess()).count(0) == 10


def test_cookies_of_two_instances_on_one_host_do_not_collide(web: Web) -> None:
    """Browsers send the cookies of a host to all of its ports."""
    one, other = Sessions(SecretStr(API_TOKEN)), Sessions(SecretStr("another-token-0123"))
    names = [n for s in (one, other) for n in (s.cookie, s.dagster_cookie)]
    assert len(set(names)) == 4
    with requests.Session() as browser:
        browser.get(f"{web.url}/?token={API_TOKEN}", timeout=30)
        foreign = other.session.get_secret_value()
        browser.cookies.set(other.cookie, foreign, domain="127.0.0.1")
        assert browser.get(f"{web.url}/metrics", timeout=30).status_code == 200
    only_foreign = {"Cookie": f"{other.cookie}={foreign}; {one.cookie}={foreign}"}
    assert ask(web, "GET", "/metrics", headers=only_foreign).status_code == 401
    values = [s.get_secret_value() for s in (one.session, one.dagster_session, one.dagster_token)]
    assert len({*values, API_TOKEN}) == 4
    for leaked in values[1:]:
        # What opens Dagster's UI opens nothing here.
        shown = {"Cookie": f"{one.cookie}={leaked}", "Authorization": f"Bearer {leaked}"}
        assert ask(web, "GET", "/metrics", headers=shown).status_code == 401


def test_every_answer_carries_the_security_headers(web: Web) -> None:
    answers = [
        ask(web, "GET", "/healthz"),
        ask(web, "HEAD", "/healthz"),
        ask(web, "GET", "/nowhere"),
        ask(web, "PUT", "/healthz"),
        ask(web, "GET", "/login", headers=PAGE),
        ask(web, "GET", "/a page", headers=PAGE),
        ask(web, "GET", f"/a page?token={API_TOKEN}"),
        ask(web, "GET", "/api/sync/status?limit=x", headers=BEARER),
        ask(web, "GET", "/static/entrance.css"),
        ask(web, "GET", "/static/nothing.css"),
        ask(web, "GET", "/broken/x", headers=BEARER),
        web.post(delivery(1, 1)),
        web.post(b"no"),
    ]
    assert {a.status_code for a in answers} == {200, 303, 400, 401, 404, 405, 422, 500}
    for answer in answers:
        headers = answer.headers
        assert headers["Content-Security-Policy"] == CONTENT_POLICY, answer.url
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        static = "/static/" in answer.url
        assert headers["Cache-Control"] == ("no-cache" if static else "no-store")
        assert "Server" not in headers


@pytest.mark.parametrize("path", ["/static/../access.py", "/static/%2e%2e/access.py",
                                  "/static/..%2faccess.py", "/static//etc/passwd"])  # fmt: skip
def test_static_files_are_those_of_one_folder(web: Web, path: str) -> None:
    prepared = requests.Request("GET", web.url).prepare()
    prepared.url = f"{web.url}{path}"
    with requests.Session() as session:
        assert session.send(prepared, timeout=10).status_code == 404


def test_head_answers_like_get_without_the_body(web: Web) -> None:
    answer = ask(web, "HEAD", "/a page", headers=COOKIE)
    assert (answer.status_code, answer.content) == (200, b"")
    assert ask(web, "HEAD", "/a page").status_code == 401


def test_people_get_a_page_and_programs_json_whatever_goes_wrong(
    web: Web, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        for status, path in ((404, "/nowhere"), (500, "/broken/planted-secret")):
            page = ask(web, "GET", path, headers={**BEARER, **PAGE})
            said = ask(web, "GET", path, headers=BEARER)
            assert page.status_code == said.status_code == status
            assert page.headers["Content-Type"].startswith("text/html")
            assert said.json()["success"] is False
            # What is to be typed stands out on the page, and between backquotes in JSON.
            shown = page.text.replace("&#39;", "'").replace("<code>", "`")
            assert said.json()["error"] in shown.replace("</code>", "`")
            assert "openapi" not in page.text
            assert ("/openapi.json" in said.text) == (status == 404)
            for text in (page.text, said.text):
                assert "Traceback" not in text
                assert "planted" not in text
    # People read what happened, and no term of a protocol.
    refused = ask(
        web, "POST", "/logout", headers={**COOKIE, **PAGE, "Origin": "https://evil.example"}
    )
    assert refused.status_code == 403
    assert "<h1>This came from somewhere else</h1>" in refused.text
    assert 'href="/today"' in refused.text
    # The log has the reason, but no address: one could hold a token.
    assert "planted detail" in caplog.text
    assert "/broken/{secret}" in caplog.text
    assert "planted-secret" not in caplog.text
    programs = ask(web, "GET", "/api/sync/status?limit=x", headers={**BEARER, **PAGE})
    assert programs.json()["success"] is False
    assert "limit" in programs.json()["error"]


def test_without_the_database_every_route_says_when_to_come_again(
    serve: Callable[..., Web],
) -> None:
    web = serve(fast_lane=False)
    down = "postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=2"
    object.__setattr__(web.database, "url", type(web.database.url)(down))
    object.__setattr__(web.database, "session_url", type(web.database.url)(down))
    headers: dict[str, Any] = {**BEARER}
    paths = [("GET", "/metrics"), ("GET", "/healthz"), ("GET", "/api/sync/status")]
    paths += [("GET", "/opportunities"), ("GET", "/opportunities.csv")]
    for method, path in [*paths, ("POST", "/api/sync/initial"), ("POST", "/api/sync/incremental")]:
        answer = ask(web, method, path, headers=headers)
        assert answer.status_code == 503, path
        assert int(answer.headers["Retry-After"]) > 0
        assert "database does not answer" in answer.json()["error"]


def test_the_way_into_dagster_is_for_who_is_signed_in_and_leads_there_only(
    serve: Callable[..., Web],
) -> None:
    current = load_settings(_env_file=None, RMS_DAGSTER_URL="https://dagster.example.com")
    web = serve(fast_lane=False, current=current)
    asked = ask(web, "GET", "/dagster?to=/runs/1", headers=PAGE)
    assert asked.status_code == 401
    assert 'value="/dagster?to=%2Fruns%2F1"' in asked.text
    for to, leads in (("/runs/1?a=b", "%2Fruns%2F1%3Fa%3Db"), ("//evil.example", "%2F")):
        page = ask(web, "GET", f"/dagster?to={quote(to)}", headers={**COOKIE, **PAGE})
        assert page.status_code == 200
        (address,) = set(re.findall(r'(?:url=|href=")(https://[^"]+)"', page.text))
        address = html.unescape(address)
        assert address.startswith("https://dagster.example.com/signed-in?ticket=")
        assert address.endswith(f"&to={leads}")
        assert API_TOKEN not in page.text
        assert Tickets(web.access.sessions).take(parse_qs(urlsplit(address).query)["ticket"][0])
