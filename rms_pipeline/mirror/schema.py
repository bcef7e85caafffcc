"""Brings our tables up to date with Alembic, and makes what depends on them.

They live in the schema of the Database that is passed in, which is its connections' search path.
The version table has a name of its own, because another application may have an `alembic_version`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
from alembic import command
from alembic.config import Config

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.mirror.database import PUBLIC, Database, DatabaseError, advisory_lock
from rms_pipeline.mirror.descriptions import TABLES, describe, undescribed
from rms_pipeline.mirror.mapping import is_mapping_current
from rms_pipeline.mirror.postgres_errors import OutdatedError, again_after_deadlocks
from rms_pipeline.mirror.record_history import is_history_made, make_history
from rms_pipeline.mirror.redecode import adopt_mapping
from rms_pipeline.mirror.session_probe import demand_sessions
from rms_pipeline.mirror.statements import Connection, one_row
from rms_pipeline.mirror.sync_metadata_view import (
    demand_replaceable,
    drop_history_view,
    has_history_view,
    is_history_view_current,
    make_history_view,
)
from rms_pipeline.mirror.views import are_views_made, make_views
from rms_pipeline.mirror.walks import has_full_sync

MIGRATIONS = Path(__file__).with_name("migrations")
# The newest migration.
HEAD = max(path.name for path in MIGRATIONS.glob("versions/[0-9]*.py"))[:4]
VERSION_TABLE = "rms_pipeline_alembic_version"
# Tables of every version since 0003. No other program has all of them.
_SIGNS = ("raw_rms_pages", "webhook_events", "sync_faults", "walks", "mirror_state", "api_budget")
# Databases that this process has brought up to date.
_up_to_date: set[Database] = set()
NOT_RECORDED = "The database does not record when the existing rows were read."


def current_version(connection: Connection) -> str | None:
    """Return the migration of the database, or None if it never had our tables."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (VERSION_TABLE,))
        row = cursor.fetchone()
        if not row or not row[0]:
            return None
        cursor.execute(f"SELECT version_num FROM {VERSION_TABLE}")
        row = cursor.fetchone()
    return str(row[0]) if row else None


def ensure_dagster_schema(database: Database) -> None:
    """Create the schema for Dagster's own tables. Raises DatabaseError without rights."""
    _ensure_schema(database, database.dagster_schema)


def _ensure_schema(database: Database, schema: str) -> None:
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT to_regnamespace(%(name)s) IS NOT NULL, quote_ident(%(name)s),"
            " quote_ident(current_database()), quote_ident(current_user)",
            {"name": schema},
        )
        is_there, name, database_name, user = one_row(cursor)
        if is_there:
            return
        try:
            cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {name}")
        except psycopg2.errors.InsufficientPrivilege:
            raise DatabaseError(
                f"The user of POSTGRES_URL has no right to create the schema {schema}. As an "
                f"administrator of the database: CREATE SCHEMA {name} AUTHORIZATION {user}; or, "
                f"for all schemas: GRANT CREATE ON DATABASE {database_name} TO {user};"
            ) from None


def migrate(database: Database) -> None:
    """Bring our tables to HEAD, with their descriptions and views, and rows to this code's mapping.

    Cheap if there is nothing to do. Any number of processes may call it at once, and again after an
    interruption. What a newer version of this program made stays as it is. Raises DatabaseError.
    """
    demand_sessions(database)
    with database.session() as connection:
        if is_up_to_date(connection):
            return
    with migrations_lock(database):
        bring_up_to_date(database)


def migrate_once(database: Database) -> None:
    """Do `migrate`, at the first call in this process.

    Asking the database takes as long as connecting to it a few times, and a process has several
    parts that need it up to date. Raises DatabaseError.
    """
    if database not in _up_to_date:
        migrate(database)
        _up_to_date.add(database)


@contextmanager
def migrations_lock(database: Database) -> Iterator[None]:
    """Nobody else changes our tables, Dagster's tables or the view inside this context."""
    with advisory_lock(database, "migrations"):
        yield


