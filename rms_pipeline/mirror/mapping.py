"""The version of the mapping from records to columns that the rows of a collection were written
with.

It only ever goes up. While a newer version of this program writes rows, an older one writes none.
"""

from rms_pipeline.collections.base import Collection
from rms_pipeline.mirror.postgres_errors import OutdatedError
from rms_pipeline.mirror.statements import Connection, Cursor

# Rows of mirror_state: the mapping that filled all rows, and the one that every writer must have.
_FILLED, _WRITERS = "mapping_version", "mapping_writers"


def is_mapping_current(connection: Connection, collection: Collection) -> bool:
    """Return whether all rows were filled by this code's mapping, or by a newer one."""
    with connection.cursor() as cursor:
        return (_version(cursor, collection, _FILLED) or 0) >= collection.version


def demand_own_mapping(cursor: Cursor, collection: Collection) -> None:
    """Raise OutdatedError if a newer version of this program keeps this mirror.

    Call it after the versions of the rows to be written are locked.
    """
    newest = _version(cursor, collection, _FILLED, _WRITERS)
    if newest is not None and newest > collection.version:
        raise OutdatedError(
            "A newer version of this program has taken over this mirror (its mapping is number "
            f"{newest}, this one's is {collection.version}). Restart this program in that version."
        )


def say_own_mapping(cursor: Cursor, collection: Collection) -> None:
    """Declare, until the transaction ends, the mapping by which this code writes rows.

    A trigger of `webhook_events` refuses claims without this declaration, or with an older mapping.
    """
    cursor.execute(
        "SELECT set_config('rms_pipeline.mapping', %s, true)", (str(collection.version),)
    )


def close_to_older_mappings(connection: Connection, collection: Collection) -> None:
    """Let nobody write rows by an older mapping from now on. Commits."""
    with connection.cursor() as cursor:
        _raise_to_own(cursor, collection, _WRITERS)
        connection.commit()
        # Waits until transactions have committed that could not see the new value.
        cursor.execute(f"LOCK {collection.versions} IN SHARE MODE")
    connection.commit()


def note_mapping(connection: Connection, collection: Collection) -> None:
    """Note that all rows are filled by this code's mapping. Commits."""
    with connection.cursor() as cursor:
        _raise_to_own(cursor, collection, _FILLED)
    connection.commit()


def _raise_to_own(cursor: Cursor, collection: Collection, name: str) -> None:
    cursor.execute(
        "INSERT INTO mirror_state (name, value) VALUES (%s, %s) ON CONFLICT (name) DO UPDATE"
        " SET value = greatest(mirror_state.value::integer, excluded.value::integer)::text",
        (name + collection.mark, str(collection.version)),
    )


def _version(cursor: Cursor, collection: Collection, *names: str) -> int | None:
    cursor.execute(
        "SELECT max(value::integer) FROM mirror_state WHERE name = ANY(%s)",
        ([name + collection.mark for name in names],),
    )
    row = cursor.fetchone()
    return None if row is None else row[0]
