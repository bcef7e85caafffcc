"""Limits of connections, seconds and bytes, for one client and for all clients of a server.

uvicorn has no time limit for a request that is never finished, and none for an answer that is never
read. This protocol on top of h11 (which limits the size of a header) has both, and a limit of
connections. A connection that waits for its client is closed when a new one needs room. So a client
with a thousand connections does not shut out others.
"""

import asyncio
import ipaddress
import json
import logging
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Any

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds, bytes, and bytes a second of one server. `connections` has to be less than the 1,024
    files that a process can open by default. `many_behind` are addresses and networks of proxies,
    to which the limit of one address does not apply."""

    connections: int = 512
    connections_of_one_address: int = 256
    header_seconds: float = 10.0
    header_bytes: int = 32 * 1024
    body_seconds: float = 20.0
    body_rate: int = 16 * 1024
    stall_seconds: float = 20.0
    drain_seconds: float = 5.0
    many_behind: tuple[str, ...] = ()


class _Connections:
    """The connections of a server. `waiting` are those that wait for their client, the longest
    first."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.open: dict[LimitedProtocol, str] = {}
        self.waiting: OrderedDict[LimitedProtocol, None] = OrderedDict()
        self._of_address: Counter[str] = Counter()
        self._proxies = [ipaddress.ip_network(each, strict=False) for each in limits.many_behind]

    def admit(self, connection: "LimitedProtocol", address: str) -> bool:
        """Accepts the connection, and closes a waiting one if necessary. False if none can be
        closed."""
        most = self.limits.connections_of_one_address
        if self._of_address[address] >= most and not self._is_proxy(address):
            first = next((c for c in self.waiting if self.open[c] == address), None)
        elif len(self.open) >= self.limits.connections:
            first = next(iter(self.waiting), None)
        else:
            first = connection
        if first is None:
            return False
        if first is not connection:
            first.hang_up()
        self.open[connection] = address
        self._of_address[address] += 1
        return True

    def _is_proxy(self, address: str) -> bool:
        return bool(address) and any(
            ipaddress.ip_address(address) in each for each in self._proxies
        )

    def forget(self, connection: "LimitedProtocol") -> None:
        self.waiting.pop(connection, None)
        address = self.open.pop(connection, None)
        if address is not None:
            self._of_address[address] -= 1
            if not self._of_address[address]:
                del self._of_address[address]


