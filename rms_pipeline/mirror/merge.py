"""The only way a record gets into the mirror: in bulk, idempotent, ordered.

For each id, the versions of its collection (such as `opportunity_versions`) remember which fetch
the row stands for. A merge locks them in the order of ids, so merges of the same ids follow each
other. It decides by `supersedes`, and writes only what changed. For a row that is the same, it only
notes when it was last asked for, without decoding it. A record with faults gets no fingerprint, so
that each sync finds its faults again.

This module decides which fetch wins, locks and notes versions, and writes rows. Deleting rows is in
`deletions`, decoding stored rows again in `redecode`.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any

import msgspec
import psycopg2

from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.records import (
    Fault,
    Record,
    Row,
    same_but_for_links,
    with_storable_numbers,
)
from rms_pipeline.mirror import promoted, record_history
from rms_pipeline.mirror.changes import note_changes
from rms_pipeline.mirror.mapping import demand_own_mapping
from rms_pipeline.mirror.no_longer_sent import note_lost_fields, with_kept_associations
from rms_pipeline.mirror.postgres_errors import is_about_a_row, out_of_deadlocks, reason
from rms_pipeline.mirror.statements import Connection, Cursor, array_of, in_the_future
from rms_pipeline.mirror.words import note_words, with_words

# Up to this many rows are rewritten without a staging table.
_FEW = 8
# The most bytes that PostgreSQL lets a row have within a page.
_WIDEST = 8160
_LEFT_OUT = "a trigger that somebody added to the table {} discarded the row"


@dataclass(frozen=True, eq=False, slots=True)
class Brought:
    """Records that one request brought, and when it was sent and answered.

    Set `doubting` for the records of a list: what contradicts the mirror is then left for the
    single record to decide.
    """

    records: Sequence[Record | Fault]
    asked_at: datetime
    answered_at: datetime
    doubting: bool = False


@dataclass(slots=True)
class MergeResult:
    """How many records were created, updated, found unchanged, and so on.

    - `stale`: the mirror already had something newer.
    - `restored`: created again after a deletion. They also count as created.
    - `failed`: could not be stored.
    - `doubted`: ids that a list showed in an older state, with the `updated_at` it showed. It is
      not known yet whether the list is late.
    - `lagging`: ids for which it is known that the list is late. The mirror has something newer.
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
    redone_after_crash: bool = False,
) -> MergeResult:
    """Merge the records that one request brought of `collection`. Commits. See `merge_together`."""
    return merge_together(
        connection,
        collection,
        run,
        [Brought(records, asked_at, answered_at, doubting)],
        counted_since=counted_since,
        redone_after_crash=redone_after_crash,
    )


def merge_together(
    connection: Connection,
    collection: Collection,
    run: str,
    answers: Sequence[Brought],
    *,
    counted_since: datetime | None = None,
    redone_after_crash: bool = False,
) -> MergeResult:
    """Merge the records that several requests brought of `collection`, in one transaction. Commits.

    That costs less than a transaction for each request. An id that two requests brought begins
    another transaction. If an id occurs twice in one answer, the last record counts.

    A record that PostgreSQL refuses, because of its values or of constraints or triggers that
    people added, is tried alone, so that it affects no other record. It then counts as failed, and
    `sync_faults` has a row about it. What has not changed since a fetch at or after `counted_since`
    is not counted again. `redone_after_crash`: the caller merges the same again if the database
    server crashes. Then new and unchanged rows may not be on the disk yet when this returns.
    Raises DatabaseError once a newer version of this program keeps the mirror.
    """
    faults = [r for answer in answers for r in answer.records if isinstance(r, Fault)]
    result = MergeResult()
    for records, answer_of in _each_id_once(answers):
        batch = _Batch(
            collection,
            run,
            [records[id_] for id_ in sorted(records)],
            answer_of,
            counted_since=counted_since,
            redone_after_crash=redone_after_crash,
        )
        result += _merge_what_fits(connection, batch, faults)
    result.failed += len(faults)
    with connection.cursor() as cursor:
        note_faults(cursor, collection, run, faults)
    connection.commit()
    return result


