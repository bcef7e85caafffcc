"""The account's custom fields: how many records have each, with which values, and of which kind.

Keys and values are free text from Current RMS.
"""

from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches

from rms_pipeline.collections.base import Collection
from rms_pipeline.mirror.promoted import KINDS, Promoted, PromotionError
from rms_pipeline.mirror.statements import Connection

EXAMPLES = 4
_LONGEST = 60


@dataclass(frozen=True, slots=True)
class OwnField:
    """One custom field, from the live rows. `kind` is the kind that fits all its values. `share` (0
    to 1) is the share of rows that have it, with `distinct` different values. `examples` are the
    most frequent values with their labels, at most 60 characters each. `column` and `column_kind`
    describe its column, if it was promoted. `first_seen_at` is when a sync first saw it.
    `vanished_at` is when the last record with it disappeared."""

    key: str
    kind: str
    filled: int
    share: float
    distinct: int
    examples: list[str]
    column: str | None
    column_kind: str | None
    first_seen_at: datetime | None
    vanished_at: datetime | None


# Read as each kind, all filled values of a key, once each; the first kind that fits all of them.
# What begins with a zero, or a plus, is a telephone number rather than an amount. A box that is
# ticked is "Yes", so where all values are "0" and "1", they are numbers of which others may follow.
_FIELDS = """
    WITH held AS (
        SELECT e.key, e.value, count(*) AS n
        FROM {table} o CROSS JOIN LATERAL jsonb_each(
            CASE WHEN jsonb_typeof(o.custom_fields) = 'object' THEN o.custom_fields END
        ) AS e (key, value)
        GROUP BY 1, 2
    ), described AS (
        SELECT
            key, sum(n) FILTER (WHERE is_filled) AS filled,
            count(*) FILTER (WHERE is_filled) AS different,
            (array_agg(value ORDER BY n DESC, value) FILTER (WHERE is_filled))[:{examples}] AS most,
            CASE
                WHEN bool_or(is_filled) IS NOT TRUE THEN 'text'
                WHEN bool_and(jsonb_typeof(value) = 'array') FILTER (WHERE is_filled) THEN
                    CASE WHEN bool_and(rms_as_bigints(value) IS NOT NULL) FILTER (WHERE is_filled)
                        THEN 'bigint[]' ELSE 'text[]' END
                WHEN bool_and(jsonb_typeof(value) <> 'number' AND rms_as_boolean(value) IS NOT NULL)
                    FILTER (WHERE is_filled)
                    AND bool_or(rms_field_text(value) !~ '^[01]$') FILTER (WHERE is_filled)
                    THEN 'boolean'
                WHEN bool_and(jsonb_typeof(value) = 'number' AND rms_as_bigint(value) IS NOT NULL)
                    FILTER (WHERE is_filled) THEN 'bigint'
                WHEN bool_and(rms_as_numeric(value) IS NOT NULL
                    AND rms_field_text(value) !~ '^(0[0-9]|[+])') FILTER (WHERE is_filled)
                    THEN 'numeric'
                WHEN bool_and(length(rms_field_text(value)) = 10 AND rms_as_date(value) IS NOT NULL)
                    FILTER (WHERE is_filled) THEN 'date'
                WHEN bool_and(rms_as_timestamptz(value) IS NOT NULL) FILTER (WHERE is_filled)
                    THEN 'timestamptz'
                WHEN bool_and(rms_as_time(value) IS NOT NULL) FILTER (WHERE is_filled) THEN 'time'
                ELSE 'text'
            END AS kind
        FROM (SELECT *, rms_field_is_filled(value) AS is_filled FROM held) h
        GROUP BY 1
    )
    SELECT
        coalesce(d.key, k.key), coalesce(d.kind, 'text'), coalesce(d.filled, 0)::bigint,
        round(coalesce(d.filled, 0) / greatest((SELECT count(*) FROM {table}), 1), 4)::float8,
        coalesce(d.different, 0),
        ARRAY(
            SELECT left(m.value #>> '{{}}', {longest})
                || coalesce(' (' || l.label || ')', '')
            FROM unnest(d.most) WITH ORDINALITY AS m (value, place)
            LEFT JOIN custom_field_labels l ON l.collection = %(collection)s AND l.key = d.key
                AND l.value = m.value #>> '{{}}'
            ORDER BY m.place
        ),
        p.column_name, p.kind, k.first_seen_at, k.vanished_at
    FROM described d
    FULL JOIN (SELECT * FROM custom_field_keys WHERE collection = %(collection)s) k USING (key)
    LEFT JOIN promoted_fields p ON p.collection = %(collection)s AND p.key = coalesce(d.key, k.key)
    ORDER BY 1
"""


def own_fields(connection: Connection, collection: Collection) -> list[OwnField]:
    """All fields that a live row has or that a sync has seen, in the order of their keys. Commits.
    Reads every row: some seconds for 100,000 rows."""
    with connection.cursor() as cursor:
        cursor.execute(
            _FIELDS.format(table=collection.name, examples=EXAMPLES, longest=_LONGEST),
            {"collection": collection.name},
        )
        found = [OwnField(*row) for row in cursor.fetchall()]
    connection.commit()
    return found


def demand_field(connection: Connection, collection: Collection, key: str) -> None:
    """Raises PromotionError, which suggests similar keys, if no row has the field `key`.
    Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT EXISTS (SELECT FROM {collection.name} WHERE custom_fields ? %(key)s)"
            " OR EXISTS (SELECT FROM custom_field_keys WHERE collection = %(name)s"
            " AND key = %(key)s)",
            {"key": key, "name": collection.name},
        )
        is_there = cursor.fetchone() == (True,)
        keys: list[str] = []
        if not is_there:
            cursor.execute(
                f"SELECT DISTINCT jsonb_object_keys(custom_fields) FROM {collection.name}"
                " WHERE jsonb_typeof(custom_fields) = 'object' ORDER BY 1"
            )
            keys = [row[0] for row in cursor.fetchall()]
    connection.commit()
    if is_there:
        return
    alike = get_close_matches(key, keys, 3, 0.6)
    raise PromotionError(
        f"No record has a custom field {key!r}. "
        + (f"Did you mean {' or '.join(map(repr, alike))}? " if alike else "")
        + "`rms-pipeline fields` lists all of them."
    )


def as_promoted(text: str, column: str | None) -> Promoted:
    """Reads text like `risk_score:numeric`. The last colon separates, because a key may contain
    colons. The column has the name `column`, or that of the key. Raises PromotionError."""
    key, colon, kind = text.rpartition(":")
    if not colon or not key:
        raise PromotionError(
            f"{text!r} does not say key and kind. Write them like risk_score:numeric. Kinds: "
            f"{', '.join(KINDS)}."
        )
    kind = kind.strip().lower()
    if kind not in KINDS:
        raise PromotionError(f"{kind} is not a kind of column. Kinds: {', '.join(KINDS)}.")
    return Promoted(key, column or key, kind)
