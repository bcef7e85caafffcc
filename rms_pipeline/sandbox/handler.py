"""HTTP of the sandbox: bodies, credentials, the limit, misbehaviour. Others make the answers."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime, formatdate
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from rms_pipeline.sandbox.account import SANDBOX_SUBDOMAIN, InventedAccount
from rms_pipeline.sandbox.api import controls, routes
from rms_pipeline.sandbox.api.answers import Answer, Refusal, Request, page_of_a_proxy
from rms_pipeline.sandbox.faults import FaultKind

PREFIX, CONTROLS = "/api/v1", "/sandbox/"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_version = "rms-sandbox"
    sys_version = ""
    account: InventedAccount

    def setup(self) -> None:
        self.account.connections += 1
        super().setup()

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_PUT(self) -> None:
        self._handle("PUT")

    def do_PATCH(self) -> None:
        self._handle("PATCH")

    def do_DELETE(self) -> None:
        self._handle("DELETE")

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The account's own clock, which may be wrong."""
        moment = self.account.store.now() if timestamp is None else None
        return format_datetime(moment or datetime.fromtimestamp(timestamp or 0, UTC), usegmt=True)

    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Date" or self.account.switches.tells_date:
            super().send_header(keyword, value)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: `requests` remembers."""

    def _handle(self, method: str) -> None:
        account = self.account
        try:
            sent = self._body()
        except ValueError:
            # Where the next request would begin is not known any more.
            self.close_connection = True
            self._refuse(Refusal("the body is broken", 400))
            return
        if account.latency:
            account.closing.wait(account.latency)
        if account.before_request:
            account.before_request(self.path)
        parts = urlsplit(self.path)
        if not parts.path.startswith((f"{PREFIX}/", CONTROLS)):
            self._refuse(Refusal("not found", 404))
            return
        if (
            self.headers.get("X-SUBDOMAIN") != SANDBOX_SUBDOMAIN
            or self.headers.get("X-AUTH-TOKEN") != account.api_key
        ):
            self._refuse(Refusal("Invalid subdomain or API key", 401))
            return
        query = parse_qsl(parts.query, keep_blank_values=True)
        if parts.path.startswith(CONTROLS):
            path = "/" + parts.path.removeprefix(CONTROLS)
            self._answer(controls.answer, Request(method, path, query, sent))
            return
        wait = account.throttled()
        if wait is not None:
            self._too_many(wait)
            return
        fault = account.faults.next()
        if fault is not None and self._misbehave(fault):
            return
        path = parts.path.removeprefix(PREFIX).rstrip("/")
        self._answer(routes.answer, Request(method, path, query, sent), fault)

    def _body(self) -> bytes:
        """What was sent, in one piece or in chunks. Raises ValueError when it is neither."""
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            return self.rfile.read(_size(self.headers.get("Content-Length") or "0", 10))
        sent = bytearray()
        while size := _size(self.rfile.readline().partition(b";")[0].decode("latin-1"), 16):
            sent += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            """Trailers are of no interest."""
        return bytes(sent)

    def _answer(
        self,
        route: Callable[[InventedAccount, Request], Answer],
        request: Request,
        fault: FaultKind | None = None,
    ) -> None:
        try:
            answer = route(self.account, request)
        except Refusal as refusal:
            self._refuse(refusal)
        else:
            self._send(answer, fault)

    def _misbehave(self, fault: FaultKind) -> bool:
        """True when there is nothing more to answer."""
        sandbox = self.account
        if fault.startswith("error_"):
            self._refuse(Refusal("something went wrong", int(fault.removeprefix("error_"))))
        elif fault.startswith("html_"):
            self._send(page_of_a_proxy(int(fault.removeprefix("html_"))))
        elif fault == "rate_limited":
            self._too_many(1)
        elif fault == "wrong_shape":
            self._send(Answer(200, b'{"status":"ok"}'))
        elif fault == "redirect":
            self._send(Answer(302, headers={"Location": "http://127.0.0.2:9/elsewhere"}))
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
        form = self.account.switches.retry_after
        whole = int(wait) + 1
        value = {"seconds": str(whole), "date": formatdate(time.time() + whole, usegmt=True)}
        headers = {"Retry-After": value[form]} if form != "none" else {}
        refused = Refusal("Too many requests", 429).answer(self.account.switches.error_shape)
        self._send(replace(refused, headers=headers))

    def _refuse(self, refusal: Refusal) -> None:
        self._send(refusal.answer(self.account.switches.error_shape))

    def _send(self, answer: Answer, fault: FaultKind | None = None) -> None:
        body = answer.body
        if fault == "truncated":
            body = body[: len(body) // 2]
        self.account.requests.append((self.command, self.path, answer.status))
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        head = b"".join(self._headers_buffer) + b"\r\n"
        self._headers_buffer: list[bytes] = []
        if fault == "broken_off":
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(head + body)


def _size(text: str, base: int) -> int:
    """Raises ValueError."""
    size = int(text.strip(), base)
    if size < 0:
        raise ValueError(text)
    return size
