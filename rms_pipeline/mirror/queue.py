"""`webhook_events` as a queue: what a webhook told, until its opportunity has been refreshed.

What belongs here: storing, claiming, settling, giving back. What does not: HTTP, and the refresh.

A claim is a lease. Whoever dies with one loses it when the lease ends; two who refresh the same
opportunity do no harm. All waiting events of an opportunity are claimed together, and one that
arrives during the refresh is not among them, so it causes another.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg2.extensions import connection as Connection  # noqa: N812

from rms_pipeline.mirror.versions import lock_versions

CHANNEL = "rms_webhook_events"
LEASE = timedelta(seconds=60)
ATTEMPTS = 8
FAST_LANE_LOCK = "fast lane"
_WAITING = "processed_at IS NULL AND dead_at IS NULL"
# No attempt is put off for longer than these, and nothing is received in the future: such a moment
# was noted by a wrong clock, and nobody waits for it.
_DUE = (
    "(next_attempt_at <= clock_timestamp()"
    " OR next_attempt_at > clock_timestamp() + interval '10 min')"
    " AND (claimed_until IS NULL OR claimed_until < clock_timestamp()"
    " OR claimed_until > clock_timestamp() + interval '10 min')"
    " AND (received_at <= clock_timestamp() - make_interval(secs => %(older)s)"
    " OR received_at > clock_timestamp() + interval '1 min')"
)


@dataclass(frozen=True, slots=True)
class Event:
    """A webhook delivery. `opportunity_id` None when its subject is no opportunity.

    `payload` is the whole body as JSON that PostgreSQL can hold.
    """

    action_id: int | None
    action_type: str | None
    subject_type: str | None
    opportunity_id: int | None
    member_id: int | None
    member_name: str | None
    payload: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """Events (by id) of up to a hundred opportunities, held by `claimant` until the lease ends."""

    claimant: str
    events: dict[int, int]
    received_at: dict[int, datetime]

    @property
    def opportunities(self) -> list[int]:
        return sorted(set(self.events.values()))

    def events_of(self, opportunities: Iterable[int]) -> list[int]:
        wanted = set(opportunities)
        return [event for event, id_ in self.events.items() if id_ in wanted]


@dataclass(frozen=True, slots=True)
class QueueState:
    """`depth` events wait, the oldest since `oldest` (UTC); `dead` gave up."""

    depth: int
    dead: int
    oldest: datetime | None
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as it stands in the queue; `processed_at` and `dead_at` both None while it waits."""

    id: int
    opportunity_id: int
    action_type: str | None
    member_name: str | None
    received_at: datetime
    attempts: int
    processed_at: datetime | None
    dead_at: datetime | None
    error: str | None


def store_event(connection: Connection, event: Event) -> tuple[int, bool]:
    """Keeps `event`; its id, and whether it is new: the same `action_id` is kept once. Commits."""
    refreshes = event.opportunity_id is not None
    error = None if refreshes else f"not an opportunity: {event.subject_type or 'no subject_type'}"
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO webhook_events (action_id, action_type, subject_type, opportunity_id,"
            " member_id, member_name, raw_payload, processed_at, error)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, CASE WHEN %s THEN NULL ELSE now() END, %s)"
            " ON CONFLICT (action_id) DO NOTHING RETURNING id",
            (
                event.action_id,
                event.action_type,
                event.subject_type,
                event.opportunity_id,
                event.member_id,
                event.member_name,
                event.payload.decode(),
                refreshes,
                error,
            ),
        )
        row = cursor.fetchone()
        new = row is not None
        if row is None:
            cursor.execute("SELECT id FROM webhook_events WHERE action_id = %s", (event.action_id,))
            row = cursor.fetchone()
    connection.commit()
    return (int(row[0]) if row else 0), new


