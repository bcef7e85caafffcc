"""The flags of `rms-pipeline sandbox`."""

from typing import Any

import pytest
import requests

import rms_pipeline.sandbox
from rms_pipeline.cli import sandbox as sandbox_command
from rms_pipeline.ports import PortTaken
from rms_pipeline.sandbox import SandboxServer, Store, Switches
from rms_pipeline.settings import SettingsError


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Switches]:
    """The switches of each sandbox that the command would serve."""
    found: list[Switches] = []

    class Noted(SandboxServer):
        def serve_forever(self) -> None:
            found.append(self.switches)
            self.close()
            self._http.server_close()

    monkeypatch.setattr(rms_pipeline.sandbox, "SandboxServer", Noted)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    return found


def start(**flags: Any) -> None:
    sandbox_command.sandbox(port=0, rows=1, **flags)


def test_without_flags_it_is_the_api_of_today(served: list[Switches]) -> None:
    start()
    assert served == [Switches()]
    assert (served[0].api, served[0].max_per_page) == ("v2.1", 25)


def test_the_api_before_june_is_one_flag(served: list[Switches]) -> None:
    start(api="v1")
    assert served == [Switches(api="v1")]
    assert served[0].max_per_page == 100


def test_every_switch_is_a_flag(served: list[Switches]) -> None:
    start(
        api="v1",
        switch=["gone_status=410", "retry_after=none", "lists_twice=[7]", "unknown_predicate=400",
                'refused_includes={"venue":422}', "lists_lag=1.5", 'bodies={"7": "e30="}'],
    )  # fmt: skip
    assert served == [
        Switches(
            api="v1",
            gone_status=410,
            retry_after="none",
            lists_twice=frozenset({7}),
            unknown_predicate="400",
            refused_includes={"venue": 422},
            lists_lag=1.5,
            bodies={7: b"{}"},
        )
    ]


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("gone_status", "NAME=VALUE"),
        ("gone=410", "there is no switch gone"),
        ("gone_status=500", "gone_status"),
        ("max_per_page=many", "max_per_page"),
    ],
)
def test_a_flag_that_means_nothing_is_a_usage_error_that_says_why(pair: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        start(switch=[pair])


def test_a_port_that_is_taken_is_an_error_with_advice() -> None:
    with SandboxServer(Store()) as running:
        with pytest.raises(PortTaken, match="--port"):
            sandbox_command.sandbox(port=running.port, rows=1)
        assert requests.get(running.url, timeout=5).status_code == 404
