"""Rows that are gone from Current RMS: who may be, and how they leave the table.

What belongs here: SQL about absence. Who says that a record is gone is for `sync` to find out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from psycopg2.extensions import connection as Connection  # noqa: N812
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from rms_pipeline.current_rms.fields import Fault
from rms_pipeline.mirror.merge import MAPPED, note_faults
from rms_pipeline.mirror.order import Fetch, supersedes
from rms_pipeline.mirror.postgres_errors import sparing
from rms_pipeline.mirror.versions import IN_THE_FUTURE

# More than this share of the window, and more than so many rows, do not go within the period
# without a person's word, whoever found that they are gone.
GUARDED_SHARE, GUARDED_COUNT, GUARDED_PERIOD = 0.05, 20, timedelta(days=1)

_COPIED = ", ".join((*MAPPED, "synced_at", "last_webhook_at"))
# Not those that were found there again since.
_HELD_BACK = (
    "SELECT id FROM held_deletions h JOIN opportunities o USING (id)"
    " JOIN opportunity_versions v USING (id) WHERE h.collection = 'opportunities'"
    " AND (v.asked_at IS NULL OR v.asked_at <= h.asked_at"
    f" OR v.{IN_THE_FUTURE})"
)
IN_WINDOW = (
    "(o.starts_at IS NULL OR o.ends_at IS NULL OR (o.ends_at >= %(start)s"
    " AND o.starts_at <= %(end)s))"
)


def unseen_rows(
    connection: Connection, walk: int, started_at: datetime, window: tuple[datetime, datetime]
) -> list[int]:
    """Rows of the window that `walk` did not see and nobody has asked for since it began."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT o.id FROM opportunities o JOIN opportunity_versions v USING (id)"
            f" WHERE {IN_WINDOW} AND (v.asked_at < %(started)s OR v.{IN_THE_FUTURE}) AND NOT EXISTS"
            " (SELECT FROM (SELECT unnest(record_ids) AS id FROM raw_rms_pages"
            " WHERE walk = %(walk)s) seen WHERE seen.id = o.id) ORDER BY o.id",
            {"start": window[0], "end": window[1], "started": started_at, "walk": walk},
        )
        found = [row[0] for row in cursor.fetchall()]
    connection.commit()
    return found


def count_window(connection: Connection, window: tuple[datetime, datetime]) -> int:
    """Rows that overlap `window` or lack a date."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT count(*) FROM opportunities o WHERE {IN_WINDOW}",
            {"start": window[0], "end": window[1]},
        )
        row = cursor.fetchone()
    connection.commit()
    return int(row[0]) if row else 0


def oldest_outside(
    connection: Connection, window: tuple[datetime, datetime], limit: int
) -> list[int]:
    """Rows outside `window`, those first that the API was not asked about for longest."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT o.id FROM opportunities o WHERE NOT {IN_WINDOW}"
            # What was asked for in the future was asked for by a wrong clock.
            " ORDER BY o.synced_at <= clock_timestamp(), o.synced_at, o.id LIMIT %(limit)s",
            {"start": window[0], "end": window[1], "limit": limit},
        )
        found = [row[0] for row in cursor.fetchall()]
    connection.commit()
    return found


def held_back(connection: Connection) -> list[int]:
    """Rows that are known to be gone and stay, because too many would have gone. Commits.

    One that was found there again since is not among them.
    """
    with connection.cursor() as cursor:
        cursor.execute(f"{_HELD_BACK} ORDER BY id")
        found = [row[0] for row in cursor.fetchall()]
    connection.commit()
    return found


def deleted_lately(connection: Connection) -> int:
    """Rows that went within the period that is guarded, unconfirmed. Commits."""
    with connection.cursor() as cursor:
        count = _deleted_lately(cursor)
    connection.commit()
    return count


def may_still_go(connection: Connection) -> int:
    """How many rows may go now without a person's word. Commits."""
    with connection.cursor() as cursor:
        left = _most(cursor) - _deleted_lately(cursor)
    connection.commit()
    return max(left, 0)


