"""The definitions of an account in a code location of somebody else's, beside those of others.

The instance keeps its history in files: nothing here lies in the mirror's database but the mirror.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from rms_pipeline import CurrentRms, Mirror, build_defs
from rms_pipeline.defs.build import DefinitionsUnusable
from rms_pipeline.defs.failures import in_names_of
from rms_pipeline.defs.housekeeping import _is_ours
from rms_pipeline.defs.naming import Naming
from rms_pipeline.defs.recording import SYNC_TYPE_TAG, why_failed
from rms_pipeline.errors import RmsPipelineError
from rms_pipeline.mirror.database import Database, DatabaseError
from rms_pipeline.mirror.ownership import claim_mirror
from rms_pipeline.mirror.sync_metadata import latest_syncs
from rms_pipeline.sandbox import SANDBOX_API_KEY, SANDBOX_SUBDOMAIN, SandboxServer, Store
from rms_pipeline.settings import settings
from rms_pipeline_tests.cases import IN_DRILLS, some_in_drills
from rms_pipeline_tests.defs.histories import history_in_files
from rms_pipeline_tests.rows import query

NAMES = ("acme", "globex")


class Account:
    """An invented account, its mirror, and what Dagster has of it."""

    def __init__(self, name: str, url: str, server: SandboxServer) -> None:
        self.name, self.store = name, server.store
        # The environment of this process names neither.
        self.mirror = Mirror(url=url, schema=name)
        self.defs = build_defs(
            CurrentRms(
                subdomain=SANDBOX_SUBDOMAIN,
                api_key=SANDBOX_API_KEY,
                base_url=server.url,
                requests_per_minute=0,
                days_back=36_500,
                days_ahead=36_500,
            ),
            self.mirror,
            key_prefix=name,
            pages=f"https://{name}.example.com",
        )

    @property
    def database(self) -> Database:
        return self.mirror.database

    def truth(self) -> set[int]:
        return set(self.store.ids())

    def rows(self) -> set[int]:
        return {id_ for (id_,) in query(self.database, "SELECT id FROM opportunities")}


@pytest.fixture
def accounts(empty_url: str) -> Iterator[tuple[Account, Account]]:
    with (
        SandboxServer(Store(30, seed=1)) as one,
        SandboxServer(Store(20, seed=2)) as two,
    ):
        yield Account("acme", empty_url, one), Account("globex", empty_url, two)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with history_in_files(tmp_path) as opened:
        yield opened


@dg.asset
def mine() -> None:
    """What the code location had already."""


@dg.job
def initial_sync() -> None:
    """Another job of the same name as one of ours."""


class NobodyAsks(dg.IOManager):
    """Our assets store what they make themselves."""

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        raise AssertionError(f"was to store {obj!r}")

    def load_input(self, context: dg.InputContext) -> object:
        raise AssertionError("was to load something")


def merged(*accounts: Account) -> dg.Definitions:
    own = dg.Definitions(
        assets=[mine],
        jobs=[initial_sync],
        resources={"mirror": "somebody's", "current_rms": 3},
        executor=dg.multiprocess_executor,
    )
    return dg.Definitions.merge(own, *(each.defs for each in accounts))


def run(defs: dg.Definitions, instance: dg.DagsterInstance, job: str) -> dg.DagsterRun:
    result = defs.resolve_job_def(job).execute_in_process(instance=instance, raise_on_error=False)
    assert result.success, [e.message for e in result.all_events if e.is_failure]
    return result.dagster_run


@IN_DRILLS
def test_two_accounts_in_one_code_location_are_each_mirrored_into_its_own_schema(
    accounts: tuple[Account, Account], instance: dg.DagsterInstance
) -> None:
    defs = merged(*accounts)
    for each in accounts:
        run(defs, instance, f"{each.name}__initial_sync")
    for each in accounts:
        assert each.rows() == each.truth()
        gone, edited, *_ = sorted(each.truth())
        each.store.delete(gone)
        each.store.edit(edited, {"subject": f"Edited at {each.name}"})
        schedule = defs.resolve_schedule_def(f"{each.name}__incremental_sync")
        with dg.build_schedule_context(
            instance=instance, resources={f"{each.name}__mirror": each.mirror}
        ) as context:
            assert schedule.evaluate_tick(context).run_requests
        run(defs, instance, f"{each.name}__incremental_sync")
        assert each.rows() == each.truth()
        subject = "SELECT subject FROM opportunities WHERE id = %s"
        assert query(each.database, subject, edited) == [(f"Edited at {each.name}",)]
    for each in accounts:
        _, _, told, *_ = sorted(each.truth())
        each.store.edit(told, {"subject": f"Told by {each.name}"})
        query(each.database, "INSERT INTO webhook_events (subject_type, opportunity_id)"
                             " VALUES ('Opportunity', %s) RETURNING 1", told)  # fmt: skip
        sensor = defs.resolve_sensor_def(f"{each.name}__webhook_refresh")
        with dg.build_sensor_context(
            instance=instance, resources={f"{each.name}__mirror": each.mirror}
        ) as waiting:
            assert sensor.evaluate_tick(waiting).run_requests
        run(defs, instance, f"{each.name}__webhook_refresh")
        assert query(each.database, subject, told) == [(f"Told by {each.name}",)]
        run(defs, instance, f"{each.name}__housekeeping")
        run(defs, instance, f"{each.name}__rebuild")
    for each in accounts:
        with each.database.session() as connection:
            syncs = latest_syncs(connection)
        assert {(s.sync_type, s.status) for s in syncs} == {
            ("initial_sync", "completed"),
            ("incremental_sync", "completed"),
            ("webhook_refresh", "completed"),
        }
        assert len(syncs) == 3
        for asset in ("raw_rms_pages", "opportunities"):
            found = instance.get_latest_materialization_event(dg.AssetKey([each.name, asset]))
            assert found is not None
            assert found.asset_materialization is not None
            if asset == "raw_rms_pages":
                link = found.asset_materialization.metadata["dashboard"].value
                assert link == f"https://{each.name}.example.com/"


def of_account(subdomain: Any, url: str, prefix: str) -> tuple[dg.Definitions, Mirror]:
    """What Dagster has of an account, and its resource."""
    account = CurrentRms(subdomain=subdomain, api_key="key", requests_per_minute=0)
    defs = build_defs(account, Mirror(url=url, schema="rental"), key_prefix=prefix)
    return defs, (defs.resources or {})[f"{prefix}__mirror"]


@pytest.mark.parametrize(
    "second", some_in_drills(["globex", dg.EnvVar("SECOND_ACCOUNT")], "SECOND_ACCOUNT".__eq__)
)
def test_another_account_in_the_same_schema_is_refused_at_first_use_by_both_names(
    ready_url: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, second: Any
) -> None:
    monkeypatch.setenv("SECOND_ACCOUNT", "https://Globex.current-rms.com/")
    one, mirror = of_account("acme", ready_url, "acme")
    two, mirror_of_another = of_account(second, ready_url, "globex")
    with dg.build_resources({"mirror": mirror}) as given:
        database = given.mirror.database
    claim_mirror(database, "acme", sandbox=SANDBOX_SUBDOMAIN)
    says = "schema rental of this database mirrors the account acme.*the account is globex"
    defs = dg.Definitions.merge(one, two)
    mirrors = {"acme__mirror": mirror, "globex__mirror": mirror_of_another}
    with dg.build_sensor_context(instance=instance, resources=mirrors) as context:
        with pytest.raises(DatabaseError, match=says):
            defs.resolve_sensor_def("globex__webhook_refresh").evaluate_tick(context)
        assert defs.resolve_sensor_def("acme__webhook_refresh").evaluate_tick(context).skip_message
    result = defs.resolve_job_def("globex__initial_sync").execute_in_process(
        instance=instance, raise_on_error=False
    )
    assert not result.success
    # The history of the other account shows nothing of it.
    with database.session() as connection:
        assert latest_syncs(connection) == []


def failure_of(defs: dg.Definitions, job: str, instance: dg.DagsterInstance) -> str:
    """What a person reads of the failed run."""
    result = defs.resolve_job_def(job).execute_in_process(instance=instance, raise_on_error=False)
    assert not result.success
    told = why_failed(instance, result.run_id)
    assert told is not None
    return told


@pytest.mark.parametrize("prefix", some_in_drills(["acme", None], {"acme"}.__contains__))
def test_errors_name_the_fields_that_somebody_set(
    ready_url: str, instance: dg.DagsterInstance, prefix: str | None
) -> None:
    job = f"{prefix}__initial_sync" if prefix else "initial_sync"
    with SandboxServer(Store(3)) as server:
        account = CurrentRms(
            subdomain=SANDBOX_SUBDOMAIN, api_key="another", base_url=server.url, days_back=1
        )
        refused = build_defs(account, Mirror(url=ready_url), key_prefix=prefix)
        told = failure_of(refused, job, instance)
    assert "Check the account's subdomain and the account's api_key" in told
    away = build_defs(account, Mirror(url="postgresql://u@127.0.0.1:1/rental"), key_prefix=prefix)
    assert "the port in the mirror's url." in failure_of(away, job, instance)
    incremental = job.replace("initial", "incremental")
    schedule = away.resolve_schedule_def(incremental)
    with (
        dg.build_schedule_context(instance=instance, resources=away.resources) as context,
        pytest.raises(dg.DagsterUserCodeExecutionError) as failed,
    ):
        schedule.evaluate_tick(context)
    assert isinstance(failed.value.user_exception, DatabaseError)
    assert "the port in the mirror's url." in str(failed.value.user_exception)
    first = failure_of(refused, incremental, instance)
    assert f"or the job {job}, first" in first


def test_what_is_wrong_with_the_mirror_is_told_before_the_first_step_without_a_stack(
    instance: dg.DagsterInstance, ready_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMPTY", "")
    account = CurrentRms(subdomain=dg.EnvVar("EMPTY"), api_key="k")
    defs = build_defs(account, Mirror(url=ready_url), key_prefix="acme")
    assert failure_of(defs, "acme__initial_sync", instance) == (
        "The account's subdomain is not the name of a Current RMS account."
    )


def test_what_is_of_the_process_is_named_by_its_variable(ready_url: str) -> None:
    assert CurrentRms().called == {}
    assert CurrentRms(days_back=3).called == {"RMS_SYNC_DAYS_BACK": "the account's days_back"}
    own = Mirror(url=ready_url).called
    assert own["RMS_SCHEMA"] == "the mirror's schema"
    assert in_names_of("POSTGRES_URL, POSTGRES_URL_NON_POOLING", [Mirror(url=ready_url)]) == (
        "the mirror's url, the mirror's url_non_pooling"
    )


@pytest.mark.parametrize("again", ["acme", "ACME", "https://acme.current-rms.com/opportunities"])
def test_the_same_account_may_use_its_schema_from_anywhere(ready_url: str, again: str) -> None:
    for subdomain, prefix in (("acme", "one"), (again, "two")):
        _, mirror = of_account(subdomain, ready_url, prefix)
        with dg.build_resources({"mirror": mirror}) as given:
            claim_mirror(given.mirror.database, "acme", sandbox=SANDBOX_SUBDOMAIN)


def test_the_tables_of_dagsters_default_storage_may_lie_beside_ours(empty_url: str) -> None:
    """In the same schema of the same database, as whoever has one database may want it."""
    storage = {"storage": {"postgres": {"postgres_url": empty_url}}}
    with (
        SandboxServer(Store(12)) as server,
        dg.instance_for_test(overrides=storage) as instance,
    ):
        account = Account("public", empty_url, server)
        for job in ("initial_sync", "housekeeping"):
            run(account.defs, instance, f"public__{job}")
        assert account.rows() == account.truth()
    beside = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename = ANY(%s)"
    assert query(account.database, beside, ["runs", "event_logs", "opportunities"]) == [(3,)]


def test_materialize_all_is_a_full_sync_of_both_and_a_part_of_one_is_none_of_the_other(
    accounts: tuple[Account, Account], instance: dg.DagsterInstance
) -> None:
    acme, globex = accounts
    job = merged(acme, globex).resolve_implicit_global_asset_job_def()
    chosen = [dg.AssetKey(["acme", n]) for n in ("raw_rms_pages", "opportunities")]
    chosen.append(dg.AssetKey(["globex", "status_counts"]))
    acme_only = job.execute_in_process(instance=instance, asset_selection=chosen)
    assert acme_only.success
    assert query(acme.database, "SELECT sync_type, status FROM sync_runs") == [
        ("initial_sync", "completed")
    ]
    assert query(globex.database, "SELECT sync_type FROM sync_runs") == []
    assert job.execute_in_process(instance=instance).success
    assert globex.rows() == globex.truth()


def test_a_job_of_somebody_elses_is_a_full_sync_if_it_reads_and_stores(
    accounts: tuple[Account, Account], instance: dg.DagsterInstance
) -> None:
    acme, globex = accounts
    ours = dg.AssetSelection.groups("current_rms")
    jobs = [
        dg.define_asset_job("nightly", ours & dg.AssetSelection.key_prefixes("acme")),
        dg.define_asset_job("again", dg.AssetSelection.assets(["acme", "opportunities"])),
    ]
    defs = dg.Definitions.merge(
        merged(acme, globex), dg.Definitions(jobs=jobs, resources={"io_manager": NobodyAsks()})
    )
    run(defs, instance, "nightly")
    run(defs, instance, "again")
    recorded = "SELECT sync_type, status, records_synced FROM sync_metadata"
    assert query(acme.database, recorded) == [("initial_sync", "completed", len(acme.truth()))]
    assert query(globex.database, recorded) == []


@pytest.mark.parametrize(
    ("prefix", "job", "is_ours"),
    [
        ("acme", "acme__initial_sync", True),
        ("acme", "acme__housekeeping", True),
        ("acme", "globex__initial_sync", False),
        ("acme", "initial_sync", False),
        (None, "initial_sync", True),
        (None, "rebuild", True),
        (None, "acme__initial_sync", False),
        (None, "acme__housekeeping", False),
    ],
)
def test_the_housekeeping_of_an_account_deletes_no_run_of_another_in_the_same_code_location(
    prefix: str | None, job: str, is_ours: bool
) -> None:
    here = {".dagster/repository": "__repository__@theirs"}
    tags = here | ({SYNC_TYPE_TAG: "initial_sync"} if job.endswith("initial_sync") else {})
    found = _is_ours(
        Naming((prefix,) if prefix else ()),
        dg.DagsterRun(job_name=job, tags=tags),
        dg.DagsterRun(job_name="housekeeping", tags=here),
        syncs=set(),
        announced=set(),
    )
    assert found is is_ours


def test_nothing_of_an_account_with_a_prefix_has_a_name_without_it(
    accounts: tuple[Account, Account],
) -> None:
    acme, _ = accounts
    repository = acme.defs.get_repository_def()
    names = [job.name for job in repository.get_all_jobs() if not job.name.startswith("__")]
    names += [node.name for job in repository.get_all_jobs() for node in job.nodes]
    names += [s.name for s in repository.schedule_defs] + [s.name for s in repository.sensor_defs]
    names += list(repository.get_top_level_resources())
    assert len(names) > 20
    assert [name for name in names if not name.startswith("acme__")] == []
    assert all(key.path[0] == "acme" for key in repository.asset_graph.get_all_asset_keys())
    assert repository.get_job("acme__initial_sync").tags[SYNC_TYPE_TAG] == "initial_sync"


@pytest.mark.parametrize("prefix", ["acme", ["eu", "acme"], "acme-eu", ["rms", "a1"]])
def test_a_key_prefix_may_have_several_parts_and_dashes(prefix: str | list[str]) -> None:
    found = build_defs(mirror=Mirror(url="postgresql:///d"), key_prefix=prefix)
    whole = [prefix] if isinstance(prefix, str) else prefix
    job = "__".join(whole).replace("-", "_") + "__initial_sync"
    assert found.resolve_job_def(job).name == job
    assert found.resolve_assets_def(dg.AssetKey([*whole, "opportunities"]))


@pytest.mark.parametrize("prefix", ["", "a b", "a/b", "1", ["acme", ""], [3]])
def test_a_key_prefix_that_nothing_can_be_named_by_is_refused(prefix: Any) -> None:
    with pytest.raises(DefinitionsUnusable, match="key_prefix is"):
        build_defs(key_prefix=prefix)


@pytest.mark.parametrize("argument", ["key_prefix", "group", "owners", "collections", "pages"])
@pytest.mark.parametrize("several", [False, True])
def test_what_definitions_need_when_they_are_loaded_cannot_be_an_env_var(
    argument: str, several: bool
) -> None:
    name = dg.EnvVar("ACME_NAME")
    given: dict[str, Any] = {argument: [name] if several else name}
    says = rf'{argument} is an EnvVar.*{argument}=dg.EnvVar\("ACME_NAME"\).get_value\(\)'
    with pytest.raises(DefinitionsUnusable, match=says):
        build_defs(**given)


@pytest.mark.filterwarnings("ignore:Parameter `include_sources` of function `AssetSelection.all`")
def test_automation_of_the_pages_waits_for_the_api_unless_it_is_told_to_ignore_it(
    instance: dg.DagsterInstance,
) -> None:
    """As the page about one's own Dagster says."""
    daily = dg.AutomationCondition.on_cron("0 4 * * *")
    api = dg.AssetSelection.assets(["acme", "current_rms_api"])
    names = ("raw_rms_pages", "opportunities", "status_counts")
    for condition, requested in ((daily, 0), (daily.ignore(api), len(names))):
        defs = build_defs(
            CurrentRms(subdomain="acme", api_key="key"),
            Mirror(url="postgresql:///d"),
            key_prefix="acme",
            collections=["opportunities"],
            translator=lambda spec, c=condition: spec.replace_attributes(  # type: ignore[misc]
                automation_condition=c if spec.key.path[-1] in names else None
            ),
        )
        before = datetime(2030, 1, 1, 3, tzinfo=UTC)
        first = dg.evaluate_automation_conditions(defs, instance, evaluation_time=before)
        after = dg.evaluate_automation_conditions(
            defs, instance, cursor=first.cursor, evaluation_time=before + timedelta(hours=2)
        )
        assert (first.total_requested, after.total_requested) == (0, requested)


