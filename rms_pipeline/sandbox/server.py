"""The sandbox's HTTP face: paths, credentials, limits, misbehaviour."""

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from rms_pipeline.errors import RmsPipelineError
from rms_pipeline.sandbox.limit import Limit
from rms_pipeline.sandbox.ransack import Unprocessable, select
from rms_pipeline.sandbox.store import NESTED, Store
from rms_pipeline.sandbox.switches import FaultKind, Faults, Switches

SANDBOX_SUBDOMAIN, SANDBOX_API_KEY = "sandbox", "sandbox-key"
PREFIX, FAULTS_PATH = "/api/v1", "/sandbox/faults"
_MAX_PER_PAGE = 100


class PortInUseError(RmsPipelineError):
    """Another program listens where the sandbox should."""


class SandboxServer:
    """Serves `store` as Current RMS would. `port` 0 takes a free one; `requests_per_minute` 0 means
    no limit; `latency_ms` delays every answer.

    `requests` holds the last calls as (method, path with query, status). `before_request` is called
    before each, to move the world while a client is reading. `connections` counts those accepted.
    """

    def __init__(
        self,
        store: Store,
        *,
        switches: Switches | None = None,
        faults: Faults | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        requests_per_minute: int = 0,
        latency_ms: float = 0,
        api_key: str = SANDBOX_API_KEY,
    ) -> None:
        self.store = store
        self.switches = switches or Switches()
        self.faults = faults or Faults()
        self.requests: deque[tuple[str, str, int]] = deque(maxlen=100_000)
        self.before_request: Callable[[str], None] | None = None
        self.connections = 0
        self.api_key = api_key
        self.latency = latency_ms / 1000
        self.closing = threading.Event()
        self._limit = Limit(requests_per_minute)
        sandbox = self

        class Handler(_Handler):
            server_of = sandbox

        try:
            self._http = _Server((host, port), Handler)
        except OSError as error:
            raise PortInUseError(
                f"Port {port} on {host} is in use or may not be used ({error.strerror}). "
                "Stop the other program, or choose another port with --port "
                "(--sandbox-port with `rms-pipeline up`)."
            ) from None
        self.port: int = self._http.server_address[1]
        self.url = f"http://{host}:{self.port}{PREFIX}"

    def throttled(self) -> float | None:
        """Seconds until the limit lets the next request through; None when it does now."""
        return self._limit.take()

    def serve_forever(self) -> None:
        """Serves until `stop`, in this thread."""
        self._http.serve_forever(poll_interval=0.1)

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, name="sandbox", daemon=True).start()

    def stop(self) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    def __enter__(self) -> "SandboxServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_version = "rms-sandbox"
    sys_version = ""
    server_of: SandboxServer

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
        single = dict(query)
        page = _positive(single.get("page", "1"), "page")
        default = str(sandbox.switches.default_per_page)
        per_page = min(_positive(single.get("per_page", default), "per_page"), _MAX_PER_PAGE)
        found = select(sandbox.store, query, sandbox.switches)
        chosen = found[(page - 1) * per_page : page * per_page]
        include = self._include(query)
        bodies = [b for id_ in chosen if (b := sandbox.store.body(id_, include)) is not None]
        meta = {
            "total_row_count": len(found),
            "row_count": len(bodies),
            "page": page,
            "per_page": per_page,
        }
        body = b'{"opportunities":[%b],"meta":%b}' % (b",".join(bodies), msgspec.json.encode(meta))
        if fault == "truncated":
            body = body[: len(body) // 2]
        self._send(200, body, broken_off=fault == "broken_off")

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
        broken_off: bool = False,
    ) -> None:
        self.server_of.requests.append((self.command, self.path, status))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        head = b"".join(self._headers_buffer) + b"\r\n"
        self._headers_buffer: list[bytes] = []
        if broken_off:
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(head + body)


def _positive(value: str, name: str) -> int:
    if not value.isdigit() or int(value) < 1:
        raise Unprocessable(f"{name} must be a whole number from 1")
    return int(value)


def _fields(sent: bytes) -> dict[str, Any]:
    try:
        fields = msgspec.json.decode(sent)["opportunity"]
    except (msgspec.DecodeError, KeyError, TypeError):
        raise Unprocessable('the body must be {"opportunity": {...}}') from None
    if not isinstance(fields, dict):
        raise Unprocessable("opportunity must be an object")
    return fields
