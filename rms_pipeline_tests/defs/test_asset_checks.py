"""The checks of a table run in the step that stores it, and each is still a check of its own."""

import contextlib
from collections.abc import Iterator

import dagster as dg
import pytest

from rms_pipeline import Mirror, build_defs
from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.insight.sense import SENSE_CHECKS
from rms_pipeline.mirror.database import Database
from rms_pipeline_tests.rows import query

BLOCKS = "opportunity_ids_are_unique"
OPPORTUNITIES = dg.AssetKey(["acme", "opportunities"])
OF_OPPORTUNITIES = {
    *(BLOCKS, "no_faults", "mirror_is_complete", "deletions_are_plausible", "webhooks_arrive"),
    *("hires_have_a_length", "statuses_are_known", "own_fields_are_as_before", *SENSE_CHECKS),
}


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


def run(
    database: Database, instance: dg.DagsterInstance, chosen: dg.AssetSelection
) -> dg.ExecuteInProcessResult:
    """What a job of somebody else's does that selects `chosen` of ours."""
    ours = build_defs(mirror=Mirror(url=database.url.get_secret_value()), key_prefix="acme")
    theirs = dg.Definitions(jobs=[dg.define_asset_job("theirs", chosen)])
    job = dg.Definitions.merge(ours, theirs).resolve_job_def("theirs")
    return job.execute_in_process(instance=instance, raise_on_error=False)


def answers(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {c.check_name: c.passed for c in result.get_asset_check_evaluations()}


def check_of(name: str) -> dg.AssetSelection:
    return dg.AssetSelection.checks(dg.AssetCheckKey(OPPORTUNITIES, name))


ALL_CHECKS = dg.AssetSelection.checks_for_assets(OPPORTUNITIES)
COUNTS = dg.AssetSelection.assets(["acme", "status_counts"]).without_checks()


def test_a_full_sync_has_a_step_for_each_asset_and_none_for_checks() -> None:
    names = [collection.name for collection in COLLECTIONS]
    repository = build_defs(key_prefix="acme", collections=names).get_repository_def()
    steps = {node.name for node in repository.get_job("acme__initial_sync").nodes}
    assert steps == {
        key.to_python_identifier() for key in repository.asset_graph.executable_asset_keys
    }
    assert len(steps) == 2 * len(names) + 1
    assert len(repository.asset_graph.asset_check_keys) > 30


def test_all_checks_of_a_table_have_their_own_results(
    emptied: Database, instance: dg.DagsterInstance
) -> None:
    result = run(emptied, instance, ALL_CHECKS)
    assert result.success
    assert answers(result).keys() == OF_OPPORTUNITIES


@pytest.mark.parametrize("name", ["statuses_are_known", next(iter(SENSE_CHECKS)), BLOCKS])
def test_one_check_may_be_run_alone(
    emptied: Database, instance: dg.DagsterInstance, name: str
) -> None:
    assert answers(run(emptied, instance, check_of(name))) == {name: True}


def test_nothing_is_made_of_rows_that_are_there_twice(
    emptied: Database, instance: dg.DagsterInstance
) -> None:
    query(emptied, "ALTER TABLE opportunities DROP CONSTRAINT opportunities_pkey")
    try:
        query(emptied, "INSERT INTO opportunities (id, name) VALUES (1, 'Once'), (1, 'Twice')")
        result = run(emptied, instance, ALL_CHECKS | COUNTS)
    finally:
        query(emptied, "DELETE FROM opportunities")
        query(emptied, "ALTER TABLE opportunities ADD PRIMARY KEY (id)")
    assert not result.success
    assert answers(result).keys() == OF_OPPORTUNITIES
    assert not answers(result)[BLOCKS]
    assert result.get_asset_materialization_events() == []


@contextlib.contextmanager
def without_table(database: Database, table: str) -> Iterator[None]:
    # The first use of a mirror in a process looks whether its tables are there.
    assert Mirror(url=database.url.get_secret_value()).database
    query(database, f"ALTER TABLE {table} RENAME TO elsewhere")
    try:
        yield
    finally:
        query(database, f"ALTER TABLE elsewhere RENAME TO {table}")


def test_a_check_that_cannot_be_evaluated_fails_and_costs_only_itself(
    emptied: Database, instance: dg.DagsterInstance
) -> None:
    with without_table(emptied, "sync_faults"):
        result = run(emptied, instance, ALL_CHECKS | COUNTS)
    assert answers(result).keys() == OF_OPPORTUNITIES
    (failed,) = (c for c in result.get_asset_check_evaluations() if c.check_name == "no_faults")
    assert (failed.passed, failed.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "check no_faults" in (failed.description or "")
    assert "sync_faults" in (failed.description or "")
    assert len(result.asset_materializations_for_node("acme__status_counts")) == 1


def test_what_blocks_and_cannot_be_evaluated_blocks(
    emptied: Database, instance: dg.DagsterInstance
) -> None:
    with without_table(emptied, "opportunities"):
        result = run(emptied, instance, check_of(BLOCKS) | COUNTS)
    assert answers(result) == {BLOCKS: False}
    assert not result.success
    assert result.get_asset_materialization_events() == []


def test_an_asset_may_be_made_without_its_checks(
    emptied: Database, instance: dg.DagsterInstance
) -> None:
    result = run(emptied, instance, COUNTS)
    assert result.success
    assert answers(result) == {}
    assert len(result.asset_materializations_for_node("acme__status_counts")) == 1
