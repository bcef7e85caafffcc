"""Every collection that is on is seen on the dashboard, in the APIs and in the metrics."""

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.progress import Progress, note_progress
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.settings import load_settings
from rms_pipeline_tests.conftest import dagsters_tables
from rms_pipeline_tests.mirror.test_collection_states import insert_walk
from rms_pipeline_tests.rows import insert, insert_opportunities, insert_proof, insert_sync
from rms_pipeline_tests.web.conftest import Web, serving
from rms_pipeline_tests.web.page import Page, get, visit
from rms_pipeline_tests.web.test_metrics import measured

NOW = datetime.now(UTC)
WHOLE: dict[str, Any] = {"window_start": None, "window_end": None}


@pytest.fixture(scope="module")
def standing(migrated: Database) -> Iterator[Web]:
    """The service of a mirror with members and invoices."""
    current = load_settings(_env_file=None, RMS_COLLECTIONS="members,invoices")
    with (
        dagsters_tables(migrated),
        SandboxServer(Store(1)) as sandbox,
        serving(migrated, sandbox, current=current) as web,
    ):
        yield web


@pytest.fixture
def mirrored(web: Web) -> Web:
    """Members are complete, invoices were not read yet."""
    insert_opportunities(web.database, {}, {})
    insert(web.database, "members", [{"id": id_, "name": "Somebody"} for id_ in (7, 8, 9)])
    for collection in ("opportunities", "members"):
        insert_walk(web.database, collection, ago=600)
    insert_proof(web.database, counted=2, mirrored=2)
    insert_proof(web.database, collection="members", counted=3, mirrored=3, **WHOLE)
    return web


def listed(page: Page) -> str:
    """What is to be read of the collections."""
    return page.text.partition("Collections")[2].partition("Last syncs")[0]


def test_the_dashboard_shows_rows_certificate_and_freshness_of_each(mirrored: Web) -> None:
    page = visit(mirrored, "/")
    ids = [f"collection-{name}" for name in ("opportunities", "members", "invoices")]
    assert [id_ for id_ in page.ids if id_.startswith("collection-")] == ids
    text = " ".join(listed(page).split())
    opportunities, members, invoices = (
        text.partition(name)[2] for name in ("Opportunities", "Members", "Invoices")
    )
    assert "2 of 2" in opportunities
    assert "3 of 3 · last read 10 min ago 3 rows" in members
    assert "complete as of" in members.partition("Invoices")[0]
    assert "not read yet: the next sync reads all of it 0 rows" in invoices
    assert "last read" not in invoices
    assert "collection-members" in visit(mirrored, "/fragments/sync").html


def test_a_collection_that_is_off_is_shown_to_be_no_longer_kept(
    mirrored: Web, migrated: Database
) -> None:
    with serving(migrated, mirrored.sandbox) as alone:
        text = listed(visit(alone, "/"))
        assert "not kept up to date any more" in text
        assert "Invoices" not in text


def test_with_opportunities_alone_nothing_is_said_of_collections(
    web: Web, migrated: Database
) -> None:
    insert_opportunities(migrated, {})
    insert_walk(migrated, "opportunities")
    insert_proof(migrated)
    with serving(migrated, web.sandbox) as alone:
        assert "Collections" not in visit(alone, "/").text
        told = get(alone, "/api/sync/status").json()
        assert "collections" not in told
        (only,) = get(alone, "/api/dashboard").json()["sync"]["collections"]
        assert (only["name"], only["rows"], only["is_on"]) == ("opportunities", 1, True)


def test_deletions_that_wait_and_faults_are_shown_with_their_collection(mirrored: Web) -> None:
    insert(mirrored.database, "member_versions", [{"id": 8, "asked_at": NOW - timedelta(hours=1)}])
    held = {"collection": "members", "id": 8, "because": "gone"}
    insert(mirrored.database, "held_deletions", [held | {"asked_at": NOW, "answered_at": NOW}])
    fault = {"opportunity_id": 7, "field": "emails", "problem": "x", "run": "run"}
    insert(mirrored.database, "sync_faults", [fault | {"collection": "members"}])
    text = " ".join(listed(visit(mirrored, "/")).split())
    assert "1 deletion waits for confirmation · 1 value could not be stored" in text
    told = get(mirrored, "/api/sync/status").json()["collections"]
    assert [(c["deletionsHeldBack"], c["faults"]) for c in told] == [(0, 0), (1, 1), (0, 0)]


