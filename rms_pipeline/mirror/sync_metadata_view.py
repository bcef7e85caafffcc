"""The view `sync_metadata`. It is only made again if it is not what it should be.

It shows our rows (`sync_runs`), and beside them Dagster's runs if those are in this database and
may be read. What others did to it survives: rights on it are granted again. If other views are
built on it, nothing is dropped, and the error names them.
"""

import hashlib
import json
import re
from pathlib import Path

import psycopg2

from rms_pipeline.mirror import sync_runs
from rms_pipeline.mirror.database import DatabaseError, dagster_schema_beside
from rms_pipeline.mirror.postgres_errors import what_depends
from rms_pipeline.mirror.run_workers import HELD_KEYS
from rms_pipeline.mirror.statements import Connection, Cursor, one_row

HISTORY = "sync_metadata"
_SQL = Path(__file__).with_name("sync_metadata.sql")
_VERSION = re.compile(r"-- version (\d+)\.")
# Functions that earlier versions of the view called.
_FORMER_FUNCTIONS = ("rms_run_metadata(text)", "rms_run_error(text)", "rms_event_json(text)")
# Names of rows of mirror_state.
_MADE_FROM, _GRANTS = "history_view", "history_view_grants"


def has_history_view(connection: Connection) -> bool:
    """Return whether `sync_metadata` exists and may be read."""
    return _one(
        connection,
        "SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass('sync_metadata')"
        " AND relkind = 'v')",
    )


def has_dagsters_tables(connection: Connection) -> bool:
    """Return whether Dagster's storage was opened in this database, so that all its tables
    exist.
    """
    return _one(
        connection,
        "SELECT bool_and(to_regclass(%s || '.' || t) IS NOT NULL)"
        " FROM unnest(ARRAY['runs', 'event_logs', 'instance_info', 'job_ticks']) AS t",
        dagster_schema_beside(connection),
    )


def is_history_view_current(connection: Connection, owner: str | None = None) -> bool:
    """Return whether the view is what this code would make, or was made by a newer version.

    What this code would make depends on the rights of `owner`, by default the connection's user.
    """
    if not has_history_view(connection):
        return False
    with connection.cursor() as cursor:
        cursor.execute("SELECT value FROM mirror_state WHERE name = %s", (_MADE_FROM,))
        row = cursor.fetchone()
        version, _, digest = row[0].partition(" ") if row else ("0", "", "")
        return int(version) > history_view_version() or digest == _digest(cursor, owner)


def history_view_version() -> int:
    """Return the version of the view's text. It only ever goes up."""
    found = _VERSION.match(_SQL.read_text())
    assert found is not None
    return int(found[1])


def make_history_view(connection: Connection) -> None:
    """Make the view, or change it to what this code wants, if it differs.

    Raises DatabaseError if views of others are in the way. Does not commit.
    """
    if is_history_view_current(connection):
        return
    with connection.cursor() as cursor:
        text = _text(cursor)
        cursor.execute("SAVEPOINT make_history_view")
        try:
            cursor.execute(text)
        except psycopg2.errors.InvalidTableDefinition:
            # A column was renamed or dropped, or has another type.
            cursor.execute("ROLLBACK TO SAVEPOINT make_history_view")
            drop_history_view(connection)
            cursor.execute(text)
        cursor.execute("DELETE FROM mirror_state WHERE name = %s RETURNING value", (_GRANTS,))
        row = cursor.fetchone()
        if row is not None:
            _revoke_all(cursor)
            for statement in json.loads(row[0]):
                _attempt(cursor, statement)
        for function in _FORMER_FUNCTIONS:
            # If people's own views call it, it stays.
            _attempt(cursor, f"DROP FUNCTION IF EXISTS {function}")
        _remember(cursor, _MADE_FROM, f"{history_view_version()} {_digest(cursor)}")


def drop_history_view(connection: Connection) -> None:
    """Drop the view until `make_history_view`, which also grants its rights again.

    Raises DatabaseError if something is built on the view. Does not commit.
    """
    if not has_history_view(connection):
        return
    with connection.cursor() as cursor:
        grants = _grants(cursor)
        _drop(cursor)
        _remember(cursor, _GRANTS, json.dumps(grants))


def demand_replaceable(connection: Connection) -> None:
    """Raise DatabaseError if the view must be dropped and other views are built on it.

    This is asked before an upgrade changes anything, so that the earlier version can continue. In
    earlier versions, `id` of `sync_metadata` was a text, and the type of a view's column cannot be
    changed in place. Commits.
    """
    with connection.cursor() as cursor:
        if has_to_be_dropped(connection):
            cursor.execute("SAVEPOINT demand_replaceable")
            _drop(cursor)
            cursor.execute("ROLLBACK TO SAVEPOINT demand_replaceable")
    connection.commit()


def has_to_be_dropped(connection: Connection) -> bool:
    """Return whether the view has columns that cannot be changed in place."""
    return has_history_view(connection) and _one(
        connection,
        "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('sync_metadata')"
        " AND attname = 'id' AND atttypid <> 'bigint'::regtype)",
    )


