"""The present attempt while Current RMS gives no usable answer, for everyone who waits for it.

This module has the row that one process writes and all may read. When to try again, and when to
give up, is in `current_rms.transport`.
"""

import logging
from dataclasses import dataclass
from datetime import datetime

import psycopg2

from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.transport import Failure
from rms_pipeline.mirror.database import Database, DatabaseError
from rms_pipeline.mirror.statements import Connection, in_the_future

logger = logging.getLogger(__name__)

# Longer than an answer and the wait after it can take. If a row is older, its process has died.
_FORGOTTEN_AFTER = "5 minutes"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Requests about `collection` have failed since `since`.

    Attempt `attempt` of `attempts` failed for `reason`. The next one is made at `next_at` (UTC).
    `attempts` is None if they are not limited.
    """

    collection: str
    attempt: int
    attempts: int | None
    reason: str
    since: datetime
    next_at: datetime


class NotedTroubles:
    """Notes the failures of one process with `collection` of `account`. Threads may share it.

    If the database cannot be reached, it only writes a line into the log.
    """

    def __init__(self, database: Database, account: str, collection: Collection) -> None:
        self._database, self._account, self._collection = database, account, collection

    def __call__(self, failure: Failure | None) -> None:
        """Note the failure of a request. None means that it was answered at last, or given up."""
        values = {"account": self._account, "collection": self._collection.name}
        try:
            with self._database.session() as connection, connection.cursor() as cursor:
                if failure is None:
                    cursor.execute(
                        "DELETE FROM api_troubles WHERE account = %(account)s"
                        " AND collection = %(collection)s",
                        values,
                    )
                    return
                cursor.execute(
                    "INSERT INTO api_troubles AS t (account, collection, attempt, attempts, reason,"
                    " since, noted_at, next_at) VALUES (%(account)s, %(collection)s, %(attempt)s,"
                    " %(attempts)s, %(reason)s, clock_timestamp(), clock_timestamp(),"
                    " clock_timestamp() + make_interval(secs => %(wait)s))"
                    " ON CONFLICT (account, collection) DO UPDATE SET attempt = excluded.attempt,"
                    " attempts = excluded.attempts, reason = excluded.reason,"
                    " noted_at = excluded.noted_at, next_at = excluded.next_at, since = CASE WHEN"
                    f" t.noted_at < clock_timestamp() - interval '{_FORGOTTEN_AFTER}'"
                    f" OR {in_the_future('t.noted_at')} THEN excluded.since ELSE t.since END",
                    {
                        **values,
                        "attempt": failure.attempt,
                        "attempts": failure.attempts,
                        "reason": failure.reason.replace("\0", "\ufffd"),
                        "wait": failure.wait,
                    },
                )
        except (psycopg2.Error, DatabaseError) as error:
            logger.warning("The failure of Current RMS to answer could not be recorded: %s", error)


def read_trouble(connection: Connection) -> Trouble | None:
    """Return the trouble that has lasted longest, or None while Current RMS answers. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT collection, attempt, attempts, reason, since, next_at FROM api_troubles"
            f" WHERE greatest(noted_at, next_at) > clock_timestamp() - interval"
            f" '{_FORGOTTEN_AFTER}' AND NOT {in_the_future('noted_at')}"
            " ORDER BY since, collection LIMIT 1"
        )
        row = cursor.fetchone()
    connection.commit()
    return Trouble(*row) if row else None