def bring_up_to_date(database: Database) -> None:
    """Do the work of `migrate`, for a caller that holds the lock on migrations. Raises
    DatabaseError.

    Syncs and web services of an earlier release may write meanwhile, in an order of locks that is
    not that of the migrations. So each step runs again after a deadlock.
    """
    again_after_deadlocks(lambda: _bring_up_to_date(database))


def _bring_up_to_date(database: Database) -> None:
    with database.session() as connection:
        version = current_version(connection)
        refuse_newer(version)
        if version is None:
            refuse_unversioned(connection)
        demand_replaceable(connection)
    if version != HEAD:
        # If `public` does not exist, somebody removed it on purpose.
        if database.schema != PUBLIC:
            _ensure_schema(database, database.schema)
        upgrade_tables(database)
    with database.session() as connection:
        for collection in COLLECTIONS:
            make_history(connection, collection)
        make_views(connection)
        describe(connection)
        make_history_view(connection)
        stale = [c for c in COLLECTIONS if not is_mapping_current(connection, c)]
    for collection in stale:
        adopt_mapping(database, collection)


def take_down_history_view(database: Database) -> None:
    """Drop the view to make room for a migration of Dagster's tables. The caller holds the lock.

    A table of that name, which another program left, stays. `bring_up_to_date` makes the view
    again. Raises DatabaseError if something was built on it.
    """
    with database.session() as connection:
        drop_history_view(connection)


def full_sync_wanted(connection: Connection) -> str | None:
    """Return what rows lack since an upgrade, until a full sync has brought it, or None."""
    if current_version(connection) != HEAD:
        return None
    first = COLLECTIONS[0]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT EXISTS (SELECT FROM {first.name})")
        if cursor.fetchone() == (True,) and not has_full_sync(connection, first):
            return NOT_RECORDED
        cursor.execute(
            "SELECT m.value::json ->> 'because' FROM mirror_state m"
            " WHERE m.name = 'full_sync_wanted' AND NOT EXISTS (SELECT FROM walks w"
            " WHERE w.kind = 'full' AND w.settled_at IS NOT NULL"
            " AND w.started_at > (m.value::json ->> 'since')::timestamptz)"
        )
        row = cursor.fetchone()
    return str(row[0]) if row else None


def demand_tables(connection: Connection) -> None:
    """Raise DatabaseError unless there is a readable mirror of this version."""
    version = current_version(connection)
    refuse_newer(version)
    if version != HEAD or not has_history_view(connection):
        elsewhere = "" if version else f" {mirrors_elsewhere(connection)}"
        raise DatabaseError(
            "This database holds no mirror yet (or an older one). "
            "Run `rms-pipeline sync initial`, `rms-pipeline up` or `rms-pipeline migrate`."
            f"{elsewhere.rstrip()}"
        )
    demand_whole(connection)


def is_up_to_date(connection: Connection, owner: str | None = None) -> bool:
    """Return whether `migrate` has nothing to do for `owner` (default: the connection's user)."""
    version = current_version(connection)
    refuse_newer(version)
    if version == HEAD:
        demand_whole(connection)
    return (
        version == HEAD
        and all(is_mapping_current(connection, c) for c in COLLECTIONS)
        and all(is_history_made(connection, c) for c in COLLECTIONS if c.remembers)
        and are_views_made(connection)
        and is_history_view_current(connection, owner)
        and not undescribed(connection)
    )


def mirrors_elsewhere(connection: Connection) -> str:
    """Return a sentence about mirrors in other schemas of this database, or ''. Commits.

    A user may have meant one of those.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT string_agg(n.nspname, ', ' ORDER BY n.nspname) FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relname = %s"
            " AND c.relkind = 'r' AND n.nspname <> coalesce(current_schema(), '')",
            (VERSION_TABLE,),
        )
        found = one_row(cursor)[0]
    connection.commit()
    if not found:
        return ""
    return f"It holds mirrors in other schemas: {found}. If you meant one, set RMS_SCHEMA to it."


def missing_tables(connection: Connection) -> list[str]:
    """Return those of our tables that do not exist. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT t FROM unnest(%s::text[]) AS t WHERE to_regclass(t) IS NULL ORDER BY t",
            (list(TABLES),),
        )
        missing = [row[0] for row in cursor.fetchall()]
    connection.commit()
    return missing


