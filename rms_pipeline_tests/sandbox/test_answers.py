"""Bodies as they are sent and answered: chunks, shapes of errors, pages of proxies."""

import http.client
import json
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from rms_pipeline.sandbox import Faults, SandboxServer, Store
from rms_pipeline.sandbox.api.answers import Refusal
from rms_pipeline_tests.sandbox.account import HEADERS, ask, turn


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(Store(3)) as server:
        yield server


def raw(sandbox: SandboxServer, *requests_: bytes) -> list[bytes]:
    """The status lines that one connection gets for what is sent over it at once."""
    head = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items()).encode()
    sent = b"".join(r.replace(b"HOST\r\n", b"Host: a\r\n" + head) for r in requests_)
    with socket.create_connection(("127.0.0.1", sandbox.port), timeout=10) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while more := connection.recv(65_536):
            received += more
    return re.findall(rb"HTTP/1\.1 \d{3} [A-Za-z ]+", received)


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


POST = b"POST /api/v1/opportunities HTTP/1.1\r\nHOST\r\nTransfer-Encoding: chunked\r\n\r\n"
GET = b"GET /api/v1/opportunities HTTP/1.1\r\nHOST\r\n\r\n"


def test_a_body_in_chunks_is_read_whole_and_the_next_request_after_it(
    sandbox: SandboxServer,
) -> None:
    body = '{"opportunity": {"subject": "Fête 🎶, three parts"}}'.encode()
    parts = (body[:7], body[7:31], body[31:])
    assert raw(sandbox, POST + chunks(*parts), GET) == [
        b"HTTP/1.1 201 Created",
        b"HTTP/1.1 200 OK",
    ]
    newest = sandbox.store.get(sandbox.store.ids()[-1], ())
    assert newest is not None
    assert newest["subject"] == "Fête 🎶, three parts"


def test_extensions_and_trailers_of_chunks_are_passed_over(sandbox: SandboxServer) -> None:
    body = b'{"opportunity": {}}'
    sent = b"%X;a=b\r\n%b\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n" % (len(body), body)
    assert raw(sandbox, POST + sent, GET) == [b"HTTP/1.1 201 Created", b"HTTP/1.1 200 OK"]


@pytest.mark.parametrize(
    "sent",
    [
        POST + b"zz\r\n{}\r\n0\r\n\r\n",
        POST + b"-5\r\n{}\r\n0\r\n\r\n",
        POST + b"\r\n",
        b"POST /api/v1/opportunities HTTP/1.1\r\nHOST\r\nContent-Length: many\r\n\r\n{}",
        b"POST /api/v1/opportunities HTTP/1.1\r\nHOST\r\nContent-Length: -3\r\n\r\n{}",
    ],
)
def test_a_broken_body_is_a_400_and_ends_the_connection(
    sandbox: SandboxServer, sent: bytes
) -> None:
    assert raw(sandbox, sent, GET) == [b"HTTP/1.1 400 Bad Request"]
    assert len(sandbox.store.ids()) == 3


def test_clients_that_send_in_chunks_can_register_and_edit(sandbox: SandboxServer) -> None:
    host = urlsplit(sandbox.url).netloc
    connection = http.client.HTTPConnection(host, timeout=10)
    hook = {"name": "N", "event": "opportunity_update", "target_url": "https://a.example/"}
    id_ = sandbox.store.ids()[0]
    sendings: list[tuple[str, str, Any, int]] = [
        ("POST", "/webhooks", {"webhook": hook}, 201),
        ("PATCH", f"/opportunities/{id_}", {"opportunity": {"custom_fields": {"po": "7"}}}, 200),
        ("GET", f"/opportunities/{id_}", None, 200),
    ]
    for method, path, body, status in sendings:
        sent = None if body is None else iter([json.dumps(body).encode()])
        connection.request(method, f"/api/v1{path}", sent, HEADERS, encode_chunked=True)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == status, text
    assert json.loads(text)["opportunity"]["custom_fields"]["po"] == "7"
    connection.close()


