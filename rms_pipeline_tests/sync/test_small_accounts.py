"""Accounts of a few records: one page, or one range, may hold all that there is."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import SimpleNamespace

import pytest

from rms_pipeline.sandbox import Store, Switches
from rms_pipeline.sync import counting
from rms_pipeline_tests.cases import some_in_drills
from rms_pipeline_tests.sync.conftest import Mirror
from rms_pipeline_tests.sync.test_odd_lists import CutsAt
from rms_pipeline_tests.sync.test_prove import proved

MakeMirror = Callable[..., Mirror]
TEN = Switches(max_per_page=10)


def account(records: int) -> Store:
    """All of them have dates inside the window, so one list holds the whole account."""
    store = Store(0)
    day = f"{store.today:%Y-%m-%dT00:00:00.000Z}"
    for _ in range(records):
        store.create({"starts_at": day, "ends_at": day})
    return store


def cut_behind(monkeypatch: pytest.MonkeyPatch, row: int) -> None:
    monkeypatch.setattr(counting, "random", SimpleNamespace(Random=lambda: CutsAt(row)))


def delete(mirror: Mirror, ids: Iterable[int]) -> None:
    for id_ in ids:
        mirror.store.delete(id_)


@pytest.mark.parametrize(
    "records",
    # None, one, and about one page and two.
    some_in_drills([0, 1, 2, 9, 10, 11, 20, 21, 30], {0, 1, 10, 11, 20}.__contains__),
)
def test_the_first_proof_of_a_small_account_shows_it_and_so_does_each_after_it(
    mirror_of: MakeMirror, records: int
) -> None:
    mirror = mirror_of(account(records), switches=TEN)
    certificate = mirror.full_sync().settled.certificate
    assert certificate.shown, certificate.sentence
    assert (certificate.mirrored, certificate.counted) == (records, records)
    for deleted in (1, records // 3, records):
        delete(mirror, mirror.store.ids()[:deleted])
        proof = proved(mirror)
        assert proof.shown or "confirmation" in proof.reason, proof.sentence


@pytest.mark.parametrize(
    ("row", "end"),
    some_in_drills(
        itertools.product((3, 14, 27), ("lowest", "highest")),
        # Each row with one of the ends.
        lambda case: (case[0] == 14) == (case[1] == "highest"),
    ),
)
def test_a_range_that_holds_all_that_is_left_is_told_from_a_count_that_stops(
    mirror_of: MakeMirror, monkeypatch: pytest.MonkeyPatch, row: int, end: str
) -> None:
    """Its count is that of the account, so the account's own count does not tell them apart."""
    mirror = mirror_of(account(30), switches=replace(TEN, max_per_page=25))
    assert mirror.full_sync().settled.certificate.shown
    ids = mirror.store.ids()
    delete(mirror, ids[:4] if end == "lowest" else ids[-4:])
    cut_behind(monkeypatch, row)
    proof = proved(mirror)
    assert proof.shown, proof.sentence
    assert mirror.differences() == {}
    assert len(mirror.deleted()) == 4


@pytest.mark.parametrize("cap", some_in_drills([1, 9, 10, 11, 20, 26], {1, 10, 11}.__contains__))
def test_a_count_that_stops_where_one_range_holds_all_is_not_believed(
    mirror_of: MakeMirror, monkeypatch: pytest.MonkeyPatch, cap: int
) -> None:
    mirror = mirror_of(account(34), switches=TEN)
    assert mirror.full_sync().settled.certificate.shown
    ids = mirror.store.ids()
    delete(mirror, ids[:4])
    mirror.sandbox.switches = replace(TEN, count_cap=cap)
    cut_behind(monkeypatch, 3)
    for _ in range(2):
        proof = proved(mirror)
        assert not proof.shown or mirror.differences() == {}, proof.sentence


@pytest.mark.parametrize("records", some_in_drills([9, 10, 19, 20], {9, 10}.__contains__))
def test_one_that_comes_while_a_full_page_is_looked_behind_is_no_sign_of_wrong_counts(
    mirror_of: MakeMirror, records: int
) -> None:
    """The page was full and the count said that it was the last; then there was one more."""
    mirror = mirror_of(account(records), switches=TEN)
    dates = {k: mirror.store.value(mirror.store.ids()[0], k) for k in ("starts_at", "ends_at")}
    asked = iter(range(100))

    def create_one(path: str) -> None:
        if f"q%5Bid_gt%5D={mirror.store.ids()[-1]}" in path and next(asked) < 1:
            mirror.store.create(dates)

    mirror.sandbox.before_request = create_one
    certificate = mirror.full_sync().settled.certificate
    assert certificate.shown, certificate.sentence
    # And the same where it comes in the middle of a proof.
    asked = iter(range(100))
    proof = proved(mirror)
    assert proof.shown, proof.sentence
    mirror.sandbox.before_request = None
    proof = proved(mirror)
    assert proof.shown, proof.sentence
    assert mirror.differences() == {}