def built_on(cursor: Cursor, view: str) -> list[str]:
    """Return what people built on a view of ours. Such objects prevent dropping it."""
    cursor.execute(
        "SELECT DISTINCT CASE WHEN d.classid = 'pg_rewrite'::regclass"
        " THEN (SELECT ev_class::regclass::text FROM pg_rewrite r WHERE r.oid = d.objid)"
        " ELSE pg_describe_object(d.classid, d.objid, 0) END FROM pg_depend d"
        " JOIN pg_class v ON v.oid = to_regclass(%s)"
        " WHERE d.deptype = 'n' AND (d.refclassid = 'pg_class'::regclass AND d.refobjid = v.oid"
        " OR d.refclassid = 'pg_type'::regclass AND d.refobjid IN (v.reltype,"
        " (SELECT typarray FROM pg_type WHERE oid = v.reltype)))"
        " AND NOT (d.classid = 'pg_rewrite'::regclass"
        " AND d.objid IN (SELECT oid FROM pg_rewrite WHERE ev_class = v.oid)) ORDER BY 1",
        (view,),
    )
    return [row[0] for row in cursor.fetchall()]


def _drop(cursor: Cursor) -> None:
    try:
        cursor.execute("DROP VIEW sync_metadata")
    except psycopg2.errors.DependentObjectsStillExist as error:
        raise DatabaseError(
            "sync_metadata must be created again, but other views depend on it: "
            f"{what_depends(error)} Drop those, run `rms-pipeline "
            "migrate`, and create them again (where they say sync_metadata.id, run_id may be "
            "meant: CHANGELOG.md)."
        ) from None


def _text(cursor: Cursor, owner: str | None = None) -> str:
    """Return the statements that make the view in this database, with `owner` as its maker."""
    cursor.execute("SELECT quote_ident(current_schema())")
    (schema,) = one_row(cursor)
    runs = (
        f"{dagster_schema_beside(cursor.connection)}.runs"
        if _dagsters_runs_can_be_read(cursor, owner)
        # The columns that are read from it, without a row.
        else "(SELECT ''::text AS run_id, ''::text AS status, 0::float8 AS start_time,"
        " 0::float8 AS end_time WHERE false)"
    )
    text = _SQL.read_text()
    for name, value in {
        "mirror": schema,
        "runs": runs,
        "held_keys": HELD_KEYS,
        "between_steps": sync_runs.BETWEEN_STEPS,
        "died": _literal(sync_runs.DIED),
        "terminated": _literal(sync_runs.TERMINATED),
        "never_began": _literal(sync_runs.NEVER_BEGAN),
        "no_reason": _literal(sync_runs.NO_REASON),
    }.items():
        text = text.replace(f"@{name}@", value)
    return text


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _dagsters_runs_can_be_read(cursor: Cursor, owner: str | None) -> bool:
    """Return whether Dagster's table can be used.

    It may be absent, belong to somebody else, or be of a version that we do not know.
    """
    cursor.execute(
        "SELECT CASE WHEN to_regnamespace(%(schema)s) IS NULL THEN false"
        " WHEN NOT has_schema_privilege(%(user)s, %(schema)s, 'USAGE') THEN false"
        " WHEN runs IS NULL THEN false"
        " WHEN NOT has_table_privilege(%(user)s, runs, 'SELECT') THEN false"
        " ELSE (SELECT count(*) = 4 FROM pg_attribute"
        " WHERE attrelid = runs"
        " AND (attname IN ('run_id', 'status') AND atttypid IN ('text'::regtype,"
        " 'varchar'::regtype) OR attname IN ('start_time', 'end_time')"
        " AND atttypid = 'float8'::regtype)) END FROM (SELECT c.oid AS runs FROM pg_namespace n"
        " JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'runs'"
        " WHERE n.nspname = %(schema)s UNION ALL SELECT NULL LIMIT 1) r",
        {
            "schema": dagster_schema_beside(cursor.connection),
            "user": owner or _current_user(cursor),
        },
    )
    return cursor.fetchall() == [(True,)]


def _current_user(cursor: Cursor) -> str:
    cursor.execute("SELECT current_user")
    (user,) = one_row(cursor)
    return str(user)


def _digest(cursor: Cursor, owner: str | None = None) -> str:
    """Return a text that changes when either the wanted view or the existing one does."""
    cursor.execute("SELECT pg_get_viewdef(to_regclass('sync_metadata'))")
    there = json.dumps(cursor.fetchone())
    return hashlib.blake2b(f"{_text(cursor, owner)}\0{there}".encode(), digest_size=16).hexdigest()


def _grants(cursor: Cursor) -> list[str]:
    """Return statements that grant the present rights on the view and on single columns of it."""
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


def _revoke_all(cursor: Cursor) -> None:
    """Revoke what default privileges gave. Only the earlier rights come back."""
    cursor.execute(
        "SELECT DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END"
        " FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a"
        " LEFT JOIN pg_roles r ON r.oid = a.grantee"
        " WHERE c.oid = 'sync_metadata'::regclass AND a.grantee <> c.relowner"
    )
    for (grantee,) in cursor.fetchall():
        cursor.execute(f"REVOKE ALL ON sync_metadata FROM {grantee}")


def _attempt(cursor: Cursor, statement: str) -> None:
    cursor.execute("SAVEPOINT attempt")
    try:
        cursor.execute(statement)
    except (
        psycopg2.errors.UndefinedColumn,
        psycopg2.errors.UndefinedObject,
        psycopg2.errors.DependentObjectsStillExist,
        psycopg2.errors.InsufficientPrivilege,
    ):
        # The column no longer exists, the role was dropped meanwhile, or the column is somebody
        # else's.
        cursor.execute("ROLLBACK TO SAVEPOINT attempt")


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