def test_the_sync_api_tells_how_each_stands_and_what_a_sync_did_of_each(mirrored: Web) -> None:
    told = get(mirrored, "/api/sync/status").json()
    assert [(c["name"], c["isOn"], c["rows"]) for c in told["collections"]] == [
        ("opportunities", True, 2),
        ("members", True, 3),
        ("invoices", True, 0),
    ]
    assert [c["certificate"] and c["certificate"]["state"] for c in told["collections"]] == [
        *("green", "green"),
        None,
    ]
    schemas = mirrored.app.openapi()["components"]["schemas"]
    assert set(schemas["CollectionRow"]["properties"]) == set(told["collections"][0])
    insert_sync(mirrored.database, "run", records_synced=5)
    figures = [
        {"sync": 1, "collection": "opportunities", "records_synced": 2, "records_failed": 0},
        {"sync": 1, "collection": "members", "records_synced": 3, "records_failed": 1},
    ]
    insert(mirrored.database, "sync_figures", figures)
    (sync,) = get(mirrored, "/api/dashboard").json()["sync"]["history"]
    assert sync["collections"] == {
        "opportunities": {"synced": 2, "failed": 0},
        "members": {"synced": 3, "failed": 1},
    }


def test_a_running_sync_shows_which_collection_it_is_at(mirrored: Web) -> None:
    insert_sync(mirrored.database, "run", status="running")
    walk = {"kind": "full", "runs": ["run"], "collection": "opportunities"}
    insert(mirrored.database, "walks", [walk | {"completed_at": NOW}])
    insert(mirrored.database, "walks", [walk | {"collection": "members"}])
    for stage, name in (("fetching", "members"), ("storing", "opportunities")):
        with mirrored.database.session() as connection:
            note_progress(connection, "run", Progress(stage, 2, 5, 200, 446))
        assert f"{name}, 200 of 446 records" in visit(mirrored, "/fragments/sync").text
        told = get(mirrored, "/api/sync/status").json()["progress"]
        assert (told["collection"], told["stage"]) == (name, stage)


def test_metrics_have_a_sample_for_each_collection_that_is_on(mirrored: Web) -> None:
    insert_walk(mirrored.database, "members", "changes", ago=50)
    found = measured(mirrored)
    expected = {
        "rms_collection_rows opportunities": 2,
        "rms_collection_rows members": 3,
        "rms_collection_rows invoices": 0,
        "rms_collection_complete opportunities": 1,
        "rms_collection_complete members": 1,
        "rms_collection_complete invoices": 0,
        "rms_collection_proof_counted members": 3,
        "rms_collection_proof_mirrored members": 3,
        "rms_collection_faults members": 0,
        "rms_collection_unreadable members": 0,
        "rms_collection_deletions_held_back members": 0,
        # Those that opportunities had before there were others.
        "rms_mirror_complete": 1,
        "rms_proof_counted": 2,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert 50 <= found["rms_collection_last_sync_age_seconds members"] < 500
    assert 600 <= found["rms_collection_last_sync_age_seconds opportunities"] < 1_100
    for figure in ("last_sync_age_seconds", "proof_age_seconds", "proof_counted"):
        assert math.isnan(found[f"rms_collection_{figure} invoices"]), figure
    assert math.isnan(found["rms_api_limit_per_minute"])


def test_metrics_tell_how_many_changes_of_each_webhooks_had_named(mirrored: Web) -> None:
    audits = {"opportunities": (0.75, 1.5), "members": (0.5, None), "invoices": (None, None)}
    for name, (share, lag) in audits.items():
        audit = {"changed": 8, "by_webhook": 6, "share": share, "lag_seconds": lag}
        insert_walk(mirrored.database, name, "changes", ago=50, audit=audit)
    found = measured(mirrored)
    assert found["rms_collection_webhook_share opportunities"] == 0.75
    assert found["rms_collection_webhook_lag_seconds opportunities"] == 1.5
    assert found["rms_webhook_share"] == 0.75
    assert found["rms_collection_webhook_share members"] == 0.5
    assert math.isnan(found["rms_collection_webhook_lag_seconds members"])
    # Nothing of them changed, which tells nothing of webhooks.
    assert "rms_collection_webhook_share invoices" not in found


def test_metrics_say_nothing_of_what_is_off(mirrored: Web, migrated: Database) -> None:
    with serving(migrated, mirrored.sandbox) as alone:
        found = measured(alone)
    assert [name for name in found if "members" in name] == []
