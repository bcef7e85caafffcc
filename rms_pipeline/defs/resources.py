"""What assets are given: the mirror's database, and the Current RMS API (or its stand-in)."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import requests
from pydantic import PrivateAttr, SecretStr

from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.defs.run_lock import lock_name
from rms_pipeline.mirror.budget import SharedBudget
from rms_pipeline.mirror.database import Database, advisory_lock
from rms_pipeline.mirror.embedded import open_database
from rms_pipeline.sandbox import (
    SANDBOX_API_KEY,
    SANDBOX_SUBDOMAIN,
    SandboxServer,
    Store,
)
from rms_pipeline.settings import CURRENT_RMS_BASE_URL, SANDBOX_PORT, Settings, settings

STANDIN_ROWS = 1_200


class MirrorResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The company's PostgreSQL. While a run has it, the run's lock says that its process lives."""

    _database: Database = PrivateAttr()

    @property
    def database(self) -> Database:
        return self._database

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["MirrorResource"]:
        self._database = open_database(settings())
        if context.run is None:
            yield self
            return
        with advisory_lock(self._database, lock_name(context.run.run_id)):
            yield self


class CurrentRmsResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Access to the account of CURRENT_RMS_SUBDOMAIN, or to the sandbox when there is none."""

    @contextmanager
    def client(self, database: Database) -> Iterator[CurrentRmsClient]:
        """A client stamping what it fetches by the database's clock."""
        with account(settings()) as (base_url, subdomain, api_key):
            budget = SharedBudget(database, subdomain, settings().requests_per_minute)
            client = CurrentRmsClient(
                base_url=base_url,
                subdomain=subdomain,
                api_key=api_key,
                budget=budget,
                now=database.clock(),
            )
            with contextlib.closing(budget), client:
                yield client


@contextmanager
def account(current: Settings) -> Iterator[tuple[str, str, SecretStr]]:
    """Where the API is, and the subdomain and key for it; a sandbox is served while inside if there
    is no account and none runs."""
    if current.subdomain is not None and current.api_key is not None:
        yield current.base_url or CURRENT_RMS_BASE_URL, current.subdomain, current.api_key
        return
    key = SecretStr(SANDBOX_API_KEY)
    running = current.base_url or f"http://127.0.0.1:{SANDBOX_PORT}/api/v1"
    if current.base_url or _is_sandbox(running):
        yield running, SANDBOX_SUBDOMAIN, key
        return
    # Nobody started one, as under bare `dagster dev`: the same seed gives the same data.
    with SandboxServer(Store(STANDIN_ROWS), port=0) as server:
        yield server.url, SANDBOX_SUBDOMAIN, key


def _is_sandbox(url: str) -> bool:
    try:
        answer = requests.get(
            f"{url}/opportunities?per_page=1",
            headers={"X-SUBDOMAIN": SANDBOX_SUBDOMAIN, "X-AUTH-TOKEN": SANDBOX_API_KEY},
            timeout=5,
            allow_redirects=False,
        )
    except requests.RequestException:
        return False
    return answer.status_code in (200, 429)
