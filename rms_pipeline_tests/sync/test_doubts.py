"""A list that shows a record as it was before: it may lag, or the record was set back."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rms_pipeline.sandbox import Store, Switches
from rms_pipeline.sandbox.api.answers import Answer
from rms_pipeline.sync.doubts import MOST_ASKED
from rms_pipeline.sync.refreshing import refresh
from rms_pipeline_tests.cases import some_in_drills
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.sync.conftest import Cut, Mirror
from rms_pipeline_tests.sync.test_catching_up import singly, tell, work
from rms_pipeline_tests.sync.test_lies import Tell, is_single, lie
from rms_pipeline_tests.test_sync import ids_in

pytestmark = pytest.mark.slow

__all__ = ["lie"]
MakeMirror = Callable[..., Mirror]
TEN = Switches(max_per_page=10)


def turn(mirror: Mirror, **switches: Any) -> None:
    mirror.sandbox.switches = replace(mirror.sandbox.switches, **switches)


def mirrored(mirror_of: MakeMirror, rows: int = 60) -> tuple[Mirror, list[int]]:
    mirror = mirror_of(Store(rows, clock=lambda: 1e6 + mirror.store.ahead.total_seconds()))
    mirror.sandbox.switches = TEN
    mirror.store.remember(1e9)
    mirror.full_sync()
    mirror.store.ahead += timedelta(hours=1)
    return mirror, ids_in(mirror.store, mirror.window)


def set_back(mirror: Mirror, id_: int, **fields: Any) -> None:
    past = (mirror.store.today - timedelta(days=900)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    mirror.store.edit(id_, {"subject": "As of a backup", "updated_at": past, **fields})


@pytest.mark.parametrize(
    ("by", "count"),
    some_in_drills(
        itertools.product(("incremental sync", "full sync"), (3, MOST_ASKED + 15)),
        {("incremental sync", 3), ("full sync", MOST_ASKED + 15)}.__contains__,
    ),
)
def test_a_list_that_lags_takes_nothing_back(mirror_of: MakeMirror, by: str, count: int) -> None:
    mirror, ids = mirrored(mirror_of)
    some = ids[:count]
    for id_ in some:
        mirror.store.edit(id_, {"subject": "First"})
    mirror.store.ahead += timedelta(seconds=30)
    for id_ in some:
        mirror.store.edit(id_, {"subject": "Second"})
    refresh(mirror.database, mirror.client(), some, "singly")
    query(mirror.database, "TRUNCATE opportunity_changes")
    turn(mirror, lists_lag=20)
    if by == "full sync":
        certificate = mirror.full_sync().settled.certificate
    else:
        certificate = mirror.proved_sync()  # type: ignore[assignment]
    assert {mirror.rows()[i]["name"] for i in some} == {"Second"}
    assert query(mirror.database, "SELECT count(*) FROM opportunity_changes") == [(0,)]
    assert certificate.shown, certificate.sentence


def test_a_list_that_lags_brings_back_nothing_that_was_deleted(mirror_of: MakeMirror) -> None:
    mirror, ids = mirrored(mirror_of)
    mirror.store.edit(ids[0], {"subject": "Edited"})
    mirror.store.ahead += timedelta(seconds=30)
    mirror.store.delete(ids[0])
    refresh(mirror.database, mirror.client(), ids[:1], "singly")
    turn(mirror, lists_lag=20)
    proof = mirror.proved_sync()
    assert mirror.deleted() == {ids[0]}
    assert proof is not None
    assert ids[0] in proof.left, proof.sentence
    turn(mirror, lists_lag=0)
    proof = mirror.proved_sync()
    assert proof is not None
    assert proof.shown, proof.sentence
    assert mirror.differences() == {}


@pytest.mark.parametrize("by", ["refresh", "events"])
def test_a_refresh_of_many_brings_back_nothing_that_a_list_still_shows(
    mirror_of: MakeMirror, by: str
) -> None:
    mirror, ids = mirrored(mirror_of)
    gone = ids[:12]
    mirror.store.ahead += timedelta(seconds=30)
    for id_ in gone:
        mirror.store.delete(id_)
    refresh(mirror.database, mirror.client(), gone[:10], "singly")
    refresh(mirror.database, mirror.client(), gone[10:], "singly")
    turn(mirror, lists_lag=20)
    if by == "refresh":
        refresh(mirror.database, mirror.client(), gone, "by list")
    else:
        tell(mirror, *gone, at=None)
        work(mirror)
    assert mirror.deleted() == set(gone)


@pytest.mark.parametrize(
    "count", some_in_drills([1, MOST_ASKED, MOST_ASKED + 15], {1, MOST_ASKED + 15}.__contains__)
)
def test_what_was_set_back_is_stored_for_a_few_calls(mirror_of: MakeMirror, count: int) -> None:
    mirror, ids = mirrored(mirror_of)
    before = mirror.sandbox.requests
    before.clear()
    mirror.full_sync()
    usual = len(before)
    for id_ in ids[:count]:
        set_back(mirror, id_)
    before.clear()
    done = mirror.full_sync()
    assert mirror.differences() == {}
    assert done.settled.certificate.shown, done.settled.certificate.sentence
    assert done.merged.result.updated == count
    assert len(before) <= usual + min(count, MOST_ASKED)


def test_what_came_back_after_a_deletion_is_stored(mirror_of: MakeMirror) -> None:
    mirror, ids = mirrored(mirror_of)
    record = mirror.store.get(ids[0])
    assert record is not None
    mirror.store.delete(ids[0])
    refresh(mirror.database, mirror.client(), ids[:1], "singly")
    assert mirror.deleted() == {ids[0]}
    mirror.store.put(ids[0], record)
    done = mirror.full_sync()
    assert mirror.differences() == {}
    assert done.merged.result.restored == 1
    assert done.settled.certificate.shown, done.settled.certificate.sentence


@pytest.mark.parametrize("status", [500, 404, 200])
def test_where_the_single_record_cannot_be_had_the_list_has_its_word(
    mirror_of: MakeMirror, lie: Tell, status: int
) -> None:
    mirror, ids = mirrored(mirror_of)
    some = ids[:2]
    for id_ in some:
        set_back(mirror, id_)
    body = json.dumps({"opportunity": {"id": 7}} if status == 200 else {"errors": ["x"]}).encode()
    lie(lambda request, answer: Answer(status, body) if is_single(request) else answer)
    mirror.full_sync()
    assert mirror.differences() == {}
    assert mirror.deleted() == set()


def test_a_record_that_left_the_window_and_is_still_listed_there_is_named(
    mirror_of: MakeMirror,
) -> None:
    mirror, ids = mirrored(mirror_of)
    id_ = next(i for i in ids if mirror.store.value(i, "starts_at"))
    mirror.store.edit(id_, {"subject": "Edited"})
    mirror.store.ahead += timedelta(seconds=30)
    far = (mirror.store.today + timedelta(days=900)).strftime("%Y-%m-%dT00:00:00.000Z")
    mirror.store.edit(id_, {"starts_at": far, "ends_at": far})
    refresh(mirror.database, mirror.client(), [id_], "singly")
    turn(mirror, lists_lag=20)
    proof = mirror.proved_sync()
    assert proof is not None
    assert not proof.shown or proof.left == (id_,), proof.sentence
    assert mirror.rows()[id_]["starts_at"].year > mirror.store.today.year + 1
    assert id_ in singly(mirror)


def test_two_that_make_up_for_one_another_in_a_list_that_lags_are_both_seen(
    mirror_of: MakeMirror,
) -> None:
    mirror, ids = mirrored(mirror_of)
    out, came = [i for i in ids if mirror.store.value(i, "starts_at")][:2]
    dates = {n: mirror.store.value(out, n) for n in ("starts_at", "ends_at")}
    far = (mirror.store.today + timedelta(days=900)).strftime("%Y-%m-%dT00:00:00.000Z")
    mirror.store.edit(came, {"starts_at": far, "ends_at": far})
    mirror.proved_sync()
    for id_ in out, came:
        mirror.store.edit(id_, {"subject": "Edited"})
    mirror.store.ahead += timedelta(seconds=30)
    mirror.store.edit(out, {"starts_at": far, "ends_at": far})
    mirror.store.edit(came, dates)
    refresh(mirror.database, mirror.client(), [out, came], "singly")
    turn(mirror, lists_lag=20)
    # Both are counted in the same range.
    proof = mirror.proved_sync(dice=Cut(30))
    assert proof is not None
    assert not proof.shown or set(proof.left) == {out, came}, proof.sentence
