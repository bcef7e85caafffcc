"""Rebuilding from what is stored: rows come right without the API, and nothing newer is lost."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror import redecode as redecoding
from rms_pipeline.mirror.database import Database
from rms_pipeline.sandbox import Store, Switches
from rms_pipeline.sync.rebuilding import rebuild
from rms_pipeline.sync.refreshing import refresh
from rms_pipeline_tests.mirror.test_merge import fetch_all
from rms_pipeline_tests.sync.conftest import Mirror
from rms_pipeline_tests.test_sync import ids_in

MakeMirror = Callable[..., Mirror]
DAMAGE = (
    "SET name = 'wrong', charge_total = NULL, opportunity_status = 'wrong', ends_at = now(),"
    " organisation_name = NULL"
)


def change(database: Database, statement: str) -> None:
    fetch_all(database, f"{statement} RETURNING 1")


def deleted_rows(database: Database) -> list[tuple[Any, ...]]:
    return fetch_all(database, "SELECT * FROM deleted_opportunities ORDER BY id")


@pytest.mark.slow
def test_damaged_and_missing_rows_are_mended_with_not_one_call(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(200))
    mirror.full_sync()
    before = mirror.rows()
    versions = fetch_all(mirror.database, "SELECT * FROM opportunity_versions ORDER BY id")
    change(mirror.database, f"UPDATE opportunities {DAMAGE}")
    change(mirror.database, f"DELETE FROM opportunities WHERE id = {min(before)}")
    mirror.sandbox.requests.clear()
    done = rebuild(mirror.database, OPPORTUNITIES, "rebuild")
    assert not mirror.sandbox.requests
    assert mirror.rows() == before
    assert mirror.differences() == {}
    assert (done.walks, done.merged.created) == (1, 1)
    assert (done.redecoded.rows, done.redecoded.rewritten) == (len(before), len(before) - 1)
    assert done.redecoded.failed == 0
    assert fetch_all(mirror.database, "SELECT * FROM opportunity_versions ORDER BY id") == versions


def test_what_was_refreshed_after_the_pages_keeps_its_newer_values(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(40))
    mirror.full_sync()
    first, second = ids_in(mirror.store, mirror.window)[:2]
    mirror.store.edit(first, {"subject": "By incremental sync"})
    mirror.incremental_sync()
    mirror.store.edit(second, {"subject": "By webhook"})
    refresh(mirror.database, mirror.client(), [second], "refresh")
    change(mirror.database, "UPDATE opportunities SET last_webhook_at = now()")
    before = mirror.rows()
    change(mirror.database, f"UPDATE opportunities {DAMAGE}")
    done = rebuild(mirror.database, OPPORTUNITIES, "rebuild")
    assert done.walks == 3
    assert mirror.rows() == before
    assert [before[i]["name"] for i in (first, second)] == ["By incremental sync", "By webhook"]


def test_a_missing_row_that_a_webhook_brought_or_refreshed_last_comes_back(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(40))
    mirror.full_sync()
    refreshed = ids_in(mirror.store, mirror.window)[0]
    brought = mirror.store.create({"starts_at": "2001-01-01", "ends_at": "2001-01-02"})
    mirror.store.edit(refreshed, {"subject": "By webhook"})
    refresh(mirror.database, mirror.client(), [refreshed, brought], "refresh")
    before = mirror.rows()
    assert brought in before
    change(mirror.database, "DELETE FROM opportunities")
    rebuild(mirror.database, OPPORTUNITIES, "rebuild")
    assert mirror.rows() == before


def test_a_deleted_row_stays_deleted_and_is_mended_where_it_is(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(60))
    mirror.full_sync()
    gone = ids_in(mirror.store, mirror.window)[3]
    mirror.store.delete(gone)
    refresh(mirror.database, mirror.client(), [gone], "refresh")
    before, deleted = mirror.rows(), deleted_rows(mirror.database)
    assert [row[0] for row in deleted] == [gone]
    change(mirror.database, f"UPDATE deleted_opportunities {DAMAGE}")
    assert deleted_rows(mirror.database) != deleted
    assert rebuild(mirror.database, OPPORTUNITIES, "rebuild").redecoded.rewritten == 1
    assert deleted_rows(mirror.database) == deleted
    assert mirror.rows() == before


@pytest.mark.slow
def test_killed_between_batches_and_run_again_it_ends_right(
    mirror_of: MakeMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = mirror_of(Store(700))
    mirror.full_sync()
    before = mirror.rows()
    change(mirror.database, f"UPDATE opportunities {DAMAGE}")
    batch, calls = redecoding._redecode_batch, 0

    def dying(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        # Two connections decode at a time, so that one of them may be further.
        if calls >= 3:
            raise KeyboardInterrupt
        return batch(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(redecoding, "_redecode_batch", dying)
        with pytest.raises(KeyboardInterrupt):
            rebuild(mirror.database, OPPORTUNITIES, "killed")
    mended = fetch_all(mirror.database, "SELECT count(*) FROM opportunities WHERE name <> 'wrong'")
    assert mended == [(400,)]
    done = rebuild(mirror.database, OPPORTUNITIES, "again")
    assert done.redecoded.rewritten == len(before) - 400
    assert mirror.rows() == before


@pytest.mark.slow
def test_a_full_sync_and_a_rebuild_at_once_end_equal_to_the_api(
    mirror_of: MakeMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As many pages and batches as of 300 rows: each call rebuilds all rows.
    monkeypatch.setattr(redecoding, "BATCH_ROWS", 80)
    mirror = mirror_of(Store(120), switches=Switches(max_per_page=10))
    mirror.full_sync()
    for number, id_ in enumerate(mirror.store.ids()):
        if number % 3 == 0:
            mirror.store.edit(id_, {"subject": f"Edited {id_}"})
    # Each answer waits for its rebuild; one at a time, or a slow machine gives none in time.
    rebuilding = threading.Lock()

    def rebuild_meanwhile(_: str) -> None:
        if rebuilding.acquire(blocking=False):
            try:
                rebuild(mirror.database, OPPORTUNITIES, "rebuild")
            finally:
                rebuilding.release()

    mirror.sandbox.before_request = rebuild_meanwhile
    mirror.full_sync()
    mirror.sandbox.before_request = None
    assert mirror.differences() == {}


def bodies(database: Database) -> tuple[int, int]:
    """How many bodies of pages are stored, and their bytes."""
    return fetch_all(database, "SELECT count(*), sum(length(body)) FROM raw_page_bodies")[0]


def test_three_full_syncs_of_an_unchanged_account_store_its_pages_once(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(120))
    mirror.full_sync()
    landed = "SELECT count(*), sum(size_bytes) FROM raw_rms_pages"
    [(pages, size)] = fetch_all(mirror.database, landed)
    before = bodies(mirror.database)
    mirror.full_sync()
    mirror.full_sync()
    assert bodies(mirror.database) == before
    assert fetch_all(mirror.database, landed) == [(3 * pages, 3 * size)]
    mirror.store.edit(ids_in(mirror.store, mirror.window)[0], {"subject": "Edited"})
    mirror.full_sync()
    # Its page and, where it is asked for, the list of what changed.
    assert before[0] < bodies(mirror.database)[0] <= before[0] + 2
    for _ in range(4):
        mirror.full_sync()
    # What it was before went with the last walk that had read it.
    assert bodies(mirror.database)[0] <= before[0] + 1
    rows = mirror.rows()
    change(mirror.database, "DELETE FROM opportunities")
    done = rebuild(mirror.database, OPPORTUNITIES, "rebuild")
    assert done.merged.created == len(rows)
    assert mirror.rows() == rows
