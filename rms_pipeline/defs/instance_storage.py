"""Dagster's own storage, in a schema of the mirror's database, for `dagster.yaml`.

The schema is `dagster`. If the mirror is in the schema `acme`, it is `dagster_acme`.
"""

import contextlib
import os
import re
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg2
import sqlalchemy
import yaml
from alembic.script import ScriptDirectory
from dagster import DagsterError, DagsterInstance
from dagster_postgres import run_storage
from dagster_postgres.storage import DagsterPostgresStorage
from dagster_postgres.utils import pg_alembic_config

from rms_pipeline.defs.compat import CheckError, ConfigurableClassData, InstanceRef
from rms_pipeline.errors import in_one_line
from rms_pipeline.mirror.database import Database, DatabaseError, leads_through_pooler
from rms_pipeline.mirror.embedded import open_database
from rms_pipeline.mirror.pooled import demand_living_connections
from rms_pipeline.mirror.postgres_errors import no_connection
from rms_pipeline.mirror.schema import (
    bring_up_to_date,
    ensure_dagster_schema,
    migrate_once,
    migrations_lock,
    take_down_history_view,
)
from rms_pipeline.mirror.session_probe import demand_sessions
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.mirror.sync_metadata_view import has_dagsters_tables
from rms_pipeline.postgres_urls import with_settings
from rms_pipeline.settings import SettingsError, settings


class InstanceUnusable(SettingsError):
    """Dagster cannot read the configuration of its instance."""


class MirrorPostgresStorage(DagsterPostgresStorage):
    """`DagsterPostgresStorage` on POSTGRES_URL (or the embedded server), outside of `public`.

    Dagster's version table is `alembic_version`, a name that other applications use too. In its own
    schema there is no conflict. Opening the storage also upgrades our own tables. So the process
    that starts first, `dagster dev` too, finds all tables.
    """

    @classmethod
    def config_type(cls) -> Any:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "MirrorPostgresStorage":
        database = open_database(settings())
        with database.session(session=True) as connection:
            has_tables = has_dagsters_tables(connection)
            url = _with_settings(database, connection)
        demand_sessions(database, leads_through_pooler(connection))
        engine = _engine_of(url)
        _demand_schema(engine, database.dagster_schema)
        if not has_tables:
            # Dagster makes its tables without asking who else is about to.
            with migrations_lock(database):
                ensure_dagster_schema(database)
                cls(postgres_url=url)
        # To look for them once more, each part would make an engine and two connections.
        storage = cls(postgres_url=url, should_autocreate_tables=False, inst_data=inst_data)
        there = _there.setdefault(engine, set())
        part: Any
        for part in (storage.run_storage, storage.event_log_storage, storage.schedule_storage):
            # As Dagster's own `optimize_for_webserver` does, which is the webserver's alone.
            part._engine = engine
            _ask_once(part, there)
        events: Any = storage.event_log_storage
        events.has_table = _asked_once(_has_table, weakref.proxy(events), there)
        migrate_once(database)
        return storage


def url_for_dagster(database: Database) -> str:
    """The URL for Dagster's own connections. Raises DatabaseError if its tables would be in the
    wrong schema, because a pooler refuses or drops the settings of a connection."""
    with database.session(session=True) as connection:
        url = _with_settings(database, connection)
    engine = _engine_of(url)
    try:
        _demand_schema(engine, database.dagster_schema)
    finally:
        engine.dispose()
    return url


def _with_settings(database: Database, connection: Connection) -> str:
    schema = database.dagster_schema
    options = database.session_options(schema, connection)
    return with_settings(database.session_url.get_secret_value(), schema, options)


def _demand_schema(engine: sqlalchemy.Engine, schema: str) -> None:
    try:
        with engine.connect() as connection:
            found = connection.exec_driver_sql("SHOW search_path").scalar()
    except sqlalchemy.exc.OperationalError as error:
        raise DatabaseError(no_connection(error.orig)) from None
    if found != schema:
        raise DatabaseError(
            "A pooler between Dagster and PostgreSQL drops the settings of a connection, so "
            "Dagster's tables would be created in the wrong schema. Set POSTGRES_URL_NON_POOLING "
            "to the same database's direct address."
        )


def open_instance() -> DagsterInstance:
    """`DagsterInstance.get()`. Raises InstanceUnusable if its dagster.yaml is wrong."""
    with _explained():
        return DagsterInstance.get()


def instance_of(folder: Path) -> InstanceRef:
    """The configuration of the instance in `folder`, without opening it. Raises
    InstanceUnusable."""
    with _explained():
        return InstanceRef.from_dir(str(folder))


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (yaml.YAMLError, DagsterError, CheckError) as error:
        current = settings()
        home = current.dagster_home or current.project_folder
        raise InstanceUnusable(
            f"Dagster cannot use {home / 'dagster.yaml'}: {_said(error)}. Compare it with this "
            "project's dagster.yaml, or copy that file there."
        ) from None


