"""Pools that ask the server whether a connection still lives only where that is in doubt.

SQLAlchemy's `pool_pre_ping` asks before each use: one more round trip for each request of a page,
and a quarter of all questions of a sync in Dagster.
"""

import select
import time
from typing import Any

import psycopg2
from sqlalchemy import Engine, event
from sqlalchemy.exc import InvalidatePoolError

# Seconds without use, after which a router in between may have forgotten the connection silently.
IDLE = 30.0


def demand_living_connections(engine: Engine) -> None:
    """Makes the pool of `engine` (psycopg2) replace all its connections once it would hand out one
    that the server has ended, or that is gone after more than `IDLE` seconds without use."""
    event.listen(engine, "checkin", _note_use)
    event.listen(engine, "checkout", _demand_living)


def _note_use(connection: Any, record: Any) -> None:
    record.info["used"] = time.monotonic()


def _demand_living(connection: Any, record: Any, _: Any) -> None:
    if "used" not in record.info:
        return
    is_idle = time.monotonic() - record.info["used"] > IDLE
    told = select.poll()
    try:
        # Where nothing was asked, what can be read is the end, or a notice.
        told.register(connection, select.POLLIN)
        if is_idle or told.poll(0):
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            connection.rollback()
    except psycopg2.Error as error:
        raise InvalidatePoolError from error
