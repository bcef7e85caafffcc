"""`opportunity_versions`: which fetch each row of the mirror stands for, and who may write it.

What belongs here: locking, reading and noting versions. What does not: which fetch wins (`order`),
and the rows themselves (`merge`, `deletions`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg2.extensions import connection as Connection  # noqa: N812
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from rms_pipeline.current_rms.payloads import Opportunity, Record
from rms_pipeline.mirror.order import Fetch


@dataclass(frozen=True, slots=True)
class Known:
    """What a row stands for: the fetch, None when nothing is known yet, and the fingerprint of what
    came, None for a record with faults and for one that is gone (`deleted`)."""

    fetch: Fetch | None
    fingerprint: bytes | None
    deleted: bool = False


# A fetch that was answered by then was stamped while the database's clock was wrong. It counts for
# nothing, or every fetch until that moment comes would lose to it.
IN_THE_FUTURE = "answered_at > clock_timestamp() + interval '1 min'"

# Of an id that this very fetch was the first to bring.
FIRST = Known(None, None)


def lock_versions(cursor: Cursor, ids: list[int]) -> None:
    """Until the transaction ends, nobody else writes the rows of `ids` (ascending), live or
    deleted."""
    cursor.execute(
        "INSERT INTO opportunity_versions (id) SELECT unnest(%s::bigint[]) ON CONFLICT DO NOTHING",
        (ids,),
    )
    _lock_known(cursor, ids)


def claim_versions(
    cursor: Cursor,
    batch: Sequence[Record],
    asked_at: datetime,
    answered_at: datetime,
    decode: Callable[[Record], Opportunity],
) -> dict[int, Known]:
    """Locks the versions of `batch` (ascending), as `lock_versions` does: what each stands for.

    Of an id that was never seen this fetch is noted at once, for nothing can be newer. New ids come
    before known ones in all transactions, and each in order: no two wait for one another.
    """
    cursor.execute(
        "SELECT id FROM opportunity_versions WHERE id = ANY(%s)", ([r.id for r in batch],)
    )
    seen = {row[0] for row in cursor.fetchall()}
    known: dict[int, Known] = {}
    if unseen := [decode(r) for r in batch if r.id not in seen]:
        cursor.execute(
            "INSERT INTO opportunity_versions"
            " (id, asked_at, answered_at, updated_at_rms, fingerprint)"
            " SELECT id, %s, %s, updated_at_rms, fingerprint"
            " FROM unnest(%s::bigint[], %s::timestamptz[], %s::bytea[])"
            " AS n (id, updated_at_rms, fingerprint) ON CONFLICT DO NOTHING RETURNING id",
            (asked_at, answered_at, *_version_columns(unseen)),
        )
        known = {row[0]: FIRST for row in cursor.fetchall()}
    if len(known) < len(batch):
        known |= _lock_known(cursor, [r.id for r in batch if r.id not in known])
    return known


def _lock_known(cursor: Cursor, ids: list[int]) -> dict[int, Known]:
    cursor.execute(
        "SELECT id, asked_at, answered_at, updated_at_rms, deleted, fingerprint,"
        f" asked_at IS NULL OR {IN_THE_FUTURE}"
        " FROM opportunity_versions WHERE id = ANY(%s) ORDER BY id FOR UPDATE",
        (ids,),
    )
    known = {}
    for id_, asked, answered, updated, deleted, fingerprint, is_void in cursor.fetchall():
        fetch = None if is_void else Fetch(asked, answered, updated, deleted)
        known[id_] = Known(fetch, None if fingerprint is None else bytes(fingerprint), deleted)
    return known


def held_times(
    connection: Connection, ids: Sequence[int], *, patience: float = 0.0
) -> dict[int, datetime]:
    """`updated_at` (UTC) of the records that the live rows of `ids` stand for. Commits.

    Raises LockNotAvailable (psycopg2) when somebody has the table as a whole for longer than
    `patience` seconds; 0 waits for as long as it takes.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", (f"{patience * 1000:.0f}",))
        cursor.execute(
            "SELECT id, updated_at_rms FROM opportunity_versions WHERE id = ANY(%s)"
            f" AND NOT deleted AND updated_at_rms IS NOT NULL AND NOT ({IN_THE_FUTURE})",
            (list(ids),),
        )
        found: dict[int, datetime] = dict(cursor.fetchall())
    connection.commit()
    return found


def note_versions(
    cursor: Cursor,
    written: Sequence[Opportunity],
    same: list[int],
    asked_at: datetime,
    answered_at: datetime,
) -> None:
    """Notes this fetch for the rows `written` and for those found the `same`."""
    if same:
        cursor.execute(
            "UPDATE opportunity_versions SET asked_at = %s, answered_at = %s WHERE id = ANY(%s)",
            (asked_at, answered_at, same),
        )
    if written:
        cursor.execute(
            "UPDATE opportunity_versions v SET asked_at = %s, answered_at = %s,"
            " updated_at_rms = n.updated_at_rms, fingerprint = n.fingerprint, deleted = false"
            " FROM unnest(%s::bigint[], %s::timestamptz[], %s::bytea[])"
            " AS n (id, updated_at_rms, fingerprint) WHERE v.id = n.id",
            (
                asked_at,
                answered_at,
                *_version_columns(written),
            ),
        )


def _version_columns(
    batch: Sequence[Opportunity],
) -> tuple[list[int], list[datetime | None], list[str | None]]:
    return (
        [o.id for o in batch],
        [o.updated_at_rms for o in batch],
        [None if o.faults else f"\\x{o.fingerprint.hex()}" for o in batch],
    )
