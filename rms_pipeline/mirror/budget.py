"""The request budget of an account, shared by every process that has the same database.

What belongs here: who may send now, kept in one row of `api_budget`. What does not: the shares of
lanes (`current_rms.pacing`), and what causes a pause (`current_rms.client`).

A waiter asks "may I send now?", is told how long to wait, sleeps, and asks again. Nothing is
reserved for it meanwhile, so a live call never stands behind walk calls, and a process that dies
leaves nothing behind. Time is the database's alone.
"""

import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812

from rms_pipeline.current_rms.pacing import SHARES, Lane
from rms_pipeline.mirror.database import Database, DatabaseError

logger = logging.getLogger(__name__)

LONGEST_PAUSE = 900.0
# How long a lost connection is sought again, and how long to rest between two attempts.
_PATIENCE, _REST = 30.0, 0.25
# A waiter looks again after this long, whatever it was told: the row may have been put right.
_LONGEST_SLEEP = 5.0

_LANES = tuple(SHARES)
# Calls are counted by the half second. The window is 61 s and what of the current half second is
# over: the second beyond the API's minute is for calls that travel slower than those after them.
_PER_SECOND = 2
_BUCKETS = 61 * _PER_SECOND + 1
_SHOWN = 60 * _PER_SECOND

# `state` is the row as of now. When the clock was set back, everything kept moves back with it, so
# that a pause lasts as long as was meant and no call is forgotten early. `sent` holds the lanes'
# counts of the oldest half second first; those that have left the window make room for new ones.
_STATE = f"""
WITH stored AS MATERIALIZED (
    SELECT * FROM public.api_budget WHERE account = %(account)s {{lock}}
), timed AS MATERIALIZED (
    -- Read when the row is locked, not before the wait for it.
    SELECT *, clock_timestamp() AS now FROM stored
), state AS MATERIALIZED (
    SELECT account, now, tick, requests_per_minute, allowance,
        least(paused_until - back, now + {LONGEST_PAUSE} * interval '1 s') AS paused_until,
        least(throttled_at - back, now) AS throttled_at,
        least(
            1, allowance + 0.1 * greatest(extract(epoch FROM now - throttled_at + back), 0) / 60
        )::float8 AS level,
        (SELECT array_agg(slot - back ORDER BY lane)
            FROM unnest(next_slots) WITH ORDINALITY AS slots(slot, lane)) AS slots,
        (sent || array_fill(0, ARRAY[{len(_LANES)} * gone]))[{len(_LANES)} * gone + 1:] AS sent
    FROM timed
    CROSS JOIN LATERAL (
        SELECT greatest(seen_at - now, interval '0') AS back,
            floor(extract(epoch FROM now) * {_PER_SECOND})::bigint AS tick,
            floor(extract(epoch FROM seen_at) * {_PER_SECOND})::bigint AS seen_tick
    ) AS clock
    CROSS JOIN LATERAL (
        SELECT least(greatest(tick - seen_tick, 0), {_BUCKETS})::integer AS gone
    ) AS shift
)"""

