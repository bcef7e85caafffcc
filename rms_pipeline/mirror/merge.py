"""The one way a record gets into the mirror: in bulk, idempotent, ordered.

For each id, the versions of its collection (such as `opportunity_versions`) remember which fetch
the row stands for. A merge locks those in order of id, so merges of the same ids come one after the
other, decides by `supersedes`, and writes only what changed; a row that is the same only learns
when it was last asked for, and is not even decoded. A record with faults has no fingerprint there,
so that each sync finds them anew.

What belongs here: which fetch wins, locking and noting versions, writing rows. What does not: rows
that go (`deletions`), and decoding again what is stored (`redecode`).
"""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any

import msgspec
import psycopg2

from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.records import Fault, Record, Row, same_but_for_links
from rms_pipeline.mirror import promoted, remembered
from rms_pipeline.mirror.changes import note_changes
from rms_pipeline.mirror.mapping import demand_own_mapping
from rms_pipeline.mirror.postgres_errors import is_about_a_row, out_of_deadlocks, reason
from rms_pipeline.mirror.statements import Connection, Cursor
from rms_pipeline.mirror.words import note_words, with_words

# So many rows are rewritten without staging them first.
_FEW = 8
_LEFT_OUT = "a trigger that somebody added to the table {} discarded the row"


@dataclass(slots=True)
class MergeResult:
    """How many records were created, updated, found unchanged, and so on.

    `stale`: the mirror already held something newer. `restored`: created again after a deletion,
    counted among created too. `failed`: could not be stored. `doubted`: ids that a list showed as
    they were before, with the `updated_at` it told; nobody knows yet whether it lags. `lagging`:
    ids of which that is known; the mirror has something newer.
    """

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    stale: int = 0
    restored: int = 0
    failed: int = 0
    doubted: tuple[tuple[int, datetime | None], ...] = ()
    lagging: tuple[int, ...] = ()

    def __iadd__(self, other: "MergeResult") -> "MergeResult":
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))
        return self

    @property
    def stored(self) -> int:
        return self.created + self.updated + self.unchanged + self.stale


def merge(
    connection: Connection,
    collection: Collection,
    run: str,
    records: Sequence[Record | Fault],
    *,
    asked_at: datetime,
    answered_at: datetime,
    counted_since: datetime | None = None,
    doubting: bool = False,
) -> MergeResult:
    """Merges what one request brought of `collection`, in one transaction, and commits it.

    A record that PostgreSQL refuses, for its values, a constraint or a trigger that people have
    added, is tried alone, so that it costs no other; it then counts as failed and leaves a line in
    `sync_faults`. Raises DatabaseError once a newer version of this program keeps the mirror. Of an
    id that comes twice the last one counts. What
    is unchanged since a fetch at or after `counted_since` is not counted again. `doubting`, for
    what a list brought: what contradicts the mirror is left for the single record to decide.
    """
    faults = [r for r in records if isinstance(r, Fault)]
    good = {r.id: r for r in records if isinstance(r, Record)}
    batch = [good[i] for i in sorted(good)]
    try:
        result = out_of_deadlocks(
            connection,
            lambda: _merge_batch(
                connection, collection, run, batch, asked_at, answered_at, counted_since, doubting
            ),
        )
    except psycopg2.Error as error:
        connection.rollback()
        if not is_about_a_row(error):
            raise
        if len(batch) == 1:
            excerpt = batch[0].data[:1_000].decode(errors="replace")
            problem = f"PostgreSQL refused: {reason(error)}"
            faults.append(Fault(batch[0].id, "(record)", problem, excerpt))
            result = MergeResult()
        else:
            result = MergeResult()
            half = len(batch) // 2
            for part in (batch[:half], batch[half:]):
                result += merge(
                    connection,
                    collection,
                    run,
                    part,
                    asked_at=asked_at,
                    answered_at=answered_at,
                    counted_since=counted_since,
                    doubting=doubting,
                )
    result.failed += len(faults)
    with connection.cursor() as cursor:
        note_faults(cursor, collection, run, faults)
    connection.commit()
    return result


def known_ids(connection: Connection, collection: Collection, ids: Sequence[int]) -> set[int]:
    """Those of `ids` that have a row. Commits."""
    with connection.cursor() as cursor:
        found = _present(cursor, collection, list(ids))
    connection.commit()
    return found


