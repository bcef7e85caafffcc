"""The account's own fields that have a typed column, in a side table such as opportunity_fields.

`promoted_fields` lists them. Each writer of a collection's rows also writes the side table, in the
same transaction. A value that cannot be read as the column's kind is NULL there, and a fault. The
record itself keeps it.

This module has the columns and keeps them up to date. Which fields exist, and what they hold, is in
`insight.fields`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg2

from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.records import Fault
from rms_pipeline.errors import RmsPipelineError
from rms_pipeline.mirror.postgres_errors import what_depends
from rms_pipeline.mirror.statements import Connection, Cursor, array_of, one_row
from rms_pipeline.mirror.views import make_around

# Each kind with the function that reads it, and its index. Long texts do not fit into a B-tree.
KINDS = {
    "text": ("rms_as_text", "hash"),
    "numeric": ("rms_as_numeric", "btree"),
    "bigint": ("rms_as_bigint", "btree"),
    "boolean": ("rms_as_boolean", "btree"),
    "date": ("rms_as_date", "btree"),
    "timestamptz": ("rms_as_timestamptz", "btree"),
    "time": ("rms_as_time", "btree"),
    "bigint[]": ("rms_as_bigints", "gin"),
    "text[]": ("rms_as_texts", None),
}
# The day of a time is that of the company's time zone, as on the pages. A time at midnight UTC is a
# date that was written as a time.
_DAY = (
    "CASE WHEN (rms_as_timestamptz({value}) AT TIME ZONE 'UTC')::time > '00:00'"
    " THEN (rms_as_timestamptz({value}) AT TIME ZONE (SELECT rms_time_zone()))::date"
    " ELSE {plain} END"
)
_ZONE = "dates_of_zone"
# With at most this many columns, a row fits into a page, however long the values are.
MOST = 200
# This waits for readers of the table, and all syncs wait for this. So the wait is short.
_PATIENCE = "5s"


class PromotionError(RmsPipelineError):
    """A field cannot get a column, or its column cannot be removed. The text says why, and what to
    do.
    """


@dataclass(frozen=True, slots=True)
class Promoted:
    """The field `key` is read as `kind` into `column` of the side table."""

    key: str
    column: str
    kind: str

    def read(self, value: str) -> str:
        """Return SQL that reads the JSON `value` as the kind."""
        plain = f"{KINDS[self.kind][0]}({value})"
        return _DAY.format(value=value, plain=plain) if self.kind == "date" else plain

    def __str__(self) -> str:
        return f"{self.key}:{self.kind}"


@dataclass(frozen=True, slots=True)
class Promotion:
    """The result: the number of rows in which the field is `filled`, and in which it `failed` to be
    read.
    """

    field: Promoted
    rows: int
    filled: int
    failed: int


def promoted_fields(cursor: Cursor, collection: Collection) -> list[Promoted]:
    """Return the fields that have a column, in the order in which they got it."""
    cursor.execute(
        "SELECT key, column_name, kind FROM promoted_fields WHERE collection = %s"
        " ORDER BY promoted_at, key",
        (collection.name,),
    )
    return [Promoted(*row) for row in cursor.fetchall()]


def fields_of(cursor: Cursor, collection: Collection) -> Sequence[Promoted]:
    """Return the fields that a writer of rows keeps up to date.

    Call it with the versions locked, so that nobody promotes a field meanwhile.
    """
    return promoted_fields(cursor, collection) if collection.promotes else ()


def keep(
    cursor: Cursor, collection: Collection, ids: Sequence[int], fields: Sequence[Promoted]
) -> list[Fault]:
    """Update the side table, which has `fields`, for the present rows of `ids`. Returns the values
    that could not be read.
    """
    return _fill(cursor, collection, fields, ids) if fields and ids else []


def let_go(cursor: Cursor, collection: Collection, ids: Sequence[int]) -> None:
    """Remove the rows of `ids`, which were deleted, from the side table."""
    if collection.promotes and ids:
        cursor.execute(
            f"DELETE FROM {collection.side} WHERE {collection.key} = ANY(%s)", (array_of(ids),)
        )


def follow_zone(connection: Connection, collection: Collection) -> None:
    """Read dates from times again, after the company's time zone has changed. Commits.

    Nobody can write rows meanwhile.
    """
    name = f"{_ZONE}{collection.mark}"
    with connection.cursor() as cursor:
        dates = [f for f in promoted_fields(cursor, collection) if f.kind == "date"]
        cursor.execute(
            "SELECT rms_time_zone() IS DISTINCT FROM"
            " (SELECT value FROM mirror_state WHERE name = %s)",
            (name,),
        )
        if dates and one_row(cursor) == (True,):
            # Every writer of rows locks their versions first.
            cursor.execute(f"LOCK {collection.versions} IN EXCLUSIVE MODE")
            # Fields may have been promoted and demoted before the lock was there.
            dates = [f for f in promoted_fields(cursor, collection) if f.kind == "date"]
            if dates:
                _fill(cursor, collection, dates)
            cursor.execute(
                "INSERT INTO mirror_state (name, value) VALUES (%s, rms_time_zone())"
                " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (name,),
            )
    connection.commit()


def _fill(
    cursor: Cursor,
    collection: Collection,
    fields: Sequence[Promoted],
    ids: Sequence[int] | None = None,
) -> list[Fault]:
    """Write `fields` for the rows of `ids`, or for all rows without `ids`."""
    values: dict[str, object] = {f"key{n}": field.key for n, field in enumerate(fields)}
    where = "true"
    if ids is not None:
        values["ids"] = array_of(ids)
        where = "o.id = ANY(%(ids)s)"
    raw = [f"o.custom_fields -> %(key{n})s" for n in range(len(fields))]
    read = [f.read(r) for f, r in zip(fields, raw, strict=True)]
    columns = ", ".join(f.column for f in fields)
    ours = ", ".join(f"f.{f.column}" for f in fields)
    theirs = ", ".join(f"excluded.{f.column}" for f in fields)
    cursor.execute(
        f"INSERT INTO {collection.side} AS f ({collection.key}, {columns})"
        f" SELECT o.id, {', '.join(read)} FROM {collection.name} o WHERE {where} ORDER BY o.id"
        f" ON CONFLICT ({collection.key}) DO UPDATE SET ({columns}) = ROW ({theirs})"
        f" WHERE ({ours}) IS DISTINCT FROM ({theirs})",
        values,
    )
    tried = ", ".join(
        f"(%(key{n})s, '{f.kind}', {r}, f.{f.column} IS NULL)"
        for n, (f, r) in enumerate(zip(fields, raw, strict=True))
    )
    cursor.execute(
        f"SELECT o.id, v.key, v.kind, left(v.raw #>> '{{}}', 1000) FROM {collection.name} o"
        f" JOIN {collection.side} f ON f.{collection.key} = o.id"
        f" CROSS JOIN LATERAL (VALUES {tried}) AS v (key, kind, raw, is_null)"
        f" WHERE {where} AND v.is_null AND rms_field_is_filled(v.raw) ORDER BY o.id, v.key",
        values,
    )
    return [
        Fault(id_, f"custom_fields.{key}", f"cannot be read as {kind}", text)
        for id_, key, kind, text in cursor.fetchall()
    ]


def promote(
    connection: Connection, collection: Collection, field: Promoted
) -> tuple[Promotion, list[Fault]]:
    """Give `field` a column, and fill it from the existing rows. Does not commit.

    Also returns the values that could not be read, for the caller to note. While syncs run, it
    waits until their batches are written, and they wait for it. Raises PromotionError.
    """
    if field.kind not in KINDS:
        raise PromotionError(
            f"{field.kind} is not a kind of column. Use one of these: {', '.join(KINDS)}."
        )
    with connection.cursor() as cursor:
        _lock(cursor, collection)
        there = promoted_fields(cursor, collection)
        for other in there:
            if other.key == field.key:
                raise PromotionError(
                    f"{field.key} has a column already: {other.column} ({other.kind}) of "
                    f"{collection.side}. To change its kind, demote it first."
                )
        _demand_name(cursor, collection, field, there)
        if len(there) >= MOST:
            raise PromotionError(
                f"{MOST} fields have columns, which is the most that is allowed. Demote another "
                "field first."
            )
        try:
            is_shown = _alter(cursor, collection, f"ADD COLUMN {field.column} {field.kind}")
        except psycopg2.errors.TooManyColumns:
            raise PromotionError(
                f"{collection.side} has had 1,600 columns, dropped ones included, which is the "
                "most that PostgreSQL allows in one table. Save the definitions of what is built "
                "on it, demote all fields, and create the table again: DROP TABLE "
                f"{collection.side} CASCADE; CREATE TABLE {collection.side} ({collection.key} "
                "bigint PRIMARY KEY); Then run `rms-pipeline migrate`."
            ) from None
        except psycopg2.errors.LockNotAvailable:
            raise PromotionError(_busy(collection)) from None
        faults = _fill(cursor, collection, [field])
        index = KINDS[field.kind][1]
        if index is not None:
            cursor.execute(f"CREATE INDEX ON {collection.side} USING {index} ({field.column})")
        cursor.execute(
            "INSERT INTO promoted_fields (collection, key, column_name, kind)"
            " VALUES (%s, %s, %s, %s)",
            (collection.name, field.key, field.column, field.kind),
        )
        _describe(cursor, collection.side, [field])
        if is_shown:
            _describe(cursor, _view(collection), [field])
        cursor.execute(f"SELECT count(*), count({field.column}) FROM {collection.side}")
        rows, read = one_row(cursor)
    return Promotion(field, rows, read + len(faults), len(faults)), faults


def demote(connection: Connection, collection: Collection, key: str) -> Promoted:
    """Remove the column of the field `key`. Does not commit. Raises PromotionError."""
    with connection.cursor() as cursor:
        _lock(cursor, collection)
        there = promoted_fields(cursor, collection)
        found = next((field for field in there if field.key == key), None)
        if found is None:
            others = ", ".join(field.key for field in there) or "none has"
            raise PromotionError(f"{key} has no column of its own. Fields with a column: {others}.")
        try:
            is_shown = _alter(cursor, collection, f"DROP COLUMN {found.column}", drops=True)
        except psycopg2.errors.DependentObjectsStillExist as error:
            raise PromotionError(
                f"Other objects depend on the column {found.column} of {collection.side}: "
                f"{what_depends(error)} Drop those first."
            ) from None
        except psycopg2.errors.LockNotAvailable:
            raise PromotionError(_busy(collection)) from None
        cursor.execute(
            "DELETE FROM promoted_fields WHERE collection = %s AND key = %s", (collection.name, key)
        )
        if len(there) == 1:
            cursor.execute(f"DELETE FROM {collection.side}")
        if is_shown:
            _describe(cursor, _view(collection), [f for f in there if f is not found])
    return found


def _view(collection: Collection) -> str:
    """Return the name of the view of the side table that roles for readers see."""
    return f"{collection.side}_with_money"


def _alter(cursor: Cursor, collection: Collection, change: str, *, drops: bool = False) -> bool:
    """Change the columns of the side table and of its view. Returns False if there is no such
    view.
    """

    def alter() -> None:
        cursor.execute(f"ALTER TABLE {collection.side} {change}")

    return make_around(cursor, _view(collection), alter, drops_columns=drops)


def _describe(cursor: Cursor, relation: str, fields: Sequence[Promoted]) -> None:
    for field in fields:
        cursor.execute(
            f"COMMENT ON COLUMN {relation}.{field.column} IS %s",
            (f"The account's own field {field.key}.",),
        )


def _lock(cursor: Cursor, collection: Collection) -> None:
    """Lock the versions. Every writer of rows locks them first, and then asks what is promoted."""
    if not collection.promotes:
        raise PromotionError(f"Fields of {collection.name} cannot have columns of their own.")
    cursor.execute(f"LOCK {collection.versions} IN EXCLUSIVE MODE")
    cursor.execute(f"SET LOCAL lock_timeout = '{_PATIENCE}'")


def _busy(collection: Collection) -> str:
    return (
        f"The table {collection.side} is locked by another session, so its columns cannot "
        "change now. Try again later."
    )


def _demand_name(
    cursor: Cursor, collection: Collection, field: Promoted, there: Sequence[Promoted]
) -> None:
    """Raise PromotionError unless the column can have that name, without quotes in every query."""
    name = field.column
    cursor.execute(
        "SELECT quote_ident(%(name)s) <> %(name)s OR %(name)s !~ '^[a-z_][a-z0-9_]*$',"
        " EXISTS (SELECT FROM pg_get_keywords() WHERE word = %(name)s AND catcode <> 'U'),"
        " length(%(name)s) > 63, EXISTS (SELECT FROM pg_attribute"
        " WHERE attrelid = to_regclass(%(table)s) AND attname = %(name)s AND NOT attisdropped)",
        {"name": name, "table": collection.side},
    )
    needs_quotes, is_reserved, is_long, is_there = one_row(cursor)
    why = None
    if is_reserved:
        why = "is a reserved word of SQL"
    elif is_long:
        why = "is longer than 63 characters, the limit of PostgreSQL"
    elif needs_quotes:
        why = "would need quotes in every query"
    elif is_there:
        taken = next((f"of {other.key}" for other in there if other.column == name), "already")
        why = f"is the name of a column {taken}"
    if why is not None:
        raise PromotionError(
            f"{name!r} {why}. Choose another name for the column: --as {_suggestion(name)}"
        )


def _suggestion(name: str) -> str:
    plain = "".join(c if c.isascii() and c.isalnum() else "_" for c in name.lower()).strip("_")
    return f"own_{plain[:50] or 'field'}"
