"""Which version of the mapping of records to columns the mirror's rows are kept by.

It only ever goes up: beside a newer version of this program an older one writes no rows.
"""

from psycopg2.extensions import connection as Connection  # noqa: N812
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from rms_pipeline.current_rms.payloads import MAPPING_VERSION
from rms_pipeline.mirror.postgres_errors import DatabaseError

VERSION = int(MAPPING_VERSION)
# Rows of mirror_state: what all rows were filled by, and what whoever writes any must have.
_FILLED, _WRITERS = "mapping_version", "mapping_writers"


def is_mapping_current(connection: Connection) -> bool:
    """Whether all rows were filled by this code's mapping, or by a newer one."""
    with connection.cursor() as cursor:
        return (_version(cursor, _FILLED) or 0) >= VERSION


def demand_own_mapping(cursor: Cursor) -> None:
    """Raises DatabaseError when a newer version of this program keeps this mirror.

    To be asked after the versions of the rows that are to be written are locked.
    """
    newest = _version(cursor, _FILLED, _WRITERS)
    if newest is not None and newest > VERSION:
        raise DatabaseError(
            "A newer version of this program has taken over this mirror (its mapping is number "
            f"{newest}, this one's is {VERSION}). Restart this program in that version."
        )


def close_to_older_mappings(connection: Connection) -> None:
    """From now on nobody writes rows by an older mapping. Commits."""
    with connection.cursor() as cursor:
        _raise_to_own(cursor, _WRITERS)
        connection.commit()
        # Until those have committed who had not seen that.
        cursor.execute("LOCK opportunity_versions IN SHARE MODE")
    connection.commit()


def note_mapping(connection: Connection) -> None:
    """Notes that all rows are filled by this code's mapping. Commits."""
    with connection.cursor() as cursor:
        _raise_to_own(cursor, _FILLED)
    connection.commit()


def _raise_to_own(cursor: Cursor, name: str) -> None:
    cursor.execute(
        "INSERT INTO mirror_state (name, value) VALUES (%s, %s) ON CONFLICT (name) DO UPDATE"
        " SET value = greatest(mirror_state.value::integer, excluded.value::integer)::text",
        (name, str(VERSION)),
    )


def _version(cursor: Cursor, *names: str) -> int | None:
    cursor.execute(
        "SELECT max(value::integer) FROM mirror_state WHERE name = ANY(%s)", (list(names),)
    )
    row = cursor.fetchone()
    return None if row is None else row[0]
