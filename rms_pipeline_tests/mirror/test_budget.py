"""The shared request budget, by real processes on a real server."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.mirror import budget as budget_module
from rms_pipeline.mirror.budget import BudgetUse, SharedBudget, read_budget
from rms_pipeline.mirror.budget_row import BUCKETS, LANES
from rms_pipeline.mirror.database import Database, DatabaseError
from rms_pipeline_tests.conftest import database_at
from rms_pipeline_tests.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.new_connections]
ROOT = Path(__file__).parent.parent.parent
ACCOUNT = "acme"
QUARTER_OF_AN_HOUR = 15 * 60

MakeBudget = Callable[[int], SharedBudget]


class Grant(NamedTuple):
    at: float
    lane: str


@pytest.fixture
def budget_of(database: Database) -> Iterator[MakeBudget]:
    with contextlib.ExitStack() as stack:

        def make(limit: int) -> SharedBudget:
            budget = SharedBudget(database, ACCOUNT, limit)
            stack.callback(budget.close)
            return budget

        yield make


class Hammers:
    """Two processes that ask without end; killed outright at the end."""

    def __init__(self, database: Database, limit: int, lanes: list[Lane]) -> None:
        names = [lane.value for lane in lanes]
        command = [sys.executable, "-m", "rms_pipeline_tests.mirror.hammer"]
        url = database.url.get_secret_value()
        self.grants: list[list[Grant]] = [[], []]
        self._processes = [
            subprocess.Popen(
                [*command, url, ACCOUNT, str(limit), *names],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in self.grants
        ]
        self._readers = [
            threading.Thread(target=self._read, args=pair)
            for pair in zip(self._processes, self.grants, strict=True)
        ]

    @staticmethod
    def _read(process: "subprocess.Popen[str]", grants: list[Grant]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lane, at = line.split()
            grants.append(Grant(float(at), lane))

    def __enter__(self) -> "Hammers":
        for reader in self._readers:
            reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process, reader in zip(self._processes, self._readers, strict=True):
            process.kill()
            process.wait()
            reader.join()
            assert process.stdout is not None
            process.stdout.close()

    def wait_for_both(self) -> None:
        while not all(self.grants):
            assert all(process.poll() is None for process in self._processes)
            assert all(reader.is_alive() for reader in self._readers)
            time.sleep(0.05)

    @property
    def all(self) -> list[Grant]:
        return sorted(grant for grants in self.grants for grant in grants)


def fullest(grants: list[Grant], seconds: float) -> int:
    """The most calls in any window of that length."""
    times, start, most = [grant.at for grant in grants], 0, 0
    for end, at in enumerate(times):
        while times[start] <= at - seconds:
            start += 1
        most = max(most, end - start + 1)
    return most


def run_sql(database: Database, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchall() if cursor.description else []


def use_of(database: Database) -> BudgetUse:
    with database.session() as connection:
        use = read_budget(connection, ACCOUNT)
    assert use is not None
    return use


def set_sent(database: Database, lane: Lane, calls: int) -> None:
    """Makes it so that the lane sent `calls`, evenly over the last minute, and the others none."""
    sent = [0] * (len(LANES) * BUCKETS)
    for call in range(calls):
        bucket = BUCKETS - 1 - call * 118 // calls
        sent[len(LANES) * bucket + LANES.index(lane)] += 1
    run_sql(database, "UPDATE api_budget SET sent = %s, seen_at = clock_timestamp()", sent)


def is_granted(budget: SharedBudget, lane: Lane, within: float) -> bool:
    granted = threading.Event()

    def ask() -> None:
        with contextlib.suppress(DatabaseError):
            budget.acquire(lane)
            granted.set()

    threading.Thread(target=ask).start()
    return granted.wait(within)


def test_walks_are_paced_at_nine_tenths_of_the_limit_and_use_it(database: Database) -> None:
    with Hammers(database, 1_200, [Lane.WALK] * 4) as hammers:
        hammers.wait_for_both()
        time.sleep(3)
    grants = hammers.all
    seconds = grants[-1].at - grants[0].at
    assert len(grants) <= seconds * 18 + 2
    assert len(grants) >= seconds * 18 * 0.8
    assert fullest(grants, 1) <= 20


def test_a_live_call_passes_sixteen_waiting_walk_calls(
    database: Database, budget_of: MakeBudget
) -> None:
    budget = budget_of(120)
    with Hammers(database, 120, [Lane.WALK] * 8) as hammers:
        hammers.wait_for_both()
        set_sent(database, Lane.WALK, 107)
        for _ in range(5):
            time.sleep(0.7)
            asked = time.monotonic()
            budget.acquire(Lane.LIVE)
            # Behind the others it would be about nine.
            assert time.monotonic() - asked < 4
    # They were killed as they waited.
    budget.acquire(Lane.LIVE)


def test_a_walk_waits_while_the_calls_of_all_lanes_fill_its_share(
    database: Database, budget_of: MakeBudget
) -> None:
    budget = budget_of(120)
    budget.acquire(Lane.INCREMENTAL)
    set_sent(database, Lane.LIVE, 110)
    assert not is_granted(budget, Lane.WALK, within=1)
    assert is_granted(budget, Lane.INCREMENTAL, within=10)
    set_sent(database, Lane.WALK, 115)
    assert not is_granted(budget, Lane.INCREMENTAL, within=1)
    assert is_granted(budget, Lane.LIVE, within=10)


def test_a_live_call_waits_too_when_the_limit_itself_is_used_up(
    database: Database, budget_of: MakeBudget
) -> None:
    budget = budget_of(120)
    budget.acquire(Lane.LIVE)
    asked = time.monotonic()
    set_sent(database, Lane.WALK, 120)
    # The oldest of them leave the window within two seconds.
    budget.acquire(Lane.LIVE)
    assert 0.5 < time.monotonic() - asked < 30


def test_a_pause_holds_in_every_process_even_without_a_limit(
    database: Database, budget_of: MakeBudget
) -> None:
    budget = budget_of(0)
    with Hammers(database, 0, [Lane.WALK, Lane.LIVE]) as hammers:
        hammers.wait_for_both()
        asked = time.monotonic()
        budget.pause(3)
        paused = time.monotonic()
        budget.acquire(Lane.LIVE)
        assert time.monotonic() >= asked + 3
        wait_until(lambda: all(grants[-1].at > asked + 3 for grants in hammers.grants))
    # What was granted before the pause may be noted a little after it.
    assert not [g for g in hammers.all if paused + 2 < g.at < asked + 3]


def test_every_call_is_counted_once_by_its_lane(database: Database) -> None:
    with Hammers(database, 0, [*Lane] * 2) as hammers:
        hammers.wait_for_both()
        time.sleep(1)
    counted = use_of(database).calls_by_lane
    # Calls for parts are counted with those of walks.
    together = {lane: [lane.value] for lane in Lane if lane is not Lane.PARTS}
    together[Lane.WALK].append(Lane.PARTS.value)
    assert counted.keys() == together.keys()
    for lane, names in together.items():
        sent = [g for g in hammers.all if g.lane in names]
        # A process may be killed between a grant and its note, in each of two threads.
        assert len(sent) <= counted[lane] <= len(sent) + 4 * len(names)


def test_a_refusal_cuts_the_allowance_once_and_time_gives_it_back(
    database: Database, budget_of: MakeBudget
) -> None:
    def pass_minutes(minutes: float) -> None:
        run_sql(
            database,
            "UPDATE api_budget SET throttled_at = throttled_at - %s * interval '1 min'",
            minutes,
        )

    budget = budget_of(100)
    for _ in range(8):
        budget.pause(0)
    assert use_of(database).allowance == 70
    pass_minutes(1)
    assert use_of(database).allowance == 80
    budget.pause(0)
    assert use_of(database).allowance == 56
    pass_minutes(10)
    assert use_of(database).allowance == 100
    for _ in range(12):
        budget.pause(0)
        pass_minutes(0.1)
    assert 10 <= use_of(database).allowance <= 12


def test_after_a_refusal_calls_come_at_the_lower_pace(
    database: Database, budget_of: MakeBudget
) -> None:
    budget = budget_of(600)
    budget.pause(0)
    run_sql(database, "UPDATE api_budget SET allowance = 0.1")
    budget.acquire(Lane.WALK)
    asked = time.monotonic()
    budget.acquire(Lane.WALK)
    # 60 s / (600 * 0.9 * 0.1) but for the allowance that came back and the 50 ms of a late call.
    assert time.monotonic() - asked > 0.7


def test_a_pause_is_no_longer_than_a_quarter_of_an_hour(
    database: Database, budget_of: MakeBudget
) -> None:
    budget_of(120).pause(1e9)
    until = use_of(database).paused_until
    assert until is not None
    assert abs((until - datetime.now(UTC)).total_seconds() - QUARTER_OF_AN_HOUR) < 60


def test_a_clock_that_was_set_back_shortens_no_pause_and_makes_nobody_wait_longer(
    database: Database, budget_of: MakeBudget
) -> None:
    budget = budget_of(120)
    for _ in range(3):
        budget.acquire(Lane.WALK)
    budget.pause(2)
    asked = time.monotonic()
    run_sql(
        database,
        "UPDATE api_budget SET seen_at = seen_at + interval '9 h',"
        " paused_until = paused_until + interval '9 h',"
        " throttled_at = throttled_at + interval '9 h', next_slots ="
        " (SELECT array_agg(s + interval '9 h' ORDER BY n) FROM unnest(next_slots)"
        " WITH ORDINALITY AS u(s, n))",
    )
    budget.acquire(Lane.WALK)
    assert 1 < time.monotonic() - asked < 60
    use = use_of(database)
    assert use.calls == 4
    assert use.allowance < 90


def test_a_lost_connection_is_replaced_even_when_the_server_is_away_for_a_while(
    database: Database, embedded_url: str, budget_of: MakeBudget
) -> None:
    budget = budget_of(1_200)
    budget.acquire(Lane.WALK)
    server = database_at(embedded_url)
    name = run_sql(database, "SELECT current_database()")[0][0]
    run_sql(server, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    run_sql(
        server,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
        name,
    )
    returning = threading.Timer(
        2, run_sql, (server, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    )
    returning.start()
    budget.acquire(Lane.WALK)
    returning.join()
    assert use_of(database).calls_by_lane[Lane.WALK] == 2


def test_a_server_that_stays_away_ends_with_advice(
    database: Database,
    embedded_url: str,
    budget_of: MakeBudget,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budget_module, "_PATIENCE", 1.0)
    budget = budget_of(120)
    budget.acquire(Lane.WALK)
    server = database_at(embedded_url)
    name = run_sql(database, "SELECT current_database()")[0][0]
    run_sql(server, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    run_sql(
        server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", name
    )
    with pytest.raises(DatabaseError, match=f"ALTER DATABASE {name} ALLOW_CONNECTIONS true;"):
        budget.acquire(Lane.WALK)


def test_a_database_without_the_table_is_told_from_one_that_is_away(empty_url: str) -> None:
    budget = SharedBudget(database_at(empty_url), ACCOUNT, 120)
    with pytest.raises(DatabaseError, match="rms-pipeline up"):
        budget.acquire(Lane.WALK)
    budget.close()


def test_closing_ends_the_wait_of_those_who_wait(budget_of: MakeBudget) -> None:
    budget = budget_of(120)
    budget.pause(600)
    ended: list[str] = []

    def ask() -> None:
        try:
            budget.acquire(Lane.WALK)
        except DatabaseError as error:
            ended.append(str(error))

    waiter = threading.Thread(target=ask)
    waiter.start()
    time.sleep(0.3)
    budget.close()
    waiter.join(10)
    assert ended == [
        "This process stopped while calls to Current RMS waited for the request budget."
    ]


def test_a_forked_child_has_a_connection_and_locks_of_its_own(
    database: Database, budget_of: MakeBudget
) -> None:
    budget = budget_of(0)
    budget.acquire(Lane.WALK)
    before = budget._connection
    with budget._using, budget._turns[Lane.WALK]:
        child = os.fork()
        if child == 0:
            budget.acquire(Lane.WALK)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    budget.acquire(Lane.WALK)
    assert budget._connection is before
    assert use_of(database).calls_by_lane == {Lane.LIVE: 0, Lane.INCREMENTAL: 0, Lane.WALK: 3}


def test_an_account_that_never_called_has_no_budget_to_read(database: Database) -> None:
    with database.session() as connection:
        assert read_budget(connection, "nobody") is None