def _each_id_once(
    answers: Iterable[Brought],
) -> Iterator[tuple[dict[int, Record], dict[int, Brought]]]:
    """Yield records by id, and the answer that brought each, in as few parts as possible.

    No part has an id twice, because each fetch of a record is compared with what the one before
    left.
    """
    records: dict[int, Record] = {}
    answer_of: dict[int, Brought] = {}
    for answer in answers:
        good = {r.id: r for r in answer.records if isinstance(r, Record)}
        if not records.keys().isdisjoint(good):
            yield records, answer_of
            records, answer_of = {}, {}
        records |= good
        answer_of |= dict.fromkeys(good, answer)
    yield records, answer_of


def known_ids(connection: Connection, collection: Collection, ids: Sequence[int]) -> set[int]:
    """Return those of `ids` that have a row. Commits."""
    with connection.cursor() as cursor:
        found = _present(cursor, collection, list(ids))
    connection.commit()
    return found


@dataclass(frozen=True, slots=True)
class _Batch:
    """Records, each id once and ascending, with what `merge_together` was told of them.

    `answer_of` is the answer that brought each, by id.
    """

    collection: Collection
    run: str
    records: Sequence[Record]
    answer_of: Mapping[int, Brought]
    counted_since: datetime | None
    redone_after_crash: bool

    def asked_at(self, id_: int) -> datetime:
        return self.answer_of[id_].asked_at

    def by_answer(self, ids: Iterable[int]) -> dict[Brought, list[int]]:
        """Return `ids` by the answer that brought them."""
        found: dict[Brought, list[int]] = {}
        for id_ in ids:
            found.setdefault(self.answer_of[id_], []).append(id_)
        return found

    def halves(self) -> Iterator["_Batch"]:
        half = len(self.records) // 2
        for records in (self.records[:half], self.records[half:]):
            yield replace(self, records=records)


def _merge_what_fits(connection: Connection, batch: _Batch, refused: list[Fault]) -> MergeResult:
    """Merge all records of `batch` but those that PostgreSQL refuses. Commits.

    Adds a fault to `refused` for each of those.
    """
    if not batch.records:
        return MergeResult()
    try:
        return out_of_deadlocks(connection, lambda: _merge_batch(connection, batch))
    except psycopg2.Error as error:
        connection.rollback()
        if not is_about_a_row(error):
            raise
        if len(batch.records) == 1:
            record = batch.records[0]
            if (mended := with_storable_numbers(record)) is not None:
                return _merge_what_fits(connection, replace(batch, records=[mended]), refused)
            excerpt = record.data[:1_000].decode(errors="replace")
            problem = f"PostgreSQL refused: {reason(error)}"
            refused.append(Fault(record.id, "(record)", problem, excerpt))
            return MergeResult()
    result = MergeResult()
    for half in batch.halves():
        result += _merge_what_fits(connection, half, refused)
    return result


def _merge_batch(connection: Connection, batch: _Batch) -> MergeResult:
    """Merge `batch` in one transaction. Raises psycopg2.Error if a record is refused. Commits."""
    collection = batch.collection
    decoded: dict[int, Row] = {}

    def whole(record: Record) -> Row:
        found = decoded.get(record.id)
        if found is None:
            found = decoded[record.id] = record.decode()
        return found

    with connection.cursor() as cursor:
        known = _claim_versions(cursor, batch, whole)
        # Only now. The holder of a lock may have created or deleted a row, or may be newer.
        demand_own_mapping(cursor, collection)
        present = _present(cursor, collection, [r.id for r in batch.records])
        found = _decide(batch, known, present, whole)
        unseen = [o for o in found.new if known[o.id] is FIRST]
        # If somebody deleted a row by hand, and its record is unchanged, its version continues.
        returning = [
            o for o in found.new if known[o.id] is not FIRST and not _goes_on(o, known[o.id])
        ]
        changed = with_kept_associations(cursor, collection, batch.run, found.changed)
        # Before any version begins, because it waits for locks that others have on rows.
        rewritten = _update(cursor, batch, changed)
        if len(unseen) < len(batch.records):
            record_history.begin_now(cursor, collection, [o.id for o in unseen])
        left_out = _insert(cursor, batch, found, returning) | rewritten.kept
        same = found.same + rewritten.same
        if same:
            _note_asked(cursor, batch, same)
        stored = [o for o in found.new + changed if o.id not in left_out]
        written = [o for o in stored if known[o.id] is not FIRST]
        _note_versions(cursor, batch, written, rewritten.since, same)
        if unseen:
            record_history.note_began(cursor, collection)
        altered = rewritten.altered
        record_history.note_confirmed(cursor, collection, written, unseen, altered)
        worded = with_words(cursor, collection, altered)
        own = promoted.fields_of(cursor, collection) if stored else ()
        note_words(cursor, collection, [o for o in stored if o.id not in worded], own, altered)
        faults = [f for o in decoded.values() for f in o.faults]
        in_place = [o.id for o in found.new if o.id not in left_out]
        faults += promoted.keep(cursor, collection, [*in_place, *rewritten.ids], own)
        faults += [
            Fault(id_, "(record)", _LEFT_OUT.format(collection.name), "")
            for id_ in sorted(left_out)
        ]
        note_faults(cursor, collection, batch.run, faults)
        if batch.redone_after_crash and not found.changed and not returning:
            # Nobody waits for the disk at each page. Lines of changes are on it before anybody
            # hears of them.
            cursor.execute("SET LOCAL synchronous_commit = off")
    connection.commit()
    return MergeResult(
        created=len(in_place),
        updated=len(rewritten.ids),
        unchanged=sum(id_ not in found.counted for id_ in same),
        stale=found.stale,
        restored=sum(id_ not in left_out for id_ in found.restored),
        failed=len(left_out),
        doubted=tuple(found.doubted),
    )


