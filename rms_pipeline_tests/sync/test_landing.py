"""Walks that end before their time: which pages stay, and how many."""

import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from rms_pipeline.current_rms.errors import RequestRefused
from rms_pipeline.current_rms.window import iso
from rms_pipeline.sandbox import Store, Switches
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.sync.conftest import Mirror
from rms_pipeline_tests.test_sync import ids_in

MakeMirror = Callable[..., Mirror]
PAGES_BY_WALK = "SELECT walk, count(*) FROM raw_rms_pages GROUP BY walk ORDER BY walk"


def fail_after(mirror: Mirror, requests: int) -> None:
    """A full sync whose API refuses all further requests."""
    number = itertools.count()

    def refuse(_: str) -> None:
        if next(number) >= requests:
            mirror.sandbox.faults.probabilities = {"error_400": 1.0}

    mirror.sandbox.before_request = refuse
    with pytest.raises(RequestRefused):
        mirror.full_sync()
    mirror.sandbox.before_request = None
    mirror.sandbox.faults.probabilities = {}


def pages(mirror: Mirror) -> list[tuple[Any, ...]]:
    return query(mirror.database, PAGES_BY_WALK)


@pytest.mark.slow
def test_full_syncs_that_fail_push_out_no_page_of_those_that_completed(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(80), switches=Switches(max_per_page=10))
    mirror.full_sync()
    complete = pages(mirror)
    for _ in range(4):
        fail_after(mirror, 3)
    mirror.incremental_sync()
    assert pages(mirror)[:1] == complete


@pytest.mark.slow
def test_where_no_full_sync_ever_completes_the_pages_do_not_pile_up(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(80), switches=Switches(max_per_page=10))
    for _ in range(5):
        fail_after(mirror, 8)
    last = query(mirror.database, "SELECT max(id) FROM walks")[0][0]
    assert [walk for walk, _ in pages(mirror)] == [last]


@pytest.mark.parametrize("minutes", [1, 4])
def test_a_record_that_is_committed_minutes_after_its_updated_at_is_fetched_all_the_same(
    mirror_of: MakeMirror, minutes: int
) -> None:
    mirror = mirror_of(Store(20))
    mirror.full_sync()
    mirror.incremental_sync()
    edited = ids_in(mirror.store, mirror.window)[0]
    stamp = iso(mirror.store.now() - timedelta(minutes=minutes))
    mirror.store.edit(edited, {"subject": "Committed late", "updated_at": stamp})
    mirror.incremental_sync()
    assert mirror.rows()[edited]["name"] == "Committed late"