def test_a_collection_that_there_is_not_is_refused_by_name() -> None:
    with pytest.raises(DefinitionsUnusable, match=r"unicorns.*The collections are: opportunities"):
        build_defs(collections=["unicorns"])


def test_an_account_of_its_own_mirrors_opportunities_alone_where_nobody_names_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RMS_COLLECTIONS", raising=False)
    monkeypatch.delenv("CURRENT_RMS_SUBDOMAIN", raising=False)
    monkeypatch.delenv("CURRENT_RMS_API_KEY", raising=False)

    def mirrored(account: CurrentRms | None) -> set[str]:
        settings.cache_clear()
        keys = build_defs(account).resolve_asset_graph().get_all_asset_keys()
        return {key.to_user_string() for key in keys}

    account = CurrentRms(subdomain="acme", api_key="a-key")
    try:
        assert "members" in mirrored(None)
        assert "members" not in mirrored(account)
        monkeypatch.setenv("RMS_COLLECTIONS", "opportunities,members")
        assert "members" in mirrored(account)
        assert "invoices" not in mirrored(None)
    finally:
        settings.cache_clear()


@pytest.mark.parametrize(
    "named",
    ["members,invoices", "opportunities, members ,invoices", ("invoices", "members"),
     iter(["members", "invoices"]), ["members", "invoices", "members"], "members,,invoices,"],
)  # fmt: skip
def test_collections_may_be_named_in_any_usual_way(named: Any) -> None:
    keys = of_an_account(collections=named).resolve_asset_graph().get_all_asset_keys()
    tables = {key.to_user_string() for key in keys} & {"members", "invoices", "opportunity_items"}
    assert tables == {"members", "invoices"}


