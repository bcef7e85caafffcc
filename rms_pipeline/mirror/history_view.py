"""The view `sync_metadata` over Dagster's tables: made again only when it is not what it should be.

What others made of it survives that: a right that was granted on it is granted again, and where
views are built on it nothing is dropped; they are named instead.
"""

import hashlib
import json
import re
from pathlib import Path

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from rms_pipeline.mirror.database import DatabaseError, dagster_schema_beside

_SQL = Path(__file__).with_name("sync_metadata.sql")
_VERSION = re.compile(r"-- version (\d+)\.")
# What the view calls.
FUNCTIONS = ("rms_event_json", "rms_run_error", "rms_run_metadata")
# Names of rows of mirror_state.
_MADE_FROM, _GRANTS = "history_view", "history_view_grants"


def has_history_view(connection: Connection) -> bool:
    """Whether `sync_metadata` is there to be read."""
    return _one(
        connection,
        "SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass('sync_metadata')"
        " AND relkind = 'v')",
    )


def has_dagsters_tables(connection: Connection) -> bool:
    """Whether Dagster's storage has been opened in this database, to the last of its tables."""
    return _one(
        connection,
        "SELECT bool_and(to_regclass(%s || '.' || t) IS NOT NULL)"
        " FROM unnest(ARRAY['runs', 'event_logs', 'instance_info', 'job_ticks']) AS t",
        dagster_schema_beside(connection),
    )


def is_history_view_current(connection: Connection) -> bool:
    """Whether the view is what this code would make, or a newer one made it.

    Without Dagster's tables there is none.
    """
    if not has_dagsters_tables(connection):
        return True
    if not has_history_view(connection):
        return False
    with connection.cursor() as cursor:
        cursor.execute("SELECT value FROM mirror_state WHERE name = %s", (_MADE_FROM,))
        row = cursor.fetchone()
        version, _, digest = row[0].partition(" ") if row else ("0", "", "")
        return int(version) > history_view_version() or digest == _digest(cursor)


def history_view_version() -> int:
    """Of the view's text: it only ever goes up."""
    found = _VERSION.match(_SQL.read_text())
    assert found is not None
    return int(found[1])


def make_history_view(connection: Connection) -> None:
    """Makes the view, or changes it to what this code wants, unless it is so already.

    Does nothing before Dagster's tables exist. Raises DatabaseError when views of others are in the
    way. Does not commit.
    """
    if is_history_view_current(connection) or not has_dagsters_tables(connection):
        return
    with connection.cursor() as cursor:
        text = _text(cursor)
        cursor.execute("SAVEPOINT make_history_view")
        try:
            cursor.execute(text)
        except psycopg2.errors.InvalidTableDefinition:
            # A column was renamed, dropped, or has another type.
            cursor.execute("ROLLBACK TO SAVEPOINT make_history_view")
            drop_history_view(connection)
            cursor.execute(text)
        cursor.execute("DELETE FROM mirror_state WHERE name = %s RETURNING value", (_GRANTS,))
        row = cursor.fetchone()
        for statement in json.loads(row[0]) if row else ():
            _grant(cursor, statement)
        _remember(cursor, _MADE_FROM, f"{history_view_version()} {_digest(cursor)}")


def drop_history_view(connection: Connection) -> None:
    """Takes the view away until `make_history_view`, which brings back what was granted on it.

    Raises DatabaseError when something was built on the view. Does not commit.
    """
    if not has_history_view(connection):
        return
    with connection.cursor() as cursor:
        grants = _grants(cursor)
        try:
            cursor.execute("DROP VIEW sync_metadata")
        except psycopg2.errors.DependentObjectsStillExist as error:
            raise DatabaseError(
                "sync_metadata has to be made anew, but other views are built on it: "
                f"{' '.join((error.diag.message_detail or '').split())} Drop those, run "
                "`rms-pipeline migrate`, and create them again."
            ) from None
        if grants:
            _remember(cursor, _GRANTS, json.dumps(grants))


def _text(cursor: Cursor) -> str:
    dagster = dagster_schema_beside(cursor.connection)
    cursor.execute("SELECT quote_ident(current_schema()), quote_ident(%s)", (dagster,))
    row = cursor.fetchone()
    assert row is not None
    return _SQL.read_text().replace("@mirror@", row[0]).replace("@dagster@", row[1])


def _digest(cursor: Cursor) -> str:
    """Stands for what is wanted together with what is there: it changes when either does."""
    cursor.execute(
        "SELECT pg_get_viewdef(to_regclass('sync_metadata')), (SELECT string_agg("
        "pg_get_functiondef(p.oid), '' ORDER BY p.proname) FROM pg_proc p"
        " WHERE p.pronamespace = to_regnamespace(quote_ident(current_schema()))"
        " AND p.proname = ANY(%s))",
        (list(FUNCTIONS),),
    )
    there = json.dumps(cursor.fetchone())
    return hashlib.blake2b(f"{_text(cursor)}\0{there}".encode(), digest_size=16).hexdigest()


def _grants(cursor: Cursor) -> list[str]:
    """Statements that grant on the view, and on single columns of it, what is granted now."""
    cursor.execute(
        "SELECT format('GRANT %s%s ON sync_metadata TO %s%s', a.privilege_type,"
        " CASE WHEN g.column_name IS NULL THEN '' ELSE format(' (%I)', g.column_name) END,"
        " CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END,"
        " CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)"
        " FROM (SELECT relacl AS acl, NULL::name AS column_name FROM pg_class"
        " WHERE oid = 'sync_metadata'::regclass UNION ALL SELECT attacl, attname FROM pg_attribute"
        " WHERE attrelid = 'sync_metadata'::regclass AND attnum > 0) g"
        " CROSS JOIN LATERAL aclexplode(g.acl) a LEFT JOIN pg_roles r ON r.oid = a.grantee"
        " WHERE a.grantee <> (SELECT relowner FROM pg_class"
        " WHERE oid = 'sync_metadata'::regclass) ORDER BY 1"
    )
    return [row[0] for row in cursor.fetchall()]


def _grant(cursor: Cursor, statement: str) -> None:
    cursor.execute("SAVEPOINT grant_again")
    try:
        cursor.execute(statement)
    except (psycopg2.errors.UndefinedColumn, psycopg2.errors.UndefinedObject):
        # The column is no more, or the role was dropped meanwhile.
        cursor.execute("ROLLBACK TO SAVEPOINT grant_again")


def _remember(cursor: Cursor, name: str, value: str) -> None:
    cursor.execute(
        "INSERT INTO mirror_state (name, value) VALUES (%s, %s)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, value),
    )


def _one(connection: Connection, question: str, *values: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(question, values or None)
        row = cursor.fetchone()
    return bool(row and row[0])
