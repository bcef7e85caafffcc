"""Webhooks, people and syncs at the same time: what is said to be complete is, too many go by no
way, and what comes back comes back."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rms_pipeline.mirror.deletions import GUARDED_COUNT
from rms_pipeline.sandbox import Store, Switches
from rms_pipeline.sync.refreshing import refresh
from rms_pipeline_tests.cases import some_in_drills
from rms_pipeline_tests.sync.conftest import Mirror
from rms_pipeline_tests.sync.test_catching_up import tell, work
from rms_pipeline_tests.sync.test_lies import MakeMirror, proved
from rms_pipeline_tests.sync.test_prove import dated, when

pytestmark = pytest.mark.slow

TEN = Switches(max_per_page=10)
Act = Callable[[Mirror, list[int]], object]


def far(mirror: Mirror) -> dict[str, Any]:
    day = f"{mirror.store.today + timedelta(days=900):%Y-%m-%dT00:00:00.000Z}"
    return {"starts_at": day, "ends_at": day}


def dates_of(mirror: Mirror, id_: int) -> dict[str, Any]:
    return {name: mirror.store.value(id_, name) for name in ("starts_at", "ends_at")}


def fetch(mirror: Mirror, *ids: int) -> None:
    refresh(mirror.database, mirror.another_client(), ids, "webhook")


def delete_one(mirror: Mirror, ids: list[int]) -> None:
    mirror.store.delete(ids[1])
    fetch(mirror, ids[1])


def create_one(mirror: Mirror, ids: list[int]) -> None:
    fetch(mirror, mirror.store.create({"subject": "New", **dates_of(mirror, ids[1])}))


def move_one_out(mirror: Mirror, ids: list[int]) -> None:
    mirror.store.edit(ids[1], far(mirror))
    fetch(mirror, ids[1])


def take_its_dates(mirror: Mirror, ids: list[int]) -> None:
    mirror.store.edit(ids[1], {"starts_at": None, "ends_at": None})
    fetch(mirror, ids[1])


def recreate_one(mirror: Mirror, ids: list[int]) -> None:
    record = mirror.store.get(ids[1], ()) or {}
    mirror.store.delete(ids[1])
    fetch(mirror, ids[1])
    mirror.store.put(ids[1], {**record, "subject": "Again"})
    fetch(mirror, ids[1])


def delete_one_and_create_another(mirror: Mirror, ids: list[int]) -> None:
    delete_one(mirror, ids)
    mirror.store.create({"subject": "Untold", **dates_of(mirror, ids[2])})


ACTS = [
    delete_one,
    create_one,
    move_one_out,
    take_its_dates,
    recreate_one,
    delete_one_and_create_another,
]


MOMENTS = ["per_page=1&", "_null", "updated_at_gteq"]
# With every change each act at one moment, and each moment beside a ghost and without.
AT_ONCE = [
    (ghost, act, moment, m == n % 3 and ghost == (n < 3))
    for ghost in (False, True)
    for n, act in enumerate(ACTS)
    for m, moment in enumerate(MOMENTS)
]


@pytest.mark.parametrize(
    ("ghost", "act", "moment"),
    some_in_drills(
        [case[:3] for case in AT_ONCE],
        {case[:3] for case in AT_ONCE if case[3]}.__contains__,
        [f"{ghost}-{act.__name__}-{moment}" for ghost, act, moment, _ in AT_ONCE],
    ),
)
def test_whatever_a_webhook_does_while_it_is_counted_the_certificate_is_true(
    mirror_of: MakeMirror, moment: str, act: Act, ghost: bool
) -> None:
    """`ghost`: beside a row that is gone already, which nobody has told of."""
    mirror = mirror_of(Store(60), switches=TEN)
    mirror.full_sync()
    ids = dated(mirror)
    if ghost:
        mirror.store.delete(ids[-1])
    with when(mirror, moment, lambda: act(mirror, ids)):
        proof = proved(mirror)
    assert proof.shown, proof.sentence
    assert mirror.differences() == {}


def test_one_that_was_deleted_and_made_again_under_its_id_comes_back_by_every_way(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(60), switches=TEN)
    mirror.full_sync()
    ids = dated(mirror)[:4]
    records = {i: mirror.store.get(i, ()) or {} for i in ids}
    for id_ in ids:
        mirror.store.delete(id_)
    fetch(mirror, *ids)
    assert mirror.deleted() == set(ids)
    for id_ in ids:
        mirror.store.put(id_, {**records[id_], "subject": "Again"})
    fetch(mirror, ids[0])
    tell(mirror, ids[1], action="create", at=None)
    assert work(mirror).settled == 1
    mirror.store.edit(ids[2], {"subject": "Again, and edited"})
    assert proved(mirror).shown
    mirror.full_sync()
    assert mirror.differences() == {}
    assert mirror.deleted() == set()


def settle(mirror: Mirror, ids: list[int]) -> None:
    tell(mirror, *ids, action="destroy", at=None)
    work(mirror)


@pytest.mark.parametrize("first", ["refresh", "webhooks", "sync"])
def test_a_multitude_that_is_told_of_by_all_ways_goes_by_none(
    mirror_of: MakeMirror, first: str
) -> None:
    mirror = mirror_of(Store(90), switches=TEN)
    mirror.full_sync()
    doomed = dated(mirror)[:36]
    ways: dict[str, Callable[[list[int]], object]] = {
        "refresh": lambda ids: fetch(mirror, *ids),
        "webhooks": lambda ids: settle(mirror, ids),
        "sync": lambda ids: proved(mirror),
    }
    order = [first, *(way for way in ways if way != first)]
    for way, part in zip(order, (doomed[:12], doomed[12:24], doomed[24:]), strict=True):
        for id_ in part:
            mirror.store.delete(id_)
        ways[way](part)
    assert len(mirror.deleted()) <= GUARDED_COUNT
    assert set(doomed) <= mirror.deleted() | set(mirror.rows())
    proof = proved(mirror)
    assert not proof.shown
    assert "confirmation" in proof.sentence, proof.sentence
    done = mirror.full_sync(confirm_deletions=True)
    assert done.settled.certificate.shown, done.settled.certificate.sentence
    assert mirror.deleted() == set(doomed)


@pytest.mark.parametrize("lag", [0.0, 3600.0])
def test_an_event_of_a_creation_and_one_of_its_deletion_in_either_order_leave_what_is(
    mirror_of: MakeMirror, lag: float
) -> None:
    mirror = mirror_of(Store(40), switches=replace(TEN, singles_lag=lag))
    mirror.full_sync()
    gone = mirror.store.create({"subject": "Short-lived", **dates_of(mirror, dated(mirror)[0])})
    mirror.store.delete(gone)
    there = mirror.store.create({"subject": "Kept", **dates_of(mirror, dated(mirror)[0])})
    tell(mirror, gone, there, action="destroy", at=None)
    tell(mirror, gone, there, action="create", at=None)
    for _ in range(12):
        work(mirror)
    mirror.sandbox.switches = TEN
    assert proved(mirror).shown
    assert mirror.differences() == {}
    assert gone not in mirror.rows()