def of_an_account(
    account: dict[str, Any] | None = None, mirror: dict[str, Any] | None = None, **options: Any
) -> dg.Definitions:
    """By variables of the environment, of which none is set while definitions are loaded."""
    names: dict[str, Any] = {"subdomain": dg.EnvVar("RMS_NOT_SET"), "api_key": dg.EnvVar("NOT_SET")}
    place: dict[str, Any] = {"url": dg.EnvVar("RMS_URL_NOT_SET"), "schema": "acme"}
    return build_defs(
        CurrentRms(**names | (account or {})), Mirror(**place | (mirror or {})), **options
    )


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"mirror": {"schema": "dagster"}}, "schema is the schema of Dagster's tables"),
        ({"mirror": {"schema": "A-B"}}, "schema is not a valid name of a schema"),
        ({"mirror": {"time_zone": "Mars/Base"}}, "time_zone is not the name of a time zone"),
        ({"mirror": {"url": "mysql://h/d"}}, "url "),
        ({"account": {"days_back": -3}}, "days_back has to be 0 or more."),
        ({"account": {"base_url": "http://api.example.com"}}, "base_url would send the API key"),
        ({"account": {"subdomain": "a b"}}, "subdomain is not the name"),
        ({"account": {"api_key": None}}, "api_key is missing while subdomain is set"),
        ({"pages": "rms.example.com"}, "pages is 'rms.example.com', which is not an http"),
        ({"pages": 3}, "pages is 3, which is not an http"),
        ({"translator": lambda spec: None}, "translator gives None for current_rms_api"),
        ({"translator": "tags"}, "translator is 'tags', which is not valid. Example: translator="),
        ({"schedules": "no"}, "schedules is 'no', which is not valid. Example: schedules=False"),
        ({"owners": ["team:rental", 3]}, "owners is ['team:rental', 3], which is not valid."),
        ({"owners": None}, "owners is None, which is not valid."),
        ({"group": 3}, "group is 3, which is not valid."),
        ({"collections": 3}, "collections is 3, which is not valid."),
        ({"collections": [3]}, "collections is [3], which is not valid."),
        ({"key_prefix": 3}, "key_prefix is 3."),
    ],
)
def test_what_is_wrong_is_told_while_definitions_are_loaded_and_not_first_by_a_run(
    wrong: dict[str, Any], told: str
) -> None:
    of_an_account()
    # The rest of that database is told by the environment of whoever runs it.
    of_an_account(mirror={"url": None, "url_non_pooling": "postgresql:///rms"})
    with pytest.raises(RmsPipelineError) as caught:
        of_an_account(**wrong)
    assert told in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "resources", [(Mirror(url="postgresql:///x"), CurrentRms()), ({"subdomain": "acme"},)]
)
def test_resources_in_the_wrong_place_are_named(resources: Any) -> None:
    with pytest.raises(DefinitionsUnusable, match="a CurrentRms and a Mirror, in this order"):
        build_defs(*resources)