def _merge_batch(
    connection: Connection,
    collection: Collection,
    run: str,
    batch: Sequence[Record],
    asked_at: datetime,
    answered_at: datetime,
    counted_since: datetime | None,
    doubting: bool,
) -> MergeResult:
    result = MergeResult()
    if not batch:
        return result
    decoded: dict[int, Row] = {}

    def whole(record: Record) -> Row:
        found = decoded.get(record.id)
        if found is None:
            found = decoded[record.id] = record.decode()
        return found

    with connection.cursor() as cursor:
        known = claim_versions(cursor, collection, batch, asked_at, answered_at, whole)
        # Only now: whoever held a lock may have brought a row, or taken it away, or be newer.
        demand_own_mapping(cursor, collection)
        present = _present(cursor, collection, [r.id for r in batch])
        new: list[Row] = []
        changed: list[Row] = []
        updated: set[int] = set()
        same: list[int] = []
        restored: list[int] = []
        counted: set[int] = set()
        for record in batch:
            id_, k = record.id, known[record.id]
            if k.fetch is not None and counted_since is not None:
                counted |= {id_} if k.fetch.asked_at >= counted_since else set()
            alike = k.fingerprint == record.fingerprint
            if k.fetch is not None:
                # The same bytes tell the same time.
                updated_at = k.fetch.updated_at if alike else whole(record).updated_at_rms
                fetch = Fetch(asked_at, answered_at, updated_at)
                if not supersedes(fetch, k.fetch):
                    result.stale += id_ not in counted
                    continue
                if doubting and not alike and contradicts(fetch, k.fetch):
                    result.doubted += ((id_, updated_at),)
                    continue
            if id_ not in present:
                new.append(whole(record))
                if k.deleted:
                    restored.append(id_)
            elif alike:
                same.append(id_)
            else:
                changed.append(whole(record))
        unseen = [o for o in new if known[o.id] is FIRST]
        # A row that somebody deleted by hand, and that is as it was, goes on.
        returning = [o for o in new if known[o.id] is not FIRST and not _goes_on(o, known[o.id])]
        absent = remembered.end_absent(cursor, collection, returning)
        if restored:
            cursor.execute(f"DELETE FROM {collection.deleted} WHERE id = ANY(%s)", (restored,))
        left_out: set[int] = set()
        altered: dict[int, frozenset[str]] = {}
        if new:
            _copy(cursor, collection, collection.name, new, asked_at)
            if cursor.rowcount != len(new):
                ids = [o.id for o in new]
                left_out = set(ids) - _present(cursor, collection, ids)
            # What it is now differs, perhaps, from what it was when it went.
            back = {id_: at for id_, at in absent.until.items() if id_ not in left_out}
            note_changes(cursor, collection, run, back, absent.asked, absent.altered)
        linked = {r.id: r.data for r in batch if r.has_fleeting_links}
        since: dict[int, datetime] = {}
        if changed:
            relinked = _differ_in_links_only(cursor, collection, linked, changed)
            differing = [o for o in changed if o.id not in relinked]
            updated, kept, since, altered = _update(cursor, collection, run, differing, asked_at)
            same += [o.id for o in changed if o.id not in updated and o.id not in kept]
            left_out |= kept
            result.updated = len(updated)
        if same:
            _note_asked(cursor, collection, same, linked, asked_at)
        written = [o for o in new + changed if known[o.id] is not FIRST and o.id not in left_out]
        _note_versions(cursor, collection, written, since, same, asked_at, answered_at)
        if unseen:
            remembered.note_began(cursor, collection)
        remembered.note_confirmed(cursor, collection, written, unseen, altered)
        worded = with_words(cursor, collection, altered)
        note_words(
            cursor,
            collection,
            [o for o in new + changed if o.id not in left_out and o.id not in worded],
            altered,
        )
        faults = [f for o in decoded.values() for f in o.faults]
        in_place = [o.id for o in new if o.id not in left_out]
        faults += promoted.keep(cursor, collection, [*in_place, *updated])
        faults += [
            Fault(id_, "(record)", _LEFT_OUT.format(collection.name), "")
            for id_ in sorted(left_out)
        ]
        note_faults(cursor, collection, run, faults)
    connection.commit()
    result.created = sum(o.id not in left_out for o in new)
    result.restored = sum(id_ not in left_out for id_ in restored)
    result.failed = len(left_out)
    result.unchanged = sum(id_ not in counted for id_ in same)
    return result


