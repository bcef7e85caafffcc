"""The command, used wrongly: one or two sentences that say what to do, and the right exit code."""

import shutil
import socket
import sys
from pathlib import Path

import pytest

from rms_pipeline.cli.main import main
from rms_pipeline.ports import PortTaken, demand_different, demand_free_port
from rms_pipeline.settings import PROJECT_FILES, SettingsError, settings
from rms_pipeline_tests.processes import PROJECT, free_port
from rms_pipeline_tests.test_settings import VARIABLES

KEY, PASSWORD = "planted-key-2c6f1", "planted-password-77ab"

# As somebody would type them.
WITH_A_MIRROR = (
    *("status", "rebuild", "migrate", "migrate --plan", "sync initial", "sync incremental"),
    *("sync further-back 2020-01-01", "refresh 1", "webhooks replay", "fields"),
    *("fields promote a:text", "fields demote a", "fields label a 1=One"),
)
ALL = (
    *("up", "web", "roles", "webhooks list", "webhooks register https://rms.example.com"),
    *("webhooks remove", *WITH_A_MIRROR),
)


class Use:
    """Runs the command in this process, as its entry point does, with an account and a database
    that do not answer."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], home: Path
    ) -> None:
        self._monkeypatch, self._capfd = monkeypatch, capfd
        for name in PROJECT_FILES:
            shutil.copy(PROJECT / name, home)
        self._environment = {
            "CURRENT_RMS_SUBDOMAIN": "acme",
            "CURRENT_RMS_API_KEY": KEY,
            "CURRENT_RMS_BASE_URL": f"http://127.0.0.1:{free_port()}/api/v1",
            "POSTGRES_URL": f"postgresql://rms:{PASSWORD}@127.0.0.1:{free_port()}/rms",
            "DAGSTER_HOME": str(home),
        }

    def __call__(self, words: str, code: int, *texts: str, **changes: str | None) -> None:
        """Asserts the exit code, and that `texts` are in what it says."""
        with self._monkeypatch.context() as patch:
            for name, value in (self._environment | changes).items():
                if value is None:
                    patch.delenv(name, raising=False)
                else:
                    patch.setenv(name, value)
            patch.setattr(sys, "argv", ["rms-pipeline", *words.split()])
            settings.cache_clear()
            try:
                with pytest.raises(SystemExit) as ended:
                    main()
            finally:
                settings.cache_clear()
        told = self._capfd.readouterr()
        said = " ".join((told.err + told.out).replace("│", " ").split())
        assert ended.value.code == code, said
        for text in texts:
            assert text in said
        for never in ("Traceback", KEY, PASSWORD):
            assert never not in said


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Use:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return Use(monkeypatch, capfd, tmp_path)


@pytest.mark.parametrize("words", ALL)
def test_each_command_names_the_setting_that_is_wrong_and_shows_an_example(
    use: Use, words: str
) -> None:
    use(words, 2, "POSTGRES_URL is not a PostgreSQL URL", "Example: ", POSTGRES_URL="mysql://x/y")
    use(words, 2, "CURRENT_RMS_API_KEY is missing", CURRENT_RMS_API_KEY=None)
    use(words, 2, "RMS_SYNC_DAYS_BACK has to be 0 or more.", RMS_SYNC_DAYS_BACK="-5")
    use(words, 2, "RMS_SYNC_DAYS_AHEAD has to be a whole number.", RMS_SYNC_DAYS_AHEAD="1.5")
    use(
        words, 2, "RMS_PROOF_EVERY_MINUTES has to be 1,440 or less.", RMS_PROOF_EVERY_MINUTES="2000"
    )
    use(words, 2, "RMS_LOG_FORMAT has to be 'text' or 'json'.", RMS_LOG_FORMAT="xml")
    use(words, 2, "RMS_TIME_ZONE is not the name of a time zone", RMS_TIME_ZONE="Mars/Phobos")
    use(words, 2, "RMS_COLLECTIONS has frob in it", RMS_COLLECTIONS="frob")
    use(f"{words} --frob", 2, "No such option: --frob")


@pytest.mark.parametrize("words", WITH_A_MIRROR)
def test_each_command_says_what_to_do_about_a_database_that_does_not_answer(
    use: Use, words: str
) -> None:
    use(words, 1, "Connection refused. Check that the server is up, and the port in POSTGRES_URL.")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("frob", "No such command 'frob'"),
        ("sync frob", "No such command 'frob'"),
        ("refresh", "Missing argument"),
        ("refresh abc", "Invalid value for 'ids'"),
        ("refresh 0", "Invalid value for 'ids'"),
        ("refresh 9223372036854775808", "Invalid value for 'ids'"),
        ("refresh 1 --collection frob", "There is no collection frob. There are: opportunities,"),
        ("refresh 1 --collection members", "Set RMS_COLLECTIONS=opportunities,members"),
        ("refresh 1 --collection opportunity_items", "cannot be fetched by id"),
        ("sync further-back", "Give either a day, like 2025-01-01, or --as-set."),
        ("sync further-back 2020-01-01 --as-set", "Give either a day"),
        ("sync further-back yesterday", "'yesterday' is not a day like 2025-01-01."),
        ("sync further-back 2020-13-01", "is not a day like 2025-01-01."),
        ("sync further-back 2999-01-01", "is not a day before today"),
        ("web --port 65536", "Invalid value for '--port'"),
        ("up --port 8400 --dagster-port 8400", "--dagster-port and --port are both 8400."),
        ("up --host nowhere.invalid", "nowhere.invalid is not an address of this machine"),
        ("sandbox --rows -1", "Invalid value for '--rows'"),
        ("sandbox --switch gone_status", "gone_status=410"),
        ("sandbox --switch frob=1", "there is no switch frob"),
        ("webhooks register", "Missing argument"),
        ("webhooks register nonsense", "The URL must begin with https:// and name a host."),
        ("webhooks register http://rms.example.com", "The URL must begin with https"),
        ("webhooks replay 9223372036854775808", "Invalid value for 'events'"),
        ("fields promote a", "does not say key and kind"),
        ("fields promote a:money", "money is not a kind of column"),
        ("fields label a b", "is not of the form VALUE=LABEL"),
        ("roles --with-money a --without-money a", "give the two roles different names"),
    ],
)
def test_a_wrong_argument_is_a_usage_error_that_says_what_is_right(
    use: Use, words: str, said: str
) -> None:
    use(words, 2, said)


def test_ports_that_are_taken_or_given_twice_are_told_with_their_options() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(PortTaken, match=r"is in use .* another port with --sandbox-port\."):
            demand_free_port("127.0.0.1", other.getsockname()[1], "--sandbox-port")
    for host in ("192.0.2.1", "nowhere.invalid"):
        with pytest.raises(SettingsError, match="is not an address of this machine"):
            demand_free_port(host, 0, "--port")
    demand_free_port("127.0.0.1", 0, "--port")
    demand_different({"--port": 0, "--dagster-port": 0, "--sandbox-port": 8401})
    with pytest.raises(SettingsError, match=r"^--port and --sandbox-port are both 8401\."):
        demand_different({"--port": 8401, "--dagster-port": 3000, "--sandbox-port": 8401})