def test_pages_of_every_collection_are_said_to_be_in_the_table_where_they_are() -> None:
    defs = of_an_account(mirror={"url": "postgresql://u:p@h/rentals"}, collections="members")
    tables = {s.key.to_user_string(): s.metadata.get("dagster/table_name")
              for s in defs.resolve_all_asset_specs()}  # fmt: skip
    assert tables["raw_members"] == tables["raw_rms_pages"] == "rentals.acme.raw_rms_pages"
    assert tables["members"] == "rentals.acme.members"


def test_a_translator_may_change_all_of_an_asset_but_its_key_and_what_it_is_made_of() -> None:
    def ours(spec: dg.AssetSpec) -> dg.AssetSpec:
        return spec.merge_attributes(tags={"domain": "sales"})

    found = build_defs(translator=ours, group="rental", owners=["team:rental"])
    for spec in found.resolve_all_asset_specs():
        assert spec.tags["domain"] == "sales"
        assert spec.group_name == "rental"
        assert spec.owners == ["team:rental"]
    with pytest.raises(DefinitionsUnusable, match="Use key_prefix"):
        build_defs(translator=lambda spec: spec.replace_attributes(key="other"))
    # Otherwise a table could be stored before its pages are read.
    with pytest.raises(DefinitionsUnusable, match="removes raw_rms_pages from the deps"):
        build_defs(translator=lambda spec: spec.replace_attributes(deps=["theirs"]))
    days = dg.DailyPartitionsDefinition("2026-01-01")
    with pytest.raises(DefinitionsUnusable, match="partitions, but a sync stores the whole table"):
        build_defs(translator=lambda spec: spec.replace_attributes(partitions_def=days))
    more = build_defs(translator=lambda spec: spec.merge_attributes(deps=["theirs"]))
    assert dg.AssetKey("theirs") in more.resolve_asset_graph().get_all_asset_keys()