def _goes_on(row: Row, known: "Known") -> bool:
    """Whether a row that is missing is what its open version says."""
    return not known.deleted and not row.faults and known.fingerprint == row.fingerprint


def _present(cursor: Cursor, collection: Collection, ids: list[int]) -> set[int]:
    cursor.execute(f"SELECT id FROM {collection.name} WHERE id = ANY(%s)", (ids,))
    return {row[0] for row in cursor.fetchall()}


def _settable(collection: Collection) -> tuple[str, ...]:
    return tuple(c for c in collection.mapped if c != "id")


def _copy(
    cursor: Cursor, collection: Collection, table: str, rows: Sequence[Row], asked_at: datetime
) -> None:
    values = attrgetter(*collection.mapped)
    columns = (*collection.mapped, "synced_at")
    copy_rows(cursor, table, columns, ([*values(row), asked_at] for row in rows))


def _update(
    cursor: Cursor, collection: Collection, run: str, changed: Sequence[Row], asked_at: datetime
) -> tuple[set[int], set[int], dict[int, datetime], dict[int, frozenset[str]]]:
    """Rewrites the rows that differ; the API may write the same record with other bytes.

    Returns the ids of those rewritten, of those that a trigger kept as they were, since when there
    are new versions, which is still to be noted, and which fields of records are known to be
    altered.
    """
    if not changed:
        return set(), set(), {}, {}
    ended = remembered.end_changed(cursor, collection, changed)
    differ = [row.id for row in changed if ended.altered.get(row.id)]
    if len(differ) == len(changed) <= _FEW:
        updated = _rewrite_each(cursor, collection, changed, asked_at)
        kept = set(differ) - updated
    else:
        updated, kept = _rewrite(cursor, collection, changed, differ, asked_at)
    since = remembered.begin(cursor, collection, ended.until, updated)
    note_changes(cursor, collection, run, since, ended.asked, ended.altered)
    return updated, kept, since, ended.altered


def _rewrite_each(
    cursor: Cursor, collection: Collection, rows: Sequence[Row], asked_at: datetime
) -> set[int]:
    """Writes `rows`, all of which differ, over those that are there; the ids of those it wrote.

    One at a time, for which nothing is staged: of a few that is quicker.
    """
    columns = _settable(collection)
    values = attrgetter(*columns)
    settings = ", ".join(f"{c} = %s" for c in (*columns, "synced_at"))
    statement = f"UPDATE {collection.name} SET {settings} WHERE id = %s"
    updated = set()
    for row in rows:
        texts = (v.decode() if isinstance(v, bytes) else v for v in values(row))
        cursor.execute(statement, (*texts, asked_at, row.id))
        updated |= {row.id} if cursor.rowcount else set()
    return updated


def _rewrite(
    cursor: Cursor,
    collection: Collection,
    rows: Sequence[Row],
    differ: Sequence[int],
    asked_at: datetime,
) -> tuple[set[int], set[int]]:
    """Writes those of `rows` that differ over those that are there. It is known of `differ` that
    they do. The ids of those it wrote, and of those that a trigger kept as they were."""
    table, staged = collection.name, f"staged_{collection.name}"
    columns = _settable(collection)
    cursor.execute(
        # Our columns only: people add others, which may not be empty. Not kept for the next batch:
        # behind a pooler that may find another server process.
        f"CREATE TEMP TABLE {staged} ON COMMIT DROP AS"
        f" SELECT {', '.join((*collection.mapped, 'synced_at'))} FROM {table} WITH NO DATA"
    )
    _copy(cursor, collection, staged, rows, asked_at)
    settings = ", ".join(f"{c} = s.{c}" for c in (*columns, "synced_at"))
    before = ", ".join(f"o.{c}" for c in columns)
    after = ", ".join(f"s.{c}" for c in columns)
    ids = [o.id for o in rows]
    # Reading each column of what differs anyway would cost as much as writing it.
    where, values = "", [ids]
    if len(differ) < len(rows):
        where = f" AND (o.id = ANY(%s) OR ({before}) IS DISTINCT FROM ({after}))"
        values.append(list(differ))
    cursor.execute(
        f"UPDATE {table} o SET {settings} FROM {staged} s"
        # Not all rows are read for these, while the staged ones are not counted.
        f" WHERE o.id = s.id AND o.id = ANY(%s){where} RETURNING o.id",
        values,
    )
    updated = {row[0] for row in cursor.fetchall()}
    others = [id_ for id_ in ids if id_ not in updated]
    if not others:
        return updated, set()
    cursor.execute(
        f"SELECT o.id FROM {table} o JOIN {staged} s USING (id)"
        f" WHERE o.id = ANY(%s) AND ({before}) IS DISTINCT FROM ({after})",
        (others,),
    )
    return updated, {row[0] for row in cursor.fetchall()}


