"""A small real receiver of webhooks."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

Answer = tuple[int, dict[str, str]]


class Received(NamedTuple):
    """One delivery. `at` is monotonic seconds. `action` is what the body has below `action`."""

    at: float
    path: str
    content_type: str
    action: dict[str, Any]
    keys: set[str]


class Receiver:
    """Answers each POST with the status and headers that `answer` returns, by default 200."""

    def __init__(
        self, answer: Callable[[Received], Answer] | None = None, *, port: int = 0
    ) -> None:
        self.received: list[Received] = []
        self.connections = 0
        self.answer = answer or (lambda _: (200, {}))
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                receiver.connections += 1
                super().setup()

            def do_POST(self) -> None:
                sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                received = Received(
                    time.monotonic(),
                    self.path,
                    self.headers["Content-Type"],
                    sent["action"],
                    set(sent),
                )
                receiver.received.append(received)
                status, headers = receiver.answer(received)
                body = b'{"success": true}'
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self._headers_buffer.append(b"\r\n" + body)  # type: ignore[attr-defined]
                self.flush_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Log nothing."""

        self._http = _Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def types(self) -> list[str]:
        """The `action_type` of everything received, in order of arrival."""
        return [r.action["action_type"] for r in self.received]

    @property
    def ids(self) -> list[int]:
        return [r.action["id"] for r in self.received]

    def __enter__(self) -> "Receiver":
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore the end of a sandbox."""
