"""Rows that Current RMS no longer has: which rows may be deleted, and how they leave the table.

This module has the SQL about deletions. `sync` finds out whether a record is gone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.records import Fault
from rms_pipeline.mirror.merge import IN_THE_FUTURE, Fetch, lock_versions, note_faults, supersedes
from rms_pipeline.mirror.postgres_errors import sparing
from rms_pipeline.mirror.promoted import let_go
from rms_pipeline.mirror.record_history import end_gone
from rms_pipeline.mirror.statements import Connection, Cursor, in_the_future, one_row
from rms_pipeline.mirror.words import forget_words

BY_TWO_WITNESSES = "it is in no list of Current RMS, and Current RMS does not find it by its id"
# Parts of a record that was deleted or changed: these deletions are expected and need no warning.
WITH_ITS_PARENT = "what it is a part of is gone"
WITH_A_CHANGE = "what it is a part of was changed, and its whole list no longer shows it"
_EXPECTED = (WITH_ITS_PARENT, WITH_A_CHANGE)
HELD_BACK = "Deletions wait for confirmation."
HELD_BACK_ADVICE = (
    "If they were really deleted, run `rms-pipeline sync initial --confirm-deletions`. If not, the "
    "user of the API key has lost the permission to see them: restore the permission."
)
# If more than this share of the window, and more than so many rows, would be deleted within the
# period, a person has to confirm it. It does not matter who found that they are gone.
GUARDED_SHARE, GUARDED_COUNT, GUARDED_PERIOD = 0.05, 20, timedelta(days=1)

_IN_WINDOW = (
    "(o.starts_at IS NULL OR o.ends_at IS NULL OR (o.ends_at >= %(start)s"
    " AND o.starts_at <= %(end)s))"
)


Window = tuple[datetime, datetime] | None


def _held_back(collection: Collection) -> str:
    # Without those that were found there again since.
    return (
        f"SELECT id FROM held_deletions h JOIN {collection.name} o USING (id)"
        f" JOIN {collection.versions} v USING (id) WHERE h.collection = '{collection.name}'"
        f" AND (v.asked_at IS NULL OR v.asked_at <= h.asked_at OR v.{IN_THE_FUTURE})"
    )


def _within(window: Window) -> tuple[str, dict[str, object]]:
    """Return the condition that a row `o` is in `window`, and its values. None means all rows."""
    if window is None:
        return "true", {}
    return _IN_WINDOW, {"start": window[0], "end": window[1]}


def unseen_rows(
    connection: Connection,
    collection: Collection,
    walk: int,
    started_at: datetime,
    window: Window,
) -> list[int]:
    """Return rows of the window that `walk` did not see and nobody has asked for since it began."""
    condition, values = _within(window)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT o.id FROM {collection.name} o JOIN {collection.versions} v USING (id)"
            f" WHERE {condition} AND (v.asked_at < %(started)s OR v.{IN_THE_FUTURE}) AND NOT EXISTS"
            " (SELECT FROM (SELECT unnest(record_ids) AS id FROM raw_rms_pages"
            " WHERE walk = %(walk)s) seen WHERE seen.id = o.id) ORDER BY o.id",
            values | {"started": started_at, "walk": walk},
        )
        found = [row[0] for row in cursor.fetchall()]
    connection.commit()
    return found


def oldest_outside(
    connection: Connection, collection: Collection, window: Window, limit: int
) -> list[int]:
    """Return rows outside `window`. Those come first that were asked for longest ago."""
    condition, values = _within(window)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT o.id FROM {collection.name} o WHERE NOT {condition}"
            # A time in the future was written by a wrong clock.
            " ORDER BY o.synced_at <= clock_timestamp(), o.synced_at, o.id LIMIT %(limit)s",
            values | {"limit": limit},
        )
        found = [row[0] for row in cursor.fetchall()]
    connection.commit()
    return found


def held_back(connection: Connection, collection: Collection) -> list[int]:
    """Return rows that are known to be gone but stay, because too many would be deleted. Commits.

    A row that was found there again since is not among them.
    """
    with connection.cursor() as cursor:
        cursor.execute(f"{_held_back(collection)} ORDER BY id")
        found = [row[0] for row in cursor.fetchall()]
    connection.commit()
    return found


def held_lately(connection: Connection, collection: Collection) -> set[int]:
    """Return those of `held_back` that were asked for within the guarded period. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"{_held_back(collection)} AND h.held_at > clock_timestamp() - %s"
            f" AND NOT {in_the_future('h.held_at')}",
            (GUARDED_PERIOD,),
        )
        found = {row[0] for row in cursor.fetchall()}
    connection.commit()
    return found


