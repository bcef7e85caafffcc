"""`webhook_absences`: records that webhooks named but that Current RMS did not have.

Anyone who knows the webhook's address can name any number of records, and each costs calls. So the
number of requests per minute for records that the mirror does not know is limited. A record that
the API did not have is not asked for again soon.
"""

from collections.abc import Collection as Ids
from collections.abc import Mapping
from datetime import datetime, timedelta

from rms_pipeline.collections.base import Collection
from rms_pipeline.mirror.statements import Connection

# Share of the account's limit of requests. An absence costs at most two calls.
SHARE = 0.1
# Absences a minute when there is no limit.
WITHOUT_LIMIT = 12
# For this long after the API answered that a record does not exist, nobody asks for it again.
FORGOTTEN_AFTER = timedelta(minutes=2)
_KEPT = timedelta(days=1)


def most_a_minute(requests_per_minute: int) -> int:
    """Return how many absences of unknown records are allowed a minute, by the account's limit."""
    return max(int(requests_per_minute * SHARE), 1) if requests_per_minute else WITHOUT_LIMIT


def absences_of_last_minute(connection: Connection, collection: Collection) -> int:
    """Return how many unknown records were asked for in vain in the last minute. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM webhook_absences WHERE collection = %s"
            " AND asked_at BETWEEN clock_timestamp() - interval '1 min' AND clock_timestamp()",
            (collection.name,),
        )
        row = cursor.fetchone()
    connection.commit()
    return int(row[0]) if row else 0


def note_absences(
    connection: Connection, collection: Collection, absent: Mapping[int, bool]
) -> None:
    """Note that these records were asked for in vain. The value says if that is certain.
    Commits.
    """
    if not absent:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO webhook_absences (collection, id, asked_at, settled)"
            " SELECT %s, id, clock_timestamp(), settled FROM unnest(%s::bigint[], %s::bool[])"
            " AS n (id, settled) ORDER BY id ON CONFLICT (collection, id)"
            " DO UPDATE SET asked_at = excluded.asked_at, settled = excluded.settled",
            (collection.name, list(absent), list(absent.values())),
        )
        cursor.execute(
            "DELETE FROM webhook_absences WHERE asked_at < clock_timestamp() - %s"
            " OR asked_at > clock_timestamp() + interval '1 min'",
            (_KEPT,),
        )
    connection.commit()


def lately_absent(
    connection: Connection, collection: Collection, ids: Ids[int]
) -> dict[int, datetime]:
    """Return those of `ids` that certainly do not exist, and when (UTC) they were asked for.

    Only those that were asked for so recently that they are not asked for again. Commits.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, asked_at FROM webhook_absences WHERE collection = %s AND id = ANY(%s)"
            " AND settled AND asked_at BETWEEN clock_timestamp() - %s AND clock_timestamp()",
            (collection.name, list(ids), FORGOTTEN_AFTER),
        )
        found: dict[int, datetime] = dict(cursor.fetchall())
    connection.commit()
    return found
