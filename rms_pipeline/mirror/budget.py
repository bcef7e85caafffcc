"""The request budget of an account, shared by every process that uses the same database.

This module decides which call can be sent now. The state is one row of `api_budget`. Shares of
lanes are in `current_rms.pacing`, and causes of a pause in `current_rms.client`.

A waiter asks "may I send now?", is told how long to wait, sleeps, and asks again. Nothing is
reserved for it meanwhile. So a live call never waits behind walk calls, and a process that dies
leaves nothing behind. Only the database's clock is used.
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

from rms_pipeline.current_rms.pacing import SHARES, Lane
from rms_pipeline.mirror.budget_row import (
    ANSWERED,
    ASK,
    BUCKETS,
    LANES,
    LONGEST_PAUSE,
    OPEN,
    PAUSE,
    READ,
)
from rms_pipeline.mirror.database import Database, DatabaseError
from rms_pipeline.mirror.statements import Connection

logger = logging.getLogger(__name__)

# How long to keep trying after a connection is lost, and the rest between two attempts (seconds).
_PATIENCE, _REST = 30.0, 0.25
# A waiter asks again after at most this long, whatever it was told: the row may have been
# corrected.
_LONGEST_SLEEP = 5.0


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """The state of an account's budget.

    It has the calls granted in the last minute. `requests_per_minute` is the limit of the last
    request. `allowance` is how much of it is used since the API refused calls. Both are calls a
    minute, 0 means no limit. `paused_until` (UTC) is None if nothing is paused. `learned_at` (UTC)
    is when refusals last showed that the account's limit is lower than the setting, or None. From
    `more_tried_at` on, more calls are tried.
    """

    requests_per_minute: int
    allowance: int
    paused_until: datetime | None
    learned_at: datetime | None
    more_tried_at: datetime | None
    calls_by_lane: Mapping[Lane, int]

    @property
    def sentence(self) -> str:
        """Return "59 calls a minute, of 120 that are set" with the reason, or '' if the whole limit
        is used.
        """
        if not self.requests_per_minute or self.allowance >= self.requests_per_minute:
            return ""
        found = f"{self.allowance:,} calls a minute; {self.requests_per_minute:,} are configured"
        if self.learned_at is None or self.more_tried_at is None:
            return f"{found}. The API refused calls a moment ago. The limit rises by itself."
        return (
            f"{found}. The API refused more on {self.learned_at:%Y-%m-%d %H:%M} UTC. A higher "
            f"limit is tried from {self.more_tried_at:%Y-%m-%d %H:%M} UTC on."
        )

    @property
    def calls(self) -> int:
        return sum(self.calls_by_lane.values())


def read_budget(connection: Connection, account: str) -> BudgetUse | None:
    """Return the state of the budget of `account`, or None before its first call. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(READ, {"account": account})
        row = cursor.fetchone()
    connection.commit()
    if row is None:
        return None
    limit, allowance, paused_until, learned_at, more_tried_at, calls = row
    by_lane = dict(zip(LANES, calls, strict=True))
    return BudgetUse(limit, allowance, paused_until, learned_at, more_tried_at, by_lane)


class SharedBudget:
    """The budget of `account` for all processes. Threads may share it, also after a fork.

    In any 60 s no more than `requests_per_minute` calls are granted (0: no limit). Pauses apply in
    both cases. Every method except `close` may raise DatabaseError.
    """

    def __init__(self, database: Database, account: str, requests_per_minute: int) -> None:
        self.requests_per_minute = requests_per_minute
        self._database = database
        self._account = account
        self._closed = threading.Event()
        # A first connection that fails is not tried again. A lost one is.
        self._lost_at: float | None = -math.inf
        self._start_afresh()
        _budgets.add(self)

    def _start_afresh(self) -> None:
        # One thread of each lane asks for all: the others would get the same answer.
        self._turns = {lane: threading.Lock() for lane in Lane}
        self._using = threading.Lock()
        # psycopg2 does not close a connection that another process has opened.
        self._connection: Connection | None = None
        # Whether the API has answered no call since it last refused one.
        self._only_refuses = False

    def acquire(self, lane: Lane) -> None:
        """Return when the call may be sent. It is counted already."""
        limit = self.requests_per_minute
        place = LANES.index(Lane.WALK if lane is Lane.PARTS else lane)
        question: dict[str, Any] = {
            "lane": place + 1,
            "counter": len(LANES) * (BUCKETS - 1) + place + 1,
            "room": limit * SHARES[lane] if limit else None,
            "paces": [60 / (limit * SHARES[each]) if limit else None for each in LANES],
        }
        with self._turns[lane]:
            while wait := self._run(ASK, question):
                self._closed.wait(min(wait, _LONGEST_SLEEP))

    def pause(self, seconds: float) -> float:
        """Let no process send for `seconds` (at most 900), and then at a lower rate for a while.

        If no call was answered since the last pause, this one is twice as long, up to 900 s.
        Returns how long it is.
        """
        self._only_refuses = True
        return self._run(PAUSE, {"seconds": min(max(seconds, 0.0), LONGEST_PAUSE)})

    def answered(self) -> None:
        """Note that the API answered a call: the next pause is then a short one."""
        if self._only_refuses:
            self._only_refuses = False
            self._run(ANSWERED, {})

    def close(self) -> None:
        """Close the connection. Threads that still wait get a DatabaseError."""
        self._closed.set()
        with self._using:
            self._disconnect()

    def _run(self, sql: str, values: Mapping[str, Any]) -> float:
        """Return the answer, from a new connection if this one is lost. Raises DatabaseError."""
        limit = self.requests_per_minute
        values = {**values, "account": self._account, "requests_per_minute": limit}
        while True:
            with self._using:
                if self._closed.is_set():
                    raise DatabaseError(
                        "This process stopped while calls to Current RMS waited for the request "
                        "budget."
                    )
                try:
                    answer = self._execute(sql, values)
                except (psycopg2.OperationalError, psycopg2.InterfaceError, DatabaseError) as error:
                    self._bear(error)
                except psycopg2.Error as error:
                    raise DatabaseError(
                        f"The request budget cannot be read or written: {_one_line(error)}. Run "
                        "`rms-pipeline migrate` (or `rms-pipeline up`) with a database user that "
                        "has the right to write to the tables."
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
                cursor.execute(OPEN, values)
                cursor.execute(sql, values)
                row = cursor.fetchone()
        if len(row) > 1 and row[1]:
            self._only_refuses = True
        return float(row[0])

    def _bear(self, error: Exception) -> None:
        """Note that the connection is lost. Raises DatabaseError if that has lasted too long."""
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
            "PostgreSQL does not answer. The request budget is kept there, so no call to Current "
            f"RMS is allowed: {_one_line(error)}. Check that the server is up, then run the sync "
            "again."
        ) from None

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).partition("\nLINE ")[0].split()).rstrip(".")


_budgets: "weakref.WeakSet[SharedBudget]" = weakref.WeakSet()


def _after_fork() -> None:
    # The child process has copies of locks whose threads exist only in the parent.
    for budget in _budgets:
        budget._start_afresh()


os.register_at_fork(after_in_child=_after_fork)
