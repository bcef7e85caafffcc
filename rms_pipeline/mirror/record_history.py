"""What records were before: each version that ended, and the record as it was at any moment.

The live row is the open version, or the deleted row if the record is gone. The versions of its
collection say since when (`valid_from`). Only ended versions are stored, with their columns and the
difference from the record that followed (`differences`). A few versions also hold their record
whole, so that every record is reached by a few differences. So a sync that finds nothing new costs
nothing here. While a record is gone, a version says so. Versions of one record follow each other
without gaps and overlaps.

This module ends versions when rows are rewritten, deleted and restored. It makes the view of all
versions and the functions for a past moment. Which record replaces which is in `merge` and
`deletions`, who changed what in `changes`, and decoding ended versions again in `redecode`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from psycopg2.extensions import quote_ident

from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.differences import Difference, lasting, way_back
from rms_pipeline.current_rms.records import Row
from rms_pipeline.mirror.statements import Connection, Cursor, array_of, one_row
from rms_pipeline.mirror.walks import AGES_FROM

BEGAN = "history_began"
STATUS = "opportunity_status"
NO_STATUS = "(none)"
# By our own clock, and later than everything known of the record.
_NOW = "greatest(clock_timestamp(), v.valid_from + interval '1 microsecond')"
_UNCHANGED = "[]"
# Of so many versions of a record that follow each other, one holds it whole.
WHOLE_EVERY = 25


@dataclass(frozen=True, slots=True)
class Ended:
    """Versions that were ended, by id.

    `until` is when each ended, and `asked` when its row had last been asked for. `altered` are the
    fields of records that differ, where all of these are known.
    """

    until: dict[int, datetime] = field(default_factory=dict)
    asked: dict[int, datetime] = field(default_factory=dict)
    altered: dict[int, frozenset[str]] = field(default_factory=dict)


def end_changed(cursor: Cursor, collection: Collection, changed: Sequence[Row]) -> Ended:
    """End the version of each row that `changed` will replace.

    A row continues if its record differs only in links and fields that differ at each read. Call it
    with the versions locked, before the rows are rewritten. `begin` follows afterwards.
    """
    if not collection.remembers or not changed:
        return Ended()
    older = _older(cursor, collection, collection.name, changed)
    steps = _steps(collection, changed, older)
    until = _end(cursor, collection, collection.name, steps, older)
    return Ended(until, {id_: o.asked for id_, o in older.items()}, _altered(steps))


@dataclass(frozen=True, slots=True)
class _Older:
    """The record of a row that is about to be replaced, and when it was last asked for.

    `is_whole` tells that the version that ends with it is to hold it whole.
    """

    data: bytes | None
    asked: datetime
    is_whole: bool


def _older(
    cursor: Cursor, collection: Collection, table: str, rows: Sequence[Row]
) -> dict[int, _Older]:
    """Return what `table` holds of `rows`, by id.

    Nobody else can write these rows until the transaction ends. So what is noted of them now, such
    as the time, is not noted before a wait.
    """
    past, key = collection.past, collection.key
    cursor.execute(
        "SELECT o.id, o.data::text, o.synced_at,"
        f" (SELECT count(*) FROM {past} p WHERE p.{key} = o.id AND p.valid_from > coalesce("
        f"(SELECT max(w.valid_from) FROM {past} w WHERE w.{key} = o.id AND w.record IS NOT NULL),"
        f" '-infinity')) FROM {table} o WHERE o.id = ANY(%s) ORDER BY o.id"
        " FOR NO KEY UPDATE OF o",
        (array_of(row.id for row in rows),),
    )
    return {
        id_: _Older(None if data is None else data.encode(), asked, count >= WHOLE_EVERY - 1)
        for id_, data, asked, count in cursor.fetchall()
    }


def _steps(
    collection: Collection, rows: Sequence[Row], older: Mapping[int, _Older]
) -> dict[int, Difference | None]:
    return {
        row.id: way_back(row.data, older[row.id].data, collection.volatile)
        for row in rows
        if row.id in older
    }


def _altered(steps: Mapping[int, Difference | None]) -> dict[int, frozenset[str]]:
    """Return the fields that each step changes, where that is known."""
    fields = {id_: frozenset[str]() if s is None else s.fields for id_, s in steps.items()}
    return {id_: found for id_, found in fields.items() if found is not None}


def begin(
    cursor: Cursor, collection: Collection, ended: Mapping[int, datetime], rewritten: set[int]
) -> dict[int, datetime]:
    """Return since when new versions follow those that `end_changed` ended. The caller notes it.

    If a row was not `rewritten`, its version continues after all.
    """
    if kept := [id_ for id_ in ended if id_ not in rewritten]:
        cursor.execute(
            f"DELETE FROM {collection.past} p USING unnest(%s::bigint[], %s::timestamptz[])"
            f" AS n (id, valid_to) WHERE p.{collection.key} = n.id AND p.valid_to = n.valid_to",
            (array_of(kept), array_of(ended[id_] for id_ in kept)),
        )
    return {id_: at for id_, at in ended.items() if id_ in rewritten}


def end_gone(cursor: Cursor, collection: Collection, ids: Sequence[int]) -> None:
    """Make the deleted rows of `ids` open versions, and end the versions of their live rows."""
    if collection.remembers and ids:
        steps = dict.fromkeys(ids, Difference(_UNCHANGED))
        note_since(cursor, collection, _end(cursor, collection, collection.deleted, steps, {}))


def end_absent(cursor: Cursor, collection: Collection, returning: Sequence[Row]) -> Ended:
    """End the versions that say that these records are gone. New versions are then open.

    Call it with the versions locked, before the deleted rows are removed.
    """
    if not collection.remembers or not returning:
        return Ended()
    ids = [row.id for row in returning]
    older = _older(cursor, collection, collection.deleted, returning)
    steps = _steps(collection, returning, older)
    # A record that returns unchanged still gets a new version.
    again = {id_: step or Difference(_UNCHANGED) for id_, step in steps.items()}
    ended = _end(cursor, collection, collection.deleted, again, older, deleted=True)
    note_since(cursor, collection, ended)
    if unknown := [id_ for id_ in ids if id_ not in ended]:
        # Their rows were deleted by hand, or never existed.
        cursor.execute(
            f"UPDATE {collection.versions} v SET valid_from = {_NOW} WHERE id = ANY(%s)",
            (array_of(unknown),),
        )
    return Ended(ended, {id_: o.asked for id_, o in older.items()}, _altered(steps))


def _columns(collection: Collection) -> tuple[str, ...]:
    """Return the columns that an ended version keeps. PostgreSQL computes the others itself."""
    return tuple(c.name for c in collection.columns if c.is_mapped or c.kept)


def _end(
    cursor: Cursor,
    collection: Collection,
    table: str,
    steps: Mapping[int, Difference | None],
    older: Mapping[int, _Older],
    *,
    deleted: bool = False,
) -> dict[int, datetime]:
    """Store the open version of each row of `table` as ended now. None in `steps` lets it
    continue. `older` are the records, where they may be held whole.
    """
    found = {id_: step for id_, step in steps.items() if step is not None}
    if not found:
        return {}
    records = [
        lasting(o.data, collection.volatile) if o and o.is_whole and o.data else None
        for o in map(older.get, found)
    ]
    columns = _columns(collection)
    cursor.execute(
        f"INSERT INTO {collection.past} ({collection.key}, valid_from, valid_to, deleted,"
        f" {', '.join(columns)}, difference, record)"
        f" SELECT o.id, v.valid_from, {_NOW}, %s, {', '.join(f'o.{c}' for c in columns)},"
        f" n.difference, n.record FROM unnest(%s::bigint[], %s::jsonb[], %s::jsonb[])"
        " AS n (id, difference, record)"
        f" JOIN {table} o USING (id) JOIN {collection.versions} v USING (id)"
        f" RETURNING {collection.key}, valid_to",
        (
            deleted,
            array_of(found),
            array_of(step.json for step in found.values()),
            array_of(records),
        ),
    )
    ended: dict[int, datetime] = dict(cursor.fetchall())
    return ended


def begin_now(cursor: Cursor, collection: Collection, ids: Sequence[int]) -> None:
    """Let the versions of `ids` begin now. They were created in this transaction, before it waited
    for others.
    """
    if collection.remembers and ids:
        cursor.execute(
            f"UPDATE {collection.versions} SET valid_from = clock_timestamp() WHERE id = ANY(%s)",
            (array_of(ids),),
        )


def note_since(cursor: Cursor, collection: Collection, since: Mapping[int, datetime]) -> None:
    """Note since when the open version of each id is valid."""
    if since:
        cursor.execute(
            f"UPDATE {collection.versions} v SET valid_from = n.since"
            " FROM unnest(%s::bigint[], %s::timestamptz[]) AS n (id, since) WHERE v.id = n.id",
            (array_of(since), array_of(since.values())),
        )


# When an opportunity was first confirmed


def note_confirmed(
    cursor: Cursor,
    collection: Collection,
    written: Sequence[Row],
    unseen: Sequence[Row],
    altered: Mapping[int, frozenset[str]],
) -> None:
    """Note for rows just `written`, and for those `unseen` before, whether they are confirmed now.

    Rows whose `altered` fields are known and do not include a status are left out. A record that
    was confirmed already when the history began, or when it was first seen although it is older
    than the history, gets no time.
    """
    if not collection.has_phases:
        return
    status = collection.fields_of(STATUS)
    ids = [row.id for row in written if altered.get(row.id, status) & status]
    if unseen:
        cursor.execute(
            "SELECT value::timestamptz FROM mirror_state WHERE name = %s",
            (BEGAN + collection.mark,),
        )
        (began,) = cursor.fetchone() or (None,)
        created = ((row.id, row.created_at_rms) for row in unseen)
        ids += [id_ for id_, at in created if began is None or (at is not None and at >= began)]
    if ids:
        _set_confirmed(cursor, collection, ids)


_PHASES = "md5(coalesce(string_agg(name || ' ' || phase, chr(10) ORDER BY name COLLATE \"C\"), ''))"


def follow_phases(connection: Connection, collection: Collection) -> None:
    """Find again when each row was first confirmed, after somebody edited `statuses`. Commits.

    Nobody can write rows meanwhile. It takes some seconds for 100,000 rows.
    """
    name = f"confirmed_by{collection.mark}"
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {_PHASES} IS DISTINCT FROM"
            " (SELECT value FROM mirror_state WHERE name = %s) FROM statuses",
            (name,),
        )
        (differ,) = one_row(cursor)
        if differ:
            # Every writer of rows locks their versions first.
            cursor.execute(f"LOCK {collection.versions} IN EXCLUSIVE MODE")
            cursor.execute(f"SELECT id FROM {collection.name} ORDER BY id FOR UPDATE")
            ids = [row[0] for row in cursor.fetchall()]
            # What Current RMS holds does not change, so no proof has to start again.
            cursor.execute("SELECT set_config('rms_pipeline.only_links', 'on', true)")
            _set_confirmed(cursor, collection, ids)
            cursor.execute(
                f"INSERT INTO mirror_state (name, value) SELECT %s, {_PHASES} FROM statuses"
                " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (name,),
            )
    connection.commit()


def _set_confirmed(cursor: Cursor, collection: Collection, ids: Sequence[int]) -> None:
    cursor.execute(
        f"UPDATE {collection.name} o SET confirmed_at = f.confirmed_at FROM ("
        f"{_CONFIRMED.format(**_names(collection))}) f"
        " WHERE o.id = f.id AND o.confirmed_at IS DISTINCT FROM f.confirmed_at",
        {"ids": array_of(ids)},
    )


# For each id: when its first confirmed version began. If that was found in versions that were
# deleted since, the row or the version before it has the time.
_CONFIRMED = (
    "SELECT v.id, coalesce("
    "(SELECT confirmed_at FROM {name} WHERE id = v.id AND confirmed_at < {began}),"
    " (SELECT confirmed_at FROM {past} WHERE {key} = v.id AND confirmed_at < {began}"
    " ORDER BY valid_from DESC LIMIT 1),"
    " CASE WHEN first.n > 1 OR first.created_at_rms >= {began} THEN first.valid_from"
    " END) AS confirmed_at FROM {versions} v LEFT JOIN LATERAL (SELECT * FROM"
    " (SELECT h.*, row_number() OVER (ORDER BY valid_from) AS n FROM ("
    " SELECT valid_from, deleted, opportunity_status, created_at_rms FROM {past}"
    " WHERE {key} = v.id UNION ALL"
    " SELECT v.valid_from, false, opportunity_status, created_at_rms FROM {name}"
    " WHERE id = v.id) h) h JOIN statuses s ON s.name = h.opportunity_status"
    " AND s.phase = 'confirmed' WHERE NOT deleted ORDER BY n LIMIT 1) first ON true"
    " WHERE v.id = ANY(%(ids)s)"
)


def _names(collection: Collection) -> dict[str, str]:
    return {
        "name": collection.name,
        "deleted": collection.deleted,
        "versions": collection.versions,
        "past": collection.past,
        "key": collection.key,
        "began": "(SELECT value::timestamptz FROM mirror_state"
        f" WHERE name = '{BEGAN}{collection.mark}')",
    }


# Deleting old versions


def forget(connection: Connection, collection: Collection, days: int) -> int:
    """Delete versions that ended more than so many days ago. Returns how many. Commits.

    The history then begins later. Questions about earlier moments are answered with that
    information.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"DELETE FROM {collection.past}"
            f" WHERE valid_to < {AGES_FROM} - make_interval(days => %s)",
            (days,),
        )
        gone = cursor.rowcount
        cursor.execute(
            "UPDATE mirror_state SET value = greatest(value::timestamptz,"
            f" {AGES_FROM} - make_interval(days => %s))::text WHERE name = %s",
            (days, BEGAN + collection.mark),
        )
    connection.commit()
    return gone