def claim(
    connection: Connection, claimant: str, *, most: int = 100, older_than: float = 0.0
) -> Claim:
    """Claims the waiting events of up to `most` opportunities, the longest waiting first. Commits.

    Only those that have waited for `older_than` seconds.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"WITH due AS MATERIALIZED (SELECT id, opportunity_id FROM webhook_events"
            f" WHERE {_WAITING} AND {_DUE}"
            " ORDER BY next_attempt_at LIMIT 5000 FOR UPDATE SKIP LOCKED),"
            " chosen AS (SELECT opportunity_id FROM due GROUP BY 1 ORDER BY min(id)"
            " LIMIT %(most)s)"
            " UPDATE webhook_events e SET claimed_by = %(claimant)s, attempts = attempts + 1,"
            " claimed_until = clock_timestamp() + %(lease)s"
            " FROM due JOIN chosen USING (opportunity_id) WHERE e.id = due.id"
            " RETURNING e.id, e.opportunity_id, e.received_at",
            {"claimant": claimant, "most": most, "lease": LEASE, "older": older_than},
        )
        rows = cursor.fetchall()
    connection.commit()
    return Claim(claimant, {r[0]: r[1] for r in rows}, {r[0]: r[2] for r in rows})


def settle(connection: Connection, claimed: Claim, opportunities: Iterable[int]) -> int:
    """Marks the claimed events of `opportunities` as done, and their rows as refreshed. Commits."""
    wanted = sorted(set(opportunities))
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE webhook_events SET processed_at = clock_timestamp(), claimed_until = NULL,"
            " error = NULL WHERE id = ANY(%s) AND processed_at IS NULL",
            (claimed.events_of(wanted),),
        )
        settled = cursor.rowcount
        # A merge writes rows in another order, and one of the two would be ended.
        lock_versions(cursor, wanted)
        cursor.execute(
            "UPDATE opportunities SET last_webhook_at = clock_timestamp() WHERE id = ANY(%s)",
            (wanted,),
        )
    connection.commit()
    return settled


def give_back(
    connection: Connection,
    claimed: Claim,
    opportunities: Iterable[int],
    error: str,
    *,
    blameless: bool,
) -> int:
    """Returns claimed events to the queue, to be tried again later; how many died. Commits.

    An event dies at its last attempt, and stays as a dead letter with its error. `blameless` when
    it was not the event's fault (the API is down, the key is wrong): such an attempt does not
    count.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE webhook_events SET claimed_until = NULL, error = %(error)s,"
            " attempts = attempts - %(blameless)s::int,"
            " dead_at = CASE WHEN NOT %(blameless)s AND attempts >= %(most)s"
            " THEN clock_timestamp() END,"
            " next_attempt_at = clock_timestamp() + least(%(longest)s,"
            " power(2, least(attempts, 10))) * interval '1 s'"
            " WHERE id = ANY(%(ids)s) AND processed_at IS NULL RETURNING dead_at",
            {
                "error": error[:2_000].replace("\x00", "\ufffd"),
                "blameless": blameless,
                "most": ATTEMPTS,
                "longest": 10 if blameless else 300,
                "ids": claimed.events_of(opportunities),
            },
        )
        dead = sum(1 for row in cursor.fetchall() if row[0] is not None)
    connection.commit()
    return dead


def replay(connection: Connection, events: Sequence[int] | None = None) -> int:
    """Puts dead letters back into the queue: all, or those with these ids. How many. Commits."""
    ids = None if events is None else [e for e in events if abs(e) < 2**63]
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE webhook_events SET dead_at = NULL, attempts = 0, claimed_until = NULL,"
            " next_attempt_at = clock_timestamp() WHERE dead_at IS NOT NULL"
            " AND (%(ids)s::bigint[] IS NULL OR id = ANY(%(ids)s::bigint[]))",
            {"ids": ids},
        )
        count = cursor.rowcount
    connection.commit()
    return count


def dead_letters(connection: Connection, most: int = 20) -> list[StoredEvent]:
    """Events that gave up, the latest first."""
    return _events(connection, "dead_at IS NOT NULL AND processed_at IS NULL", most=most)


def events_of(connection: Connection, opportunity: int, most: int = 20) -> list[StoredEvent]:
    """What webhooks told of one opportunity, the latest first."""
    return _events(connection, "opportunity_id = %(id)s", most=most, id=opportunity)


def _events(connection: Connection, where: str, **values: int) -> list[StoredEvent]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, opportunity_id, action_type, member_name, received_at, attempts,"
            f" processed_at, dead_at, error FROM webhook_events WHERE {where}"
            " ORDER BY id DESC LIMIT %(most)s",
            values,
        )
        found = [StoredEvent(*row) for row in cursor.fetchall()]
    connection.commit()
    return found


def queue_state(connection: Connection, *, older_than: float = 0.0) -> QueueState:
    """How the queue stands; only events that nobody works on and that have waited `older_than`
    seconds are counted when that is given."""
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
        row = cursor.fetchone()
    connection.commit()
    assert row is not None
    return QueueState(*row)