@dataclass(slots=True)
class _Found:
    """What is to be done with the records of a batch.

    `new` have no row, and `restored` are the ids of those that were deleted before. `changed` may
    differ from their rows, `same` do not. `counted` ids were counted by this walk before. `stale`
    and `doubted` are as in MergeResult.
    """

    new: list[Row] = field(default_factory=list)
    changed: list[Row] = field(default_factory=list)
    same: list[int] = field(default_factory=list)
    restored: list[int] = field(default_factory=list)
    counted: set[int] = field(default_factory=set)
    stale: int = 0
    doubted: list[tuple[int, datetime | None]] = field(default_factory=list)


def _decide(
    batch: _Batch,
    known: "Mapping[int, Known]",
    present: set[int],
    whole: Callable[[Record], Row],
) -> _Found:
    """Decide about each record of `batch`. `present` ids have a row, which stands for what is
    `known`.
    """
    found = _Found()
    for record in batch.records:
        id_, k, answer = record.id, known[record.id], batch.answer_of[record.id]
        alike = k.fingerprint == record.fingerprint
        if k.fetch is not None:
            if batch.counted_since is not None and k.fetch.asked_at >= batch.counted_since:
                found.counted.add(id_)
            # Equal bytes hold the same time.
            updated_at = k.fetch.updated_at if alike else whole(record).updated_at_rms
            fetch = Fetch(answer.asked_at, answer.answered_at, updated_at)
            if not supersedes(fetch, k.fetch):
                found.stale += id_ not in found.counted
                continue
            if answer.doubting and not alike and contradicts(fetch, k.fetch):
                found.doubted.append((id_, updated_at))
                continue
        if id_ not in present:
            found.new.append(whole(record))
            if k.deleted:
                found.restored.append(id_)
        elif alike:
            found.same.append(id_)
        else:
            found.changed.append(whole(record))
    return found


def _goes_on(row: Row, known: "Known") -> bool:
    """Return whether a missing row is what its open version says."""
    return not known.deleted and not row.faults and known.fingerprint == row.fingerprint


def _present(cursor: Cursor, collection: Collection, ids: list[int]) -> set[int]:
    cursor.execute(f"SELECT id FROM {collection.name} WHERE id = ANY(%s)", (array_of(ids),))
    return {row[0] for row in cursor.fetchall()}


def _insert(cursor: Cursor, batch: _Batch, found: _Found, returning: Sequence[Row]) -> set[int]:
    """Write rows for new records, and end the versions that say that the `returning` ones are gone.

    Returns the ids whose rows a trigger discarded.
    """
    collection = batch.collection
    absent = record_history.end_absent(cursor, collection, returning)
    if found.restored:
        cursor.execute(f"DELETE FROM {collection.deleted} WHERE id = ANY(%s)", (found.restored,))
    if not found.new:
        return set()
    left_out: set[int] = set()
    _copy(cursor, batch, collection.name, found.new)
    if cursor.rowcount != len(found.new):
        ids = [o.id for o in found.new]
        left_out = set(ids) - _present(cursor, collection, ids)
    # The record may now differ from what it was when it was deleted.
    back = {id_: at for id_, at in absent.until.items() if id_ not in left_out}
    note_changes(cursor, collection, batch.run, back, absent.asked, absent.altered)
    return left_out


