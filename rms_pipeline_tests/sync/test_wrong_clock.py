"""Rows stamped while the database's clock was ahead, after it was put right."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from rms_pipeline.sandbox import Store
from rms_pipeline.sync.refreshing import refresh
from rms_pipeline_tests.sync.conftest import Mirror

MakeMirror = Callable[..., Mirror]


def stamped_ahead(mirror: Mirror) -> None:
    """As if all that was done so far had been done while the clock was a year ahead."""
    year = "interval '1 year'"
    with mirror.database.session() as connection, connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE opportunity_versions SET asked_at = asked_at + {year},"
            f" answered_at = answered_at + {year}"
        )
        cursor.execute(f"UPDATE opportunities SET synced_at = synced_at + {year}")


@pytest.mark.slow
def test_edits_and_deletions_are_seen_at_once(mirror_of: MakeMirror) -> None:
    mirror = mirror_of(Store(300))
    mirror.full_sync()
    stamped_ahead(mirror)
    edited, refreshed, gone, gone_too = list(mirror.rows())[:4]
    mirror.store.edit(edited, {"subject": "Edited"})
    mirror.incremental_sync()
    assert mirror.rows()[edited]["name"] == "Edited"
    mirror.store.edit(refreshed, {"subject": "Refreshed", "updated_at": None})
    mirror.store.delete(gone)
    refresh(mirror.database, mirror.client(), [refreshed, gone], "refresh")
    assert mirror.rows()[refreshed]["name"] == "Refreshed"
    mirror.store.delete(gone_too)
    done = mirror.full_sync()
    assert mirror.deleted() == {gone, gone_too}
    assert done.settled.certificate.shown
    assert mirror.differences() == {}
    now = mirror.database.clock()()
    assert max(row["synced_at"] for row in mirror.rows().values()) <= now


def test_a_deletion_of_then_is_undone_by_a_record_that_is_there_now(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(50))
    mirror.full_sync()
    id_ = next(iter(mirror.rows()))
    record = mirror.store.get(id_, ())
    assert record is not None
    mirror.store.delete(id_)
    mirror.full_sync()
    assert mirror.deleted() == {id_}
    stamped_ahead(mirror)
    mirror.store.put(id_, record)
    done = mirror.full_sync()
    assert done.merged.result.restored == 1
    assert (mirror.deleted(), mirror.differences()) == (set(), {})


def test_a_row_outside_the_window_is_the_first_to_be_asked_for_again(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(20))
    far = (mirror.store.today + timedelta(days=900)).strftime("%Y-%m-%dT00:00:00.000Z")
    outside = [mirror.store.create({"starts_at": far, "ends_at": far}) for _ in range(3)]
    mirror.full_sync()
    refresh(mirror.database, mirror.client(), outside, "refresh")
    with mirror.database.session() as connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE opportunities SET synced_at = now() + interval '1 year' WHERE id = %s",
            (outside[2],),
        )
    mirror.store.edit(outside[2], {"subject": "Silently edited", "updated_at": None})
    with mirror.database.session() as connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE opportunity_versions SET asked_at = now() + interval '1 year',"
            " answered_at = now() + interval '1 year' WHERE id = %s",
            (outside[2],),
        )
    mirror.full_sync(reverify_calls=1)
    assert mirror.rows()[outside[2]]["name"] == "Silently edited"
