"""`webhook_events` as a queue: events wait here until their record is refreshed.

This module stores, claims, settles and gives back events. It does no HTTP and no refresh.

A claim is a lease, which the process that works on it renews for up to a quarter of an hour,
because Current RMS may be slow. A process that dies loses its claim when the lease ends, and
another one takes the events. If the first one lives after all, it still may settle them, but it no
longer decides when they are tried again. Two processes that refresh the same record do no harm. All
waiting events of a record are claimed together. An event that arrives during the refresh is not
among them, so it causes another refresh afterwards.

A postponed event waits until Current RMS shows the change that the event reports, or until a locked
row is free. Later events of its record wait with it.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

import psycopg2

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.collections.base import Collection
from rms_pipeline.mirror.database import PUBLIC
from rms_pipeline.mirror.mapping import demand_own_mapping, say_own_mapping
from rms_pipeline.mirror.merge import lock_versions
from rms_pipeline.mirror.postgres_errors import sparing
from rms_pipeline.mirror.queued_events import RECORD, Claim, Claimed, Event, QueueState, StoredEvent
from rms_pipeline.mirror.statements import Connection, described, one_row

__all__ = ["Claim", "Claimed", "Event", "QueueState", "StoredEvent"]

_CHANNEL = "rms_webhook_events"
LEASE = timedelta(seconds=60)
ATTEMPTS = 8
FAST_LANE_LOCK = "fast lane"
# How long an event waits for Current RMS to show its change, in seconds, before each attempt.
PATIENCE = (1, 2, 4, 8, 15, 30)
_WAITING = "processed_at IS NULL AND dead_at IS NULL"
# No attempt is postponed for longer than these, and no event is received in the future. Such a time
# was written by a wrong clock, and nobody waits for it.
_UNCLAIMED = (
    "(claimed_until IS NULL OR claimed_until < clock_timestamp()"
    " OR claimed_until > clock_timestamp() + interval '10 min')"
)
# The claimant has neither settled the event nor returned it, and no other process has taken it.
_STILL_CLAIMED = "processed_at IS NULL AND claimed_until IS NOT NULL AND claimed_by = %(claimant)s"
_TIME_HAS_COME = (
    "(next_attempt_at <= clock_timestamp()"
    " OR next_attempt_at > clock_timestamp() + interval '10 min')"
)
_DUE = (
    f"{_TIME_HAS_COME} AND {_UNCLAIMED}"
    " AND (received_at <= clock_timestamp() - make_interval(secs => %(older)s)"
    " OR received_at > clock_timestamp() + interval '1 min')"
)


def channel(schema: str) -> str:
    """Return the channel on which PostgreSQL notifies of new events for the mirror in `schema`."""
    return _CHANNEL if schema == PUBLIC else f"{_CHANNEL}_{schema}"


def store_event(connection: Connection, event: Event) -> tuple[int, bool]:
    """Store `event`. Returns its id, and whether it is new. Commits.

    A repeat has the same `action_id` and the same content, however it is written. Another record or
    another change under the same id is another event.
    """
    collection = event.collection or COLLECTIONS[0]
    digest = "sha256(convert_to((%(payload)s::jsonb)::text, 'UTF8'))"
    values = {
        "action_id": event.action_id,
        "action_type": event.action_type,
        "subject_type": event.subject_type,
        "collection": collection.name,
        "record": event.record,
        "member_id": event.member_id,
        "member_name": event.member_name,
        "happened_at": event.happened_at,
        "payload": event.payload.decode(),
        "kept": event.kept.decode(),
        "size": len(event.kept),
        "because": event.because,
    }
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO webhook_events (collection, {collection.event_column}, action_id,"
            " action_type, subject_type, member_id, member_name, happened_at, content_digest,"
            " raw_payload, size_bytes, processed_at, error)"
            " VALUES (%(collection)s, %(record)s, %(action_id)s, %(action_type)s, %(subject_type)s,"
            f" %(member_id)s, %(member_name)s, %(happened_at)s, {digest}, %(kept)s, %(size)s,"
            " CASE WHEN %(record)s::bigint IS NULL THEN now() END, %(because)s)"
            " ON CONFLICT (action_id, content_digest) DO NOTHING RETURNING id",
            values,
        )
        row = cursor.fetchone()
        new = row is not None
        if row is None:
            cursor.execute(
                "SELECT id FROM webhook_events WHERE action_id = %(action_id)s"
                f" AND content_digest = {digest}",
                values,
            )
            row = cursor.fetchone()
    connection.commit()
    return (int(row[0]) if row else 0), new


def claim(
    connection: Connection,
    collection: Collection,
    claimant: str,
    *,
    most: int = 100,
    older_than: float = 0.0,
    strangers: bool = True,
) -> Claim:
    """Claim the waiting events of up to `most` records of `collection`, the longest waiting first.

    Commits. Only events that have waited for `older_than` seconds are claimed, and none of a record
    that another process works on or that was postponed. `strangers` includes records that the
    mirror does not know. Raises OutdatedError if a newer version of this program keeps the mirror:
    that version could not process events that are claimed here in vain. Raises LockNotAvailable
    (psycopg2) if another session locks a whole table.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = '2s'")
        demand_own_mapping(cursor, collection)
        say_own_mapping(cursor, collection)
        cursor.execute(
            described(
                "claim_events",
                record=RECORD,
                column=collection.event_column,
                waiting=_WAITING,
                due=_DUE,
                unclaimed=_UNCLAIMED,
                time_has_come=_TIME_HAS_COME,
                versions=collection.versions,
            ),
            {
                "collection": collection.name,
                "claimant": claimant,
                "most": most,
                "lease": LEASE,
                "older": older_than,
                "strangers": strangers,
            },
        )
        rows = cursor.fetchall()
    connection.commit()
    return Claim(
        collection,
        claimant,
        [Claimed(*row[:-1]) for row in rows],
        frozenset(r[1] for r in rows if r[-1]),
    )


