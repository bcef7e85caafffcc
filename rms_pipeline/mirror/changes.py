"""`opportunity_changes`: business events, seen as a row is about to be rewritten.

Field by field: those that the collection's declaration names.
"""

from dataclasses import dataclass
from datetime import datetime

from psycopg2.extensions import connection as Connection  # noqa: N812
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from rms_pipeline.collections.base import Collection
from rms_pipeline.mirror.queued_events import RECORD

STATUS, STATE = "opportunity_status", "state_name"


@dataclass(frozen=True, slots=True)
class Change:
    """What changed from what to what. `changed_at` (UTC) is Current RMS's own time of the edit,
    `changed_by` the colleague that a webhook named, `seen_by` the run that saw it."""

    id: int
    opportunity_id: int
    field: str
    old_value: str | None
    new_value: str | None
    changed_at: datetime | None
    changed_by: str | None
    seen_at: datetime
    seen_by: str | None


def note_changes(cursor: Cursor, collection: Collection, staged: str, run: str) -> None:
    """Compares rows of `collection` with those of `staged` that are about to replace them."""
    if not collection.noted:
        return
    columns = {column.name for column in collection.columns}
    values, names = [], []
    for field in collection.noted:
        value = "{0}." + field if field in columns else "{0}.data ->> %s"
        names += [field] if field in columns else [field] * 3
        values.append(f"(%s, {value.format('o')}, {value.format('s')})")
    cursor.execute(
        f"INSERT INTO {collection.changes} ({collection.single}_id, field, old_value, new_value,"
        " changed_at, changed_by, seen_by)"
        " SELECT o.id, f.field, f.old_value, f.new_value, s.updated_at_rms,"
        # Who: the last one whose webhook came since the row was last asked for.
        f" (SELECT e.member_name FROM webhook_events e WHERE e.collection = '{collection.name}'"
        f" AND {RECORD} = o.id"
        " AND e.received_at >= o.synced_at ORDER BY e.id DESC LIMIT 1), %s"
        f" FROM {collection.name} o JOIN {staged} s USING (id)"
        f" CROSS JOIN LATERAL (VALUES {', '.join(values)}) AS f (field, old_value, new_value)"
        " WHERE f.old_value IS DISTINCT FROM f.new_value",
        (run, *names),
    )


def await_writers(connection: Connection) -> None:
    """Until the transaction ends, nobody is about to add a change with an id below those there are.

    Ids are given out before they are committed: whoever goes on from the highest that can be seen
    would pass over a lower one that comes later. Raises LockNotAvailable (psycopg2) after 10 s.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = '10s'; LOCK opportunity_changes IN SHARE MODE")


def changes_after(connection: Connection, last: int, limit: int = 500) -> list[Change]:
    """Changes with an id above `last`, oldest first. Commits."""
    return _changes(connection, "id > %s ORDER BY id LIMIT %s", last, limit)


def changes_of(connection: Connection, opportunity: int, most: int = 50) -> list[Change]:
    """What is known to have changed of one opportunity, newest first. Commits."""
    where = "opportunity_id = %s ORDER BY id DESC LIMIT %s"
    return _changes(connection, where, opportunity, most)


def _changes(connection: Connection, where: str, *values: int) -> list[Change]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, opportunity_id, field, old_value, new_value, changed_at, changed_by,"
            f" seen_at, seen_by FROM opportunity_changes WHERE {where}",
            values,
        )
        found = [Change(*row) for row in cursor.fetchall()]
    connection.commit()
    return found
