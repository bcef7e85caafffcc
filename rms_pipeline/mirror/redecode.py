"""Decodes stored rows again from their own `data`, after the mapping or the columns changed.

This module rewrites mapped columns of existing rows. It creates and deletes no rows, and does not
decide which record replaces which (`merge`, `deletions`): a row stands for its `data`, and its
columns follow from that.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from msgspec import Raw

from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.records import Fault, Row, decode_record
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.mapping import (
    close_to_older_mappings,
    demand_own_mapping,
    note_mapping,
)
from rms_pipeline.mirror.merge import copy_rows, lock_versions, note_faults
from rms_pipeline.mirror.postgres_errors import sparing
from rms_pipeline.mirror.progress import Progress
from rms_pipeline.mirror.promoted import fields_of, keep
from rms_pipeline.mirror.statements import Connection, Cursor
from rms_pipeline.mirror.words import note_words, what_is_searched
from rms_pipeline.mirror.writers import by_writers

logger = logging.getLogger(__name__)

BATCH_ROWS = 200
# Seconds between two lines of the log about an upgrade.
_TOLD_EVERY = 5.0


@dataclass(slots=True)
class Redecoded:
    """How many rows of a collection, live and deleted ones, were read, rewritten, and failed.

    A row is rewritten if a column differed. It failed if its `data` could not be decoded and
    stored. Such rows stay as they are.
    """

    rows: int = 0
    rewritten: int = 0
    failed: int = 0

    def __iadd__(self, other: "Redecoded") -> "Redecoded":
        self.rows += other.rows
        self.rewritten += other.rewritten
        self.failed += other.failed
        return self


def redecode(
    database: Database,
    collection: Collection,
    run: str,
    *,
    watch: Callable[[Progress], None] = lambda _: None,
) -> Redecoded:
    """Rewrite, for `run`, every row whose columns are not what its `data` says.

    Each batch is a transaction, and two of them run at a time. It is safe while syncs run, and may
    be run again after an interruption. Faults of rows are noted in `sync_faults`, each once for a
    run.
    """
    done = Redecoded()
    batches = 0
    tables = (collection.name, collection.deleted)

    def work(connection: Connection, batch: tuple[str, list[int]]) -> Redecoded:
        table, ids = batch
        return _redecode_batch(connection, collection, table, run, ids)

    with database.session() as connection:
        sizes = [_count(connection, table) for table in tables]
        rows_expected, batches_expected = sum(sizes), sum(-(-n // BATCH_ROWS) for n in sizes)
        with closing(by_writers(database, work, _batches(connection, tables))) as parts:
            for part in parts:
                done += part
                batches += 1
                watch(
                    Progress(
                        "decoding",
                        batches,
                        max(batches, batches_expected),
                        done.rows,
                        max(done.rows, rows_expected),
                    )
                )
    return done


def _batches(connection: Connection, tables: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
    """Yield the ids of each of `tables`, some at a time, with their table. Commits."""
    for table in tables:
        after: int | None = None
        while ids := _ids_after(connection, table, after):
            yield table, ids
            after = ids[-1]


def adopt_mapping(database: Database, collection: Collection) -> None:
    """Bring all rows of `collection` to this code's mapping, and then note its version."""
    with database.session() as connection:
        close_to_older_mappings(connection, collection)
    run = f"mapping version {collection.version}"
    redecode(database, collection, run, watch=_Teller(collection).tell)
    with database.session() as connection:
        note_mapping(connection, collection)


