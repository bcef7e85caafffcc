"""Who gets in, by which way, and what every answer carries."""

import hashlib
import hmac
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from fastapi import Depends
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import Mount

from rms_pipeline.web.access import SESSION_COOKIE
from rms_pipeline_tests.web.conftest import API_TOKEN, Web

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
}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def web(serve: Callable[..., Web], clock: Clock) -> Iterator[Web]:
    served = serve(fast_lane=False, clock=clock)

    @served.app.get("/a page", dependencies=[Depends(served.access.page)])
    @served.app.post("/a page", dependencies=[Depends(served.access.page)])
    def show() -> dict[str, str]:
        return {"page": "shown"}

    @served.app.get("/broken/{secret}", dependencies=[Depends(served.access.page)])
    def fail() -> None:
        raise RuntimeError("planted detail")

    yield served


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
