"""What records were before: each version that ended, and the record as it was at any moment.

The live row, or that of a record that is gone, is the open version; the versions of its collection
say since when (`valid_from`). Only versions that ended are stored, with their columns and the way
back from the record that came after them (`differences`). So a sync that finds nothing new costs
nothing here. A record that is gone has a version that says so, until it returns: versions of one
record follow each other without a gap and without an overlap.

What belongs here: ending versions as rows are rewritten, leave and return; the view of all versions
and the functions that ask as of a moment. What does not: who may overwrite whom (`merge`,
`deletions`), who changed what (`changes`), and decoding ended versions again (`redecode`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from psycopg2.extensions import quote_ident

from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.differences import Difference, way_back
from rms_pipeline.current_rms.records import Row
from rms_pipeline.mirror.statements import Connection, Cursor, one_row

BEGAN = "history_began"
STATUS = "opportunity_status"
NO_STATUS = "(none)"
# By our own clock, and later than whatever is known of the record already.
_NOW = "greatest(clock_timestamp(), v.valid_from + interval '1 microsecond')"
_UNCHANGED = "[]"


@dataclass(frozen=True, slots=True)
class Ended:
    """Versions that were ended, by id: `until` when each was valid, and when its row had last been
    `asked` for. `altered` are the fields of records that differ, of all of which that is known."""

    until: dict[int, datetime] = field(default_factory=dict)
    asked: dict[int, datetime] = field(default_factory=dict)
    altered: dict[int, frozenset[str]] = field(default_factory=dict)


def end_changed(cursor: Cursor, collection: Collection, changed: Sequence[Row]) -> Ended:
    """Ends the version of each row that `changed` are about to replace.

    Rows whose records say the same, but for links and fields that differ at each read, go on. To be
    called with the versions locked, and before the rows are rewritten; `begin` follows that.
    """
    if not collection.remembers or not changed:
        return Ended()
    cursor.execute(
        f"SELECT id, data::text, synced_at FROM {collection.name} WHERE id = ANY(%s)",
        ([row.id for row in changed],),
    )
    older: dict[int, tuple[str | None, datetime]] = {
        id_: (data, asked) for id_, data, asked in cursor.fetchall()
    }
    steps = {
        row.id: way_back(row.data, _bytes(older[row.id][0]), collection.volatile)
        for row in changed
        if row.id in older
    }
    until = _end(cursor, collection, collection.name, steps)
    return Ended(until, {id_: asked for id_, (_, asked) in older.items()}, _altered(steps))


def _altered(steps: Mapping[int, Difference | None]) -> dict[int, frozenset[str]]:
    """The fields that each step changes, of those of which that is known."""
    fields = {id_: frozenset[str]() if s is None else s.fields for id_, s in steps.items()}
    return {id_: found for id_, found in fields.items() if found is not None}


def begin(
    cursor: Cursor, collection: Collection, ended: Mapping[int, datetime], rewritten: set[int]
) -> dict[int, datetime]:
    """Since when new versions follow those that `end_changed` ended, which is still to be noted.

    A version of a row that was not `rewritten` goes on after all.
    """
    if kept := [id_ for id_ in ended if id_ not in rewritten]:
        cursor.execute(
            f"DELETE FROM {collection.past} p USING unnest(%s::bigint[], %s::timestamptz[])"
            f" AS n (id, valid_to) WHERE p.{collection.key} = n.id AND p.valid_to = n.valid_to",
            (kept, [ended[id_] for id_ in kept]),
        )
    return {id_: at for id_, at in ended.items() if id_ in rewritten}


def end_gone(cursor: Cursor, collection: Collection, ids: Sequence[int]) -> None:
    """Has the deleted rows of `ids` be open versions, and ends those of the live rows they were."""
    if collection.remembers and ids:
        steps = dict.fromkeys(ids, Difference(_UNCHANGED))
        note_since(cursor, collection, _end(cursor, collection, collection.deleted, steps))


def end_absent(cursor: Cursor, collection: Collection, returning: Sequence[Row]) -> Ended:
    """Ends the versions that say that the records of these rows are gone; new ones are open.

    To be called with the versions locked, and before the deleted rows are taken away.
    """
    if not collection.remembers or not returning:
        return Ended()
    ids = [row.id for row in returning]
    cursor.execute(
        f"SELECT id, data::text, synced_at FROM {collection.deleted} WHERE id = ANY(%s)", (ids,)
    )
    older: dict[int, tuple[str | None, datetime]] = {
        id_: (data, asked) for id_, data, asked in cursor.fetchall()
    }
    steps = {
        row.id: way_back(row.data, _bytes(older[row.id][0]), collection.volatile)
        for row in returning
        if row.id in older
    }
    # What returns as it was is another version all the same.
    again = {id_: step or Difference(_UNCHANGED) for id_, step in steps.items()}
    ended = _end(cursor, collection, collection.deleted, again, deleted=True)
    note_since(cursor, collection, ended)
    if unknown := [id_ for id_ in ids if id_ not in ended]:
        # Their rows were deleted by hand, or were never here.
        cursor.execute(
            f"UPDATE {collection.versions} v SET valid_from = {_NOW} WHERE id = ANY(%s)", (unknown,)
        )
    return Ended(ended, {id_: asked for id_, (_, asked) in older.items()}, _altered(steps))


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _columns(collection: Collection) -> tuple[str, ...]:
    """What an ended version has of its row; PostgreSQL makes the others itself."""
    return tuple(c.name for c in collection.columns if c.is_mapped or c.kept)


def _end(
    cursor: Cursor,
    collection: Collection,
    table: str,
    steps: Mapping[int, Difference | None],
    *,
    deleted: bool = False,
) -> dict[int, datetime]:
    """Stores the open version of each row of `table`, ended now; None in `steps` lets it go on."""
    found = {id_: step for id_, step in steps.items() if step is not None}
    if not found:
        return {}
    columns = _columns(collection)
    cursor.execute(
        f"INSERT INTO {collection.past} ({collection.key}, valid_from, valid_to, deleted,"
        f" {', '.join(columns)}, difference)"
        f" SELECT o.id, v.valid_from, {_NOW}, %s, {', '.join(f'o.{c}' for c in columns)},"
        f" n.difference FROM unnest(%s::bigint[], %s::jsonb[]) AS n (id, difference)"
        f" JOIN {table} o USING (id) JOIN {collection.versions} v USING (id)"
        f" RETURNING {collection.key}, valid_to",
        (deleted, list(found), [step.json for step in found.values()]),
    )
    ended: dict[int, datetime] = dict(cursor.fetchall())
    return ended


def note_since(cursor: Cursor, collection: Collection, since: Mapping[int, datetime]) -> None:
    """Notes since when the open version of each id is valid."""
    if since:
        cursor.execute(
            f"UPDATE {collection.versions} v SET valid_from = n.since"
            " FROM unnest(%s::bigint[], %s::timestamptz[]) AS n (id, since) WHERE v.id = n.id",
            (list(since), list(since.values())),
        )


# When it was first confirmed


def note_confirmed(
    cursor: Cursor,
    collection: Collection,
    written: Sequence[Row],
    unseen: Sequence[Row],
    altered: Mapping[int, frozenset[str]],
) -> None:
    """Notes of rows just `written`, and of those `unseen` before, whether they are confirmed now.

    Not of those of which it is known what was `altered`, and that no status was.
    What was confirmed when the history began, or when it was first seen though it is older than the
    history, has no such time.
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
    """Finds anew when each row was first confirmed, where somebody has edited `statuses`. Commits.

    Nobody writes rows meanwhile, which takes some seconds for 100,000 of them.
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
            # All who write rows lock their versions first.
            cursor.execute(f"LOCK {collection.versions} IN EXCLUSIVE MODE")
            cursor.execute(f"SELECT id FROM {collection.name} ORDER BY id FOR UPDATE")
            ids = [row[0] for row in cursor.fetchall()]
            # No change of what Current RMS holds, so that no proof has to begin again.
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
        {"ids": list(ids)},
    )


# Of each id: when its first version that is confirmed began. Where that was found before, of
# versions that were forgotten since, the row says so, or the one before it.
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


# Forgetting


def forget(connection: Connection, collection: Collection, days: int) -> int:
    """Deletes versions that ended more than so many days ago; how many. Commits.

    The history then begins later, and says so when it is asked about what was before.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"DELETE FROM {collection.past} WHERE valid_to < now() - make_interval(days => %s)",
            (days,),
        )
        gone = cursor.rowcount
        cursor.execute(
            "UPDATE mirror_state SET value = greatest(value::timestamptz,"
            " now() - make_interval(days => %s))::text WHERE name = %s",
            (days, BEGAN + collection.mark),
        )
    connection.commit()
    return gone


