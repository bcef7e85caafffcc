"""The environment: what is accepted, and what a person is told when it is not."""

import os
from pathlib import Path

import pytest
from psycopg2.extensions import parse_dsn
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.console import prepare
from rms_pipeline.defs.naming import Naming
from rms_pipeline.postgres_urls import _warn_once, normalise_postgres_url, with_settings
from rms_pipeline.settings import (
    EXAMPLES,
    SANDBOX_LIMIT,
    Settings,
    SettingsError,
    child_environment,
    load_settings,
    settings,
)
from rms_pipeline_tests.conftest import forget_settings

VARIABLES = (
    *("CURRENT_RMS_SUBDOMAIN", "CURRENT_RMS_API_KEY", "CURRENT_RMS_BASE_URL", "DAGSTER_HOME"),
    *("CURRENT_RMS_REQUESTS_PER_MINUTE", "POSTGRES_URL", "POSTGRES_URL_NON_POOLING"),
    *("RMS_SYNC_DAYS_BACK", "RMS_SYNC_DAYS_AHEAD", "RMS_DAGSTER_URL", "RMS_COLLECTIONS"),
)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_nothing_set_means_the_sandbox_and_the_defaults() -> None:
    current = load_settings()
    assert current.uses_sandbox
    assert (current.days_back, current.days_ahead) == (30, 365)
    assert current.requests_per_minute == 120


def test_the_sandbox_shows_all_collections_and_an_account_only_those_that_are_named() -> None:
    account = {"CURRENT_RMS_SUBDOMAIN": "acme", "CURRENT_RMS_API_KEY": "key"}
    names = [c.name for c in load_settings().collections]
    assert names[:4] == ["opportunities", "members", "invoices", "opportunity_items"]
    assert names == [c.name for c in COLLECTIONS]
    # Of a stand-in that somebody else started nothing is known.
    stand_in = {"CURRENT_RMS_BASE_URL": "http://127.0.0.1:9000/api/v1"}
    for said in (account, stand_in):
        assert [c.name for c in load_settings(**said).collections] == ["opportunities"]
    for said in ({}, account):
        chosen = load_settings(**said, RMS_COLLECTIONS="members").collections
        assert [c.name for c in chosen] == ["opportunities", "members"]


@pytest.mark.parametrize(
    ("said", "limit"),
    [
        ({}, SANDBOX_LIMIT),
        ({"CURRENT_RMS_REQUESTS_PER_MINUTE": "40"}, 40),
        ({"CURRENT_RMS_REQUESTS_PER_MINUTE": "0"}, 0),
        ({"CURRENT_RMS_BASE_URL": "http://127.0.0.1:9000/api/v1"}, 120),
        ({"CURRENT_RMS_SUBDOMAIN": "acme", "CURRENT_RMS_API_KEY": "key"}, 120),
    ],
)
def test_only_the_bundled_sandbox_is_asked_as_often_as_it_takes(
    said: dict[str, str], limit: int
) -> None:
    assert load_settings(**said).request_limit == limit