def words_of_held_back(collection: Collection, count: int) -> str:
    """Return that so many deletions wait, as a sentence."""
    one = count == 1
    return (
        f"At least {count:,} {collection.in_words(count)} no longer"
        f" exist{'s' if one else ''} in Current RMS. So many rows are deleted only after a person"
        " confirms it."
    )


def deleted_lately(connection: Connection, collection: Collection) -> int:
    """Return how many rows were deleted within the guarded period without confirmation. Commits."""
    with connection.cursor() as cursor:
        count = _deleted_lately(cursor, collection)
    connection.commit()
    return count


def may_still_go(connection: Connection, collection: Collection) -> int:
    """Return how many rows may be deleted now without a person's confirmation. Commits."""
    with connection.cursor() as cursor:
        left = _most(cursor, collection) - _deleted_lately(cursor, collection)
    connection.commit()
    return max(left, 0)


def confirm_deletions(connection: Connection, collection: Collection) -> None:
    """Note that a person confirmed the deletions so far. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO deletions_confirmed VALUES (%s, clock_timestamp())"
            " ON CONFLICT (collection) DO UPDATE SET confirmed_at = excluded.confirmed_at",
            (collection.name,),
        )
        cursor.execute(
            "DELETE FROM held_deletions h WHERE collection = %s"
            f" AND NOT EXISTS (SELECT FROM {collection.name} o WHERE o.id = h.id)",
            (collection.name,),
        )
    connection.commit()


@dataclass(frozen=True, slots=True)
class Removal:
    """The ids of rows that were deleted (`gone`), that stay because there are too many (`held`),
    and that PostgreSQL does not let us delete (`kept`).
    """

    gone: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)


def move_to_deleted(
    connection: Connection,
    collection: Collection,
    gone: Mapping[int, tuple[datetime, datetime]],
    because: str,
    run: str,
    *,
    confirmed: bool = False,
    shown_none: bool = False,
) -> Removal:
    """Move rows to the table of deleted ones. `gone` says when each absence was asked for and
    answered.

    A row about which something newer is known stays. So does a row that PostgreSQL does not let us
    delete, because other tables refer to it or a trigger keeps it: `sync_faults` then names it for
    `run`. An id without a row is remembered as gone, so that no older page brings it back. If more
    rows would be deleted within a day than is believable, none is, unless `confirmed`. The same
    holds for more than one if the API showed no record at all (`shown_none`), as it does to a key
    that lost its rights. Commits.
    """
    removal = Removal()
    kept: dict[int, str] = {}
    too_many = False

    def are_too_many(cursor: Cursor, going: Sequence[int]) -> bool:
        nonlocal too_many
        # Too many rows stay too many when PostgreSQL refuses one and smaller parts are tried.
        too_many = too_many or (
            not confirmed
            and ((shown_none and len(going) > 1) or _are_too_many(cursor, collection, going))
        )
        return too_many

    def move(ids: list[int]) -> None:
        went, stayed, held = _move(connection, collection, ids, gone, because, are_too_many)
        removal.gone.extend(went)
        removal.held.extend(held)
        kept.update(dict.fromkeys(stayed, "a trigger that somebody added to the table prevents it"))

    if gone:
        kept |= sparing(connection, sorted(gone), move)
    if kept:
        told = "no longer exists in Current RMS, but its row cannot be deleted: {}"
        with connection.cursor() as cursor:
            note_faults(
                cursor,
                collection,
                run,
                [Fault(i, "(row)", told.format(kept[i]), "") for i in sorted(kept)],
            )
        connection.commit()
        removal.kept.extend(sorted(kept))
    removal.gone.sort()
    return removal


def _move(
    connection: Connection,
    collection: Collection,
    ids: list[int],
    gone: Mapping[int, tuple[datetime, datetime]],
    because: str,
    are_too_many: Callable[[Cursor, Sequence[int]], bool],
) -> tuple[list[int], list[int], list[int]]:
    """Return the ids of deleted rows, of those that a trigger kept, and of those that are too many.

    Commits.
    """
    held = (column.name for column in collection.columns if column.kept)
    copied = ", ".join((*collection.mapped, *held, "synced_at", "last_webhook_at"))
    with connection.cursor() as cursor:
        going = [
            id_
            for id_, known in lock_versions(cursor, collection, ids).items()
            if known.fetch is None or supersedes(Fetch(*gone[id_], None, deleted=True), known.fetch)
        ]
        cursor.execute(
            f"SELECT id FROM {collection.name} WHERE id = ANY(%s) ORDER BY id FOR UPDATE",
            (going,),
        )
        live = [row[0] for row in cursor.fetchall()]
        if live and are_too_many(cursor, live):
            _hold(cursor, collection, live, gone, because)
            connection.commit()
            return [], [], live
        cursor.execute(
            f"DELETE FROM {collection.deleted} d USING {collection.name} o"
            " WHERE d.id = o.id AND o.id = ANY(%s)",
            (going,),
        )
        cursor.execute(
            f"INSERT INTO {collection.deleted} ({copied}, deleted_at, deleted_because)"
            f" SELECT {copied}, clock_timestamp(), %s FROM {collection.name} WHERE id = ANY(%s)"
            " RETURNING id",
            (because, going),
        )
        moved = [row[0] for row in cursor.fetchall()]
        # In a separate statement, because people's own rules on the table may not allow both in
        # one.
        cursor.execute(f"DELETE FROM {collection.name} WHERE id = ANY(%s)", (moved,))
        kept: list[int] = []
        if cursor.rowcount != len(moved):
            cursor.execute(f"SELECT id FROM {collection.name} WHERE id = ANY(%s)", (moved,))
            kept = [row[0] for row in cursor.fetchall()]
            cursor.execute(f"DELETE FROM {collection.deleted} WHERE id = ANY(%s)", (kept,))
        cursor.execute(
            "DELETE FROM held_deletions WHERE collection = %s AND id = ANY(%s)",
            (collection.name, going),
        )
        _note_gone(cursor, collection, [i for i in going if i not in kept], gone)
        end_gone(cursor, collection, [i for i in moved if i not in kept])
        let_go(cursor, collection, [i for i in moved if i not in kept])
        forget_words(cursor, collection, [i for i in moved if i not in kept])
    connection.commit()
    return [i for i in moved if i not in kept], kept, []


def _are_too_many(cursor: Cursor, collection: Collection, going: Sequence[int]) -> bool:
    # One transaction at a time. Otherwise several at once would each find room. Nothing waits
    # inside, because the rows are locked already.
    cursor.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended("
        "'rms_pipeline deletions of ' || current_schema() || '.' || %s, 0))",
        (collection.name,),
    )
    # Held rows count as well. Otherwise a large deletion would happen in small numbers.
    held_back = _held_back(collection)
    cursor.execute(f"SELECT count(*) FROM ({held_back}) held WHERE id <> ALL(%s)", (list(going),))
    held = int(one_row(cursor)[0])
    together = _deleted_lately(cursor, collection) + held + len(going)
    return together > GUARDED_COUNT and together > _most(cursor, collection)


def _deleted_lately(cursor: Cursor, collection: Collection) -> int:
    cursor.execute(
        f"SELECT count(*) FROM {collection.deleted}"
        # A clock that was far ahead gave later times. They would count until those times come.
        " WHERE deleted_at > clock_timestamp() - %s AND deleted_at < clock_timestamp() + %s"
        " AND deleted_at > coalesce((SELECT confirmed_at"
        f" FROM deletions_confirmed WHERE collection = %s AND NOT {in_the_future('confirmed_at')}),"
        " '-infinity')"
        " AND deleted_because <> ALL(%s)",
        (GUARDED_PERIOD, GUARDED_PERIOD, collection.name, list(_EXPECTED)),
    )
    return int(one_row(cursor)[0])


def _most(cursor: Cursor, collection: Collection) -> int:
    """Return how many may be deleted in the period: a share of the last full walk's window or
    table.
    """
    cursor.execute(
        "SELECT window_start, window_end FROM walks WHERE kind = 'full' AND settled_at IS NOT NULL"
        " AND collection = %s AND window_end IS NOT NULL ORDER BY id DESC LIMIT 1",
        (collection.name,),
    )
    start, end = cursor.fetchone() or (None, None)
    condition, values = _within(None if start is None or end is None else (start, end))
    cursor.execute(f"SELECT count(*) FROM {collection.name} o WHERE {condition}", values)
    rows = int(one_row(cursor)[0])
    return max(GUARDED_COUNT, int(GUARDED_SHARE * rows))


def _hold(
    cursor: Cursor,
    collection: Collection,
    ids: Sequence[int],
    gone: Mapping[int, tuple[datetime, datetime]],
    because: str,
) -> None:
    times = [[gone[i][0] for i in ids], [gone[i][1] for i in ids]]
    cursor.execute(
        "INSERT INTO held_deletions (collection, id, because, asked_at, answered_at)"
        " SELECT %s, id, %s, asked_at, answered_at"
        " FROM unnest(%s::bigint[], %s::timestamptz[], %s::timestamptz[])"
        " AS n (id, asked_at, answered_at) ORDER BY id ON CONFLICT (collection, id) DO UPDATE"
        " SET because = excluded.because, asked_at = excluded.asked_at,"
        " answered_at = excluded.answered_at, held_at = excluded.held_at",
        (collection.name, because, list(ids), *times),
    )
    # The next time, rows that were asked for longer ago then come first.
    cursor.execute(
        f"UPDATE {collection.name} o SET synced_at = n.asked_at FROM"
        " unnest(%s::bigint[], %s::timestamptz[]) AS n (id, asked_at) WHERE o.id = n.id",
        (list(ids), times[0]),
    )


def _note_gone(
    cursor: Cursor,
    collection: Collection,
    ids: Sequence[int],
    gone: Mapping[int, tuple[datetime, datetime]],
) -> None:
    cursor.execute(
        f"UPDATE {collection.versions} v SET asked_at = n.asked_at, answered_at = n.answered_at,"
        " updated_at_rms = NULL, fingerprint = NULL, deleted = true"
        " FROM unnest(%s::bigint[], %s::timestamptz[], %s::timestamptz[])"
        " AS n (id, asked_at, answered_at) WHERE v.id = n.id",
        (list(ids), [gone[i][0] for i in ids], [gone[i][1] for i in ids]),
    )


class Deletions:
    """Deletes rows, and holds them back if too many would be deleted.

    `confirmed` allows any number.
    """

    def __init__(
        self, connection: Connection, collection: Collection, run: str, *, confirmed: bool = False
    ) -> None:
        self.deleted = self.held = 0
        self.confirmed = confirmed
        self._connection, self._collection, self._run = connection, collection, run

    @property
    def most(self) -> float:
        """How many rows may still be deleted."""
        return float("inf") if self.confirmed else may_still_go(self._connection, self._collection)

    def calls_for(self, suspects: int, page_size: int) -> int | None:
        """Return how many calls to spend on finding out which of `suspects` are gone. None means no
        limit.

        Once more are gone than may be deleted, their exact number does not matter.
        """
        most = self.most
        return None if most == float("inf") else -(-suspects // page_size) + int(most) + 1

    def remove_gone(
        self,
        gone: dict[int, tuple[datetime, datetime]],
        because: str = BY_TWO_WITNESSES,
        *,
        shown_none: bool = False,
    ) -> str:
        """Delete rows, given when the absence of each was asked for and answered, and whether the
        API then showed no record at all.

        Returns why some stay, or ''.
        """
        removal = move_to_deleted(
            self._connection,
            self._collection,
            gone,
            because,
            self._run,
            confirmed=self.confirmed,
            shown_none=shown_none,
        )
        self.deleted += len(removal.gone)
        self.held += len(removal.held)
        if removal.held:
            return HELD_BACK
        if removal.kept:
            ids = ", ".join(map(str, removal.kept[:10]))
            return (
                "Current RMS no longer has these records, but PostgreSQL did not delete their "
                f"rows (see sync_faults): {ids}."
            )
        return ""
