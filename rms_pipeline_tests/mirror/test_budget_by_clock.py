"""The shared request budget over minutes, with a clock that is handed in.

The row of the budget is the only thing that knows the time. Moving all its moments into the past is
the passing of time for it, and takes none.
"""

import random
import time

import pytest

from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.mirror.budget import SharedBudget
from rms_pipeline.mirror.database import Database
from rms_pipeline_tests.mirror.test_budget import (
    ACCOUNT,
    QUARTER_OF_AN_HOUR,
    Grant,
    fullest,
    run_sql,
    use_of,
)

WALK, LIVE = Lane.WALK, Lane.LIVE


class Clock:
    """Passes by being told to, and not while the machine works; it is where the budget waits."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.now = 0.0
        self._looked_at = time.monotonic()

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        self._move(seconds)
        return False

    def stand(self) -> None:
        """Takes back what has passed by itself since the last look."""
        self._move(0.0)

    def _move(self, seconds: float) -> None:
        passed = time.monotonic() - self._looked_at
        self._looked_at += passed
        run_sql(
            self._database,
            "UPDATE api_budget SET seen_at = seen_at - s, paused_until = paused_until - s,"
            " throttled_at = throttled_at - s,"
            " next_slots = (SELECT array_agg(slot - s ORDER BY n)"
            " FROM unnest(next_slots) WITH ORDINALITY AS slots (slot, n))"
            " FROM (SELECT %s * interval '1 s' AS s) AS passed",
            seconds - passed,
        )

    def is_set(self) -> bool:
        return False

    def set(self) -> None:
        pass


@pytest.fixture
def clock(emptied: Database) -> Clock:
    return Clock(emptied)


def budget_by(clock: Clock, database: Database, limit: int) -> SharedBudget:
    budget = SharedBudget(database, ACCOUNT, limit)
    budget._closed = clock  # type: ignore[assignment]
    return budget


@pytest.mark.slow
def test_the_limit_is_used_and_never_exceeded_in_any_minute_of_four(
    emptied: Database, clock: Clock
) -> None:
    """The calls of walks without end, and of people now and then."""
    budget = budget_by(clock, emptied, 120)
    chance = random.Random(1)
    grants: list[Grant] = []
    while clock.now < 240:
        lane = LIVE if chance.random() < 0.15 else WALK
        clock.stand()
        budget.acquire(lane)
        grants.append(Grant(clock.now, lane.value))
    budget.close()
    assert fullest(grants, 60) <= 120
    for start in range(5, 170, 7):
        within = [g for g in grants if start <= g.at < start + 60]
        # Of the 108 that are a walk's share. A busy machine is late for some of its slots.
        assert len(within) >= 0.75 * 120
    assert 0.75 * 120 <= use_of(emptied).calls <= 120


@pytest.mark.parametrize("asked", [1.0, 20.0, 59.0])
def test_a_call_counts_for_a_whole_minute_and_no_longer(
    emptied: Database, clock: Clock, asked: float
) -> None:
    budget = budget_by(clock, emptied, 120)
    budget.acquire(LIVE)
    clock.wait(asked)
    assert use_of(emptied).calls == 1
    clock.wait(61.0)
    assert use_of(emptied).calls == 0
    budget.close()


def test_a_pause_ends_when_it_was_meant_to(emptied: Database, clock: Clock) -> None:
    budget = budget_by(clock, emptied, 120)
    budget.pause(50)
    budget.acquire(LIVE)
    assert 45 < clock.now < 55
    budget.close()


def test_no_moment_kept_in_the_row_makes_anybody_wait_for_ever(
    emptied: Database, clock: Clock
) -> None:
    budget = budget_by(clock, emptied, 1_200)
    budget.acquire(LIVE)
    run_sql(
        emptied,
        "UPDATE api_budget SET paused_until = now() + interval '1 year',"
        " throttled_at = now() + interval '1 year'",
    )
    began = clock.now
    budget.acquire(LIVE)
    assert QUARTER_OF_AN_HOUR - 5 < clock.now - began < QUARTER_OF_AN_HOUR + 20
    run_sql(
        emptied,
        "UPDATE api_budget SET paused_until = now(),"
        " next_slots = array_fill(now() + interval '1 year', ARRAY[3])",
    )
    began = clock.now
    budget.acquire(LIVE)
    assert clock.now - began < 20
    budget.close()