@pytest.mark.parametrize(
    "pasted",
    ["acme", " Acme ", "acme.current-rms.com", "https://acme.current-rms.com/opportunities?x=1"],
)
def test_a_pasted_host_name_or_url_is_trimmed_to_the_account(
    pasted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CURRENT_RMS_SUBDOMAIN", pasted)
    monkeypatch.setenv("CURRENT_RMS_API_KEY", "key")
    assert load_settings().subdomain == "acme"


@pytest.mark.parametrize(
    ("present", "absent"),
    [
        ("CURRENT_RMS_SUBDOMAIN", "CURRENT_RMS_API_KEY"),
        ("CURRENT_RMS_API_KEY", "CURRENT_RMS_SUBDOMAIN"),
    ],
)
def test_half_an_account_is_an_error_that_names_the_other_half(
    present: str, absent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(present, "acme")
    with pytest.raises(SettingsError, match=f"{absent} is missing"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POSTGRES_URL", "mysql://root@localhost/x"),
        ("POSTGRES_URL", "postgresql://u:p@ss:word@host:port/d"),
        ("CURRENT_RMS_BASE_URL", "http://api.example.com/api/v1"),
        ("CURRENT_RMS_BASE_URL", "api.example.com"),
        ("CURRENT_RMS_REQUESTS_PER_MINUTE", "-1"),
        ("RMS_SYNC_DAYS_BACK", "a month"),
    ],
)
def test_a_wrong_value_is_named_with_an_example_and_not_repeated(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value).startswith(name)
    assert f"Example: {name}=" in str(caught.value)
    assert value not in str(caught.value)
    # Nothing is said of what follows from others.
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name", [str(field.validation_alias) for field in Settings.model_fields.values()]
)
@pytest.mark.parametrize("around", [" {}", "{} ", "\t{}\r"])
def test_blanks_around_a_value_are_no_part_of_it(
    name: str, around: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file with the line ends of Windows, given to Docker as `--env-file`, adds one to each."""
    whole = {"CURRENT_RMS_SUBDOMAIN": "acme", "CURRENT_RMS_API_KEY": "key"}
    whole |= {"POSTGRES_URL": "postgresql://h/d"}
    value = EXAMPLES[name]
    if not value.isascii() or " " in value:
        value = "planted-secret-of-24-letters"
    for other, said in whole.items():
        monkeypatch.setenv(other, said)
    monkeypatch.setenv(name, value)
    as_it_is = load_settings()
    monkeypatch.setenv(name, around.format(value))
    assert load_settings() == as_it_is
    monkeypatch.delenv(name)
    absent = load_settings() if name not in whole else None
    monkeypatch.setenv(name, " \t")
    if absent is not None:
        assert load_settings() == absent
    elif name == "POSTGRES_URL":
        assert load_settings().postgres_url is None
    else:
        with pytest.raises(SettingsError, match=f"{name} is missing"):
            load_settings()


@pytest.mark.parametrize(
    "given", ["GMT+1", "UTC+1", "+01:00", "utc +2", "GMT-5", "UTC-03:30", "+1"]
)
def test_a_difference_from_utc_is_no_zone_and_gets_no_advice_that_would_turn_its_sign(
    given: str,
) -> None:
    with pytest.raises(SettingsError, match="write the zone of a city") as caught:
        load_settings(_env_file=None, RMS_TIME_ZONE=given)
    assert "Etc" not in str(caught.value)


@pytest.mark.parametrize(
    "given", ["https://api.current-rms.com/api/v1", "api", "www.current-rms.com"]
)
def test_the_address_of_the_api_is_no_account(given: str) -> None:
    with pytest.raises(SettingsError, match=r"is not the name.*such as acme of acme\."):
        load_settings(CURRENT_RMS_SUBDOMAIN=given, CURRENT_RMS_API_KEY="key")


@pytest.mark.parametrize("name", ["CURRENT_RMS_BASE_URL", "RMS_DAGSTER_URL", "RMS_PUBLIC_URL"])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("https://host:port", "is not an http"),
        ("https://host:99999", "is not an http"),
        ("https://host:0", "is not an http"),
        ("https://[::1/x", "is not an http"),
        ("https:// host", "is not an http"),
        ("https://my host", "is not an http"),
        ("https://a.example,https://b.example", "is not an http"),
        ("https://host/?x=1", r"has a \? or #"),
        ("https://host/#x", r"has a \? or #"),
    ],
)
def test_an_address_to_which_paths_cannot_be_added_is_refused(
    name: str, given: str, told: str
) -> None:
    with pytest.raises(SettingsError, match=rf"{name} {told}.*Example: {name}="):
        load_settings(**{name: given})


@pytest.mark.parametrize(
    "scheme",
    [
        *("postgres", "postgresql", "postgresql+psycopg2", "postgresql+psycopg", "Postgresql"),
        *("postgresql+asyncpg", "postgres+psycopg2"),
    ],
)
@pytest.mark.parametrize("end", ["", "/"])
def test_every_usual_scheme_of_a_postgres_url_works(
    scheme: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGRES_URL", f"{scheme}://u:p@h:5432/d{end}")
    url = load_settings().postgres_url
    assert url is not None
    assert url.get_secret_value() == "postgresql://u:p@h:5432/d"


def test_secrets_are_stars_in_every_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CURRENT_RMS_SUBDOMAIN", "acme")
    monkeypatch.setenv("CURRENT_RMS_API_KEY", "planted-secret")
    monkeypatch.setenv("POSTGRES_URL", "postgresql://u:planted-secret@h/d")
    current = load_settings()
    for text in (repr(current), str(current), current.model_dump_json()):
        assert "planted-secret" not in text


def test_a_dotenv_file_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("RMS_SYNC_DAYS_BACK=7\n")
    assert load_settings().days_back == 7


def test_where_dagster_keeps_its_configuration_may_stand_in_a_dotenv_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "put back afterwards")
    monkeypatch.delenv("DAGSTER_HOME")
    (tmp_path / "dagster").mkdir()
    (tmp_path / "dagster" / "dagster.yaml").touch()
    (tmp_path / ".env").write_text(f"DAGSTER_HOME={tmp_path}/dagster\n")
    settings.cache_clear()
    assert prepare().dagster_home == tmp_path / "dagster"
    assert os.environ["DAGSTER_HOME"] == f"{tmp_path}/dagster"
    settings.cache_clear()


@pytest.mark.parametrize("password", ["100%sure", "a%", "50%/50", "p%zz"])
def test_a_password_with_a_bare_percent_sign_is_refused_with_advice_and_not_repeated(
    password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGRES_URL", f"postgresql://rms:{password}@db/rms")
    with pytest.raises(SettingsError, match="% is %25") as caught:
        load_settings()
    assert password not in str(caught.value)


def test_a_search_path_keeps_the_other_options_of_a_url() -> None:
    wanted = {"search_path": "dagster", "default_transaction_isolation": "read committed"}
    url = with_settings("postgresql:///d?host=/run&options=-cgeqo%3Doff", "dagster", wanted)
    options = (
        "-cgeqo%3Doff%20-csearch_path%3Ddagster"
        "%20-cdefault_transaction_isolation%3Dread%5C%20committed"
    )
    assert url == f"postgresql:///d?host=%2Frun&options={options}&application_name=dagster"
    named = with_settings("postgresql:///d?application_name=mine", "dagster", {"timezone": "UTC"})
    assert named.endswith("application_name=mine&options=-ctimezone%3DUTC")


PLACE = "user:pass@db.example"


@pytest.mark.parametrize(
    ("written", "read", "left_out"),
    [
        (
            f"postgresql://{PLACE}:5432/rms?sslmode=require&supa=base-pooler.x",
            f"postgresql://{PLACE}:5432/rms?sslmode=require",
            "supa",
        ),
        (
            f"postgres://{PLACE}:6543/rms?pgbouncer=true&connection_limit=1",
            f"postgresql://{PLACE}:6543/rms",
            "connection_limit, pgbouncer",
        ),
        (
            "postgresql://user:pass@a.example:5432,b.example/rms?target_session_attrs=read-write",
            "postgresql://user:pass@/rms?host=a.example,b.example&port=5432,5432"
            "&target_session_attrs=read-write",
            None,
        ),
        (
            "postgresql://user:pass@[2001:db8::1]:5433,[::1]/rms",
            "postgresql://user:pass@/rms?host=2001:db8::1,::1&port=5433,5432",
            None,
        ),
        (f"postgresql://{PLACE}/rms?sslmode=require&channel_binding=prefer", None, None),
        (
            f"postgresql://{PLACE}/rms?schema=public&pool_timeout=10",
            f"postgresql://{PLACE}/rms",
            "pool_timeout, schema",
        ),
        (f"postgresql://{PLACE}/rms?options=endpoint%3Dcool-name&sslrootcert=system", None, None),
        (f"postgresql://{PLACE}/rms?ssl=true&statement_cache_size=0", f"postgresql://{PLACE}/rms?ssl=true",
         "statement_cache_size"),
        ("postgresql://user:pass@[::1]:5432/rms", None, None),
        ("postgresql:///rms?host=/run/postgresql&port=5433", None, None),
        ("postgres://user@db.example", "postgresql://user@db.example", None),
    ],
)  # fmt: skip
def test_a_url_as_hosts_hand_it_out_is_read_by_libpq_and_by_sqlalchemy(
    written: str, read: str | None, left_out: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    _warn_once.cache_clear()
    found = normalise_postgres_url(written)
    assert found == (read or written)
    assert [r.args for r in caplog.records] == ([(left_out,)] if left_out else [])
    assert "pass" not in caplog.text.replace("pass to", "")
    whole = with_settings(found, "dagster", {"search_path": "dagster"})
    ours = parse_dsn(whole)
    theirs = create_engine(whole).dialect.create_connect_args(make_url(whole))[1]
    for part in ("host", "port", "dbname", "user", "password", "options", "target_session_attrs"):
        assert str(ours.get(part)) == str(theirs.get(part)), part


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:pass@a:5432,b:port/rms",
        "postgresql://user:pass@a:99999/rms",
        "postgresql://user:p@ss@a/rms",
        "mysql://user:pass@a/rms",
    ],
)
def test_a_url_that_nobody_could_read_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"has no readable host|is not a PostgreSQL URL") as caught:
        normalise_postgres_url(url)
    assert "pass" not in str(caught.value).replace("password", "")


@pytest.mark.parametrize("name", ["CURRENT_RMS_BASE_URL", "RMS_DAGSTER_URL"])
def test_an_address_with_a_password_is_refused_for_it_would_be_shown(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "https://user:planted-secret@host.example.com")
    with pytest.raises(SettingsError, match=name) as caught:
        load_settings()
    assert "planted-secret" not in str(caught.value)


@pytest.mark.parametrize("given", ["localtime", "Factory", "Mars/Olympus"])
def test_what_is_no_time_zone_anywhere_else_is_refused(given: str) -> None:
    with pytest.raises(SettingsError, match="RMS_TIME_ZONE is not the name of a time zone"):
        load_settings(_env_file=None, RMS_TIME_ZONE=given)


def test_a_direct_url_without_the_pooled_one_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_URL_NON_POOLING", "postgresql://host/database")
    with pytest.raises(SettingsError, match="POSTGRES_URL is missing"):
        load_settings()


def test_a_child_in_another_folder_knows_what_our_dotenv_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("RMS_SYNC_DAYS_BACK=7\nRMS_SYNC_DAYS_AHEAD=8\n")
    monkeypatch.setenv("RMS_SYNC_DAYS_AHEAD", "9")
    environment = child_environment(RMS_TIME_ZONE="UTC")
    assert (environment["RMS_SYNC_DAYS_BACK"], environment["RMS_SYNC_DAYS_AHEAD"]) == ("7", "9")


@pytest.mark.parametrize(
    ("text", "parts"),
    [("", ()), ("acme", ("acme",)), (" rentals/acme/ ", ("rentals", "acme")), ("a-b", ("a-b",))],
)
def test_names_in_dagster_are_those_that_definitions_with_the_prefix_have(
    text: str, parts: tuple[str, ...]
) -> None:
    current = load_settings(_env_file=None, RMS_KEY_PREFIX=text)
    assert current.key_prefix == parts
    assert current.in_dagster("initial_sync") == Naming(parts).name("initial_sync")


@pytest.mark.parametrize("text", ["/", "a//b", "1st", "acme corp", "b.c", "ünder", "a/;DROP"])
def test_what_is_no_prefix_of_keys_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(
        SettingsError, match=r"RMS_KEY_PREFIX is not a valid prefix.*Example: .*acme"
    ):
        load_settings(_env_file=None, RMS_KEY_PREFIX=text)


def test_no_setting_of_whoever_runs_the_tests_reaches_them() -> None:
    names = {str(field.validation_alias) for field in Settings.model_fields.values()}
    environment = dict.fromkeys({*names, "RMS_NOT_OURS", "PATH"}, "theirs")
    forget_settings(environment)
    assert environment == {"PATH": "theirs"}
