"""Our tables in `public`, brought up to date by Alembic, and the view over Dagster's history.

The version table has a name of its own: another application's `alembic_version` is not ours.
"""

from pathlib import Path

import psycopg2
from alembic import command
from alembic.config import Config
from psycopg2.extensions import connection as Connection  # noqa: N812

from rms_pipeline.mirror.database import Database, DatabaseError, advisory_lock
from rms_pipeline.mirror.redecode import adopt_mapping, is_mapping_current

HEAD = "0007"
VERSION_TABLE = "rms_pipeline_alembic_version"
DAGSTER_SCHEMA = "dagster"
_HISTORY_SQL = Path(__file__).with_name("sync_metadata.sql")


def current_version(connection: Connection) -> str | None:
    """The migration that the database is at, None for one that has never been ours."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (f"public.{VERSION_TABLE}",))
        row = cursor.fetchone()
        if not row or not row[0]:
            return None
        cursor.execute(f"SELECT version_num FROM {VERSION_TABLE}")
        row = cursor.fetchone()
    return str(row[0]) if row else None


def ensure_dagster_schema(database: Database) -> None:
    """Makes the schema that Dagster's own tables live in. Raises DatabaseError without rights."""
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regnamespace(%s) IS NOT NULL", (DAGSTER_SCHEMA,))
        row = cursor.fetchone()
        if row and row[0]:
            return
        try:
            cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {DAGSTER_SCHEMA}")
        except psycopg2.errors.InsufficientPrivilege:
            raise DatabaseError(
                "The user of POSTGRES_URL may not create the schema 'dagster'. As an administrator "
                "of the database: GRANT CREATE ON DATABASE <database> TO <user>; "
                "GRANT CREATE ON SCHEMA public TO <user>;"
            ) from None


def migrate(database: Database, *, history_view: bool = True) -> None:
    """Brings our tables to HEAD, their rows to this code's mapping, and the view with them.

    Cheap when nothing is to be done. Safe to call from any number of processes at once, and again
    when it was interrupted. Raises DatabaseError.
    """
    with database.session() as connection:
        up_to_date = current_version(connection) == HEAD and is_mapping_current(connection)
        if up_to_date and (not history_view or has_history_view(connection)):
            return
    with advisory_lock(database, "migrations"):
        with database.session() as connection:
            version = current_version(connection)
        if version != HEAD:
            _upgrade(database)
        if history_view:
            create_history_view(database)
        with database.session() as connection:
            current = is_mapping_current(connection)
        if not current:
            adopt_mapping(database)


def create_history_view(database: Database) -> None:
    """(Re)creates `sync_metadata` over Dagster's tables; does nothing before those exist."""
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (f"{DAGSTER_SCHEMA}.event_logs",))
        row = cursor.fetchone()
        if row and row[0]:
            cursor.execute(_HISTORY_SQL.read_text())


def drop_history_view(database: Database) -> None:
    """Takes the view out of the way of a migration of Dagster's tables.

    A table of that name, which another program left, stays for `migrate` to set aside. Raises
    DatabaseError when something was built on the view.
    """
    with database.session() as connection, connection.cursor() as cursor:
        if not has_history_view(connection):
            return
        try:
            cursor.execute("DROP VIEW public.sync_metadata")
        except psycopg2.errors.DependentObjectsStillExist as error:
            raise DatabaseError(
                "sync_metadata has to make room while Dagster's tables change, but other views are "
                f"built on it: {' '.join((error.diag.message_detail or '').split())} Drop those, "
                "migrate, and create them again."
            ) from None


def has_history_view(connection: Connection) -> bool:
    """Whether `sync_metadata` is there to be read."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass('public.sync_metadata')"
            " AND relkind = 'v')"
        )
        row = cursor.fetchone()
    return bool(row and row[0])


def demand_tables(connection: Connection) -> None:
    """Raises DatabaseError unless there is a mirror, of this version, to be read."""
    if current_version(connection) != HEAD or not has_history_view(connection):
        raise DatabaseError(
            "This database holds no mirror yet (or an older one). "
            "Run `rms-pipeline sync initial`, `rms-pipeline up` or `rms-pipeline migrate`."
        )


def _upgrade(database: Database) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    engine = database.engine()
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, HEAD)
    except Exception as error:
        cause = getattr(error, "orig", error)
        if isinstance(cause, psycopg2.errors.InsufficientPrivilege):
            said = str(cause).strip().splitlines()[0]
            if "owner" in said:
                raise DatabaseError(
                    f"A table that another program left has one of our names, and the user of "
                    f"POSTGRES_URL may not rename it ({said}). As its owner: ALTER TABLE <table> "
                    "OWNER TO <user>; or rename it yourself."
                ) from None
            raise DatabaseError(
                "The user of POSTGRES_URL may not create tables in schema public (since PostgreSQL "
                "15 that is a right of its own). As an administrator of the database: "
                "GRANT CREATE ON SCHEMA public TO <user>;"
            ) from None
        raise
    finally:
        engine.dispose()