def renew(connection: Connection, claimed: Claim) -> None:
    """Let the lease of `claimed` begin again, for the events that are still its own. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE webhook_events SET claimed_until = clock_timestamp() + %(lease)s"
            f" WHERE id = ANY(%(ids)s) AND {_STILL_CLAIMED}",
            {
                "lease": LEASE,
                "ids": [event.id for event in claimed.events],
                "claimant": claimed.claimant,
            },
        )
    connection.commit()


def settle(connection: Connection, claimed: Claim, records: Iterable[int]) -> int:
    """Mark the claimed events of `records` as done, and their rows as refreshed. Returns how many
    events were not done yet. Commits.

    This also holds for events that another process has claimed since, because they are older than
    the refresh.
    A row that another session locks is not marked, and this does not wait for it. A row that
    PostgreSQL refuses to change is not marked either. Their events are settled nevertheless.
    """
    wanted = sorted(set(records))
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE webhook_events SET processed_at = clock_timestamp(), claimed_until = NULL,"
            " error = NULL WHERE id = ANY(%s) AND processed_at IS NULL",
            ([event.id for event in claimed.events_of(wanted)],),
        )
        settled = cursor.rowcount
    connection.commit()

    def mark(ids: list[int]) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '2s'")
            # A merge writes rows in another order. Without these locks, one of the two might be
            # ended by a deadlock.
            lock_versions(cursor, claimed.collection, ids)
            cursor.execute(
                f"UPDATE {claimed.collection.name} SET last_webhook_at = clock_timestamp()"
                " WHERE id = ANY(%s)",
                (ids,),
            )
        connection.commit()

    try:
        sparing(connection, wanted, mark)
    except psycopg2.errors.LockNotAvailable:
        connection.rollback()
    return settled


def put_off(
    connection: Connection,
    claimed: Claim,
    reasons: Mapping[int, str],
    *,
    counted: bool = True,
    seconds: float | None = None,
) -> int:
    """Return the claimed events of the records in `reasons` to the queue, to wait. Returns how
    many.

    Such an attempt does not count as failed. With `counted`, it counts as a wait for Current RMS,
    and there are as many waits as in PATIENCE. `seconds` is the time until the next attempt.
    Without it, the time grows with the number of waits, or with the age of the event. Commits.
    """
    events = claimed.events_of(reasons)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE webhook_events e SET claimed_until = NULL, error = n.reason, put_off = true,"
            " attempts = attempts - 1, waits = waits + %(counted)s::int,"
            " next_attempt_at = clock_timestamp() + interval '1 s' * coalesce(%(seconds)s::float8,"
            " CASE WHEN %(counted)s THEN (%(patience)s::int[])[least(waits + 1, %(most)s)] ELSE"
            " least(greatest(extract(epoch FROM clock_timestamp() - received_at) / 4, 1), 10) END)"
            " FROM unnest(%(ids)s::bigint[], %(reasons)s::text[]) AS n (id, reason)"
            f" WHERE e.id = n.id AND {_STILL_CLAIMED}",
            {
                "claimant": claimed.claimant,
                "counted": counted,
                "seconds": seconds,
                "patience": list(PATIENCE),
                "most": len(PATIENCE),
                "ids": [event.id for event in events],
                "reasons": [reasons[e.record].replace("\x00", "\ufffd") for e in events],
            },
        )
        count = cursor.rowcount
    connection.commit()
    return count


def give_back(
    connection: Connection,
    claimed: Claim,
    records: Iterable[int],
    error: str,
    *,
    blameless: bool,
) -> int:
    """Return claimed events to the queue for another attempt later. Returns how many are dead.
    Commits.

    After its last attempt an event is dead. It stays as a dead letter with its error. With
    `blameless`, the event was not at fault (the API is down, the key is wrong), and the attempt
    does not count.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE webhook_events SET claimed_until = NULL, error = %(error)s,"
            " attempts = attempts - %(blameless)s::int,"
            " dead_at = CASE WHEN NOT %(blameless)s AND attempts >= %(most)s"
            " THEN clock_timestamp() END,"
            " next_attempt_at = clock_timestamp() + least(%(longest)s,"
            " power(2, least(attempts, 10))) * interval '1 s'"
            f" WHERE id = ANY(%(ids)s) AND {_STILL_CLAIMED} RETURNING dead_at",
            {
                "claimant": claimed.claimant,
                "error": error[:2_000].replace("\x00", "\ufffd"),
                "blameless": blameless,
                "most": ATTEMPTS,
                "longest": 10 if blameless else 300,
                "ids": [event.id for event in claimed.events_of(records)],
            },
        )
        dead = sum(1 for row in cursor.fetchall() if row[0] is not None)
    connection.commit()
    return dead