def note_faults(cursor: Cursor, collection: Collection, run: str, faults: Sequence[Fault]) -> None:
    """Adds `faults` to `sync_faults`, as found by `run`, however many in one statement."""
    if not faults:
        return
    cursor.execute(
        "INSERT INTO sync_faults (opportunity_id, field, problem, raw_value, run, collection)"
        " SELECT *, %s, %s FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[])",
        (
            run,
            collection.name,
            [f.record for f in faults],
            [f.field for f in faults],
            [f.problem for f in faults],
            [f.raw_value for f in faults],
        ),
    )


# Which of two fetches wins


@dataclass(frozen=True, slots=True)
class Fetch:
    """When a record was asked for and answered (UTC, one clock), and what it says of itself.

    `deleted` when what was learnt is that the record is gone.
    """

    asked_at: datetime
    answered_at: datetime
    updated_at: datetime | None
    deleted: bool = False


def supersedes(new: Fetch, old: Fetch) -> bool:
    """Whether `new` replaces `old` in the mirror.

    What was asked for after the other had arrived wins, whatever its `updated_at`: the API changed
    its mind in between. Of two fetches that overlapped, nobody knows which the API answered first,
    so the newer `updated_at` wins, an absent one loses, and the later arrival decides a tie. A
    deletion is only undone by what was asked for after it was known, whichever is stored first.
    """
    if new.asked_at >= old.answered_at:
        return True
    if old.deleted or old.asked_at >= new.answered_at:
        return False
    if new.deleted:
        return True
    if new.updated_at != old.updated_at:
        if new.updated_at is None or old.updated_at is None:
            return old.updated_at is None
        return new.updated_at > old.updated_at
    return new.answered_at >= old.answered_at


def contradicts(new: Fetch, old: Fetch) -> bool:
    """Whether `new`, asked for after `old` had arrived, tells what seems to be from before it.

    A list that lags behind the single records does; so does a record that came back after a
    deletion, or whose `updated_at` was set back. Only the single record tells which it is.
    """
    if old.deleted:
        return True
    times = (new.updated_at, old.updated_at)
    return times[0] is not None and times[1] is not None and times[0] < times[1]


# Versions


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


def lock_versions(cursor: Cursor, collection: Collection, ids: list[int]) -> dict[int, Known]:
    """What the rows of `ids` (ascending) stand for. Until the transaction ends, nobody else writes
    them, live or deleted."""
    cursor.execute(
        f"INSERT INTO {collection.versions} (id) SELECT unnest(%s::bigint[])"
        " ON CONFLICT DO NOTHING",
        (ids,),
    )
    return _lock_known(cursor, collection, ids)


def claim_versions(
    cursor: Cursor,
    collection: Collection,
    batch: Sequence[Record],
    asked_at: datetime,
    answered_at: datetime,
    decode: Callable[[Record], Row],
) -> dict[int, Known]:
    """Locks the versions of `batch` (ascending), as `lock_versions` does: what each stands for.

    Of an id that was never seen this fetch is noted at once, for nothing can be newer. New ids come
    before known ones in all transactions, and each in order: no two wait for one another.
    """
    cursor.execute(
        f"SELECT id FROM {collection.versions} WHERE id = ANY(%s)", ([r.id for r in batch],)
    )
    seen = {row[0] for row in cursor.fetchall()}
    known: dict[int, Known] = {}
    if unseen := [decode(r) for r in batch if r.id not in seen]:
        cursor.execute(
            f"INSERT INTO {collection.versions}"
            " (id, asked_at, answered_at, updated_at_rms, fingerprint)"
            " SELECT id, %s, %s, updated_at_rms, fingerprint"
            " FROM unnest(%s::bigint[], %s::timestamptz[], %s::bytea[])"
            " AS n (id, updated_at_rms, fingerprint) ON CONFLICT DO NOTHING RETURNING id",
            (asked_at, answered_at, *_version_columns(unseen)),
        )
        known = {row[0]: FIRST for row in cursor.fetchall()}
    if len(known) < len(batch):
        known |= _lock_known(cursor, collection, [r.id for r in batch if r.id not in known])
    return known