def _settable(collection: Collection) -> tuple[str, ...]:
    return tuple(c for c in collection.mapped if c != "id")


def _copy(cursor: Cursor, batch: _Batch, table: str, rows: Sequence[Row]) -> None:
    mapped, asked_at = batch.collection.mapped, batch.asked_at
    values = attrgetter(*mapped)
    copy_rows(
        cursor, table, (*mapped, "synced_at"), ([*values(row), asked_at(row.id)] for row in rows)
    )


@dataclass(frozen=True, slots=True)
class _Updated:
    """What became of rows whose records have other bytes than before.

    `ids` were rewritten, the `same` say the same in other bytes, and `kept` were left unchanged by
    a trigger. New versions began `since`, which still has to be noted. `altered` are the fields of
    records that are known to have changed.
    """

    ids: set[int] = field(default_factory=set)
    same: list[int] = field(default_factory=list)
    kept: set[int] = field(default_factory=set)
    since: dict[int, datetime] = field(default_factory=dict)
    altered: dict[int, frozenset[str]] = field(default_factory=dict)


def _update(cursor: Cursor, batch: _Batch, changed: Sequence[Row]) -> _Updated:
    """Rewrite the rows that differ. The API may write the same record with other bytes."""
    if not changed:
        return _Updated()
    collection = batch.collection
    relinked = _differ_in_links_only(cursor, batch, changed)
    differing = [row for row in changed if row.id not in relinked]
    if not differing:
        return _Updated(same=[row.id for row in changed])
    ended = record_history.end_changed(cursor, collection, differing)
    note_lost_fields(cursor, collection, batch.run, differing, ended.altered)
    differ = [row.id for row in differing if ended.altered.get(row.id)]
    if len(differ) == len(differing) <= _FEW:
        updated = _rewrite_each(cursor, batch, differing)
        kept = set(differ) - updated
    else:
        updated, kept = _rewrite(cursor, batch, differing, differ)
    since = record_history.begin(cursor, collection, ended.until, updated)
    note_changes(cursor, collection, batch.run, since, ended.asked, ended.altered)
    same = [row.id for row in changed if row.id not in updated and row.id not in kept]
    return _Updated(updated, same, kept, since, ended.altered)


def _rewrite_each(cursor: Cursor, batch: _Batch, rows: Sequence[Row]) -> set[int]:
    """Write `rows`, all of which differ, over the existing rows. Returns the ids that were written.

    It writes one row at a time without a staging table. For a few rows that is faster.
    """
    collection = batch.collection
    columns = _settable(collection)
    values = attrgetter(*columns)
    settings = ", ".join(f"{c} = %s" for c in (*columns, "synced_at"))
    statement = f"UPDATE {collection.name} SET {settings} WHERE id = %s"
    updated = set()
    for row in rows:
        texts = (v.decode() if isinstance(v, bytes) else v for v in values(row))
        cursor.execute(statement, (*texts, batch.asked_at(row.id), row.id))
        updated |= {row.id} if cursor.rowcount else set()
    return updated