def demand_whole(connection: Connection) -> None:
    """Raise DatabaseError unless all tables of this version exist. Commits."""
    if missing := missing_tables(connection):
        with connection.cursor() as cursor:
            # The reader of this may be in another schema.
            cursor.execute("SELECT quote_ident(current_schema())")
            schema = one_row(cursor)[0]
        connection.commit()
        raise DatabaseError(
            f"Tables of the mirror are missing: {', '.join(missing)} (schema {schema}). A "
            "restore left them out, or somebody dropped or renamed them. Rename them back, or "
            "restore them from a backup (look at the output of the restore). Or start again with "
            "an empty database (POSTGRES_URL) or another schema (RMS_SCHEMA), and run "
            "`rms-pipeline sync initial`."
        )


def lost_version(connection: Connection) -> str | None:
    """Return what is wrong and what to do if there are tables of ours and nothing says of which
    version. None otherwise. Commits. The database has no version.

    They must not be renamed like tables of another program: they hold the company's rows.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*), quote_ident(current_schema()) FROM unnest(%s::text[]) AS t"
            " WHERE to_regclass(t) IS NOT NULL",
            (list(_SIGNS),),
        )
        found, schema = one_row(cursor)
    connection.commit()
    if found < len(_SIGNS):
        return None
    return (
        f"The schema {schema} holds tables of this program, but its table {VERSION_TABLE}, which "
        "says of which version, is missing or empty. Restore that table from a backup. Or start "
        "again with an empty database (POSTGRES_URL) or another schema (RMS_SCHEMA), and run "
        "`rms-pipeline sync initial`."
    )


def refuse_unversioned(connection: Connection) -> None:
    """Raise DatabaseError if `lost_version` says that something is wrong. Commits."""
    if lost := lost_version(connection):
        raise DatabaseError(lost)


def refuse_newer(version: str | None) -> None:
    """Raise OutdatedError if a newer version of this program made the tables."""
    if version is not None and version > HEAD:
        raise OutdatedError(
            f"A newer version of this program made the tables in this database (schema {version}; "
            f"this version knows {HEAD}). Use that version, or restore a backup from before the "
            "upgrade."
        )


def upgrade_tables(database: Database, to: str = HEAD) -> None:
    """Run the migrations up to `to`, all of them or none. Raises DatabaseError."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = database.engine()
    try:
        with engine.begin() as connection:
            config.attributes |= {
                "connection": connection,
                "version_table": VERSION_TABLE,
                "schema": database.schema,
            }
            command.upgrade(config, to)
    except Exception as error:
        cause = getattr(error, "orig", error)
        if isinstance(cause, psycopg2.errors.InsufficientPrivilege):
            said = str(cause).strip().splitlines()[0]
            if "owner" in said:
                raise DatabaseError(
                    "A table of another program has a name that this program needs, and the user "
                    f"of POSTGRES_URL has no right to rename it ({said}). As its owner: ALTER "
                    "TABLE <table> OWNER TO <user>; or rename it yourself."
                ) from None
            raise DatabaseError(
                f"The user of POSTGRES_URL may not create tables in schema {database.schema} "
                "(PostgreSQL 15 and later do not allow it by default). As an administrator of "
                f"the database: GRANT USAGE, CREATE ON SCHEMA {database.schema_in_sql} TO <user>;"
            ) from None
        if isinstance(cause, psycopg2.errors.InvalidSchemaName):
            raise DatabaseError(
                f"The database has no schema {database.schema}, or the user of POSTGRES_URL may "
                "not use it. As an administrator of the database: "
                f"CREATE SCHEMA IF NOT EXISTS {database.schema_in_sql}; "
                f"GRANT USAGE, CREATE ON SCHEMA {database.schema_in_sql} TO <user>;"
            ) from None
        raise
    finally:
        engine.dispose()