def _lock_known(cursor: Cursor, collection: Collection, ids: list[int]) -> dict[int, Known]:
    cursor.execute(
        "SELECT id, asked_at, answered_at, updated_at_rms, deleted, fingerprint,"
        f" asked_at IS NULL OR {IN_THE_FUTURE}"
        f" FROM {collection.versions} WHERE id = ANY(%s) ORDER BY id FOR UPDATE",
        (ids,),
    )
    known = {}
    for id_, asked, answered, updated, deleted, fingerprint, is_void in cursor.fetchall():
        fetch = None if is_void else Fetch(asked, answered, updated, deleted)
        known[id_] = Known(fetch, None if fingerprint is None else bytes(fingerprint), deleted)
    return known


def held_times(
    connection: Connection,
    collection: Collection,
    ids: Sequence[int],
    *,
    patience: float = 0.0,
) -> dict[int, datetime]:
    """`updated_at` (UTC) of the records that the live rows of `ids` stand for. Commits.

    Raises LockNotAvailable (psycopg2) when somebody has the table as a whole for longer than
    `patience` seconds; 0 waits for as long as it takes.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", (f"{patience * 1000:.0f}",))
        cursor.execute(
            f"SELECT id, updated_at_rms FROM {collection.versions} WHERE id = ANY(%s)"
            f" AND NOT deleted AND updated_at_rms IS NOT NULL AND NOT ({IN_THE_FUTURE})",
            (list(ids),),
        )
        found: dict[int, datetime] = dict(cursor.fetchall())
    connection.commit()
    return found


def _note_versions(
    cursor: Cursor,
    collection: Collection,
    written: Sequence[Row],
    since: Mapping[int, datetime],
    same: list[int],
    asked_at: datetime,
    answered_at: datetime,
) -> None:
    """Notes this fetch for the rows `written` and for those found the `same`, and `since` when
    there are new versions of some."""
    if same:
        cursor.execute(
            f"UPDATE {collection.versions} SET asked_at = %s, answered_at = %s WHERE id = ANY(%s)",
            (asked_at, answered_at, same),
        )
    if written:
        cursor.execute(
            f"UPDATE {collection.versions} v SET asked_at = %s, answered_at = %s,"
            " updated_at_rms = n.updated_at_rms, fingerprint = n.fingerprint, deleted = false"
            f"{', valid_from = coalesce(n.since, v.valid_from)' if since else ''}"
            " FROM unnest(%s::bigint[], %s::timestamptz[], %s::bytea[], %s::timestamptz[])"
            " AS n (id, updated_at_rms, fingerprint, since) WHERE v.id = n.id",
            (
                asked_at,
                answered_at,
                *_version_columns(written),
                [since.get(o.id) for o in written],
            ),
        )
    # Of rows that had no version until now.
    noted = {o.id for o in written}
    remembered.note_since(
        cursor, collection, {id_: at for id_, at in since.items() if id_ not in noted}
    )


def _version_columns(
    batch: Sequence[Row],
) -> tuple[list[int], list[datetime | None], list[str | None]]:
    return (
        [o.id for o in batch],
        [o.updated_at_rms for o in batch],
        [None if o.faults else f"\\x{o.fingerprint.hex()}" for o in batch],
    )


# Records that are the same but for links that differ at each read


def _note_asked(
    cursor: Cursor,
    collection: Collection,
    same: Sequence[int],
    linked: Mapping[int, bytes],
    asked_at: datetime,
) -> None:
    """Notes of rows found the same when they were asked for, and takes over newer links.

    Those go stale, so the newest are kept; that writes `data` anew where they differ, and only
    there. `linked` are the records that have any.
    """
    plain = [id_ for id_ in same if id_ not in linked]
    if plain:
        cursor.execute(
            f"UPDATE {collection.name} SET synced_at = %s WHERE id = ANY(%s)", (asked_at, plain)
        )
    if fleeting := [id_ for id_ in same if id_ in linked]:
        # No change of what the rows hold, so that no proof has to begin again (`rms_note_content`).
        cursor.execute("SELECT set_config('rms_pipeline.only_links', 'on', true)")
        cursor.execute(
            # The old value as it is, when it is the same: it is then not compressed again.
            f"UPDATE {collection.name} o SET synced_at = %s,"
            " data = CASE WHEN o.data = n.data THEN o.data ELSE n.data END"
            " FROM (SELECT * FROM unnest(%s::bigint[], %s::jsonb[])) AS n (id, data)"
            " WHERE o.id = n.id",
            (asked_at, fleeting, [linked[id_].decode() for id_ in fleeting]),
        )
        cursor.execute("SELECT set_config('rms_pipeline.only_links', 'off', true)")


def _differ_in_links_only(
    cursor: Cursor,
    collection: Collection,
    linked: Mapping[int, bytes],
    changed: Sequence[Row],
) -> set[int]:
    """Which of `changed` are the rows that are there but for links: those have no fingerprint that
    tells (a fault, a row from before it left links out), or came with other bytes."""
    ids = [o.id for o in changed if o.id in linked]
    if not ids:
        return set()
    # What is JSON is part of `data`, and compared with it.
    columns = [c for c in _settable(collection) if collection.column(c).kind != "jsonb"]
    cursor.execute(
        f"SELECT id, data::text, {', '.join(columns)} FROM {collection.name} WHERE id = ANY(%s)",
        (ids,),
    )
    there = {row[0]: row[1:] for row in cursor.fetchall()}
    return {
        o.id
        for o in changed
        if o.id in there
        and o.id in linked
        and there[o.id][0] is not None
        and list(there[o.id][1:]) == [getattr(o, c) for c in columns]
        and same_but_for_links(there[o.id][0].encode(), o.data)
    }


# COPY


Value = str | int | bool | Decimal | datetime | bytes | list[str] | None


# Twenty times as fast as datetime.isoformat, and there are twenty times in a record.
_quoted = msgspec.json.Encoder().encode


def _escaped(value: bytes) -> bytes:
    if b"\\" in value:
        value = value.replace(b"\\", b"\\\\")
    if b"\n" in value or b"\r" in value or b"\t" in value:
        value = value.replace(b"\n", b"\\n").replace(b"\r", b"\\r").replace(b"\t", b"\\t")
    return value


def _text(value: str) -> bytes:
    # Nearly all are on one line and without a backslash, which is quicker seen of a text.
    if value.isprintable() and "\\" not in value:
        return value.encode()
    return _escaped(value.encode())


def _array(value: list[str]) -> bytes:
    # Quoted throughout: a text may hold anything.
    escaped = (v.replace("\\", "\\\\").replace('"', '\\"') for v in value)
    return _escaped("{{{}}}".format(",".join(f'"{v}"' for v in escaped)).encode())


_ENCODE: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"\\N",
    str: _text,
    int: lambda value: str(value).encode(),
    bool: lambda value: b"t" if value else b"f",
    Decimal: lambda value: str(value).encode(),
    datetime: lambda value: _quoted(value)[1:-1],
    list: _array,
    # JSON, which stays as it is.
    bytes: _escaped,
}


def encode_value(value: Value) -> bytes:
    """One field as COPY reads it. `bytes` are JSON."""
    return _ENCODE[type(value)](value)


def copy_rows(
    cursor: Cursor, table: str, columns: Iterable[str], rows: Iterable[Iterable[Value]]
) -> None:
    """Loads `rows` into `table` in one COPY."""
    encode = _ENCODE
    lines = [b"\t".join([encode[type(value)](value) for value in row]) for row in rows]
    lines.append(b"")
    cursor.copy_expert(
        f"COPY {table} ({', '.join(columns)}) FROM STDIN", io.BytesIO(b"\n".join(lines)), 1 << 17
    )