class LimitedProtocol(H11Protocol):
    """One connection. `within` creates it with the limits."""

    connections_within: _Connections

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.app = _without_two_lengths(self.app)
        self._limits = self.connections_within.limits
        self._waits_for: str | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._began = 0.0
        self._received = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self.connections_within.admit(self, self.client[0] if self.client else ""):
            self._answer(503, "Too many connections are open. Try again in a moment.")
            return
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._let_go()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self.transport.is_closing():
            return
        try:
            super().data_received(data)
        except h11.LocalProtocolError:
            # uvicorn answers 400 where an answer has begun already.
            self.hang_up()
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        # From here on it is another protocol's, which has limits and pings of its own.
        self._let_go()
        super().handle_websocket_upgrade(event)

    def hang_up(self) -> None:
        """Closes the connection now, even if data is unsent."""
        self._let_go()
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        if self._waits_for != "header" and self._has_begun_to_answer:
            self.hang_up()
        elif self._waits_for == "header" and self._received > self._limits.header_bytes:
            self._answer(431, "The header of the request is too big.")
        else:
            self._answer(400, "The request is not valid HTTP.")

    def _unsupported_upgrade_warning(self) -> None:
        """Logs nothing. Otherwise any client could fill the disk with log lines."""

    def pause_writing(self) -> None:
        super().pause_writing()
        if self in self.connections_within.open:
            # It waits for its client to read, whatever else is still to be done.
            self.connections_within.waiting[self] = None
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._waits_for is None:
            self.connections_within.waiting.pop(self, None)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch_reader()

    def _look(self) -> None:
        """Starts or stops the timer, after an event that may have changed which side has to act."""
        if self not in self.connections_within.open:
            return
        if self.transport.is_closing():
            self._wait_for("nothing")
            self._watch_reader()
            return
        theirs, answered = self.conn.their_state, self.cycle and self.cycle.response_complete
        if theirs is h11.IDLE:
            self._wait_for("header", self._limits.header_seconds)
        elif theirs is h11.SEND_BODY:
            # What is still sent of a request that is answered may come to its end, so that the
            # client gets to reading. Not without end.
            if answered:
                self._wait_for("rest", self._limits.drain_seconds)
            else:
                self._wait_for("body", self._limits.body_seconds)
        else:
            self._wait_for(None)

    def _wait_for(self, what: str | None, seconds: float | None = None) -> None:
        if what == self._waits_for:
            return
        self._waits_for = what
        self._began, self._received = self.loop.time(), 0
        self._cancel("_deadline")
        self.connections_within.waiting.pop(self, None)
        if what is not None or self.flow.write_paused:
            self.connections_within.waiting[self] = None
        if seconds is not None:
            self._deadline = self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if self._waits_for == "body":
            allowed = self._limits.body_seconds + self._received / self._limits.body_rate
            left = self._began + allowed - self.loop.time()
            if self.flow.read_paused or left > 0:
                # It is we who do not read, or it comes, if not fast.
                self._deadline = self.loop.call_later(max(left, 1.0), self._give_up)
                return
        if self.transport.get_write_buffer_size():
            # It reads the last answer still; that has a clock of its own.
            self._watch_reader()
            self._deadline = self.loop.call_later(self._limits.stall_seconds, self._give_up)
        elif self._waits_for == "header" and not self._received:
            self.transport.close()
        elif self._waits_for == "rest" or (self._waits_for == "body" and self._has_begun_to_answer):
            self.hang_up()
        else:
            self._answer(408, "The request took too long to arrive.")

    @property
    def _has_begun_to_answer(self) -> bool:
        return self.cycle is not None and self.cycle.response_started

    def _watch_reader(self) -> None:
        """Closes the connection of a client that reads almost nothing of its answer."""
        if self._stall is None:
            left = self.transport.get_write_buffer_size()
            self._stall = self.loop.call_later(self._limits.stall_seconds, self._check_reader, left)

    def _check_reader(self, before: int) -> None:
        self._stall = None
        left = self.transport.get_write_buffer_size()
        must = min(before, int(1024 * self._limits.stall_seconds))
        if (self.flow.write_paused or self.transport.is_closing()) and left > before - must:
            self.hang_up()
        elif left:
            self._watch_reader()

    def _answer(self, status: int, text: str) -> None:
        """Answers with the reason before the application runs, and closes the connection."""
        body = json.dumps({"success": False, "error": text}).encode()
        phrase = {400: "Bad Request", 408: "Request Timeout", 503: "Service Unavailable"}
        head = (
            f"HTTP/1.1 {status} {phrase.get(status, 'Request Header Fields Too Large')}\r\n"
            "content-type: application/json\r\nx-content-type-options: nosniff\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
        self._look()
        if self.cycle is not None and not self.cycle.response_complete:
            # A reader that waits for the rest of the body must not wait any longer.
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _let_go(self) -> None:
        self._cancel("_deadline")
        self._cancel("_stall")
        self.connections_within.forget(self)

    def _cancel(self, name: str) -> None:
        timer: asyncio.TimerHandle | None = getattr(self, name)
        if timer is not None:
            timer.cancel()
            setattr(self, name, None)


def _without_two_lengths(application: ASGIApp) -> Any:
    """`application`, for requests with one length only. If a request has both kinds of length, h11
    uses chunks. A proxy that uses the other one would take the rest for the request of another
    client."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        names = {name for name, _ in scope["headers"]}
        if not {b"content-length", b"transfer-encoding"} <= names:
            await application(scope, receive, send)
            return
        told = "Send either Content-Length or Transfer-Encoding, not both."
        body = json.dumps({"success": False, "error": told}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"x-content-type-options", b"nosniff"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": 400, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return answer


def _is_about_us(record: logging.LogRecord) -> bool:
    """Logs nothing for invalid requests. Otherwise any client could fill the disk with log
    lines."""
    return record.msg != "Invalid HTTP request received."


def within(limits: Limits) -> dict[str, Any]:
    """Options of `uvicorn.Config` for a server with `limits`."""
    logging.getLogger("uvicorn.error").addFilter(_is_about_us)
    protocol = type(
        "LimitedProtocolOfOneServer",
        (LimitedProtocol,),
        {"connections_within": _Connections(limits)},
    )
    return {
        "http": protocol,
        "h11_max_incomplete_event_size": limits.header_bytes,
        # So many are accepted at once before the first of them is looked at.
        "backlog": 256,
    }
