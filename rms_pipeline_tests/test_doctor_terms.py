"""The doctor on what the account grants: page size, includes that are refused, webhooks that are
switched off."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.errors import WebhooksOff
from rms_pipeline.current_rms.webhooks import register
from rms_pipeline.doctor import accounts, webhooks
from rms_pipeline.doctor.finding import Examination, Finding, Level
from rms_pipeline.mirror.api_terms import StoredTerms
from rms_pipeline.mirror.database import Database
from rms_pipeline.sandbox import SANDBOX_SUBDOMAIN, SandboxServer, Store, Switches
from rms_pipeline.settings import settings

TOKEN = "planted-token-77ab31"


@contextlib.contextmanager
def examination(
    monkeypatch: pytest.MonkeyPatch, database: Database, sandbox: SandboxServer
) -> Iterator[Examination]:
    monkeypatch.delenv("CURRENT_RMS_SUBDOMAIN", raising=False)
    monkeypatch.delenv("CURRENT_RMS_API_KEY", raising=False)
    monkeypatch.setenv("CURRENT_RMS_BASE_URL", sandbox.url)
    monkeypatch.setenv("RMS_WEBHOOK_TOKEN", TOKEN)
    settings.cache_clear()
    yield Examination(settings(), database, tables_ready=True)
    settings.cache_clear()


def only(findings: Iterator[Finding]) -> Finding:
    (found,) = findings
    return found


def test_what_the_account_refuses_is_told_with_since_when_and_what_follows(
    monkeypatch: pytest.MonkeyPatch, emptied: Database
) -> None:
    switches = Switches(refused_includes={"venue": 422})
    with (
        SandboxServer(Store(5), switches=switches) as sandbox,
        examination(monkeypatch, emptied, sandbox) as exam,
    ):
        found = only(accounts.check_terms(exam))
        assert (found.level, "not known yet" in found.found) == (Level.OK, True)
        terms = StoredTerms(emptied, SANDBOX_SUBDOMAIN, OPPORTUNITIES)
        terms.set_page_size(25)
        assert only(accounts.check_terms(exam)).found == "A page of the API holds up to 25 records."
        terms.note("include", "venue", 422, datetime.now(UTC))
        found = only(accounts.check_terms(exam))
        assert found.level == Level.WARNING
        assert f"include venue refused with 422 as of {datetime.now(UTC):%Y-%m-%d}" in found.found
        assert "migrate" in found.advice
        # What is known is gone by: one call, although the include is still refused.
        list(accounts.check_credentials(exam))
        assert len(sandbox.requests) == 1


def test_the_doctor_says_where_to_switch_on_webhooks_that_are_off(
    monkeypatch: pytest.MonkeyPatch, emptied: Database, client_for: object
) -> None:
    with (
        SandboxServer(Store(5), switches=Switches(webhooks_enabled=False)) as sandbox,
        examination(monkeypatch, emptied, sandbox) as exam,
    ):
        list(accounts.check_credentials(exam))
        found = only(webhooks.check_subscriptions(exam))
        assert found.level == Level.WARNING
        assert "Webhooks are not enabled for this account" in found.found
        assert "System Setup > Company Information" in found.advice
        assert callable(client_for)
        client: CurrentRmsClient = client_for(sandbox.url)
        with pytest.raises(WebhooksOff, match="System Setup > Company Information"):
            register(client, "https://rms.example.com", SecretStr(TOKEN))
