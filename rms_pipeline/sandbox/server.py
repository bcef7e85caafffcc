"""The invented account as a server on this machine."""

import threading
from http.server import ThreadingHTTPServer
from typing import Any

from rms_pipeline.sandbox.account import SANDBOX_API_KEY, InventedAccount
from rms_pipeline.sandbox.deliveries import WebhookSwitches
from rms_pipeline.sandbox.faults import Faults
from rms_pipeline.sandbox.handler import PREFIX, Handler
from rms_pipeline.sandbox.store import Store
from rms_pipeline.sandbox.switches import Switches


class PortInUseError(Exception):
    """Another program listens where the sandbox should. Its text says what to do."""


class SandboxServer(InventedAccount):
    """Serves `store` as Current RMS would, at `url`. `port` 0 takes a free one."""

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
        super().__init__(
            store,
            switches=switches,
            faults=faults,
            webhooks=webhooks,
            requests_per_minute=requests_per_minute,
            latency_ms=latency_ms,
            api_key=api_key,
        )
        handler = type("OwnHandler", (Handler,), {"account": self})
        try:
            self._http = _Server((host, port), handler)
        except OSError as error:
            self.close()
            raise PortInUseError(
                f"Port {port} on {host} is in use, or this user has no right to it "
                f"({error.strerror}). Stop the other program, or choose another port with --port "
                "(--sandbox-port with `rms-pipeline up`)."
            ) from None
        self.port: int = self._http.server_address[1]
        self.url = f"http://{host}:{self.port}{PREFIX}"

    def serve_forever(self) -> None:
        """Serves until `stop`, in this thread."""
        self._http.serve_forever(poll_interval=0.1)

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, name="sandbox", daemon=True).start()

    def stop(self) -> None:
        self.close()
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
