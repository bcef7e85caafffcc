"""What is on this machine is reached without a proxy, whatever the environment says."""

import pytest

from rms_pipeline.account import lasting_account
from rms_pipeline.current_rms.loopback import session_for
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.settings import load_settings
from rms_pipeline.web import dagster_api
from rms_pipeline_tests.sync.conftest import MakeClient


@pytest.fixture(autouse=True)
def _proxied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that nobody answers at."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_the_sandbox_and_dagster_are_asked_directly(client_for: MakeClient) -> None:
    with SandboxServer(Store(5)) as sandbox:
        assert client_for(sandbox.url).count(()) >= 1
        current = load_settings(_env_file=None, CURRENT_RMS_BASE_URL=sandbox.url)
        assert lasting_account(current).base_url == sandbox.url
        assert not dagster_api.answers(f"{sandbox.url}/nothing")
        assert sandbox.requests[-1][1].endswith("/nothing")


def test_other_machines_are_asked_as_the_environment_says() -> None:
    assert session_for("https://api.current-rms.com/api/v1").trust_env
    for host in ("127.0.0.1:8401", "localhost", "[::1]:3000"):
        assert not session_for(f"http://{host}/").trust_env
