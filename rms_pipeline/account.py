"""Which Current RMS account is asked, and the client for it; the sandbox stands in for none."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

import requests
from pydantic import SecretStr

from rms_pipeline.current_rms.client import CurrentRmsClient, Patience
from rms_pipeline.mirror.budget import SharedBudget
from rms_pipeline.mirror.database import Database
from rms_pipeline.sandbox import SANDBOX_API_KEY, SANDBOX_SUBDOMAIN, SandboxServer, Store
from rms_pipeline.settings import CURRENT_RMS_BASE_URL, SANDBOX_PORT, Settings

STANDIN_ROWS = 1_200


def account_name(current: Settings) -> str:
    """The subdomain; the sandbox has one too."""
    return current.subdomain or SANDBOX_SUBDOMAIN


@contextmanager
def client_for(
    current: Settings, database: Database, *, patience: Patience | None = None
) -> Iterator[CurrentRmsClient]:
    """A client of the account, stamping what it fetches by the database's clock and sharing the
    account's budget with every other process."""
    with _account(current) as (base_url, subdomain, api_key):
        budget = SharedBudget(database, subdomain, current.requests_per_minute)
        client = CurrentRmsClient(
            base_url=base_url,
            subdomain=subdomain,
            api_key=api_key,
            budget=budget,
            patience=patience,
            now=database.clock(),
        )
        with contextlib.closing(budget), client:
            yield client


@contextmanager
def _account(current: Settings) -> Iterator[tuple[str, str, SecretStr]]:
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
