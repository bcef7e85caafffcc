"""The account's request limit is learned from refusals, remembered, and tried upwards again."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.mirror.budget import BudgetUse, SharedBudget, read_budget
from rms_pipeline.mirror.budget_row import LANES
from rms_pipeline.mirror.database import Database

ACCOUNT = "acme"
SETTING = 120


class Years:
    """A budget whose time passes by moving what its row remembers into the past."""

    def __init__(self, database: Database, setting: int = SETTING) -> None:
        self.database = database
        self.budget = SharedBudget(database, ACCOUNT, setting)

    def run(self, statement: str, *values: object) -> None:
        with self.database.session() as connection, connection.cursor() as cursor:
            cursor.execute(statement, values)

    def calls(self, count: int) -> None:
        """So many calls of the walk within the last seconds."""
        self.budget.pause(0)  # opens the row
        self.run(
            f"UPDATE api_budget SET throttled_at = 'epoch', allowance = 1,"
            f" sent[array_length(sent, 1) - {len(LANES)}] = %s, seen_at = clock_timestamp()",
            count,
        )

    def refused(self, *, after_calls: int = 18) -> None:
        """A 429, with so many calls in the last seconds; nobody was refused before that."""
        self.run(
            f"UPDATE api_budget SET sent[array_length(sent, 1) - {len(LANES)}] = %s", after_calls
        )
        self.budget.pause(0)

    def pass_time(self, time: timedelta) -> None:
        self.run(
            "UPDATE api_budget SET throttled_at = throttled_at - %(t)s,"
            " paused_until = paused_until - %(t)s,"
            " learned_at = learned_at - %(t)s".replace("%(t)s", "%s"),
            time,
            time,
            time,
        )

    @property
    def use(self) -> BudgetUse:
        with self.database.session() as connection:
            found = read_budget(connection, ACCOUNT)
        assert found is not None
        return found


@pytest.fixture
def years(emptied: Database) -> Iterator[Years]:
    made = Years(emptied)
    made.budget.acquire(Lane.WALK)
    yield made
    made.budget.close()


MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def test_what_two_refusals_taught_holds_for_hours_and_in_every_process(years: Years) -> None:
    years.refused()
    assert years.use.allowance == 84
    years.pass_time(2 * MINUTE)
    # Nothing is given back beyond what was learned.
    assert years.use.allowance == 84
    years.refused()
    assert years.use.allowance == 59
    years.pass_time(5 * HOUR)
    assert years.use.allowance == 59
    other = SharedBudget(years.database, ACCOUNT, SETTING)
    other.acquire(Lane.LIVE)
    other.close()
    assert years.use.allowance == 59


def test_more_is_tried_after_hours_and_one_refusal_brings_back_what_was_learned(
    years: Years,
) -> None:
    years.refused()
    years.pass_time(2 * MINUTE)
    years.refused()
    years.pass_time(7 * HOUR)
    assert 59 < years.use.allowance < SETTING
    years.pass_time(11 * HOUR)
    assert years.use.allowance == SETTING
    years.refused()
    years.pass_time(10 * MINUTE)
    assert years.use.allowance == 59
    # Each vain try is followed by a rest twice as long.
    years.pass_time(11 * HOUR)
    assert years.use.allowance == 59
    years.pass_time(12 * HOUR)
    assert years.use.allowance == SETTING


@pytest.mark.slow
def test_nightly_syncs_at_half_the_setting_are_refused_ever_more_rarely(years: Years) -> None:
    refusals = 0
    for _ in range(30):
        while years.use.allowance * 0.9 > 60:
            years.refused()
            refusals += 1
            years.pass_time(2 * MINUTE)
        years.pass_time(DAY)
    assert 2 <= refusals <= 8


def test_refusals_that_others_cause_for_a_minute_do_not_last(years: Years) -> None:
    for _ in range(10):
        years.refused(after_calls=0)
        years.pass_time(timedelta(seconds=6))
    assert years.use.allowance < 40
    years.pass_time(10 * MINUTE)
    assert years.use.allowance == SETTING
    assert years.use.learned_at is None


def test_refusals_in_one_minute_teach_once_however_many(years: Years) -> None:
    for _ in range(8):
        years.refused()
        years.pass_time(timedelta(seconds=6))
    years.pass_time(10 * MINUTE)
    assert years.use.allowance == 84


def test_what_was_learned_while_climbing_back_is_closer_to_the_truth(years: Years) -> None:
    years.refused()
    years.pass_time(6 * timedelta(seconds=1))
    years.refused()
    years.pass_time(MINUTE)
    pace = years.use.allowance
    assert pace < 84
    years.refused()
    years.pass_time(10 * MINUTE)
    assert years.use.allowance == pytest.approx(0.85 * pace, abs=1.5)


def test_without_a_limit_nothing_is_learned(emptied: Database) -> None:
    years = Years(emptied, 0)
    years.budget.acquire(Lane.WALK)
    years.refused()
    assert (years.use.allowance, years.use.learned_at, years.use.sentence) == (0, None, "")
    years.budget.close()


def test_a_setting_below_what_was_learned_is_kept_to(years: Years) -> None:
    years.refused()
    lower = SharedBudget(years.database, ACCOUNT, 30)
    lower.acquire(Lane.LIVE)
    years.pass_time(10 * MINUTE)
    assert years.use.allowance == 30
    assert years.use.sentence == ""
    lower.close()


def test_a_clock_that_was_set_back_keeps_what_was_learned_no_longer(years: Years) -> None:
    years.refused()
    years.run(
        "UPDATE api_budget SET seen_at = seen_at + interval '9 days',"
        " learned_at = learned_at + interval '9 days', throttled_at = throttled_at"
        " + interval '9 days', paused_until = paused_until + interval '9 days'"
    )
    years.budget.acquire(Lane.LIVE)
    assert years.use.learned_at is not None
    assert years.use.learned_at <= datetime.now(UTC) + MINUTE


def test_the_limit_in_force_is_told_with_why_and_until_when(years: Years) -> None:
    assert years.use.sentence == ""
    years.refused(after_calls=0)
    assert "refused calls a moment ago" in years.use.sentence
    years.pass_time(10 * MINUTE)
    years.refused()
    years.pass_time(MINUTE)
    said = years.use.sentence
    assert said.startswith("84 calls a minute; 120 are configured. The API refused more on ")
    assert "A higher limit is tried from " in said
