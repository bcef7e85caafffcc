"""The sandbox as a server on this machine."""

import threading
from collections import deque
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import Any

from rms_pipeline.errors import RmsPipelineError
from rms_pipeline.sandbox.deliveries import Deliveries, WebhookSwitches
from rms_pipeline.sandbox.handler import PREFIX, Handler
from rms_pipeline.sandbox.limit import Limit
from rms_pipeline.sandbox.store import Store
from rms_pipeline.sandbox.switches import Faults, Switches
from rms_pipeline.sandbox.webhooks import Webhooks

SANDBOX_API_KEY = "sandbox-key"


class PortInUseError(RmsPipelineError):
    """Another program listens where the sandbox should."""


class SandboxServer:
    """Serves `store` as Current RMS would. `port` 0 takes a free one; `requests_per_minute` 0 means
    no limit; `latency_ms` delays every answer.

    `requests` holds the last calls as (method, path with query, status). `before_request` is called
    before each, to move the world while a client is reading. `connections` counts those accepted.
    `deliveries` tells the subscriptions of `webhooks` what happens to the store, until `stop`.
    """

    def __init__(
        self,
        store: Store,
        *,
        switches: Switches | None = None,
        faults: Faults | None = None,
        webhooks: WebhookSwitches | None = None,
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
        self.before_request: Callable[[str], object] | None = None
        self.connections = 0
        self.api_key = api_key
        self.latency = latency_ms / 1000
        self.closing = threading.Event()
        self._limit = Limit(requests_per_minute)
        self.webhooks = Webhooks(store.now)
        self.deliveries = Deliveries(self.webhooks, webhooks)
        sandbox = self

        class OwnHandler(Handler):
            server_of = sandbox

        try:
            self._http = _Server((host, port), OwnHandler)
        except OSError as error:
            raise PortInUseError(
                f"Port {port} on {host} is in use or may not be used ({error.strerror}). "
                "Stop the other program, or choose another port with --port "
                "(--sandbox-port with `rms-pipeline up`)."
            ) from None
        self.port: int = self._http.server_address[1]
        self.url = f"http://{host}:{self.port}{PREFIX}"
        self._stop_listening = store.listen(self.deliveries.deliver)

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
        self._stop_listening()
        self.deliveries.close()
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
