"""The web service on a real port, over a real database and a sandbox."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
import uvicorn
from pydantic import SecretStr

from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.mirror.database import Database
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.sync.queued import WorkedOff
from rms_pipeline.web.access import Access
from rms_pipeline.web.app import create_app
from rms_pipeline.web.fast_lane import FastLane
from rms_pipeline.web.metrics import Metrics

WEBHOOK_TOKEN = "planted-webhook-token-5512"
API_TOKEN = "planted-api-token-9341"


@dataclass
class Web:
    url: str
    database: Database
    sandbox: SandboxServer
    metrics: Metrics
    done: list[WorkedOff] = field(default_factory=list)

    def post(self, body: Any, token: str = WEBHOOK_TOKEN, **options: Any) -> requests.Response:
        where = f"{self.url}/api/webhook/{token}"
        if isinstance(body, bytes):
            return requests.post(where, data=body, timeout=30, **options)
        return requests.post(where, json=body, timeout=30, **options)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with self.database.session() as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()


def delivery(action: int, subject: int, **fields: Any) -> dict[str, Any]:
    return {
        "action": {
            "id": action,
            "subject_id": subject,
            "subject_type": "Opportunity",
            "action_type": "update",
            "member_id": 7,
            "member": {"id": 7, "name": "Somebody"},
            **fields,
        }
    }


@pytest.fixture
def serve(
    database: Database, client_for: Callable[..., CurrentRmsClient]
) -> Iterator[Callable[..., Web]]:
    """Starts the service, with a fast lane unless told."""
    stops: list[Callable[[], None]] = []

    def start(
        store: Store | None = None,
        *,
        fast_lane: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> Web:
        sandbox = SandboxServer(store or Store(20))
        sandbox.start()
        metrics = Metrics()
        web = Web("", database, sandbox, metrics)

        @contextmanager
        def client() -> Iterator[CurrentRmsClient]:
            made = client_for(sandbox.url)
            made.now = database.clock()
            yield made

        services = [FastLane(database, client, metrics, web.done.append)] if fast_lane else []
        app = create_app(
            database,
            account="sandbox",
            webhook_token=SecretStr(WEBHOOK_TOKEN),
            access=Access(SecretStr(API_TOKEN), clock=clock),
            metrics=metrics,
            services=services,
        )
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        web.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)

        def stop() -> None:
            server.should_exit = True
            thread.join(timeout=30)
            sandbox.stop()
            listener.close()

        stops.append(stop)
        return web

    yield start
    for stop in stops:
        stop()
