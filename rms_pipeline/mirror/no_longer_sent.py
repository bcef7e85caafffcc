"""What the API no longer sends: associations, such as the name of a customer, and fields.

An API may refuse or ignore an include from one day to the next. Its records then still have the id
of the customer, but no name. A row keeps the association that it had, as long as it is of the same
id. Otherwise all names would be lost in one sync. Which associations have an id is declared
(`Collection.associations`).

Nothing shows that the old value of any other field is still right. So it is lost, and a fault says
so. It was not an edit: an edit in Current RMS empties a field, and does not remove it.
"""

from collections.abc import Collection as Ids
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Raw

from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.records import NULL, Fault, Row, decode_record
from rms_pipeline.mirror.statements import Connection, Cursor, array_of, one_row

_fields = msgspec.json.Decoder(dict[str, Raw])
_NOTHING = (b"null", b'""')
_KEPT = (
    "Current RMS did not send it, although it sent its id. Rows keep what it sent before for the "
    "same id"
)

_LOST = (
    "Current RMS no longer sends it, so the columns that are read from it are empty in the rows "
    "that changed since"
)


def with_kept_associations(
    cursor: Cursor, collection: Collection, run: str, rows: Sequence[Row]
) -> list[Row]:
    """Return `rows`, with the associations of their rows in the table where the API sent only the
    id. Notes once for `run` which those are.

    Their `data` then has these as well. The fingerprint stays that of the record as received.
    """
    lacking = {row.id: ids for row in rows if (ids := _lacking(collection, row.data))}
    if not lacking:
        return list(rows)
    known = _known(cursor, collection, sorted(lacking))
    found: list[Row] = []
    kept: set[str] = set()
    for row in rows:
        there = known.get(row.id, {})
        given = lacking.get(row.id, {})
        names = [name for name, id_ in given.items() if there.get(name, ("",))[0] == id_]
        kept.update(names)
        found.append(_with(collection, row, {n: there[n][1] for n in names}) if names else row)
    _note(cursor, collection, run, _KEPT, kept)
    return found


def note_lost_fields(
    cursor: Cursor,
    collection: Collection,
    run: str,
    rows: Sequence[Row],
    altered: Mapping[int, Ids[str]],
) -> None:
    """Note once for `run` which mapped fields `rows` no longer have, given which of their fields
    differ from before.
    """
    mapped = {source.partition(".")[0] for c in collection.columns for source in c.sources}
    lost: set[str] = set()
    for row in rows:
        suspected = mapped & {*altered.get(row.id, ())}
        if not suspected:
            continue
        fields = _fields.decode(row.data)
        for name in suspected - fields.keys():
            key = collection.associations.get(name)
            # Without its id there is nothing to be sent.
            if key is None or bytes(fields.get(key, NULL)) not in _NOTHING:
                lost.add(name)
    _note(cursor, collection, run, _LOST, lost)


def what_was_not_sent(
    connection: Connection, collection: Collection, walk: int
) -> tuple[bool, bool]:
    """Return whether associations were kept that the API left out since `walk` began, and whether
    fields were lost. Commits.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(bool_or(problem = %s), false), coalesce(bool_or(problem = %s), false)"
            " FROM sync_faults WHERE collection = %s AND opportunity_id IS NULL"
            " AND seen_at >= (SELECT started_at FROM walks WHERE id = %s)",
            (_KEPT, _LOST, collection.name, walk),
        )
        kept, lost = one_row(cursor)
    connection.commit()
    return bool(kept), bool(lost)


def _lacking(collection: Collection, data: bytes) -> dict[str, str]:
    """Return which associations a record lacks although it has their ids, and these ids."""
    if not collection.associations:
        return {}
    fields = _fields.decode(data)
    ids = {name: bytes(fields.get(key, NULL)) for name, key in collection.associations.items()}
    return {
        name: id_.decode(errors="replace").strip('"')
        for name, id_ in ids.items()
        if id_ not in _NOTHING and bytes(fields.get(name, NULL)) in _NOTHING
    }


def _known(
    cursor: Cursor, collection: Collection, ids: Sequence[int]
) -> dict[int, dict[str, tuple[str, str]]]:
    """Return the associations in the rows of `ids`, by name: their id and their JSON."""
    names = list(collection.associations)
    columns = ", ".join("data->>%s, (data->%s)::text" for _ in names)
    values = [part for name in names for part in (collection.associations[name], name)]
    cursor.execute(
        f"SELECT id, {columns} FROM {collection.name} WHERE id = ANY(%s)", (*values, array_of(ids))
    )
    return {
        row[0]: {
            name: (id_, told)
            for name, id_, told in zip(names, row[1::2], row[2::2], strict=True)
            if id_ is not None and told is not None and told.startswith("{")
        }
        for row in cursor.fetchall()
    }


def _with(collection: Collection, row: Row, associations: Mapping[str, str]) -> Row:
    # Of a name that occurs twice, PostgreSQL and all that reads the record here take the last.
    further = "".join(f',"{name}":{value}' for name, value in associations.items())
    whole = decode_record(Raw(row.data.rstrip()[:-1] + further.encode() + b"}"), collection)
    if isinstance(whole, Fault):
        return row
    faults = tuple(dict.fromkeys((*row.faults, *whole.faults)))
    return msgspec.structs.replace(whole, fingerprint=row.fingerprint, faults=faults)


def _note(cursor: Cursor, collection: Collection, run: str, problem: str, names: set[str]) -> None:
    if names:
        cursor.execute(
            "INSERT INTO sync_faults (opportunity_id, field, problem, raw_value, run, collection)"
            " SELECT NULL, name, %(problem)s, '', %(run)s, %(collection)s"
            " FROM unnest(%(names)s::text[]) AS name WHERE NOT EXISTS (SELECT FROM sync_faults f"
            " WHERE f.run = %(run)s AND f.collection = %(collection)s AND f.field = name"
            " AND f.problem = %(problem)s)",
            {
                "problem": problem,
                "run": run,
                "collection": collection.name,
                "names": sorted(names),
            },
        )
