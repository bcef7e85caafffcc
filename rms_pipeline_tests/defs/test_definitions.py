"""Nothing that Dagster's UI lists is unexplained to someone who has never seen this project."""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
import pytest
from dagster._config import ConfigTypeKind, Field, Shape
from dagster._core.definitions.freshness import TimeWindowFreshnessPolicy

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.definitions import build_defs
from rms_pipeline.defs import business_events, columns, config, webhook_refresh
from rms_pipeline.defs.steps import raw_pages_of
from rms_pipeline.mirror.database import Database
from rms_pipeline.settings import settings
from rms_pipeline_tests.mirror.test_merge import fetch_all

TABLES = {
    "raw_rms_pages": columns.RAW_PAGE_COLUMNS,
    "opportunities": columns.columns_of(OPPORTUNITIES),
    "status_counts": columns.STATUS_COLUMNS,
}
CONFIGS: list[type[dg.Config]] = [
    *(config.WalkConfig, config.StoreConfig, config.HousekeepingConfig),
    *(webhook_refresh.RefreshConfig, business_events.ChangesConfig),
]


def described() -> Iterator[tuple[str, str | None]]:
    """Everything that the UI lists, by kind and name, with its description."""
    defs = build_defs()
    repository = defs.get_repository_def()
    for spec in defs.resolve_all_asset_specs():
        yield f"asset {spec.key.to_user_string()}", spec.description
    for key in repository.asset_graph.asset_check_keys:
        yield f"check {key.name}", repository.asset_graph.get(key).description
    for job in repository.get_all_jobs():
        if not job.name.startswith("__"):
            yield f"job {job.name}", job.description
            # A step of assets and checks is shown with what is said of those.
            for op in job.nodes if not job.asset_layer.selected_asset_keys else ():
                yield f"op {op.name}", op.definition.description
    for schedule in repository.schedule_defs:
        yield f"schedule {schedule.name}", schedule.description
    for sensor in repository.sensor_defs:
        yield f"sensor {sensor.name}", sensor.description


def settings_shown() -> Iterator[tuple[str, Field]]:
    """Every setting of the launchpad, as Dagster makes it of our classes."""
    for made in CONFIGS:
        shape = made.to_config_schema().as_field().config_type
        assert isinstance(shape, Shape)
        for name, field in shape.fields.items():
            yield f"{made.__name__}.{name}", field


def test_everything_that_is_listed_has_a_description_in_sentences() -> None:
    listed = dict(described())
    assert len(listed) > 25
    assert [what for what, said in listed.items() if not (said or "").endswith((".", ")"))] == []


def test_every_setting_of_the_launchpad_has_a_description_and_a_type() -> None:
    shown = dict(settings_shown())
    assert len(shown) > 10
    assert [name for name, field in shown.items() if not field.description] == []
    for name, field in shown.items():
        inner = getattr(field.config_type, "inner_type", field.config_type)
        assert inner.kind != ConfigTypeKind.ANY, name


def test_every_asset_has_a_group_an_owner_and_kinds_and_every_table_its_name() -> None:
    for spec in build_defs().resolve_all_asset_specs():
        assert spec.group_name == "current_rms"
        assert spec.owners
        assert spec.kinds
        if spec.key.to_user_string() in TABLES:
            assert spec.metadata["dagster/table_name"] == f"public.{spec.key.to_user_string()}"


@pytest.mark.parametrize("table", TABLES)
def test_the_columns_shown_are_those_of_the_table(database: Database, table: str) -> None:
    rows = fetch_all(
        database,
        "SELECT column_name, udt_name FROM information_schema.columns"
        f" WHERE table_schema = 'public' AND table_name = '{table}'",
    )
    short = {"int8": "bigint", "int4": "integer", "_int8": "bigint[]"}
    short |= {"bool": "boolean", "_text": "text[]"}
    shown = {c.name: c.type for c in TABLES[table].columns}
    assert shown == {str(name): short.get(str(type_), str(type_)) for name, type_ in rows}
    assert all(c.description for c in TABLES[table].columns)


def test_what_a_sync_keeps_up_to_date_warns_before_a_fourth_incremental_sync_is_missing() -> None:
    policies = {
        spec.key.to_user_string(): spec.freshness_policy
        for spec in build_defs().resolve_all_asset_specs()
        if spec.freshness_policy is not None
    }
    kept = {name for c in settings().collections for name in (raw_pages_of(c), c.name)}
    assert policies.keys() == TABLES.keys() | kept
    for policy in policies.values():
        assert isinstance(policy, TimeWindowFreshnessPolicy)
        assert policy.warn_window is not None
        assert timedelta(minutes=30) < policy.warn_window.to_timedelta() < timedelta(hours=1)
        assert policy.warn_window.to_timedelta() < policy.fail_window.to_timedelta()