def confirm_deletions(connection: Connection) -> None:
    """Notes that what went so far was confirmed by a person. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO deletions_confirmed VALUES ('opportunities', clock_timestamp())"
            " ON CONFLICT (collection) DO UPDATE SET confirmed_at = excluded.confirmed_at"
        )
        cursor.execute(
            "DELETE FROM held_deletions h WHERE collection = 'opportunities'"
            " AND NOT EXISTS (SELECT FROM opportunities o WHERE o.id = h.id)"
        )
    connection.commit()


@dataclass(frozen=True, slots=True)
class Removal:
    """The ids of rows that went (`gone`), that stay because too many would have gone (`held`), and
    that PostgreSQL does not let go (`kept`)."""

    gone: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)


def move_to_deleted(
    connection: Connection,
    gone: Mapping[int, tuple[datetime, datetime]],
    because: str,
    run: str,
    *,
    confirmed: bool = False,
) -> Removal:
    """Moves rows to `deleted_opportunities`, each by when its absence was asked for and answered.

    A row of which something was learnt meanwhile stays. So does one that PostgreSQL does not let
    go, because other tables refer to it or a trigger keeps it: `sync_faults` says so of `run`. An
    id that has no row is remembered as gone, so that no older page brings it. Where more would go
    within a day than can be believed, none goes, unless `confirmed`. Commits.
    """
    removal = Removal()
    kept: dict[int, str] = {}
    too_many = False

    def are_too_many(cursor: Cursor, going: Sequence[int]) -> bool:
        nonlocal too_many
        # What was too many stays so when PostgreSQL refuses one of them and parts are tried.
        too_many = too_many or (not confirmed and _are_too_many(cursor, going))
        return too_many

    def move(ids: list[int]) -> None:
        went, stayed, held = _move(connection, ids, gone, because, are_too_many)
        removal.gone.extend(went)
        removal.held.extend(held)
        kept.update(dict.fromkeys(stayed, "a trigger that was added to the table keeps it"))

    if gone:
        kept |= sparing(connection, sorted(gone), move)
    if kept:
        told = "no longer exists in Current RMS, but its row cannot be deleted: {}"
        with connection.cursor() as cursor:
            note_faults(
                cursor, run, [Fault(i, "(row)", told.format(kept[i]), "") for i in sorted(kept)]
            )
        connection.commit()
        removal.kept.extend(sorted(kept))
    removal.gone.sort()
    return removal


def _move(
    connection: Connection,
    ids: list[int],
    gone: Mapping[int, tuple[datetime, datetime]],
    because: str,
    are_too_many: Callable[[Cursor, Sequence[int]], bool],
) -> tuple[list[int], list[int], list[int]]:
    """The ids of rows that went, of those that a trigger kept, and of those that are too many.
    Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO opportunity_versions (id) SELECT unnest(%s::bigint[])"
            " ON CONFLICT DO NOTHING",
            (ids,),
        )
        cursor.execute(
            "SELECT id, asked_at, answered_at, updated_at_rms, deleted,"
            f" asked_at IS NULL OR {IN_THE_FUTURE} FROM opportunity_versions"
            " WHERE id = ANY(%s) ORDER BY id FOR UPDATE",
            (ids,),
        )
        going = []
        for id_, asked, answered, updated, deleted, is_void in cursor.fetchall():
            absence = Fetch(*gone[id_], None, deleted=True)
            if is_void or supersedes(absence, Fetch(asked, answered, updated, deleted)):
                going.append(id_)
        cursor.execute(
            "SELECT id FROM opportunities WHERE id = ANY(%s) ORDER BY id FOR UPDATE", (going,)
        )
        live = [row[0] for row in cursor.fetchall()]
        if live and are_too_many(cursor, live):
            _hold(cursor, live, gone, because)
            connection.commit()
            return [], [], live
        cursor.execute(
            "DELETE FROM deleted_opportunities d USING opportunities o"
            " WHERE d.id = o.id AND o.id = ANY(%s)",
            (going,),
        )
        cursor.execute(
            f"INSERT INTO deleted_opportunities ({_COPIED}, deleted_at, deleted_because)"
            f" SELECT {_COPIED}, clock_timestamp(), %s FROM opportunities WHERE id = ANY(%s)"
            " RETURNING id",
            (because, going),
        )
        moved = [row[0] for row in cursor.fetchall()]
        # Not in one statement with the above, which rules of people's own would not allow.
        cursor.execute("DELETE FROM opportunities WHERE id = ANY(%s)", (moved,))
        kept: list[int] = []
        if cursor.rowcount != len(moved):
            cursor.execute("SELECT id FROM opportunities WHERE id = ANY(%s)", (moved,))
            kept = [row[0] for row in cursor.fetchall()]
            cursor.execute("DELETE FROM deleted_opportunities WHERE id = ANY(%s)", (kept,))
        cursor.execute(
            "DELETE FROM held_deletions WHERE collection = 'opportunities' AND id = ANY(%s)",
            (going,),
        )
        _note_gone(connection, [i for i in going if i not in kept], gone)
    connection.commit()
    return [i for i in moved if i not in kept], kept, []


