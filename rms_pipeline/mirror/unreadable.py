"""`unreadable_records`: records that exist in Current RMS and cannot be read.

This module stores which they are, and since when. They are found in `current_rms.scan`. Every sync
asks for some of them again (`sync.landing`).
"""

from collections.abc import Iterable, Mapping

from rms_pipeline.collections.base import Collection
from rms_pipeline.mirror.statements import Connection


def unreadable(connection: Connection, collection: Collection) -> dict[int, str]:
    """Return the unreadable records of `collection` by id, each with the reason. Commits.

    Those asked for longest ago come first.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, reason FROM unreadable_records WHERE collection = %s"
            " ORDER BY last_seen_at, id",
            (collection.name,),
        )
        found = dict(cursor.fetchall())
    connection.commit()
    return found


def note_unreadable(
    connection: Connection, collection: Collection, found: Mapping[int, str], run: str
) -> None:
    """Note that `run` could not read these now. `found` has the reason by id. Commits."""
    if not found:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO unreadable_records (collection, id, reason, run)"
            # In the order of ids, like everything that locks several rows, so that no two
            # transactions wait for each other.
            " SELECT %s, *, %s FROM unnest(%s::bigint[], %s::text[]) AS n (id, reason) ORDER BY id"
            " ON CONFLICT (collection, id) DO UPDATE SET reason = excluded.reason,"
            " last_seen_at = excluded.last_seen_at, run = excluded.run",
            (collection.name, run, list(found), list(found.values())),
        )
    connection.commit()


def forget_unreadable(connection: Connection, collection: Collection, ids: Iterable[int]) -> None:
    """Note that these were read after all, or are gone. Commits."""
    if not (gone := list(ids)):
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM unreadable_records u USING (SELECT id FROM unreadable_records"
            " WHERE collection = %(collection)s AND id = ANY(%(ids)s) ORDER BY id FOR UPDATE) n"
            " WHERE u.collection = %(collection)s AND u.id = n.id",
            {"collection": collection.name, "ids": gone},
        )
    connection.commit()
