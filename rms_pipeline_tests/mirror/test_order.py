"""Which of two fetches wins: the rule, and that no order of merging changes the outcome."""

import itertools
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from rms_pipeline.mirror.merge import Fetch, supersedes

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def fetch(asked: int, answered: int, updated: int | None, *, deleted: bool = False) -> Fetch:
    def at(seconds: int) -> datetime:
        return T0 + timedelta(seconds=seconds)

    return Fetch(at(asked), at(answered), None if updated is None else at(updated), deleted)


def test_what_was_asked_for_after_the_other_arrived_wins_whatever_its_updated_at() -> None:
    assert supersedes(fetch(2, 3, -9), fetch(0, 2, 1))
    assert not supersedes(fetch(0, 2, 9), fetch(2, 3, 1))


def test_of_overlapping_fetches_the_newer_updated_at_wins_and_an_absent_one_loses() -> None:
    assert supersedes(fetch(0, 2, 5), fetch(1, 3, 4))
    assert not supersedes(fetch(1, 3, 4), fetch(0, 2, 5))
    assert not supersedes(fetch(1, 3, None), fetch(0, 2, 5))
    assert supersedes(fetch(0, 2, 5), fetch(1, 3, None))


def test_of_overlapping_fetches_with_equal_updated_at_the_later_arrival_wins() -> None:
    assert supersedes(fetch(0, 3, 5), fetch(1, 2, 5))
    assert not supersedes(fetch(1, 2, None), fetch(0, 3, None))


def test_only_what_was_asked_for_after_a_deletion_was_known_undoes_it() -> None:
    gone = fetch(2, 4, None, deleted=True)
    assert not supersedes(fetch(0, 1, 9), gone)
    assert not supersedes(fetch(3, 9, 9), gone)
    assert supersedes(fetch(4, 5, None), gone)


def test_a_deletion_is_undone_by_nothing_less_when_it_is_stored_last() -> None:
    gone = fetch(2, 4, None, deleted=True)
    assert supersedes(gone, fetch(0, 1, 9))
    assert supersedes(gone, fetch(3, 9, 9))
    assert not supersedes(gone, fetch(4, 5, None))


moments = st.integers(0, 8)
fetches = st.builds(
    lambda asked, took, updated: fetch(asked, asked + took, updated),
    moments,
    st.integers(1, 4),
    st.none() | moments,
)


@settings(deadline=None)
@given(fetches, fetches)
def test_of_two_different_fetches_exactly_one_wins_over_the_other(a: Fetch, b: Fetch) -> None:
    if (a.answered_at, a.updated_at) != (b.answered_at, b.updated_at) or (
        a.asked_at >= b.answered_at or b.asked_at >= a.answered_at
    ):
        assert supersedes(a, b) != supersedes(b, a)


absences = st.builds(
    lambda asked, took: fetch(asked, asked + took, None, deleted=True), moments, st.integers(1, 4)
)


@settings(deadline=None)
@given(fetches, absences)
def test_of_a_fetch_and_a_deletion_exactly_one_wins_over_the_other(a: Fetch, gone: Fetch) -> None:
    assert supersedes(a, gone) != supersedes(gone, a)


@settings(deadline=None)
@given(st.lists(fetches, min_size=2, max_size=2))
def test_merging_twice_or_in_another_order_ends_the_same(pair: list[Fetch]) -> None:
    outcomes = set()
    for order in itertools.permutations(pair):
        stored = order[0]
        for new in (*order, *order):
            if supersedes(new, stored):
                stored = new
        outcomes.add((stored.answered_at, stored.updated_at))
    assert len(outcomes) == 1