def _are_too_many(cursor: Cursor, going: Sequence[int]) -> bool:
    # One after the other, or several at once would each find room. Nothing is waited for inside:
    # the rows are locked already.
    cursor.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended("
        "'rms_pipeline deletions of ' || current_schema() || '.opportunities', 0))"
    )
    # What is held counts as well, or the rest of a multitude would go in small numbers.
    cursor.execute(f"SELECT count(*) FROM ({_HELD_BACK}) held WHERE id <> ALL(%s)", (list(going),))
    held = int((cursor.fetchone() or (0,))[0])
    together = _deleted_lately(cursor) + held + len(going)
    return together > GUARDED_COUNT and together > _most(cursor)


def _deleted_lately(cursor: Cursor) -> int:
    cursor.execute(
        "SELECT count(*) FROM deleted_opportunities"
        " WHERE deleted_at > clock_timestamp() - %s AND deleted_at > coalesce((SELECT confirmed_at"
        " FROM deletions_confirmed WHERE collection = 'opportunities'), '-infinity')",
        (GUARDED_PERIOD,),
    )
    return int((cursor.fetchone() or (0,))[0])


def _most(cursor: Cursor) -> int:
    """How many may go in the period: a share of the window of the last full walk, or the table."""
    cursor.execute(
        "SELECT window_start, window_end FROM walks WHERE kind = 'full' AND settled_at IS NOT NULL"
        " AND window_end IS NOT NULL ORDER BY id DESC LIMIT 1"
    )
    start, end = cursor.fetchone() or (None, None)
    condition = "true" if start is None or end is None else IN_WINDOW
    cursor.execute(
        f"SELECT count(*) FROM opportunities o WHERE {condition}", {"start": start, "end": end}
    )
    rows = int((cursor.fetchone() or (0,))[0])
    return max(GUARDED_COUNT, int(GUARDED_SHARE * rows))


def _hold(
    cursor: Cursor,
    ids: Sequence[int],
    gone: Mapping[int, tuple[datetime, datetime]],
    because: str,
) -> None:
    times = [[gone[i][0] for i in ids], [gone[i][1] for i in ids]]
    cursor.execute(
        "INSERT INTO held_deletions (collection, id, because, asked_at, answered_at)"
        " SELECT 'opportunities', id, %s, asked_at, answered_at"
        " FROM unnest(%s::bigint[], %s::timestamptz[], %s::timestamptz[])"
        " AS n (id, asked_at, answered_at) ON CONFLICT (collection, id) DO UPDATE"
        " SET because = excluded.because, asked_at = excluded.asked_at,"
        " answered_at = excluded.answered_at, held_at = excluded.held_at",
        (because, list(ids), *times),
    )
    # So that rows which were not asked for as lately come first the next time.
    cursor.execute(
        "UPDATE opportunities o SET synced_at = n.asked_at FROM"
        " unnest(%s::bigint[], %s::timestamptz[]) AS n (id, asked_at) WHERE o.id = n.id",
        (list(ids), times[0]),
    )


def _note_gone(
    connection: Connection, ids: Sequence[int], gone: Mapping[int, tuple[datetime, datetime]]
) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE opportunity_versions v SET asked_at = n.asked_at, answered_at = n.answered_at,"
            " updated_at_rms = NULL, fingerprint = NULL, deleted = true"
            " FROM unnest(%s::bigint[], %s::timestamptz[], %s::timestamptz[])"
            " AS n (id, asked_at, answered_at) WHERE v.id = n.id",
            (list(ids), [gone[i][0] for i in ids], [gone[i][1] for i in ids]),
        )
