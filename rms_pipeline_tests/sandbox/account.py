"""Asks the sandbox over HTTP, as any client would."""

from typing import Any

import requests

from rms_pipeline.sandbox import SANDBOX_API_KEY, SANDBOX_SUBDOMAIN, SandboxServer

HEADERS = {"X-SUBDOMAIN": SANDBOX_SUBDOMAIN, "X-AUTH-TOKEN": SANDBOX_API_KEY}
ALL = "filtermode=all"


def ask(
    sandbox: SandboxServer, path: str, method: str = "GET", body: Any = None
) -> requests.Response:
    """Send a request. `path` is below `/api/v1`."""
    return requests.request(
        method,
        sandbox.url + path,
        headers=HEADERS,
        json=body,
        timeout=10,
        allow_redirects=False,
    )


def turn(sandbox: SandboxServer, **switches: Any) -> None:
    """Set switches over HTTP."""
    url = sandbox.url.replace("/api/v1", "/sandbox/switches")
    answer = requests.put(url, headers=HEADERS, json=switches, timeout=10)
    assert answer.status_code == 200, answer.text


def listed(sandbox: SandboxServer, query: str = "") -> list[dict[str, Any]]:
    """Return one page of all opportunities in every state."""
    answer = ask(sandbox, f"/opportunities?{ALL}&{query}")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["opportunities"]
    return found


def meta(sandbox: SandboxServer, query: str = "") -> dict[str, int]:
    """Return `meta` of the same page."""
    answer = ask(sandbox, f"/opportunities?{ALL}&{query}")
    assert answer.status_code == 200, answer.text
    found: dict[str, int] = answer.json()["meta"]
    return found


def ids(sandbox: SandboxServer, query: str = "") -> list[int]:
    """Return the ids on the same page."""
    return [record["id"] for record in listed(sandbox, query)]
