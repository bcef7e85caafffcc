"""The secrets of the web service: one for all processes, nobody else's to read."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from rms_pipeline.settings import SettingsError, load_settings
from rms_pipeline.web.tokens import api_token, kept_token, webhook_token
from rms_pipeline_tests.forks import Child


def test_processes_that_start_together_agree_on_one_token(tmp_path: Path) -> None:
    path = tmp_path / "state" / "api_token"
    reader, writer = os.pipe()
    started = [
        Child(
            *("rms_pipeline_tests.asks_for_token", str(path), str(reader)),
            env=os.environ,
            stdout=subprocess.PIPE,
            pass_fds=(reader,),
        )
        for _ in range(6)
    ]
    os.close(reader)
    os.close(writer)
    told = set[str]()
    for process in started:
        with process:
            told.add(process.communicate(timeout=60)[0])
    assert len(told) == 1
    (token,) = told
    assert len(token) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["api_token"]
    assert kept_token(path, "RMS_API_TOKEN").get_secret_value() == token
    assert token not in repr(kept_token(path, "RMS_API_TOKEN"))


@pytest.mark.parametrize("content", ["", "short", "sixteen or more, but not for a URL/?#"])
def test_a_file_without_a_token_is_an_error_that_names_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "webhook_token"
    path.write_text(content)
    with pytest.raises(SettingsError, match="Delete the file") as caught:
        kept_token(path, "RMS_WEBHOOK_TOKEN")
    assert str(path) in str(caught.value)
    assert not content or content not in str(caught.value)


def test_a_folder_that_cannot_be_made_is_an_error_that_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="Set RMS_API_TOKEN"):
        kept_token(tmp_path / "file" / "api_token", "RMS_API_TOKEN")


def test_the_environment_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMS_WEBHOOK_TOKEN", "hooks-0123456789_-.~")
    monkeypatch.setenv("RMS_API_TOKEN", "api-0123456789abcdef")
    current = load_settings()
    assert webhook_token(current).get_secret_value() == "hooks-0123456789_-.~"
    assert api_token(current).get_secret_value() == "api-0123456789abcdef"


@pytest.mark.parametrize("name", ["RMS_WEBHOOK_TOKEN", "RMS_API_TOKEN"])
@pytest.mark.parametrize("value", ["fifteen-letters", "sixteen letters!", "0123456789abcdef/x"])
def test_a_token_that_will_not_do_is_named_and_not_repeated(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"{name} .*16.*openssl") as caught:
        load_settings()
    assert value not in str(caught.value)
