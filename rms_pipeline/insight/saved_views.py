"""Lists that people saved: what is asked for, by a name.

There are no accounts of people, so everybody sees the same.
"""

from dataclasses import dataclass

from rms_pipeline.collections.base import Collection
from rms_pipeline.mirror.statements import Connection


@dataclass(frozen=True, slots=True)
class SavedView:
    """`query` is what follows the question mark in the list's address."""

    id: int
    name: str
    query: str
    is_default: bool


def saved_views(connection: Connection, collection: Collection) -> list[SavedView]:
    """All of them by name. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, name, query, is_default FROM saved_views WHERE collection = %s"
            " ORDER BY lower(name), id",
            (collection.name,),
        )
        views = [SavedView(*row) for row in cursor.fetchall()]
    connection.commit()
    return views


def save_view(
    connection: Connection, collection: Collection, name: str, query: str, *, is_default: bool
) -> int:
    """Keeps `query` as `name`, in place of what had that name; its id. Commits."""
    with connection.cursor() as cursor:
        if is_default:
            _no_default(connection, collection)
        cursor.execute(
            "INSERT INTO saved_views AS v (collection, name, query, is_default)"
            " VALUES (%s, %s, %s, %s) ON CONFLICT (collection, name) DO UPDATE SET"
            " query = excluded.query, is_default = excluded.is_default,"
            " saved_at = clock_timestamp() RETURNING id",
            (collection.name, name, query, is_default),
        )
        row = cursor.fetchone()
    connection.commit()
    return int(row[0]) if row else 0


def make_default(connection: Connection, collection: Collection, id_: int | None) -> bool:
    """That this view is what the list shows where nothing else is asked for, None for all there
    are; whether there is such a view. Commits."""
    with connection.cursor() as cursor:
        _no_default(connection, collection)
        cursor.execute(
            "UPDATE saved_views SET is_default = true WHERE collection = %s AND id = %s",
            (collection.name, id_),
        )
        found = id_ is None or cursor.rowcount == 1
    if found:
        connection.commit()
    else:
        connection.rollback()
    return found


def delete_view(connection: Connection, collection: Collection, id_: int) -> bool:
    """Whether there was such a view. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM saved_views WHERE collection = %s AND id = %s", (collection.name, id_)
        )
        found = cursor.rowcount == 1
    connection.commit()
    return found


def _no_default(connection: Connection, collection: Collection) -> None:
    with connection.cursor() as cursor:
        # Two who choose at the same time would both find none.
        cursor.execute("LOCK TABLE saved_views IN SHARE ROW EXCLUSIVE MODE")
        cursor.execute(
            "UPDATE saved_views SET is_default = false WHERE collection = %s AND is_default",
            (collection.name,),
        )