def test_custom_fields_that_are_not_named_stay(sandbox: SandboxServer) -> None:
    one = f"/opportunities/{sandbox.store.ids()[0]}"
    before = ask(sandbox, one).json()["opportunity"]
    for method in ("PATCH", "PUT"):
        body = {"opportunity": {"custom_fields": {"risk_score": method}}}
        after = ask(sandbox, one, method, body).json()["opportunity"]
        assert after["custom_fields"] == {**before["custom_fields"], "risk_score": method}
    assert after["updated_at"] > before["updated_at"]


SHAPES: dict[str, Callable[[str], Any]] = {
    "texts": lambda text: {"errors": [text]},
    "details": lambda text: {"errors": [{"detail": text}]},
    "by_field": lambda text: {"errors": {"base": [text]}},
    "error": lambda text: {"error": text},
    "message": lambda text: {"message": text},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_refusal_takes_the_shape_that_is_switched(sandbox: SandboxServer, shape: str) -> None:
    turn(sandbox, error_shape=shape)
    missing = ask(sandbox, "/opportunities/1")
    assert missing.json() == SHAPES[shape]("Opportunity not found")
    wrong = ask(sandbox, "/opportunities?page=x").json()
    assert wrong == SHAPES[shape]("page must be a whole number from 1")
    denied = requests.get(f"{sandbox.url}/opportunities", timeout=10).json()
    assert denied == SHAPES[shape]("Invalid subdomain or API key")
    sandbox.faults.queue += ["error_503", "rate_limited"]
    assert ask(sandbox, "/members").json() == SHAPES[shape]("something went wrong")
    assert ask(sandbox, "/members").json() == SHAPES[shape]("Too many requests")


def test_a_wrong_field_is_named_where_errors_are_by_field(sandbox: SandboxServer) -> None:
    turn(sandbox, error_shape="by_field")
    hook = {"name": "N", "event": "nonsense", "target_url": "https://a.example/"}
    answer = ask(sandbox, "/webhooks", "POST", {"webhook": hook})
    assert list(answer.json()["errors"]) == ["event"]
    assert Refusal("x", field="starts_at").answer("by_field").body == (
        b'{"errors":{"starts_at":["x"]}}'
    )


@pytest.mark.parametrize("status", [200, 403, 502, 503])
def test_a_proxy_may_answer_in_html(status: int) -> None:
    faults = Faults(queue=[f"html_{status}"])  # type: ignore[list-item]
    with SandboxServer(Store(1), faults=faults) as sandbox:
        answer = ask(sandbox, "/opportunities")
        assert (answer.status_code, answer.headers["Content-Type"]) == (status, "text/html")
        assert answer.text.startswith("<html>")
        assert ask(sandbox, "/opportunities").status_code == 200


@pytest.mark.parametrize("path", ["/faults", "/switches", "/deliveries"])
def test_each_control_is_shown_changed_and_undone(sandbox: SandboxServer, path: str) -> None:
    url = sandbox.url.replace("/api/v1", "/sandbox") + path
    change: Any = {
        "/faults": {"queue": ["hang"]},
        "/switches": {"gone_status": 410},
        "/deliveries": {"speed": 60.0, "attempts": 3},
    }[path]
    before = requests.get(url, headers=HEADERS, timeout=10).json()
    assert requests.put(url, json=change, headers=HEADERS, timeout=10).status_code < 300
    changed = requests.get(url, headers=HEADERS, timeout=10).json()
    assert changed == before | change
    assert requests.put(url, json={"nonsense": 1}, headers=HEADERS, timeout=10).status_code == 422
    assert requests.get(url, headers=HEADERS, timeout=10).json() == changed
    assert requests.delete(url, headers=HEADERS, timeout=10).status_code < 300
    assert requests.get(url, headers=HEADERS, timeout=10).json() == before
    assert requests.post(url, json={}, headers=HEADERS, timeout=10).status_code == 404
    assert requests.get(url, timeout=10).status_code == 401
    assert requests.get(url + "s", headers=HEADERS, timeout=10).status_code == 404