def test_schedules_may_begin_switched_off() -> None:
    repository = build_defs(schedules=False).get_repository_def()
    assert {s.default_status for s in repository.schedule_defs} == {
        dg.DefaultScheduleStatus.STOPPED
    }
    assert {s.default_status for s in repository.sensor_defs} == {dg.DefaultSensorStatus.STOPPED}


def test_a_table_is_named_with_its_database_and_schema_and_code_has_a_version(
    accounts: tuple[Account, Account], empty_url: str
) -> None:
    database = empty_url.partition("?")[0].rpartition("/")[2]
    specs = {s.key.path[-1]: s for s in accounts[0].defs.resolve_all_asset_specs()}
    for table in ("raw_rms_pages", "opportunities", "status_counts"):
        assert specs[table].metadata["dagster/table_name"] == f"{database}.acme.{table}"
        assert specs[table].code_version


def test_assets_and_jobs_link_to_the_pages_of_their_own_account(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RMS_PUBLIC_URL", "https://own.example.com")
    settings.cache_clear()
    other = Mirror(url="postgresql:///other")
    for found, address in (
        (build_defs(), "https://own.example.com/"),
        (build_defs(mirror=other, pages="https://acme.example.com"), "https://acme.example.com/"),
        (build_defs(mirror=other), None),
    ):
        told = [spec.metadata for spec in found.resolve_all_asset_specs()]
        told.append(found.resolve_job_def("initial_sync").metadata)
        links = {of["dashboard"].value if "dashboard" in of else None for of in told}
        assert links == {address}
    settings.cache_clear()


def test_what_is_below_dagster_needs_no_dagster() -> None:
    code = "import sys, rms_pipeline.sandbox, rms_pipeline.sync; print('dagster' in sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert told.stdout.strip() == "False"