# The answer is the seconds to wait, 0 for a call that is granted and counted. A call takes a slot
# of its own lane and of those below, which keeps the sum of lanes paced too. Without a limit
# `paces` and `room` are null: comparisons with null hold nobody up.
#
# A call up to 50 ms late for its slot does not move the next, or the way to the database would eat
# into the rate. No slot lies further off than what a lane can owe to those above it (7 s).
_ASK = f"""{_STATE.format(lock="FOR UPDATE")}, paced AS MATERIALIZED (
    SELECT state.*, steps,
        (SELECT array_agg(least(slot, now + step + interval '7 s') ORDER BY lane)
            FROM unnest(slots, steps) WITH ORDINALITY AS lanes(slot, step, lane)) AS due
    FROM state CROSS JOIN LATERAL (
        SELECT array_agg(pace / level * interval '1 s' ORDER BY lane) AS steps
        FROM unnest(%(paces)s::float8[]) WITH ORDINALITY AS paces(pace, lane)
    ) AS stepped
), answer AS MATERIALIZED (
    SELECT *, greatest(
            interval '0',
            paused_until - now,
            CASE WHEN %(room)s::float8 IS NOT NULL THEN due[%(lane)s] - now END,
            CASE WHEN (SELECT sum(calls) FROM unnest(sent) AS calls) >= %(room)s::float8 THEN (
                SELECT to_timestamp((tick + min((n + 2) / {len(_LANES)})) / {_PER_SECOND}.0) - now
                FROM unnest(sent) WITH ORDINALITY AS buckets(calls, n) WHERE calls > 0
            ) END
        ) AS wait
    FROM paced
)
UPDATE public.api_budget AS budget SET
    requests_per_minute = %(requests_per_minute)s,
    seen_at = now,
    paused_until = answer.paused_until,
    throttled_at = answer.throttled_at,
    sent = CASE WHEN wait > interval '0' THEN answer.sent ELSE answer.sent[:%(counter)s - 1]
        || (answer.sent[%(counter)s] + 1) || answer.sent[%(counter)s + 1:] END,
    next_slots = CASE WHEN wait > interval '0' THEN due ELSE (
        SELECT array_agg(
            CASE WHEN lane < %(lane)s THEN slot
                WHEN slot > now - interval '50 ms' THEN slot + step ELSE now + step END
            ORDER BY lane
        ) FROM unnest(due, steps) WITH ORDINALITY AS lanes(slot, step, lane)
    ) END
FROM answer WHERE budget.account = answer.account
RETURNING extract(epoch FROM wait)::float8"""

# Programs that we know nothing of share the limit: what they leave is found by giving way, and then
# taking a tenth more each minute. Calls that are refused together count as one refusal.
_PAUSE = f"""{_STATE.format(lock="FOR UPDATE")}, answer AS MATERIALIZED (
    SELECT *, now >= throttled_at + interval '5 s' AS cut FROM state
)
UPDATE public.api_budget AS budget SET
    requests_per_minute = %(requests_per_minute)s,
    seen_at = now,
    paused_until = greatest(answer.paused_until, now + %(seconds)s * interval '1 s'),
    throttled_at = CASE WHEN cut THEN now ELSE answer.throttled_at END,
    allowance = CASE WHEN cut THEN greatest(0.7 * level, 0.1) ELSE answer.allowance END,
    sent = answer.sent,
    next_slots = answer.slots
FROM answer WHERE budget.account = answer.account
RETURNING 0::float8"""

_OPEN = f"""
INSERT INTO public.api_budget (account, requests_per_minute, sent, next_slots)
VALUES (%(account)s, %(requests_per_minute)s, array_fill(0, ARRAY[{_BUCKETS * len(_LANES)}]),
    array_fill(clock_timestamp(), ARRAY[{len(_LANES)}]))
ON CONFLICT (account) DO NOTHING"""

_READ = f"""{_STATE.format(lock="")}
SELECT requests_per_minute, round(requests_per_minute * level)::integer,
    CASE WHEN paused_until > now THEN paused_until END,
    (SELECT array_agg(calls ORDER BY lane) FROM (
        SELECT (n - 1) %% {len(_LANES)} AS lane, sum(calls)::bigint AS calls
        FROM unnest(sent) WITH ORDINALITY AS buckets(calls, n)
        WHERE n > {len(_LANES) * (_BUCKETS - _SHOWN)} GROUP BY 1
    ) AS lanes)
FROM state"""


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """How an account's budget stands: calls granted in the last minute, and what may be sent.

    `requests_per_minute` is the limit that was last asked under, and `allowance` what of it is used
    now that the API has refused calls; both are a minute's calls, 0 for no limit. `paused_until`
    (UTC) is None when nothing is paused.
    """

    requests_per_minute: int
    allowance: int
    paused_until: datetime | None
    calls_by_lane: Mapping[Lane, int]

    @property
    def calls(self) -> int:
        return sum(self.calls_by_lane.values())


