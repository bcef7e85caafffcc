"""The shared request budget over minutes, with a clock that is handed in.

The row of the budget is the only thing that knows the time. Moving all its moments into the past is
the passing of time for it, and takes none.
"""

import math
import random
import time
from collections.abc import Iterator

import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812

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

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.now = 0.0
        self._looked_at = time.monotonic()

    def wait(self, seconds: float) -> bool:
        self._move(seconds)
        return False

    def stand(self) -> None:
        """Takes back what has passed by itself since the last look."""
        self._move(0.0)

    def _move(self, seconds: float) -> None:
        passed = time.monotonic() - self._looked_at
        self._looked_at += passed
        before, self.now = self.now, self.now + seconds
        # Calls are counted by the half second. Which ones pass has to follow from this clock: by
        # the server's, a quick machine asks again and again at the same place of a half second,
        # and each wait is rounded the same way.
        halves = math.floor(2 * self.now) - math.floor(2 * before)
        with self._connection.cursor() as cursor:
            cursor.execute(
                "UPDATE api_budget SET seen_at = to_timestamp((half - greatest(half_before"
                " - floor(2 * extract(epoch FROM seen_at)), 0) - %(halves)s) / 2.0),"
                " paused_until = paused_until - s,"
                " throttled_at = throttled_at - s, learned_at = learned_at - s,"
                " next_slots = (SELECT array_agg(slot - s ORDER BY n)"
                " FROM unnest(next_slots) WITH ORDINALITY AS slots (slot, n))"
                " FROM (SELECT %(seconds)s * interval '1 s' AS s,"
                " floor(2 * extract(epoch FROM now)) AS half,"
                " floor(2 * (extract(epoch FROM now) - %(passed)s)) AS half_before"
                " FROM (SELECT clock_timestamp() AS now) AS clock) AS moved",
                {"seconds": seconds - passed, "passed": passed, "halves": halves},
            )

    def is_set(self) -> bool:
        return False

    def set(self) -> None:
        pass


@pytest.fixture
def clock(emptied: Database) -> Iterator[Clock]:
    connection = emptied.connect()
    connection.autocommit = True
    yield Clock(connection)
    connection.close()


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


@pytest.mark.slow
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


class StrictApi:
    """Answers so many calls in any 60 s of a clock, and refuses the others."""

    def __init__(self, clock: Clock, budget: SharedBudget, limit: int) -> None:
        self._clock, self._budget, self._limit = clock, budget, limit
        self.answered: list[float] = []
        self.refused: list[float] = []

    def read(self, pages: int) -> tuple[int, list[Grant]]:
        """A walk that gets so many pages: how often it was refused, and when it was answered."""
        before, grants = len(self.refused), list[Grant]()
        while len(grants) < pages:
            self._clock.stand()
            self._budget.acquire(WALK)
            now = self._clock.now
            lately = self.answered[-self._limit :]
            if len(lately) == self._limit and now - lately[0] < 60:
                self.refused.append(now)
                # What its Retry-After says, in whole seconds.
                self._budget.pause(math.ceil(lately[0] + 60 - now))
                continue
            self.answered.append(now)
            grants.append(Grant(now, WALK.value))
        return len(self.refused) - before, grants


@pytest.mark.slow
@pytest.mark.parametrize("rest", [60.0, 3 * 3_600.0], ids="{:.0f} s apart".format)
def test_at_half_the_setting_a_second_and_a_third_sync_are_refused_once_at_most(
    emptied: Database, clock: Clock, rest: float
) -> None:
    setting, limit = 120, 60
    budget = budget_by(clock, emptied, setting)
    api = StrictApi(clock, budget, limit)
    refusals, _ = api.read(150)
    assert 1 <= refusals <= 5
    learned = use_of(emptied).allowance
    assert learned <= limit / 0.9
    for _ in range(2):
        clock.wait(rest)
        refusals, grants = api.read(70)
        assert refusals <= 1
        assert fullest(grants, 60) <= 0.9 * max(learned, use_of(emptied).allowance) + 1
        assert fullest(grants, 60) <= limit
        assert use_of(emptied).learned_at is not None
    budget.close()


@pytest.mark.parametrize("shut", [60.0, 300.0, 840.0], ids="{:.0f} s".format)
def test_an_api_that_shuts_out_whoever_asks_while_shut_out_lets_us_in_again(
    emptied: Database, clock: Clock, shut: float
) -> None:
    """It says no `Retry-After`, and each refused call prolongs the time for which it refuses."""
    budget = budget_by(clock, emptied, 120)
    shut_until = clock.now + shut
    refused = 0
    while refused < 40:
        # As the fast lane asks: each event gives up after some seconds, and is then tried again.
        for number in (1, 2, 3):
            clock.stand()
            budget.acquire(LIVE)
            if clock.now >= shut_until:
                break
            refused += 1
            shut_until = clock.now + shut
            budget.pause(0.5 * 2 ** (2 + number))
        if clock.now >= shut_until:
            break
        clock.wait(10)
    assert refused <= 2 + math.log2(shut)
    # From then on, a refusal means a short pause again.
    budget.answered()
    assert budget.pause(4.0) < 4.5
    budget.close()


def test_calls_that_are_answered_in_between_keep_pauses_short(
    emptied: Database, clock: Clock
) -> None:
    """Other programs use up the limit, and leave us a call now and then."""
    refused, answering = (budget_by(clock, emptied, 120) for _ in range(2))
    refused.acquire(LIVE)
    for _ in range(8):
        assert refused.pause(4.0) < 4.5
        clock.wait(6.0)
        # Another process is answered, and knows of the refusal from the row alone.
        clock.stand()
        answering.acquire(WALK)
        answering.answered()
        clock.stand()
    refused.close()
    answering.close()


@pytest.mark.slow
def test_more_that_is_tried_in_vain_the_next_night_costs_one_refusal(
    emptied: Database, clock: Clock
) -> None:
    budget = budget_by(clock, emptied, 120)
    api = StrictApi(clock, budget, 60)
    api.read(150)
    learned = use_of(emptied).allowance
    clock.wait(86_400.0)
    assert use_of(emptied).allowance == 120
    refusals, _ = api.read(80)
    assert refusals == 1
    assert use_of(emptied).allowance <= learned
    refusals, grants = api.read(65)
    assert refusals == 0
    assert fullest(grants, 60) <= 0.9 * learned + 1
    budget.close()


def test_parts_take_what_a_walk_leaves_and_a_walk_what_it_would_without_them(
    emptied: Database, clock: Clock
) -> None:
    budget = budget_by(clock, emptied, 60)
    while clock.now < 60:
        clock.stand()
        budget.acquire(WALK)
    walked = clock.now
    clock.stand()
    # The walk has had its share of the minute, so that parts wait until some of that is over.
    budget.acquire(Lane.PARTS)
    assert clock.now - walked > 5
    grants: list[float] = []
    began = clock.now
    while clock.now < began + 180:
        clock.stand()
        budget.acquire(Lane.PARTS)
        grants.append(clock.now)
    budget.close()
    # Alone they go on at a share of their own.
    assert 0.6 * 60 <= len([at for at in grants if at > began + 120]) <= 0.8 * 60