def replay(connection: Connection, events: Sequence[int] | None = None) -> int:
    """Put dead letters back into the queue: all, or those with these ids. Returns how many.
    Commits.
    """
    ids = None if events is None else [e for e in events if abs(e) < 2**63]
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE webhook_events SET dead_at = NULL, attempts = 0, waits = 0,"
            " claimed_until = NULL,"
            " next_attempt_at = clock_timestamp() WHERE dead_at IS NOT NULL"
            " AND (%(ids)s::bigint[] IS NULL OR id = ANY(%(ids)s::bigint[]))",
            {"ids": ids},
        )
        count = cursor.rowcount
    connection.commit()
    return count


def dead_letters(connection: Connection, most: int = 20) -> list[StoredEvent]:
    """Return dead letters, the latest first."""
    return _events(connection, "dead_at IS NOT NULL AND processed_at IS NULL", most=most)


def events_of(connection: Connection, opportunity: int, most: int = 20) -> list[StoredEvent]:
    """Return the webhook events of one opportunity, the latest first."""
    return _events(connection, "opportunity_id = %(id)s", most=most, id=opportunity)


def _events(connection: Connection, where: str, **values: int) -> list[StoredEvent]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, opportunity_id, action_type, member_name, received_at, attempts,"
            f" processed_at, dead_at, error, collection, {RECORD} FROM webhook_events e"
            f" WHERE {where}"
            " ORDER BY id DESC LIMIT %(most)s",
            values,
        )
        found = [StoredEvent(*row) for row in cursor.fetchall()]
    connection.commit()
    return found


def queue_state(connection: Connection, *, older_than: float = 0.0) -> QueueState:
    """Return the state of the queue.

    With `older_than`, only events count that nobody works on and that have waited so many seconds.
    """
    unclaimed = f" AND {_DUE}" if older_than else ""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT count(*) FILTER (WHERE {_WAITING}{unclaimed}),"
            " count(*) FILTER (WHERE dead_at IS NOT NULL),"
            f" min(received_at) FILTER (WHERE {_WAITING}),"
            f" coalesce(greatest(extract(epoch FROM clock_timestamp() - min(received_at)"
            f" FILTER (WHERE {_WAITING})), 0), 0)::float8"
            " FROM webhook_events WHERE processed_at IS NULL",
            {"older": older_than},
        )
        row = one_row(cursor)
    connection.commit()
    return QueueState(*row)
