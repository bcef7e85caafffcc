"""The client against the sandbox: patience, pace and refusals."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from requests.structures import CaseInsensitiveDict

from rms_pipeline.current_rms import answers, transport
from rms_pipeline.current_rms.client import CurrentRmsClient, Patience
from rms_pipeline.current_rms.errors import ApiUnavailable, Unprocessable
from rms_pipeline.sandbox import Faults, SandboxServer, Store, Switches

MakeClient = Callable[..., CurrentRmsClient]


@pytest.mark.parametrize("form", ["seconds", "date", "none"])
def test_a_429_is_waited_out_in_every_form_of_retry_after(
    form: str, client_for: MakeClient
) -> None:
    faults = Faults(queue=["rate_limited", "rate_limited"])
    switches = Switches(retry_after=form)  # type: ignore[arg-type]
    with SandboxServer(Store(5), faults=faults, switches=switches) as sandbox:
        client = client_for(sandbox.url)
        assert client.list_records(()).page.meta.total_row_count >= 3
    assert client.counts.throttled == 2
    assert client.counts.calls == 3


def test_retry_after_as_a_date_is_read_by_the_clock_of_the_api() -> None:
    here = datetime(2020, 1, 1, tzinfo=UTC)
    headers = CaseInsensitiveDict(
        {
            "Date": format_datetime(here, usegmt=True),
            "Retry-After": format_datetime(here + timedelta(seconds=7), usegmt=True),
        }
    )
    assert answers.retry_after(headers) == 7


@pytest.mark.parametrize("value", ["²", "soon", "", "1.2.3"])
def test_a_retry_after_that_is_not_readable_says_nothing(value: str) -> None:
    assert answers.retry_after({"Retry-After": value}) is None


def test_an_api_that_only_says_429_ends_with_a_reason(client_for: MakeClient) -> None:
    patience = Patience(throttled=0.5)
    with (
        SandboxServer(Store(1), faults=Faults(probabilities={"rate_limited": 1})) as sandbox,
        pytest.raises(ApiUnavailable, match="CURRENT_RMS_REQUESTS_PER_MINUTE"),
    ):
        client_for(sandbox.url, patience=patience).list_records(())


def test_maintenance_that_promises_to_take_long_is_asked_again_before(
    client_for: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setattr(transport, "retry_after", lambda _: 86_400.0)
    with SandboxServer(Store(5), faults=Faults(queue=["error_503"])) as sandbox:
        client_for(sandbox.url, patience=Patience()).list_records(())
    assert waits == [30.0]


def test_a_limit_that_one_does_not_wait_for_holds_the_others_too(client_for: MakeClient) -> None:
    with SandboxServer(Store(5), faults=Faults(queue=["rate_limited"])) as sandbox:
        client = client_for(sandbox.url, patience=Patience(throttled=0))
        with pytest.raises(ApiUnavailable):
            client.list_records(())
        asked = time.monotonic()
        client.list_records(())
    assert time.monotonic() - asked > 0.5


def test_an_unknown_parameter_is_final_and_quotes_the_api(client_for: MakeClient) -> None:
    with SandboxServer(Store(1), switches=Switches(unknown_predicate="422")) as sandbox:
        with pytest.raises(Unprocessable, match="nonsense_eq"):
            client_for(sandbox.url).list_records((("q[nonsense_eq]", "1"),))
        assert len(sandbox.requests) == 1


def test_calls_are_paced_below_the_limit_and_never_throttled(client_for: MakeClient) -> None:
    with SandboxServer(Store(1), requests_per_minute=600) as sandbox:
        client = client_for(sandbox.url, requests_per_minute=600)
        began = time.monotonic()
        for _ in range(15):
            client.list_records(())
        took = time.monotonic() - began
    assert client.counts.throttled == 0
    assert took >= 14 * 60 / (600 * 0.9) - 0.01


def test_connections_are_reused(client_for: MakeClient) -> None:
    with SandboxServer(Store(1)) as sandbox:
        client = client_for(sandbox.url)
        for _ in range(5):
            client.list_records(())
        assert len(sandbox.requests) == 5
        assert sandbox.connections == 1
