"""What RMS_COLLECTIONS switches on has assets, checks and a part in every sync."""

import dagster as dg
import pytest

from rms_pipeline.definitions import build_defs
from rms_pipeline.mirror.history import find_sync, outcome
from rms_pipeline.sandbox import SandboxServer
from rms_pipeline.settings import SettingsError, load_settings, settings
from rms_pipeline_tests.conftest import database_at
from rms_pipeline_tests.defs.test_assets import instance, sandbox
from rms_pipeline_tests.rows import query

__all__ = ["instance", "sandbox"]


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


def test_what_is_switched_on_later_is_read_whole_by_the_next_incremental_sync(
    instance: dg.DagsterInstance,
    ready_url: str,
    sandbox: SandboxServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(instance, "initial_sync")
    database = database_at(ready_url)
    assert query(database, "SELECT count(*) FROM members") == [(0,)]
    monkeypatch.setenv("RMS_COLLECTIONS", "members")
    settings.cache_clear()
    done = run(instance, "incremental_sync")
    assert query(database, "SELECT count(*) FROM members") == [(len(sandbox.store.members.all()),)]
    with database.session() as connection:
        sync = find_sync(connection, done.run_id)
    assert sync is not None
    assert "All members were read" in sync.metadata["raw_members"]["read_whole"]
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
    assert "invoices is not mirrored here. These are: opportunities, members." in sync.error


def test_a_collection_that_there_is_not_is_refused_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match=r"RMS_COLLECTIONS.*unicorns.*members"):
        load_settings(RMS_COLLECTIONS="members,unicorns")


@pytest.mark.parametrize("text", ["", "members", " Members ,opportunities,", "members,members"])
def test_opportunities_are_always_mirrored(text: str) -> None:
    names = [c.name for c in load_settings(RMS_COLLECTIONS=text).collections]
    assert names == ["opportunities", "members"][: 2 if "ember" in text else 1]
