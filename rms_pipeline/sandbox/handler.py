"""What the sandbox answers to one request: paths, credentials, limits, misbehaviour."""

import json
import time
from datetime import UTC, datetime
from email.utils import format_datetime, formatdate
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from rms_pipeline.sandbox.paging import cut
from rms_pipeline.sandbox.ransack import Unprocessable, select
from rms_pipeline.sandbox.store import NESTED
from rms_pipeline.sandbox.switches import FaultKind

if TYPE_CHECKING:
    from rms_pipeline.sandbox.server import SandboxServer

SANDBOX_SUBDOMAIN = "sandbox"
PREFIX, FAULTS_PATH = "/api/v1", "/sandbox/faults"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_version = "rms-sandbox"
    sys_version = ""
    server_of: "SandboxServer"

    def setup(self) -> None:
        self.server_of.connections += 1
        super().setup()

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_PUT(self) -> None:
        self._handle("PUT")

    def do_DELETE(self) -> None:
        self._handle("DELETE")

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The account's own clock, which may be wrong."""
        moment = self.server_of.store.now() if timestamp is None else None
        return format_datetime(moment or datetime.fromtimestamp(timestamp or 0, UTC), usegmt=True)

    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Date" or self.server_of.switches.tells_date:
            super().send_header(keyword, value)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: `requests` remembers."""

    def _handle(self, method: str) -> None:
        sandbox = self.server_of
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if sandbox.latency:
            sandbox.closing.wait(sandbox.latency)
        if sandbox.before_request:
            sandbox.before_request(self.path)
        parts = urlsplit(self.path)
        if not parts.path.startswith((PREFIX, FAULTS_PATH)):
            self._error(404, "not found")
            return
        if (
            self.headers.get("X-SUBDOMAIN") != SANDBOX_SUBDOMAIN
            or self.headers.get("X-AUTH-TOKEN") != sandbox.api_key
        ):
            self._error(401, "Invalid subdomain or API key")
            return
        if parts.path == FAULTS_PATH:
            self._set_faults(sent)
            return
        wait = sandbox.throttled()
        if wait is not None:
            self._too_many(wait)
            return
        fault = sandbox.faults.next()
        if fault is not None and self._misbehave(fault):
            return
        try:
            self._route(
                method, parts.path.removeprefix(PREFIX), parse_qsl(parts.query), sent, fault
            )
        except Unprocessable as error:
            self._error(422, str(error))

    def _set_faults(self, sent: bytes) -> None:
        try:
            self.server_of.faults.change(sent)
        except ValueError as error:
            self._error(422, str(error))
        else:
            self._send(204, b"")

    def _route(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]],
        sent: bytes,
        fault: FaultKind | None,
    ) -> None:
        store = self.server_of.store
        if path.startswith("/webhook"):
            switches = self.server_of.switches
            status, said = self.server_of.webhooks.answer(method, path, query, sent, switches)
            self._send(status, said, fault=fault)
            return
        _, _, tail = path.partition("/opportunities")
        if path == "/opportunities" and method == "GET":
            self._list(query, fault)
        elif path == "/opportunities" and method == "POST":
            id_ = store.create(_fields(sent))
            self._send(201, b'{"opportunity":%b}' % (store.body(id_, ()) or b"null"))
        elif not path.startswith("/opportunities/") or not tail[1:].isdigit():
            self._error(404, "not found")
        elif method == "GET" and (body := store.body(int(tail[1:]), self._include(query))):
            self._send(200, b'{"opportunity":%b}' % body)
        elif method == "PUT" and store.edit(int(tail[1:]), _fields(sent)):
            self._send(200, b'{"opportunity":%b}' % (store.body(int(tail[1:]), ()) or b"null"))
        elif method == "DELETE" and store.delete(int(tail[1:])):
            self._send(204, b"")
        else:
            self._error(404, "Opportunity not found")

    def _list(self, query: list[tuple[str, str]], fault: FaultKind | None) -> None:
        sandbox = self.server_of
        page = cut(select(sandbox.store, query, sandbox.switches), query, sandbox.switches)
        include = self._include(query)
        bodies = [b for id_ in page.rows if (b := sandbox.store.body(id_, include)) is not None]
        self._send(200, page.body("opportunities", bodies), fault=fault)

    def _include(self, query: list[tuple[str, str]]) -> tuple[str, ...]:
        nested = self.server_of.switches.nested
        if nested != "asked":
            return tuple(NESTED) if nested == "always" else ()
        return tuple(v for k, v in query if k == "include[]" and v in NESTED)

    def _misbehave(self, fault: FaultKind) -> bool:
        """True when there is nothing more to answer."""
        sandbox = self.server_of
        if fault.startswith("error_"):
            self._error(int(fault.removeprefix("error_")), "something went wrong")
        elif fault == "rate_limited":
            self._too_many(1)
        elif fault == "html_200":
            self._send(200, b"<html><body>Back soon</body></html>", kind="text/html")
        elif fault == "wrong_shape":
            self._send(200, b'{"status":"ok"}')
        elif fault == "redirect":
            self._send(302, b"", headers={"Location": "http://127.0.0.2:9/elsewhere"})
        elif fault in ("dropped", "hang"):
            if fault == "hang":
                sandbox.closing.wait(sandbox.faults.hang_seconds)
            self.close_connection = True
        else:
            if fault == "slow":
                sandbox.closing.wait(sandbox.faults.slow_seconds)
            return False
        return True

    def _too_many(self, wait: float) -> None:
        form = self.server_of.switches.retry_after
        whole = int(wait) + 1
        value = {"seconds": str(whole), "date": formatdate(time.time() + whole, usegmt=True)}
        headers = {"Retry-After": value[form]} if form != "none" else {}
        self._send(429, b'{"errors":["Too many requests"]}', headers=headers)

    def _error(self, status: int, message: str) -> None:
        self._send(status, json.dumps({"errors": [message]}).encode())

    def _send(
        self,
        status: int,
        body: bytes,
        *,
        kind: str = "application/json; charset=utf-8",
        headers: dict[str, str] | None = None,
        fault: FaultKind | None = None,
    ) -> None:
        if fault == "truncated":
            body = body[: len(body) // 2]
        self.server_of.requests.append((self.command, self.path, status))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        head = b"".join(self._headers_buffer) + b"\r\n"
        self._headers_buffer: list[bytes] = []
        if fault == "broken_off":
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(head + body)


def _fields(sent: bytes) -> dict[str, Any]:
    try:
        fields = msgspec.json.decode(sent)["opportunity"]
    except (msgspec.DecodeError, KeyError, TypeError):
        raise Unprocessable('the body must be {"opportunity": {...}}') from None
    if not isinstance(fields, dict):
        raise Unprocessable("opportunity must be an object")
    return fields