def _rewrite(
    cursor: Cursor, batch: _Batch, rows: Sequence[Row], differ: Sequence[int]
) -> tuple[set[int], set[int]]:
    """Write those of `rows` that differ over the existing rows. Those in `differ` are known to
    differ.

    Returns the ids that were written, and the ids that a trigger kept unchanged.
    """
    collection = batch.collection
    table, staged = collection.name, f"staged_{collection.name}"
    columns = _settable(collection)
    cursor.execute(
        # Only our columns: people add others, which may not be empty. The table is not kept for the
        # next batch, because behind a pooler that may reach another server process.
        # Wide rows stay whole in it, so that a record is compressed once, in its own table.
        f"CREATE TEMP TABLE {staged} WITH (toast_tuple_target = {_WIDEST}) ON COMMIT DROP AS"
        f" SELECT {', '.join((*collection.mapped, 'synced_at'))} FROM {table} WITH NO DATA"
    )
    _copy(cursor, batch, staged, rows)
    settings = ", ".join(f"{c} = s.{c}" for c in (*columns, "synced_at"))
    before = ", ".join(f"o.{c}" for c in columns)
    after = ", ".join(f"s.{c}" for c in columns)
    ids = array_of(o.id for o in rows)
    # Comparing each column of rows that differ anyway would cost as much as writing them.
    where, values = "", [ids]
    if len(differ) < len(rows):
        where = f" AND (o.id = ANY(%s) OR ({before}) IS DISTINCT FROM ({after}))"
        values.append(array_of(differ))
    cursor.execute(
        f"UPDATE {table} o SET {settings} FROM {staged} s"
        # Ensures that not all rows are read although the staged ones were never counted.
        f" WHERE o.id = s.id AND o.id = ANY(%s){where} RETURNING o.id",
        values,
    )
    updated = {row[0] for row in cursor.fetchall()}
    others = [o.id for o in rows if o.id not in updated]
    if not others:
        return updated, set()
    cursor.execute(
        f"SELECT o.id FROM {table} o JOIN {staged} s USING (id)"
        f" WHERE o.id = ANY(%s) AND ({before}) IS DISTINCT FROM ({after})",
        (array_of(others),),
    )
    return updated, {row[0] for row in cursor.fetchall()}


def note_faults(cursor: Cursor, collection: Collection, run: str, faults: Sequence[Fault]) -> None:
    """Add `faults`, found by `run`, to `sync_faults` in one statement."""
    if not faults:
        return
    cursor.execute(
        "INSERT INTO sync_faults (opportunity_id, field, problem, raw_value, run, collection)"
        " SELECT *, %s, %s FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[])",
        (
            run,
            collection.name,
            array_of(f.record for f in faults),
            array_of(f.field for f in faults),
            array_of(f.problem for f in faults),
            array_of(f.raw_value for f in faults),
        ),
    )


# Which of two fetches wins


@dataclass(frozen=True, slots=True)
class Fetch:
    """When a record was asked for and answered (UTC, one clock), and what it says of itself.

    `deleted` means that the record was found to be gone.
    """

    asked_at: datetime
    answered_at: datetime
    updated_at: datetime | None
    deleted: bool = False


