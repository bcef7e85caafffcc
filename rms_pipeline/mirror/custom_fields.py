"""The account's own fields: each key, since when it exists, and whether it vanished.

This module notes keys as syncs bring them, and the labels of values. What the fields hold is in
`insight.fields`, columns for them in `promoted`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from rms_pipeline.collections.base import CHANGED, Collection
from rms_pipeline.mirror.statements import Connection, Cursor, one_row

# More keys than any account invents. If there are more, the records are wrong.
_MOST = 10_000
# For so many days a key counts as new, or as newly gone.
DAYS = 7


@dataclass(frozen=True, slots=True)
class Keys:
    """How many keys there are, which appeared in the last `DAYS` days, and which vanished in them.

    The keys of the first sync do not count as new. `missed` are keys that have a column and
    vanished at any time.
    """

    count: int
    new: list[str]
    vanished: list[str]
    missed: list[str]


def note_keys(
    connection: Connection,
    collection: Collection,
    *,
    changed_since: datetime | None = None,
    asked_since: datetime | None = None,
) -> None:
    """Note the keys of rows, either those changed since a moment or all of them. Commits.

    `changed_since` is by Current RMS's clock. `asked_since` is by ours: a full sync has asked for
    all rows since, so vanished keys are noted too. The first call looks at all rows.
    """
    if not collection.promotes:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM custom_field_keys WHERE collection = %s)",
            (collection.name,),
        )
        if cursor.fetchone() == (False,):
            changed_since = asked_since = None
        present = _keys(cursor, collection, changed_since, asked_since)
        cursor.execute(
            "INSERT INTO custom_field_keys (collection, key, first_seen_at)"
            " SELECT %s, key, now() FROM unnest(%s::text[]) AS key ORDER BY key"
            " ON CONFLICT (collection, key) DO UPDATE SET vanished_at = NULL"
            " WHERE custom_field_keys.vanished_at IS NOT NULL",
            (collection.name, present),
        )
        # If a sync brought nothing, all keys would seem to have vanished.
        if present and asked_since is not None:
            cursor.execute(
                "UPDATE custom_field_keys SET vanished_at = now() WHERE collection = %s"
                " AND key <> ALL(%s) AND vanished_at IS NULL",
                (collection.name, present),
            )
    connection.commit()


def _keys(
    cursor: Cursor,
    collection: Collection,
    changed_since: datetime | None,
    asked_since: datetime | None,
) -> list[str]:
    cursor.execute(
        f"SELECT DISTINCT jsonb_object_keys(custom_fields) FROM {collection.name}"
        " WHERE jsonb_typeof(custom_fields) = 'object'"
        f" AND (%(changed)s::timestamptz IS NULL OR {CHANGED} >= %(changed)s)"
        " AND (%(asked)s::timestamptz IS NULL OR synced_at >= %(asked)s)"
        f" LIMIT {_MOST}",
        {"changed": changed_since, "asked": asked_since},
    )
    return [row[0] for row in cursor.fetchall()]


def known_keys(connection: Connection, collection: Collection) -> Keys:
    """Return what is noted of the keys now. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FILTER (WHERE vanished_at IS NULL),"
            " array_agg(key ORDER BY key) FILTER (WHERE vanished_at IS NULL"
            " AND first_seen_at > greatest(first, now() - make_interval(days => %(days)s))),"
            " array_agg(key ORDER BY key)"
            " FILTER (WHERE vanished_at > now() - make_interval(days => %(days)s)),"
            " array_agg(key ORDER BY key) FILTER (WHERE vanished_at IS NOT NULL AND key IN"
            " (SELECT key FROM promoted_fields WHERE collection = %(collection)s))"
            " FROM custom_field_keys CROSS JOIN (SELECT min(first_seen_at) AS first"
            " FROM custom_field_keys WHERE collection = %(collection)s) f"
            " WHERE collection = %(collection)s",
            {"collection": collection.name, "days": DAYS},
        )
        count, new, vanished, missed = one_row(cursor)
    connection.commit()
    return Keys(count, new or [], vanished or [], missed or [])


def set_labels(
    connection: Connection, collection: Collection, key: str, labels: Mapping[str, str]
) -> None:
    """Set labels for values of the field `key`. An empty label removes the old one. Commits."""
    given = {value: label for value, label in labels.items() if label}
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM custom_field_labels WHERE collection = %s AND key = %s"
            " AND value = ANY(%s)",
            (collection.name, key, list(labels)),
        )
        cursor.execute(
            "INSERT INTO custom_field_labels (collection, key, value, label)"
            " SELECT %s, %s, * FROM unnest(%s::text[], %s::text[])",
            (collection.name, key, list(given), list(given.values())),
        )
    connection.commit()