def note_began(cursor: Cursor, collection: Collection) -> None:
    """Notes that the history begins with the versions that there are, if it had not begun.

    To be called when rows were written of which there were none.
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
    """Notes that the history begins now: all that was known is gone."""
    cursor.execute(
        "UPDATE mirror_state SET value = clock_timestamp()::text WHERE name = %s",
        (BEGAN + collection.mark,),
    )


# The view of all versions, and the functions that ask as of a moment


def is_history_made(connection: Connection, collection: Collection) -> bool:
    """Whether view and functions are as this code's declaration wants them, or newer ones."""
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
    """Makes them, or changes them to that, unless they are so already. Does not commit.

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
    """The type of a record as it was."""
    return f"{collection.single}_then"


def _made(cursor: Cursor, collection: Collection) -> list[str]:
    """The columns that the type has, in its order."""
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
    """What makes the view and the functions.

    Columns that are there keep their places, or PostgreSQL would have everything dropped first.
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

    newest = " ".join(
        f"(SELECT data FROM {place}.{table} WHERE id = p.{collection.key}){comma}"
        for table, comma in ((collection.name, ","), (collection.deleted, ""))
    )
    older = (
        f"(SELECT {place}.rms_older(coalesce({newest}), n.difference ORDER BY n.valid_from DESC)"
        f" FROM {place}.{collection.past} n WHERE n.{collection.key} = p.{collection.key}"
        " AND n.valid_from >= p.valid_from)"
    )
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
    -- A moment that is worked out, by the time zone for example, is so once, and not for each row.
    -- Of versions that ended it is known beforehand how many are left, as an index has them.
    WHERE h.valid_from <= (SELECT $1) AND (h.valid_to > $1 OR h.valid_to IS NULL) AND NOT h.deleted
    -- Asked once, not of each row.
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
