"""Calendar feeds: addresses that a calendar program reads without signing in.

The secret in the address is the only protection. The database stores only its hash, so read access
to the tables does not open a feed.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime

from rms_pipeline.mirror.statements import Connection

# Each is a key to the calendar, and nobody has use for more.
MOST_FEEDS = 100


@dataclass(frozen=True, slots=True)
class Feed:
    """A feed. `query` is the query of the calendar's address. Times are UTC. `read_at` is exact to
    about a minute, and None if the feed was never read."""

    id: int
    name: str
    query: str
    made_at: datetime
    read_at: datetime | None


class TooManyFeedsError(Exception):
    """There are already `MOST_FEEDS` feeds."""


def make_feed(connection: Connection, name: str, query: str) -> str:
    """Stores a feed of `query` and returns its secret, which is not stored. Raises
    TooManyFeedsError. Commits."""
    secret = secrets.token_urlsafe(32)
    with connection.cursor() as cursor:
        cursor.execute("LOCK TABLE calendar_feeds IN SHARE ROW EXCLUSIVE MODE")
        cursor.execute("SELECT count(*) >= %s FROM calendar_feeds", (MOST_FEEDS,))
        if cursor.fetchone() == (True,):
            connection.rollback()
            raise TooManyFeedsError
        cursor.execute(
            "INSERT INTO calendar_feeds (name, query, secret_hash) VALUES (%s, %s, %s)",
            (name, query, _hash(secret)),
        )
    connection.commit()
    return secret


def feeds(connection: Connection) -> list[Feed]:
    """All feeds in the order of their names. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, name, query, made_at, read_at FROM calendar_feeds ORDER BY lower(name), id"
        )
        found = [Feed(*row) for row in cursor.fetchall()]
    connection.commit()
    return found


def find_feed(connection: Connection, secret: str) -> Feed | None:
    """The feed with this secret, or None. Stores the time of this read. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, name, query, made_at, read_at FROM calendar_feeds WHERE secret_hash = %s",
            (_hash(secret),),
        )
        row = cursor.fetchone()
        if row is not None:
            # Programs ask every few minutes; a row need not be written for each.
            cursor.execute(
                "UPDATE calendar_feeds SET read_at = clock_timestamp() WHERE id = %s AND"
                " coalesce(read_at, '-infinity') < clock_timestamp() - interval '1 minute'",
                (row[0],),
            )
    connection.commit()
    return Feed(*row) if row else None


def revoke_feed(connection: Connection, id_: int) -> bool:
    """Revokes a feed; whether it existed. Its address then answers 404. Commits."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM calendar_feeds WHERE id = %s", (id_,))
        found = cursor.rowcount == 1
    connection.commit()
    return found


def _hash(secret: str) -> bytes:
    # Of 256 random bits: nothing slow is needed, and an index finds it.
    return hashlib.sha256(secret.encode()).digest()
