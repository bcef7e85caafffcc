"""Which account is mirrored: that of the settings, or the sandbox if there is none."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import requests
from pydantic import SecretStr

from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.client import CurrentRmsClient, Patience
from rms_pipeline.current_rms.loopback import session_for
from rms_pipeline.errors import RmsPipelineError
from rms_pipeline.mirror.api_terms import StoredTerms
from rms_pipeline.mirror.api_troubles import NotedTroubles
from rms_pipeline.mirror.budget import SharedBudget
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.obstacles import demand_no_obstacle
from rms_pipeline.mirror.ownership import claim_mirror
from rms_pipeline.sandbox import (
    SANDBOX_API_KEY,
    SANDBOX_SUBDOMAIN,
    SandboxServer,
    Store,
)
from rms_pipeline.settings import CURRENT_RMS_BASE_URL, SANDBOX_PORT, Settings

STANDIN_ROWS = 1_200


class NoAccountError(RmsPipelineError):
    """No account is configured, and no sandbox is running."""


class Account(NamedTuple):
    """How to reach the API of one account."""

    base_url: str
    subdomain: str
    api_key: SecretStr


@contextmanager
def open_account(current: Settings) -> Iterator[Account]:
    """The account, or a running sandbox, or a sandbox that runs as long as the context."""
    account = _configured_or_running(current)
    if account is not None:
        yield account
        return
    # Nobody started one, as under bare `dagster dev`: the same seed gives the same data.
    with SandboxServer(Store(STANDIN_ROWS), port=0) as server:
        yield Account(server.url, SANDBOX_SUBDOMAIN, SecretStr(SANDBOX_API_KEY))


def lasting_account(current: Settings) -> Account:
    """The account, or a running sandbox, for values that have to outlive this process.

    Raises NoAccountError.
    """
    account = _configured_or_running(current)
    if account is None:
        raise NoAccountError(
            f"No account is configured, and no sandbox answers on port {SANDBOX_PORT}. Set "
            "CURRENT_RMS_SUBDOMAIN and CURRENT_RMS_API_KEY, or start `rms-pipeline up` or "
            "`rms-pipeline sandbox` first."
        )
    return account


def account_name(current: Settings) -> str:
    """The subdomain, which is the key of the account's request budget. The sandbox has one too."""
    return current.subdomain or SANDBOX_SUBDOMAIN


@contextmanager
def client_for(
    current: Settings,
    database: Database,
    collection: Collection,
    *,
    patience: Patience | None = None,
) -> Iterator[CurrentRmsClient]:
    """A client for `collection` of the account.

    It marks what it fetches with the time of the database's clock. It shares the account's request
    budget with every other process. Raises DatabaseError if the database mirrors another account,
    or if an object that people added to its tables would make a sync do harm.
    """
    with database.with_one_connection() as once:
        claim_mirror(once, account_name(current), sandbox=SANDBOX_SUBDOMAIN)
        with once.session() as connection:
            demand_no_obstacle(connection)
        now = once.clock()
    with open_account(current) as account:
        budget = SharedBudget(database, account.subdomain, current.request_limit)
        client = CurrentRmsClient(
            collection=collection,
            base_url=account.base_url,
            subdomain=account.subdomain,
            api_key=account.api_key,
            budget=budget,
            patience=patience,
            now=now,
            terms=StoredTerms(database, account.subdomain, collection),
            tell=NotedTroubles(database, account.subdomain, collection),
        )
        with contextlib.closing(budget), client:
            yield client


def _configured_or_running(current: Settings) -> Account | None:
    if current.subdomain is not None and current.api_key is not None:
        url = current.base_url or CURRENT_RMS_BASE_URL
        return Account(url, current.subdomain, current.api_key)
    running = current.base_url or f"http://127.0.0.1:{SANDBOX_PORT}/api/v1"
    if current.base_url or _is_sandbox(running):
        return Account(running, SANDBOX_SUBDOMAIN, SecretStr(SANDBOX_API_KEY))
    return None


def _is_sandbox(url: str) -> bool:
    try:
        with session_for(url) as session:
            answer = session.get(
                f"{url}/opportunities?per_page=1",
                headers={"X-SUBDOMAIN": SANDBOX_SUBDOMAIN, "X-AUTH-TOKEN": SANDBOX_API_KEY},
                timeout=5,
                allow_redirects=False,
            )
    except requests.RequestException:
        return False
    return answer.status_code in (200, 429)