def supersedes(new: Fetch, old: Fetch) -> bool:
    """Return whether `new` replaces `old` in the mirror.

    A fetch that was asked for after the other had arrived wins, whatever its `updated_at`: the API
    changed its answer in between. If two fetches overlapped, nobody knows which the API answered
    first. Then the newer `updated_at` wins, an absent one loses, and equal ones are decided by the
    later arrival. A deletion is only undone by a fetch that was asked for after the deletion was
    known, whichever is stored first.
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
    """Return whether `new` seems older than `old`, although it was asked for after `old` had
    arrived.

    A list that is late shows that. So does a record that came back after a deletion, or whose
    `updated_at` was set back. Only the single record shows which it is.
    """
    if old.deleted:
        return True
    times = (new.updated_at, old.updated_at)
    return times[0] is not None and times[1] is not None and times[0] < times[1]


# Versions


@dataclass(frozen=True, slots=True)
class Known:
    """What a row stands for: its fetch and its fingerprint.

    The fetch is None if nothing is known yet. The fingerprint is None for a record with faults and
    for one that is gone (`deleted`).
    """

    fetch: Fetch | None
    fingerprint: bytes | None
    deleted: bool = False


# Such a fetch was stamped while the database's clock was wrong. It counts for nothing. Otherwise
# every fetch until that moment would lose to it.
IN_THE_FUTURE = in_the_future("answered_at")

# For an id that this fetch was the first to bring.
FIRST = Known(None, None)


def lock_versions(cursor: Cursor, collection: Collection, ids: list[int]) -> dict[int, Known]:
    """Return what the rows of `ids` (ascending) stand for.

    Until the transaction ends, nobody else writes these rows, live or deleted.
    """
    cursor.execute(
        f"INSERT INTO {collection.versions} (id) SELECT unnest(%s::bigint[])"
        " ON CONFLICT DO NOTHING",
        (array_of(ids),),
    )
    return _lock_known(cursor, collection, ids)


def _claim_versions(
    cursor: Cursor, batch: _Batch, decode: Callable[[Record], Row]
) -> dict[int, Known]:
    """Lock the versions of `batch` like `lock_versions`. Returns what each stands for.

    For an id that was never seen, this fetch is noted at once, because nothing can be newer. In all
    transactions new ids come before known ones, and each kind in order, so that no two transactions
    wait for each other.
    """
    collection, records = batch.collection, batch.records
    cursor.execute(
        # If somebody builds an index on the table, this waits for it before any version begins.
        f"LOCK {collection.name} IN ROW EXCLUSIVE MODE;"
        f" SELECT id FROM {collection.versions} WHERE id = ANY(%s)",
        (array_of(r.id for r in records),),
    )
    seen = {row[0] for row in cursor.fetchall()}
    known: dict[int, Known] = {}
    if unseen := [decode(r) for r in records if r.id not in seen]:
        cursor.execute(
            f"INSERT INTO {collection.versions}"
            " (id, asked_at, answered_at, updated_at_rms, fingerprint)"
            " SELECT * FROM unnest(%s::bigint[], %s::timestamptz[], %s::timestamptz[],"
            " %s::timestamptz[], %s::bytea[]) ON CONFLICT DO NOTHING RETURNING id",
            _version_columns(batch, unseen),
        )
        known = {row[0]: FIRST for row in cursor.fetchall()}
    if len(known) < len(records):
        known |= _lock_known(cursor, collection, [r.id for r in records if r.id not in known])
    return known


def _lock_known(cursor: Cursor, collection: Collection, ids: list[int]) -> dict[int, Known]:
    cursor.execute(
        "SELECT id, asked_at, answered_at, updated_at_rms, deleted, fingerprint,"
        f" asked_at IS NULL OR {IN_THE_FUTURE}"
        f" FROM {collection.versions} WHERE id = ANY(%s) ORDER BY id FOR UPDATE",
        (array_of(ids),),
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
    """Return `updated_at` (UTC) of the records that the live rows of `ids` stand for. Commits.

    Raises LockNotAvailable (psycopg2) if somebody locks the whole table for longer than `patience`
    seconds. 0 means to wait as long as it takes.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", (f"{patience * 1000:.0f}",))
        cursor.execute(
            f"SELECT id, updated_at_rms FROM {collection.versions} WHERE id = ANY(%s)"
            f" AND NOT deleted AND updated_at_rms IS NOT NULL AND NOT ({IN_THE_FUTURE})",
            (array_of(ids),),
        )
        found: dict[int, datetime] = dict(cursor.fetchall())
    connection.commit()
    return found


def _note_versions(
    cursor: Cursor,
    batch: _Batch,
    written: Sequence[Row],
    since: Mapping[int, datetime],
    same: Sequence[int],
) -> None:
    """Note this fetch for the rows `written` and those found the `same`, and `since` for new
    versions.
    """
    collection = batch.collection
    for answer, ids in batch.by_answer(same).items():
        cursor.execute(
            f"UPDATE {collection.versions} SET asked_at = %s, answered_at = %s WHERE id = ANY(%s)",
            (answer.asked_at, answer.answered_at, array_of(ids)),
        )
    if written:
        cursor.execute(
            f"UPDATE {collection.versions} v SET asked_at = n.asked_at,"
            " answered_at = n.answered_at, updated_at_rms = n.updated_at_rms,"
            " fingerprint = n.fingerprint, deleted = false"
            f"{', valid_from = coalesce(n.since, v.valid_from)' if since else ''}"
            " FROM unnest(%s::bigint[], %s::timestamptz[], %s::timestamptz[], %s::timestamptz[],"
            " %s::bytea[], %s::timestamptz[])"
            " AS n (id, asked_at, answered_at, updated_at_rms, fingerprint, since)"
            " WHERE v.id = n.id",
            (*_version_columns(batch, written), array_of(since.get(o.id) for o in written)),
        )
    # For rows that had no version until now.
    noted = {o.id for o in written}
    record_history.note_since(
        cursor, collection, {id_: at for id_, at in since.items() if id_ not in noted}
    )


def _version_columns(batch: _Batch, rows: Sequence[Row]) -> tuple[str, str, str, str, str]:
    answers = [batch.answer_of[o.id] for o in rows]
    return (
        array_of(o.id for o in rows),
        array_of(a.asked_at for a in answers),
        array_of(a.answered_at for a in answers),
        array_of(o.updated_at_rms for o in rows),
        array_of(None if o.faults else f"\\x{o.fingerprint.hex()}" for o in rows),
    )


