"""The web service on a real port, with a real database and a sandbox."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import requests
import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.client import CurrentRmsClient, Patience
from rms_pipeline.current_rms.pacing import ProcessBudget
from rms_pipeline.mirror.database import Database
from rms_pipeline.sandbox import SANDBOX_API_KEY, SANDBOX_SUBDOMAIN, SandboxServer, Store
from rms_pipeline.settings import Settings, load_settings
from rms_pipeline.sync.queued import WorkedOff
from rms_pipeline.web.access import Access
from rms_pipeline.web.app import create_app
from rms_pipeline.web.dagster_link import Starting
from rms_pipeline.web.fast_lane import ClientFactory, FastLane
from rms_pipeline.web.launching import Launcher
from rms_pipeline.web.metrics import Metrics
from rms_pipeline.web.server import server_config
from rms_pipeline.web.sockets import Limits
from rms_pipeline_tests.conftest import QUICK, dagsters_tables

WEBHOOK_TOKEN = "planted-webhook-token-5512"
API_TOKEN = "planted-api-token-9341"
BEARER = {"Authorization": f"Bearer {API_TOKEN}"}
# Nothing listens on port 1.
NO_DAGSTER = "http://127.0.0.1:1"


@dataclass
class Web:
    url: str
    database: Database
    sandbox: SandboxServer
    metrics: Metrics
    done: list[WorkedOff]
    app: FastAPI
    access: Access
    server: uvicorn.Server

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


def clients_of(sandbox: SandboxServer, database: Database) -> ClientFactory:
    """Return a function that makes clients for opportunities.

    They use the clock of the database, short waits and no limit.
    """

    @contextmanager
    def client() -> Iterator[CurrentRmsClient]:
        with CurrentRmsClient(
            collection=OPPORTUNITIES,
            base_url=sandbox.url,
            subdomain=SANDBOX_SUBDOMAIN,
            api_key=SecretStr(SANDBOX_API_KEY),
            budget=ProcessBudget(0),
            patience=QUICK,
        ) as made:
            made.now = database.clock()
            yield made

    return client


@contextmanager
def serving(
    database: Database,
    sandbox: SandboxServer,
    *,
    client: ClientFactory | None = None,
    current: Settings | None = None,
    dagster_url: str = NO_DAGSTER,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    previous_token: str | None = None,
    limits: Limits | None = None,
    starting: Starting | None = None,
) -> Iterator[Web]:
    """The service over these. It has a fast lane if there is a `client` for it."""
    metrics = Metrics()
    done: list[WorkedOff] = []
    services = (
        [FastLane(database, [client], metrics, lambda _, each: done.append(each))] if client else []
    )
    server: uvicorn.Server
    current = current or load_settings(_env_file=None, RMS_COLLECTIONS="opportunities")
    access = Access(SecretStr(API_TOKEN), clock=clock, sleep=sleep, public_url=current.public_url)
    tokens = [WEBHOOK_TOKEN, *([previous_token] if previous_token else [])]
    app = create_app(
        database,
        current=current,
        webhook_tokens=[SecretStr(token) for token in tokens],
        access=access,
        metrics=metrics,
        launcher=Launcher(
            database, dagster_url, location=current.dagster_location, name=current.in_dagster
        ),
        services=services,
        client=client,
        starting=starting,
        stopping=lambda: server.should_exit,
    )
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(
        server_config(app, "127.0.0.1", 0, current.trusted_proxies, limits=limits)
    )
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not server.started:
            assert thread.is_alive(), "the service did not start"
            assert time.monotonic() < deadline, "the service does not start"
            time.sleep(0.01)
        yield Web(url, database, sandbox, metrics, done, app, access, server)
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        listener.close()


@pytest.fixture(scope="module")
def migrated(ready: Database) -> Database:
    """Also with Dagster's tables: to make them anew takes longer than most modules here."""
    return ready


@pytest.fixture(scope="module")
def standing(migrated: Database) -> Iterator[Web]:
    """One service for a module, without a fast lane, over `migrated`."""
    with (
        dagsters_tables(migrated),
        SandboxServer(Store(1)) as sandbox,
        serving(migrated, sandbox) as web,
    ):
        yield web


@pytest.fixture
def web(standing: Web, emptied: Database) -> Web:
    """`standing` with an empty database."""
    assert standing.database is emptied
    return standing


@pytest.fixture
def serve(
    database: Database, client_for: Callable[..., CurrentRmsClient]
) -> Iterator[Callable[..., Web]]:
    """Starts the service, by default with a fast lane."""
    with contextlib.ExitStack() as stack:

        def start(
            store: Store | None = None,
            *,
            fast_lane: bool = True,
            patience: Patience = QUICK,
            **options: Any,
        ) -> Web:
            sandbox = stack.enter_context(SandboxServer(store or Store(20)))

            @contextmanager
            def client() -> Iterator[CurrentRmsClient]:
                made = client_for(sandbox.url, patience=patience)
                made.now = database.clock()
                yield made

            lane = client if fast_lane else None
            return stack.enter_context(serving(database, sandbox, client=lane, **options))

        yield start
