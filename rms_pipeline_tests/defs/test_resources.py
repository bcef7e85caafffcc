"""The resources as people of another Dagster project use them: fields, EnvVar, secrets, errors."""

from typing import Any

import dagster as dg
import pytest
from dagster._serdes import serialize_value
from pydantic import ValidationError

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.errors import CurrentRmsError
from rms_pipeline.defs.resources import CurrentRms, Mirror
from rms_pipeline.mirror.schema import current_version
from rms_pipeline.sandbox import SANDBOX_API_KEY, SANDBOX_SUBDOMAIN, SandboxServer, Store
from rms_pipeline.settings import SettingsError, settings
from rms_pipeline_tests.rows import query

SECRET_URL = "postgresql://rms:open-sesame@db.example.com:5432/rms"


def job_with(**resources: object) -> dg.JobDefinition:
    @dg.asset(required_resource_keys=set(resources))
    def thing() -> None: ...

    defs = dg.Definitions(assets=[thing], resources=resources)
    return defs.resolve_implicit_global_asset_job_def()


@pytest.mark.parametrize("resource", [Mirror, CurrentRms])
def test_a_field_that_does_not_exist_is_refused(resource: type) -> None:
    with pytest.raises(ValidationError, match="databse"):
        resource(databse="x")


@pytest.mark.parametrize(
    ("resource", "says"),
    [
        (Mirror(url="mysql://h/d"), "url is not a PostgreSQL URL"),
        (Mirror(url="postgresql:///d", schema="Acme"), "schema is not a valid name of a schema"),
        (Mirror(url="postgresql:///d", time_zone="Mars"), "time_zone is not the name"),
        (CurrentRms(subdomain="acme"), "api_key is missing while subdomain is set"),
        (CurrentRms(subdomain="a b", api_key="k"), "subdomain is not the name"),
        (CurrentRms(subdomain="a", api_key="k", requests_per_minute=-1), "requests_per_minute has"),
        (CurrentRms(subdomain="a", api_key="k", base_url="http://h"), "base_url would send"),
        (CurrentRms(subdomain="a", api_key="k", days_back=-1), "days_back has to be 0 or more."),
    ],
)
def test_a_wrong_value_is_told_by_the_fields_name(resource: Mirror | CurrentRms, says: str) -> None:
    with pytest.raises(SettingsError) as error:
        _ = resource.settings
    assert str(error.value).startswith(says)
    assert "RMS_" not in str(error.value)
    assert "POSTGRES_" not in str(error.value)


def test_secrets_written_into_code_are_neither_printed_nor_shown_in_the_launchpad() -> None:
    mirror = Mirror(url=SECRET_URL, url_non_pooling=f"{SECRET_URL}?sslmode=require")
    current_rms = CurrentRms(subdomain="acme", api_key="a-secret-key")
    job = job_with(mirror=mirror, current_rms=current_rms)
    # What the launchpad makes its defaults of.
    shown = [repr(mirror), repr(current_rms), serialize_value(job.get_job_snapshot())]
    assert "acme" in shown[2]
    for text in shown:
        assert "open-sesame" not in text
        assert "a-secret-key" not in text
    # And yet they are what is used.
    assert mirror.settings.postgres_url is not None
    assert mirror.settings.postgres_url.get_secret_value() == SECRET_URL
    assert current_rms.settings.api_key is not None
    assert current_rms.settings.api_key.get_secret_value() == "a-secret-key"


def test_a_url_without_a_password_is_not_that_of_another_mirror_with_one() -> None:
    Mirror(url=SECRET_URL)
    bare = Mirror(url=SECRET_URL.replace(":open-sesame", "")).settings.postgres_url
    assert bare is not None
    assert "open-sesame" not in bare.get_secret_value()


