"""Rows that are gone from Current RMS: who may be, and how they leave the table.

What belongs here: SQL about absence. Who says that a record is gone is for `sync` to find out.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from psycopg2.extensions import connection as Connection  # noqa: N812

from rms_pipeline.current_rms.fields import Fault
from rms_pipeline.mirror.merge import MAPPED, note_faults
from rms_pipeline.mirror.order import Fetch, supersedes
from rms_pipeline.mirror.postgres_errors import sparing
from rms_pipeline.mirror.versions import IN_THE_FUTURE, lock_versions

_COPIED = ", ".join((*MAPPED, "synced_at", "last_webhook_at"))
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


def those_kept(connection: Connection, ids: Sequence[int]) -> list[int]:
    """Those of `ids` that have a live row. Commits."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM opportunities WHERE id = ANY(%s) ORDER BY id", (list(ids),))
        found = [row[0] for row in cursor.fetchall()]
    connection.commit()
    return found


def note_asked(connection: Connection, gone: Mapping[int, tuple[datetime, datetime]]) -> None:
    """Notes when rows were asked for that are gone but stay, so that others come first. Commits."""
    with connection.cursor() as cursor:
        # Whoever writes rows locks these first, or two might wait for one another.
        lock_versions(cursor, sorted(gone))
        cursor.execute(
            "UPDATE opportunities o SET synced_at = n.asked_at FROM"
            " unnest(%s::bigint[], %s::timestamptz[]) AS n (id, asked_at) WHERE o.id = n.id",
            (list(gone), [asked for asked, _ in gone.values()]),
        )
    connection.commit()


def move_to_deleted(
    connection: Connection,
    gone: Mapping[int, tuple[datetime, datetime]],
    because: str,
    run: str,
) -> list[int]:
    """Moves rows to `deleted_opportunities`, each by when its absence was asked for and answered.

    A row of which something was learnt meanwhile stays. So does one that PostgreSQL does not let
    go, because other tables refer to it or a trigger keeps it: `sync_faults` says so of `run`. An
    id that has no row is remembered as gone, so that no older page brings it. Returns the ids that
    went. Commits.
    """
    moved: list[int] = []
    kept: dict[int, str] = {}

    def move(ids: list[int]) -> None:
        went, stayed = _move(connection, ids, gone, because)
        moved.extend(went)
        kept.update(dict.fromkeys(stayed, "a trigger that was added to the table keeps it"))

    if gone:
        kept |= sparing(connection, sorted(gone), move)
    if kept:
        told = "is gone from Current RMS, but its row cannot go: {}"
        with connection.cursor() as cursor:
            note_faults(
                cursor, run, [Fault(i, "(row)", told.format(kept[i]), "") for i in sorted(kept)]
            )
        connection.commit()
    return sorted(moved)


def _move(
    connection: Connection,
    ids: list[int],
    gone: Mapping[int, tuple[datetime, datetime]],
    because: str,
) -> tuple[list[int], list[int]]:
    """The ids of rows that went, and of those that a trigger kept. Commits."""
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
        _note_gone(connection, [i for i in going if i not in kept], gone)
    connection.commit()
    return [i for i in moved if i not in kept], kept


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
