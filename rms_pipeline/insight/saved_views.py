"""Lists that people saved under a name.

There are no user accounts, so all people see the same saved lists.
"""

from dataclasses import dataclass

from rms_pipeline.collections.base import Collection
from rms_pipeline.mirror.statements import Connection

# Each page of the list names them all.
MOST_VIEWS = 200


@dataclass(frozen=True, slots=True)
class SavedView:
    """A saved list. `query` is the query of the list's address."""

    id: int
    name: str
    query: str
    is_default: bool


class TooManyViewsError(Exception):
    """There are already `MOST_VIEWS` views."""


class OtherViewError(Exception):
    """There is already a view with this name, and it is another list. `query` is what it asks
    for."""

    def __init__(self, query: str) -> None:
        super().__init__(query)
        self.query = query


def saved_views(connection: Connection, collection: Collection) -> list[SavedView]:
    """All saved views in the order of their names. Commits."""
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
    connection: Connection,
    collection: Collection,
    name: str,
    query: str,
    *,
    is_default: bool,
    replaces: str | None = None,
) -> int:
    """Saves `query` under `name` and returns its id. A view with the same name is replaced if it
    asks for `replaces`: what the person has seen who wants to replace it. Raises OtherViewError if
    it asks for something else, and TooManyViewsError. Commits."""
    with connection.cursor() as cursor:
        # Of two who save at the same time, both would find room, or no default.
        cursor.execute("LOCK TABLE saved_views IN SHARE ROW EXCLUSIVE MODE")
        cursor.execute(
            "SELECT count(*) >= %s FROM saved_views WHERE collection = %s AND name <> %s",
            (MOST_VIEWS, collection.name, name),
        )
        if cursor.fetchone() == (True,):
            connection.rollback()
            raise TooManyViewsError
        cursor.execute(
            "SELECT query FROM saved_views WHERE collection = %s AND name = %s"
            " AND query <> ALL (%s)",
            (collection.name, name, [query] if replaces is None else [query, replaces]),
        )
        if other := cursor.fetchone():
            connection.rollback()
            raise OtherViewError(other[0])
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
    """Makes this view the one that the list shows without filters. None: the list then shows all.
    Returns whether the view exists. Commits if so."""
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
    """Deletes a view; whether it existed. Commits."""
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