def _said(error: Exception) -> str:
    """What is wrong and where. The text does not quote the file, because that could be a
    password."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        where = f" in line {mark.line + 1}" if mark else ""
        return f"it is not YAML ({error.problem or error.context}{where})"
    text = in_one_line(error).removeprefix("Failure condition: ")
    text = re.sub(r"^Errors whilst loading .*? Error 1: ", "", text)
    text = re.split(r"[.:]? (?:Expected|Got|Value|Error 2)\b", text)[0]
    return text[:300].rstrip(" .")


def upgrade_storage(database: Database) -> bool:
    """Upgrades Dagster's tables and then ours to this version, one process at a time. Returns
    whether the instance is ours: one that keeps its history elsewhere is not, and its tables stay
    unchanged. Raises DatabaseError."""
    demand_sessions(database)
    with open_instance() as instance, migrations_lock(database):
        if not keeps_history_here(instance.get_ref()):
            bring_up_to_date(database)
            return False
        there, wanted = instance.run_storage.alembic_version() or (None, ())
        if there not in (wanted if isinstance(wanted, tuple) else (wanted,)):
            # A migration of Dagster's may not change a column that a view reads.
            take_down_history_view(database)
        instance.upgrade()
        bring_up_to_date(database)
        return True


def pending_migration(database: Database) -> tuple[str | None, str] | None:
    """The version of Dagster's tables beside the mirror (None: there are none), and the version
    that this Dagster needs. None if they are equal. Opens no instance and changes nothing. Raises
    DatabaseError if this user cannot read the tables."""
    wanted = ScriptDirectory.from_config(pg_alembic_config(run_storage.__file__))
    newest = str(wanted.get_current_head())
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT quote_ident(nspname), has_schema_privilege(oid, 'USAGE'), current_user"
            " FROM pg_namespace WHERE nspname = %s",
            (database.dagster_schema,),
        )
        row = cursor.fetchone()
        if row is None:
            return None, newest
        schema, may_look, user = row
        try:
            if not may_look:
                raise psycopg2.errors.InsufficientPrivilege
            cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (f"{schema}.alembic_version",))
            if cursor.fetchone() != (True,):
                return None, newest
            cursor.execute(f"SELECT version_num FROM {schema}.alembic_version")
        except psycopg2.errors.InsufficientPrivilege:
            raise DatabaseError(
                f"The user {user} has no right to read Dagster's tables. As their owner: GRANT "
                f"USAGE ON SCHEMA {schema} TO {user}; GRANT SELECT ON {schema}.alembic_version TO "
                f"{user};"
            ) from None
        there = str((cursor.fetchone() or (None,))[0])
    return None if there == newest else (there, newest)


def keeps_history_here(instance: InstanceRef) -> bool:
    """Whether the runs of an instance are in the mirror's database. The instance does not have to
    be open. If they are elsewhere, the mirror uses its own rows of its syncs."""
    storage = instance.storage_data
    return storage is not None and storage.class_name == MirrorPostgresStorage.__name__


def _engine_of(url: str) -> sqlalchemy.Engine:
    """The engine of this process for `url`. One connection stays open, others are opened when
    needed.

    Dagster opens a connection for every event and every look of its daemon, because each of its
    many instances would otherwise keep connections. All of them share this engine.
    """
    with _making:
        engine = _engines.get(url)
        if engine is None:
            engine = _engines[url] = sqlalchemy.create_engine(
                url,
                isolation_level="AUTOCOMMIT",
                pool_size=1,
                max_overflow=-1,
                # Otherwise each process looks for a type that Dagster does not use.
                use_native_hstore=False,
            )
            demand_living_connections(engine)
        return engine


# Methods by which the parts of Dagster's storage ask whether a table, a column or an index is
# there. They read whole catalogs, for each event of a run and each look of the daemon.
_QUESTIONS = (
    # Of runs.
    *("has_run_stats_index_cols", "has_backfill_id_column", "has_backfill_tags_table"),
    *("has_bulk_actions_selector_cols", "has_bulk_action_job_name_column"),
    # Of runs and of schedules.
    "has_built_index",
    # Of schedules.
    *("has_instigators_table", "_has_instigators_table", "has_secondary_index_table"),
    "_has_asset_daemon_asset_evaluations_table",
    # Of events. Dagster 1.13.0 has only the first, which opens a connection of its own.
    *("has_asset_key_col", "_has_asset_key_col_on_connection"),
)


def _ask_once(part: Any, there: set[object]) -> None:
    """Let a part of Dagster's storage ask no more for what is `there`: that stays. What is not
    there is asked for again."""
    for name in _QUESTIONS:
        if (ask := getattr(type(part), name, None)) is not None:
            setattr(part, name, _asked_once(ask, weakref.proxy(part), there))


def _asked_once(ask: Callable[..., bool], part: Any, there: set[object]) -> Callable[..., bool]:
    # `part` is a weak reference: without a circle, the connection goes with the last storage.
    def has(*given: Any, **named: Any) -> bool:
        names = (value for value in (*given, *named.values()) if isinstance(value, str))
        question = (ask.__qualname__, *names)
        if question not in there and ask(part, *given, **named):
            there.add(question)
        return question in there

    return has


def _has_table(events: Any, name: str) -> bool:
    """Return whether there is a table. Dagster asks eighty times in a sync, to learn whether it can
    store checks or limits. Its own function leaves a connection open each time (1.13.0)."""
    with events._engine.connect() as connection:
        return bool(events._engine.dialect.has_table(connection, name))


_engines: "weakref.WeakValueDictionary[str, sqlalchemy.Engine]" = weakref.WeakValueDictionary()
# What each was found to have.
_there: "weakref.WeakKeyDictionary[sqlalchemy.Engine, set[object]]" = weakref.WeakKeyDictionary()
_making = threading.Lock()


def _after_fork() -> None:
    # A connection serves one process only; psycopg2 leaves the parent's alone when it is forgotten.
    for engine in list(_engines.values()):
        engine.dispose(close=False)


os.register_at_fork(after_in_child=_after_fork)
