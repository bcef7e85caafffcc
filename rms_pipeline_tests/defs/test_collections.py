"""What RMS_COLLECTIONS switches on has assets, checks and a part in every sync."""

import dagster as dg
import pytest

from rms_pipeline.definitions import build_defs
from rms_pipeline.defs.build import build_defs as build_account
from rms_pipeline.errors import RmsPipelineError
from rms_pipeline.mirror.sync_metadata import find_sync, outcome
from rms_pipeline.sandbox import SandboxServer
from rms_pipeline.settings import SettingsError, load_settings, settings
from rms_pipeline_tests.conftest import database_at
from rms_pipeline_tests.defs.test_assets import instance, ready_url, sandbox, synced
from rms_pipeline_tests.rows import query

__all__ = ["instance", "ready_url", "sandbox", "synced"]


@pytest.fixture
def both(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> dg.DagsterInstance:
    monkeypatch.setenv("RMS_COLLECTIONS", "opportunities, members")
    settings.cache_clear()
    return instance


def run(instance: dg.DagsterInstance, job: str) -> dg.ExecuteInProcessResult:
    result = build_defs().resolve_job_def(job).execute_in_process(instance=instance)
    assert result.success
    return result


def test_members_are_synced_with_the_opportunities_and_counted_with_them(
    both: dg.DagsterInstance, ready_url: str, sandbox: SandboxServer
) -> None:
    result = run(both, "initial_sync")
    database = database_at(ready_url)
    members = sandbox.store.members
    assert dict(query(database, "SELECT id, data FROM members")) == {
        record["id"]: record for record in members.all()
    }
    with database.session() as connection:
        sync = find_sync(connection, result.run_id)
    assert sync is not None
    ((rows,),) = query(database, "SELECT (SELECT count(*) FROM opportunities)"
                       " + (SELECT count(*) FROM members)")  # fmt: skip
    assert sync.records_synced == rows
    assert sync.metadata["members"]["created"] == len(members.all())
    assert "complete as of" in sync.metadata["members"]["certificate"]
    assert "complete as of" in sync.metadata["certificate"]
    checks = {(c.asset_key.to_user_string(), c.check_name): c.passed
              for c in result.get_asset_check_evaluations()}  # fmt: skip
    assert checks["members", "mirror_is_complete"]
    assert checks["members", "member_ids_are_unique"]
    assert checks["opportunities", "mirror_is_complete"]
    edited, gone, *_ = (record["id"] for record in members.all())
    members.edit(edited, {"name": "Renamed"})
    members.delete(gone)
    run(both, "incremental_sync")
    assert query(database, f"SELECT name FROM members WHERE id IN ({edited}, {gone})") == [
        ("Renamed",)
    ]


@pytest.mark.usefixtures("synced")
def test_what_is_switched_on_later_is_read_whole_by_the_next_incremental_sync(
    instance: dg.DagsterInstance,
    ready_url: str,
    sandbox: SandboxServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = database_at(ready_url)
    assert query(database, "SELECT count(*) FROM members") == [(0,)]
    monkeypatch.setenv("RMS_COLLECTIONS", "members")
    settings.cache_clear()
    done = run(instance, "incremental_sync")
    assert query(database, "SELECT count(*) FROM members") == [(len(sandbox.store.members.all()),)]
    with database.session() as connection:
        sync = find_sync(connection, done.run_id)
    assert sync is not None
    assert (
        "All members were read, not only what changed" in sync.metadata["raw_members"]["read_whole"]
    )
    assert "read_whole" not in sync.metadata
    assert outcome(sync)["collections"]["members"] == {
        "recordsSynced": len(sandbox.store.members.all()),
        "recordsFailed": 0,
    }
    done = run(instance, "incremental_sync")
    with database.session() as connection:
        sync = find_sync(connection, done.run_id)
    assert sync is not None
    assert "read_whole" not in sync.metadata["raw_members"]


def test_records_of_another_collection_are_refreshed_by_their_ids(
    both: dg.DagsterInstance, ready_url: str, sandbox: SandboxServer
) -> None:
    database = database_at(ready_url)
    member, other = sandbox.store.members.all()[:2]
    config = {"ids": [member["id"], 999_999], "collection": "members"}
    ops = {"refresh_opportunities": {"config": config}}
    job = build_defs().resolve_job_def("webhook_refresh")
    done = job.execute_in_process(instance=both, run_config={"ops": ops})
    assert done.success
    assert query(database, "SELECT id, name FROM members") == [(member["id"], member["name"])]
    assert query(database, "SELECT count(*) FROM opportunities") == [(0,)]
    with database.session() as connection:
        sync = find_sync(connection, done.run_id)
    assert sync is not None
    assert sync.metadata["members"]["created"] == 1
    config |= {"ids": [other["id"]], "collection": "invoices"}
    refused = job.execute_in_process(instance=both, run_config={"ops": ops}, raise_on_error=False)
    assert not refused.success
    with database.session() as connection:
        sync = find_sync(connection, refused.run_id)
    assert sync is not None
    assert sync.error
    assert (
        "invoices is not mirrored. The mirrored collections are: opportunities, members."
        in sync.error
    )


def test_a_collection_that_there_is_not_is_refused_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match=r"RMS_COLLECTIONS.*unicorns.*members"):
        load_settings(RMS_COLLECTIONS="members,unicorns")


@pytest.mark.parametrize("text", ["", "members", " Members ,opportunities,", "members,members"])
def test_opportunities_are_always_mirrored(text: str) -> None:
    names = [c.name for c in load_settings(RMS_COLLECTIONS=text).collections]
    assert names == ["opportunities", "members"][: 2 if "ember" in text else 1]


def test_items_follow_the_opportunities_and_are_counted_with_them(
    instance: dg.DagsterInstance,
    ready_url: str,
    sandbox: SandboxServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RMS_COLLECTIONS", "opportunities,opportunity_items")
    monkeypatch.setenv("RMS_ITEMS_DAYS_AHEAD", "60")
    settings.cache_clear()
    result = run(instance, "initial_sync")
    database = database_at(ready_url)
    mirrored = dict(query(database, "SELECT id, data FROM opportunity_items"))
    parents = {item["opportunity_id"] for item in mirrored.values()}
    assert len(parents) > 3
    assert mirrored == {i["id"]: i for p in parents for i in sandbox.store.items(p)}
    with database.session() as connection:
        sync = find_sync(connection, result.run_id)
    assert sync is not None
    ((rows,),) = query(database, "SELECT (SELECT count(*) FROM opportunities)"
                       " + (SELECT count(*) FROM opportunity_items)")  # fmt: skip
    assert sync.records_synced == rows
    assert sync.metadata["opportunity_items"]["created"] == len(mirrored)
    assert "opportunities as of" in sync.metadata["opportunity_items"]["certificate"]
    assert sync.metadata["raw_opportunity_items"]["api_calls"] <= len(parents) + 5
    checks = {(c.asset_key.to_user_string(), c.check_name): c.passed
              for c in result.get_asset_check_evaluations()}  # fmt: skip
    assert checks["opportunity_items", "mirror_is_complete"]
    assert checks["opportunity_items", "opportunity_item_ids_are_unique"]
    edited, gone, *_ = sorted(parents)
    item = sandbox.store.items(edited)[0]["id"]
    sandbox.store.edit_item(edited, item, {"name": "Renamed"})
    sandbox.store.delete(gone)
    run(instance, "incremental_sync")
    assert query(database, f"SELECT name FROM opportunity_items WHERE id = {item}") == [
        ("Renamed",)
    ]
    # A webhook of an opportunity brings its items, too.
    told = sorted(parents)[-1]
    new = sandbox.store.create_item(told, {"name": "Told of"}, loud=False)
    query(database, "INSERT INTO webhook_events (subject_type, opportunity_id) VALUES"
                    f" ('Opportunity', {told})")  # fmt: skip
    run(instance, "webhook_refresh")
    assert query(database, f"SELECT name FROM opportunity_items WHERE id = {new}") == [("Told of",)]
    # Its opportunity is gone, as the proof found out, and they with it.
    of_it = f"opportunity_items WHERE opportunity_id = {gone}"
    assert query(database, f"SELECT count(*) FROM {of_it}") == [(0,)]
    assert query(database, f"SELECT count(*) > 0 FROM deleted_{of_it}") == [(True,)]


@pytest.mark.parametrize("text", ["opportunity_items", "members,opportunity_items"])
def test_items_without_the_opportunities_that_they_stand_in_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"RMS_COLLECTIONS.*write opportunities,.*items"):
        load_settings(RMS_COLLECTIONS=text)
    with pytest.raises(RmsPipelineError, match="name opportunities as well"):
        build_account(collections=text.split(","))


def test_the_lineage_of_items_goes_through_the_opportunities() -> None:
    defs = build_account(collections=["opportunities", "opportunity_items"])
    graph = defs.resolve_asset_graph()
    parents = {
        key.to_user_string(): {p.to_user_string() for p in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    }
    assert parents["raw_opportunity_items"] == {"current_rms_api", "opportunities"}
    assert parents["opportunity_items"] == {"raw_opportunity_items"}