def note_began(cursor: Cursor, collection: Collection) -> None:
    """Note that the history begins with the existing versions, if it had not begun.

    Call it when the first rows were written.
    """
    if collection.remembers:
        cursor.execute(
            "INSERT INTO mirror_state (name, value) SELECT %(name)s,"
            f" (SELECT min(valid_from)::text FROM {collection.versions})"
            " WHERE NOT EXISTS (SELECT FROM mirror_state WHERE name = %(name)s)"
            f" AND EXISTS (SELECT FROM {collection.versions}) ON CONFLICT DO NOTHING",
            {"name": BEGAN + collection.mark},
        )


def begin_anew(cursor: Cursor, collection: Collection) -> None:
    """Note that the history begins now, because all that was known is gone."""
    cursor.execute(
        "UPDATE mirror_state SET value = clock_timestamp()::text WHERE name = %s",
        (BEGAN + collection.mark,),
    )


# The view of all versions, and the functions for a past moment


def is_history_made(connection: Connection, collection: Collection) -> bool:
    """Return whether the view and the functions are as this code wants them, or newer."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT to_regclass(%(view)s) IS NOT NULL"
            " AND to_regprocedure(%(one)s) IS NOT NULL AND to_regprocedure(%(all)s) IS NOT NULL,"
            " (SELECT value FROM mirror_state WHERE name = %(name)s)",
            {
                "view": collection.history,
                "one": f"{collection.single}_as_of(bigint, timestamptz)",
                "all": f"{collection.name}_as_of(timestamptz)",
                "name": _made_from(collection),
            },
        )
        is_there, made = one_row(cursor)
        version, _, digest = (made or "0 ").partition(" ")
        if int(version) > collection.version:
            return bool(is_there)
        return bool(is_there) and digest == _digest(_text(connection, collection))


def make_history(connection: Connection, collection: Collection) -> None:
    """Make the view and the functions, or change them, if they differ. Does not commit.

    Nothing is dropped: rights, and views that people built on them, stay.
    """
    if not collection.remembers or is_history_made(connection, collection):
        return
    with connection.cursor() as cursor:
        _make_type(cursor, collection)
        text = _text(connection, collection)
        cursor.execute(text)
        cursor.execute(
            "INSERT INTO mirror_state (name, value) VALUES (%s, %s)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (_made_from(collection), f"{collection.version} {_digest(text)}"),
        )


def _made_from(collection: Collection) -> str:
    return f"history_made_from{collection.mark}"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _then(collection: Collection) -> str:
    """Return the name of the type of a past record."""
    return f"{collection.single}_then"


def _made(cursor: Cursor, collection: Collection) -> list[str]:
    """Return the columns that the type has, in its order."""
    cursor.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = (SELECT typrelid FROM pg_type"
        " WHERE oid = to_regtype(%s)) AND NOT attisdropped ORDER BY attnum",
        (_then(collection),),
    )
    return [row[0] for row in cursor.fetchall()]


def _make_type(cursor: Cursor, collection: Collection) -> None:
    name = _then(collection)
    cursor.execute("SELECT to_regtype(%s) IS NULL", (name,))
    if cursor.fetchone() == (True,):
        cursor.execute(f"CREATE TYPE {name} AS (id bigint, data jsonb)")
    there = _made(cursor, collection)
    for column in collection.columns:
        if column.name not in there:
            cursor.execute(f"ALTER TYPE {name} ADD ATTRIBUTE {column.name} {column.kind}")


def _text(connection: Connection, collection: Collection) -> str:
    """Return the statements that make the view and the functions.

    Existing columns keep their places. Otherwise PostgreSQL would demand that everything is dropped
    first.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_schema()")
        row = one_row(cursor)
        made = _made(cursor, collection)
    place = quote_ident(row[0], connection)
    names = [name for name in made if name not in ("id", "data")]
    names += [column.name for column in collection.columns if column.name not in names]
    mark = collection.mark
    began = f"(SELECT value::timestamptz FROM {place}.mirror_state WHERE name = '{BEGAN}{mark}')"

    def columns(of: str) -> str:
        return ", ".join(f"{of}.{name}" for name in names)

    def open_versions(table: str, deleted: str) -> str:
        return (
            f"SELECT o.id AS {collection.key}, coalesce(v.valid_from, {began}) AS valid_from,"
            f" NULL::timestamptz AS valid_to, {deleted} AS deleted, o.data, {columns('o')}"
            f" FROM {place}.{table} o LEFT JOIN {place}.{collection.versions} v ON v.id = o.id"
        )

    key, past = collection.key, f"{place}.{collection.past}"
    newest = ", ".join(
        f"(SELECT data FROM {place}.{table} WHERE id = p.{key})"
        for table in (collection.name, collection.deleted)
    )
    # From the next version that holds its record whole, else from the newest record. OFFSET 0 lets
    # that be looked up once, and not for each difference.
    older = f"""coalesce(p.record, (
    SELECT {place}.rms_older(b.record, n.difference ORDER BY n.valid_from DESC)
    FROM (
        SELECT coalesce(w.record, {newest}) AS record, coalesce(w.valid_from, 'infinity') AS began
        FROM (SELECT) one LEFT JOIN LATERAL (
            SELECT w.record, w.valid_from FROM {past} w
            WHERE w.{key} = p.{key} AND w.valid_from > p.valid_from AND w.record IS NOT NULL
            ORDER BY w.valid_from LIMIT 1
        ) w ON true OFFSET 0
    ) b JOIN {past} n ON n.{key} = p.{key}
        AND n.valid_from >= p.valid_from AND n.valid_from < b.began
))"""
    view, then = f"{place}.{collection.history}", f"{place}.{_then(collection)}"
    return f"""
CREATE OR REPLACE VIEW {view} AS
{open_versions(collection.name, "false")}
UNION ALL
{open_versions(collection.deleted, "true")}
UNION ALL
SELECT p.{collection.key}, p.valid_from, p.valid_to, p.deleted, {older}, {columns("p")}
FROM {place}.{collection.past} p;

CREATE OR REPLACE FUNCTION {place}.{collection.name}_as_of(at timestamptz)
RETURNS SETOF {then} LANGUAGE sql STABLE AS $$
    SELECT h.{collection.key}, h.data, {columns("h")} FROM {view} h
    -- A moment may be computed, for example from a time zone. The subquery computes it once, not
    -- for each row. The other condition has no subquery, so the planner can estimate from the
    -- index on valid_to how many ended versions are left.
    WHERE h.valid_from <= (SELECT $1) AND (h.valid_to > $1 OR h.valid_to IS NULL) AND NOT h.deleted
    -- This is checked once, and not for each row.
    AND (SELECT {place}.rms_demand_history('{mark}', $1))
$$;
COMMENT ON FUNCTION {place}.{collection.name}_as_of(timestamptz)
IS 'The table {collection.name} as it was at a moment.';

CREATE OR REPLACE FUNCTION {place}.{collection.single}_as_of(record bigint, at timestamptz)
RETURNS SETOF {then} LANGUAGE sql STABLE AS $$
    SELECT * FROM {place}.{collection.name}_as_of($2) h WHERE h.id = $1
$$;
COMMENT ON FUNCTION {place}.{collection.single}_as_of(bigint, timestamptz)
IS 'One {collection.single} as it was at a moment; no row where it was not there.';
{_counts(place, collection) if collection.has_phases else ""}"""


def _counts(place: str, collection: Collection) -> str:
    return f"""
CREATE OR REPLACE FUNCTION {place}.status_counts_as_of(at timestamptz)
RETURNS TABLE (opportunity_status text, {collection.name} bigint, charge_total numeric,
    total_value numeric, as_of timestamptz) LANGUAGE sql STABLE AS $$
    SELECT coalesce(h.opportunity_status, '{NO_STATUS}'), count(*),
        coalesce(sum(h.charge_total), 0), coalesce(sum(h.total_value), 0), $1
    FROM {place}.{collection.name}_as_of($1) h GROUP BY 1
$$;
COMMENT ON FUNCTION {place}.status_counts_as_of(timestamptz)
IS 'The table status_counts as it would have been counted at a moment.';
"""