def read_budget(connection: Connection, account: str) -> BudgetUse | None:
    """How the budget of `account` stands, None before its first call. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(_READ, {"account": account})
        row = cursor.fetchone()
    connection.commit()
    if row is None:
        return None
    limit, allowance, paused_until, calls = row
    return BudgetUse(limit, allowance, paused_until, dict(zip(_LANES, calls, strict=True)))


class SharedBudget:
    """The budget of `account` for all processes. Safe to share between threads, and over a fork.

    In any 60 s no more than `requests_per_minute` calls are granted, 0 for no limit; pauses hold
    either way. Every method but `close` may raise DatabaseError.
    """

    def __init__(self, database: Database, account: str, requests_per_minute: int) -> None:
        self.requests_per_minute = requests_per_minute
        self._database = database
        self._account = account
        self._closed = threading.Event()
        # A first connection that fails is not worth waiting for; one that is lost is.
        self._lost_at: float | None = -math.inf
        self._start_afresh()
        _budgets.add(self)

    def _start_afresh(self) -> None:
        # One thread of a lane asks for all: the others would only be told the same.
        self._turns = {lane: threading.Lock() for lane in Lane}
        self._using = threading.Lock()
        # psycopg2 leaves a connection alone that another process has opened.
        self._connection: Connection | None = None

    def acquire(self, lane: Lane) -> None:
        """Returns when the call may be sent; it has been counted."""
        limit, place = self.requests_per_minute, _LANES.index(lane)
        question: dict[str, Any] = {
            "lane": place + 1,
            "counter": len(_LANES) * (_BUCKETS - 1) + place + 1,
            "room": limit * SHARES[lane] if limit else None,
            "paces": [60 / (limit * share) if limit else None for share in SHARES.values()],
        }
        with self._turns[lane]:
            while wait := self._run(_ASK, question):
                self._closed.wait(min(wait, _LONGEST_SLEEP))

    def pause(self, seconds: float) -> None:
        """No process sends for `seconds` (at most 900), and then at a lower rate for a while."""
        self._run(_PAUSE, {"seconds": min(max(seconds, 0.0), LONGEST_PAUSE)})

    def close(self) -> None:
        """Gives the connection back. Threads that still wait get a DatabaseError."""
        self._closed.set()
        with self._using:
            self._disconnect()

    def _run(self, sql: str, values: Mapping[str, Any]) -> float:
        """The answer, from another connection if this one is lost. Raises DatabaseError."""
        limit = self.requests_per_minute
        values = {**values, "account": self._account, "requests_per_minute": limit}
        while True:
            with self._using:
                if self._closed.is_set():
                    raise DatabaseError("The request budget was closed while calls waited for it.")
                try:
                    answer = self._execute(sql, values)
                except (psycopg2.OperationalError, psycopg2.InterfaceError, DatabaseError) as error:
                    self._bear(error)
                except psycopg2.Error as error:
                    raise DatabaseError(
                        f"The request budget cannot be kept: {_one_line(error)}. Run `rms-pipeline "
                        "up`, which brings the tables up to date, as a user who may write to them."
                    ) from None
                else:
                    self._lost_at = None
                    return answer
            self._closed.wait(_REST)

    def _execute(self, sql: str, values: Mapping[str, Any]) -> float:
        if self._connection is None:
            self._connection = self._database.connect()
            self._connection.autocommit = True
        with self._connection.cursor() as cursor:
            cursor.execute(sql, values)
            row = cursor.fetchone()
            while row is None:
                cursor.execute(_OPEN, values)
                cursor.execute(sql, values)
                row = cursor.fetchone()
        return float(row[0])

    def _bear(self, error: Exception) -> None:
        """Notes that the connection is lost. Raises DatabaseError when that has lasted too long."""
        self._disconnect()
        now = time.monotonic()
        if self._lost_at is None:
            self._lost_at = now
            logger.warning("The request budget lost PostgreSQL: %s", _one_line(error))
        if now - self._lost_at < _PATIENCE:
            return
        if isinstance(error, DatabaseError):
            raise error
        raise DatabaseError(
            "PostgreSQL gives no answer, and without it no call to Current RMS can be counted: "
            f"{_one_line(error)}. Check that the server is up, then run the sync again."
        ) from None

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).partition("\nLINE ")[0].split()).rstrip(".")


_budgets: "weakref.WeakSet[SharedBudget]" = weakref.WeakSet()


def _after_fork() -> None:
    # The child has its parent's locks, held by threads that it does not have.
    for budget in _budgets:
        budget._start_afresh()


os.register_at_fork(after_in_child=_after_fork)