def test_what_a_resource_is_told_comes_from_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_URL", "postgresql:///own")
    monkeypatch.setenv("POSTGRES_URL_NON_POOLING", "postgresql:///own")
    monkeypatch.setenv("RMS_SCHEMA", "own")
    monkeypatch.setenv("CURRENT_RMS_SUBDOMAIN", "own")
    monkeypatch.setenv("CURRENT_RMS_API_KEY", "own")
    monkeypatch.setenv("CURRENT_RMS_BASE_URL", "https://own.example.com")
    settings.cache_clear()
    other = Mirror(url="postgresql:///other").settings
    assert other.schema_name == "public"
    assert other.session_url == other.postgres_url
    assert CurrentRms(subdomain="other", api_key="k").settings.base_url is None
    # One that is told nothing is that of this process, but for what it is told.
    assert Mirror(time_zone="Europe/London").settings.schema_name == "own"
    assert CurrentRms(requests_per_minute=7).settings.subdomain == "own"
    assert CurrentRms(requests_per_minute=7).settings.requests_per_minute == 7
    settings.cache_clear()


def test_environment_variables_are_read_when_a_run_begins_and_the_mirror_migrates_itself(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[object] = []

    @dg.asset
    def reads(a_mirror: Mirror, an_account: CurrentRms) -> None:
        found.append(a_mirror.settings.schema_name)
        with a_mirror.database.session() as connection:
            found.append(current_version(connection) is not None)
        with an_account.client(a_mirror.database, OPPORTUNITIES) as client:
            found.append(client.page_size > 0)

    with SandboxServer(Store(3)) as server:
        defs = dg.Definitions(
            assets=[reads],
            resources={
                "a_mirror": Mirror(url=dg.EnvVar("ACME_URL"), schema="acme"),
                "an_account": CurrentRms(
                    subdomain=dg.EnvVar("ACME_NAME"),
                    api_key=dg.EnvVar("ACME_KEY"),
                    base_url=server.url,
                    requests_per_minute=0,
                ),
            },
        )
        monkeypatch.setenv("ACME_URL", empty_url)
        monkeypatch.setenv("ACME_KEY", SANDBOX_API_KEY)
        monkeypatch.setenv("ACME_NAME", SANDBOX_SUBDOMAIN)
        with dg.DagsterInstance.ephemeral() as instance:
            job = defs.resolve_implicit_global_asset_job_def()
            assert job.execute_in_process(instance=instance).success
    assert found == ["acme", True, True]


def test_an_account_may_be_named_by_an_environment_variable_whatever_its_key_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ACME_NAME", "acme")
    account = CurrentRms(subdomain=dg.EnvVar("ACME_NAME"), api_key="planted-key-of-acme")
    assert "planted-key-of-acme" not in repr(account)
    assert CurrentRms(subdomain=dg.EnvVar("ACME_NAME"), api_key=dg.EnvVar("ACME_KEY"))


def test_assets_of_others_read_the_api_within_the_budget_and_the_mirror_by_sql(
    ready_url: str,
) -> None:
    found: dict[str, Any] = {}

    @dg.asset
    def products(current_rms: CurrentRms, mirror: Mirror) -> None:
        with current_rms.api(mirror) as api:
            found["page"] = api.get("opportunities", {"per_page": 2, "q[s]": ["id asc"]})
        with mirror.connection() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM opportunities")
            found["rows"] = cursor.fetchone()

    with SandboxServer(Store(3)) as server:
        account = CurrentRms(
            subdomain=SANDBOX_SUBDOMAIN, api_key=SANDBOX_API_KEY, base_url=server.url
        )
        resources: dict[str, Any] = {"current_rms": account, "mirror": Mirror(url=ready_url)}
        with dg.instance_for_test() as instance:
            assert dg.materialize([products], resources=resources, instance=instance).success
        assert len(found["page"]["opportunities"]) == 2
        assert found["rows"] == (0,)
        with dg.build_resources({"mirror": resources["mirror"]}) as given:
            told = query(given.mirror.database, "SELECT count(*) FROM api_budget")
        assert told == [(1,)]
        wrong = CurrentRms(subdomain=SANDBOX_SUBDOMAIN, api_key="another", base_url=server.url)
        with (
            pytest.raises(CurrentRmsError, match="the account's api_key"),
            wrong.api(resources["mirror"]) as api,
        ):
            api.get("/opportunities")