class _Teller:
    """Logs now and then how far the decoding is. Whoever upgrades waits for it."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._next = time.monotonic() + _TOLD_EVERY

    def tell(self, progress: Progress) -> None:
        if (now := time.monotonic()) >= self._next:
            self._next = now + _TOLD_EVERY
            logger.info(
                "Decoding %s again from their stored records: %s of %s rows.",
                self._collection.in_words(),
                f"{progress.records:,}",
                f"{progress.records_expected:,}",
            )


def reword(database: Database, collection: Collection) -> int:
    """Make the search words of all rows again, if other fields are searched now than before.

    Returns for how many rows. Each batch is a transaction. It is safe while syncs run.
    """
    if not collection.searched:
        return 0
    name, rows = f"words_made_of{collection.mark}", 0
    with database.session() as connection:
        with connection.cursor() as cursor:
            wanted = what_is_searched(cursor, collection)
            cursor.execute("SELECT value FROM mirror_state WHERE name = %s", (name,))
            if (cursor.fetchone() or ("",))[0] == wanted:
                connection.commit()
                return 0
        connection.commit()
        after: int | None = None
        while ids := _ids_after(connection, collection.name, after):
            rows += _reword_batch(connection, collection, ids)
            after = ids[-1]
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO mirror_state (name, value) VALUES (%s, %s)"
                " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (name, wanted),
            )
        connection.commit()
    return rows


def _reword_batch(connection: Connection, collection: Collection, ids: list[int]) -> int:
    """Make the words of these rows again. Commits."""
    with connection.cursor() as cursor:
        lock_versions(cursor, collection, ids)
        demand_own_mapping(cursor, collection)
        cursor.execute(
            f"SELECT id, data::text FROM {collection.name} WHERE id = ANY(%s) ORDER BY id", (ids,)
        )
        records = (_decode(collection, id_, data) for id_, data in cursor.fetchall())
        rows = [record for record in records if isinstance(record, Row)]
        note_words(cursor, collection, rows, fields_of(cursor, collection))
    connection.commit()
    return len(rows)


def _count(connection: Connection, table: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table}")
        row = cursor.fetchone()
    connection.commit()
    return int(row[0]) if row else 0


def _ids_after(connection: Connection, table: str, after: int | None) -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT id FROM {table} WHERE %(after)s::bigint IS NULL OR id > %(after)s"
            " ORDER BY id LIMIT %(limit)s",
            {"after": after, "limit": BATCH_ROWS},
        )
        ids = [row[0] for row in cursor.fetchall()]
    connection.commit()
    return ids


def _redecode_batch(
    connection: Connection, collection: Collection, table: str, run: str, ids: Sequence[int]
) -> Redecoded:
    """Decode these rows again. Commits. A row that PostgreSQL refuses affects no other row."""
    done = Redecoded()

    def work(part: list[int]) -> None:
        nonlocal done
        with connection.cursor() as cursor:
            rewritten = _rewrite(cursor, collection, table, run, part)
        connection.commit()
        done += rewritten

    refused = sparing(connection, ids, work)
    if refused:
        faults = [
            Fault(i, "(record)", f"PostgreSQL refused: {why}", "") for i, why in refused.items()
        ]
        with connection.cursor() as cursor:
            _note_once(cursor, collection, run, faults)
        connection.commit()
        done += Redecoded(rows=len(refused), failed=len(refused))
    return done


def _rewrite(
    cursor: Cursor, collection: Collection, table: str, run: str, ids: list[int]
) -> Redecoded:
    lock_versions(cursor, collection, ids)
    demand_own_mapping(cursor, collection)
    # Only now: the holder of the lock may have written newer data.
    cursor.execute(
        f"SELECT id, data::text FROM {table} WHERE id = ANY(%s) ORDER BY id FOR UPDATE", (ids,)
    )
    decoded: list[Row] = []
    faults: list[Fault] = []
    done = Redecoded()
    for id_, data in cursor.fetchall():
        done.rows += 1
        record = _decode(collection, id_, data)
        if isinstance(record, Fault):
            done.failed += 1
            faults.append(record)
        else:
            decoded.append(record)
            faults += record.faults
    if decoded:
        done.rewritten = _update(cursor, collection, table, decoded)
    if table == collection.name:
        own = fields_of(cursor, collection)
        faults += keep(cursor, collection, ids, own)
        note_words(cursor, collection, decoded, own)
    _decode_past(cursor, collection, ids)
    _note_once(cursor, collection, run, faults)
    return done


def _decode(collection: Collection, id_: int, data: str | None) -> Row | Fault:
    if data is None:
        return Fault(id_, "data", "is absent, so there is nothing to decode", "")
    record = decode_record(Raw(data.encode()), collection)
    if isinstance(record, Fault) or record.id != id_:
        return Fault(id_, "data", "is not the record of this row", data[:1_000])
    return record


def _update(cursor: Cursor, collection: Collection, table: str, decoded: Sequence[Row]) -> int:
    derived = [c for c in collection.mapped if c not in {"id", "data"}]
    columns = ("id", *derived)
    cursor.execute(
        "CREATE TEMP TABLE redecoded ON COMMIT DROP AS"
        f" SELECT {', '.join(columns)} FROM {table} WITH NO DATA"
    )
    rows = ([getattr(o, column) for column in columns] for o in decoded)
    copy_rows(cursor, "redecoded", columns, rows)
    settings = ", ".join(f"{c} = r.{c}" for c in derived)
    before = ", ".join(f"t.{c}" for c in derived)
    after = ", ".join(f"r.{c}" for c in derived)
    cursor.execute(
        f"UPDATE {table} t SET {settings} FROM redecoded r"
        f" WHERE t.id = r.id AND ({before}) IS DISTINCT FROM ({after})"
    )
    return cursor.rowcount


def _decode_past(cursor: Cursor, collection: Collection, ids: Sequence[int]) -> None:
    """Rewrite columns of ended versions of `ids` that are not what their records say.

    An ended version's record is computed from the records that followed it. A version whose record
    is unknown or cannot be decoded stays as it is. Call it with the versions locked.
    """
    if not collection.remembers:
        return
    newest = ", ".join(
        f"(SELECT data FROM {table} WHERE id = p.{collection.key})"
        for table in (collection.name, collection.deleted)
    )
    cursor.execute(
        # From each version to the one before it. The view would go back from the newest version
        # each time.
        f"SELECT * FROM (SELECT p.{collection.key}, p.valid_from,"
        f" (rms_older(coalesce({newest}), p.difference) OVER (PARTITION BY p.{collection.key}"
        " ORDER BY p.valid_from DESC ROWS UNBOUNDED PRECEDING))::text AS data"
        f" FROM {collection.past} p WHERE p.{collection.key} = ANY(%s)) p WHERE data IS NOT NULL",
        (list(ids),),
    )
    columns = [column for column in collection.columns if column.is_mapped]
    rows = []
    for id_, valid_from, data in cursor.fetchall():
        row = decode_record(Raw(data.encode()), collection)
        if isinstance(row, Row) and row.id == id_:
            rows.append([id_, valid_from, *(getattr(row, c.name) for c in columns)])
    if not rows:
        return
    names = [c.name for c in columns]
    cursor.execute(
        f"CREATE TEMP TABLE past_again ON COMMIT DROP AS SELECT {collection.key}, valid_from,"
        f" {', '.join(names)} FROM {collection.past} WITH NO DATA"
    )
    copy_rows(cursor, "past_again", (collection.key, "valid_from", *names), rows)
    cursor.execute(
        f"UPDATE {collection.past} p SET {', '.join(f'{n} = a.{n}' for n in names)}"
        f" FROM past_again a WHERE p.{collection.key} = a.{collection.key}"
        " AND p.valid_from = a.valid_from AND"
        f" ({', '.join(f'p.{n}' for n in names)}) IS DISTINCT FROM"
        f" ({', '.join(f'a.{n}' for n in names)})"
    )
    cursor.execute("DROP TABLE past_again")


def _note_once(cursor: Cursor, collection: Collection, run: str, faults: Sequence[Fault]) -> None:
    if not faults:
        return
    cursor.execute(
        "SELECT opportunity_id, field FROM sync_faults WHERE run = %s AND collection = %s"
        " AND opportunity_id = ANY(%s)",
        (run, collection.name, [f.record for f in faults]),
    )
    known = set(cursor.fetchall())
    note_faults(cursor, collection, run, [f for f in faults if (f.record, f.field) not in known])