# Records that are the same except for links that differ at each read


def _linked(batch: _Batch) -> dict[int, bytes]:
    """Return the records with such links, by id."""
    return {r.id: r.data for r in batch.records if r.has_fleeting_links}


def _note_asked(cursor: Cursor, batch: _Batch, same: Sequence[int]) -> None:
    """Note when rows found the same were asked for, and store newer links.

    Links expire, so the newest are kept. This rewrites `data` only where they differ.
    """
    collection, linked = batch.collection, _linked(batch)
    plain = [id_ for id_ in same if id_ not in linked]
    for answer, ids in batch.by_answer(plain).items():
        cursor.execute(
            f"UPDATE {collection.name} SET synced_at = %s WHERE id = ANY(%s)",
            (answer.asked_at, array_of(ids)),
        )
    if fleeting := [id_ for id_ in same if id_ in linked]:
        # The content of the rows does not change, so no proof has to start again
        # (`rms_note_content`).
        cursor.execute("SELECT set_config('rms_pipeline.only_links', 'on', true)")
        cursor.execute(
            # An equal value is kept as it is, so that it is not compressed again.
            f"UPDATE {collection.name} o SET synced_at = n.asked_at,"
            " data = CASE WHEN o.data = n.data THEN o.data ELSE n.data END"
            " FROM (SELECT * FROM unnest(%s::bigint[], %s::timestamptz[], %s::jsonb[]))"
            " AS n (id, asked_at, data) WHERE o.id = n.id",
            (
                array_of(fleeting),
                array_of(map(batch.asked_at, fleeting)),
                array_of(linked[id_].decode() for id_ in fleeting),
            ),
        )
        cursor.execute("SELECT set_config('rms_pipeline.only_links', 'off', true)")


def _differ_in_links_only(cursor: Cursor, batch: _Batch, changed: Sequence[Row]) -> set[int]:
    """Return which of `changed` differ from their rows only in links.

    Their fingerprints do not show that: a record with a fault has none, an earlier version did not
    leave links out, or the bytes differ.
    """
    collection, linked = batch.collection, _linked(batch)
    ids = [o.id for o in changed if o.id in linked]
    if not ids:
        return set()
    # JSON columns are part of `data`, and are compared with it.
    columns = [c for c in _settable(collection) if collection.column(c).kind != "jsonb"]
    cursor.execute(
        f"SELECT id, data::text, {', '.join(columns)} FROM {collection.name} WHERE id = ANY(%s)",
        (array_of(ids),),
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


# Twenty times as fast as datetime.isoformat. A record has twenty times.
_quoted = msgspec.json.Encoder().encode


def _escaped(value: bytes) -> bytes:
    if b"\\" in value:
        value = value.replace(b"\\", b"\\\\")
    if b"\n" in value or b"\r" in value or b"\t" in value:
        value = value.replace(b"\n", b"\\n").replace(b"\r", b"\\r").replace(b"\t", b"\\t")
    return value


def _text(value: str) -> bytes:
    # Nearly all texts are one line without a backslash. That is faster to find out in a text.
    if value.isprintable() and "\\" not in value:
        return value.encode()
    return _escaped(value.encode())


def _array(value: list[str]) -> bytes:
    return _escaped(array_of(value).encode())


_ENCODE: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"\\N",
    str: _text,
    int: lambda value: str(value).encode(),
    bool: lambda value: b"t" if value else b"f",
    Decimal: lambda value: str(value).encode(),
    datetime: lambda value: _quoted(value)[1:-1],
    list: _array,
    # JSON stays as it is.
    bytes: _escaped,
}


def copy_rows(
    cursor: Cursor, table: str, columns: Iterable[str], rows: Iterable[Iterable[Value]]
) -> None:
    """Load `rows` into `table` in one COPY."""
    encode = _ENCODE
    lines = [b"\t".join([encode[type(value)](value) for value in row]) for row in rows]
    lines.append(b"")
    cursor.copy_expert(
        f"COPY {table} ({', '.join(columns)}) FROM STDIN", io.BytesIO(b"\n".join(lines)), 1 << 17
    )
