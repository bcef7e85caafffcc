"""Copies of template databases that are reused. Emptying one takes a twentieth of making one.

A returned copy is emptied and handed out under another name. So whoever still has its old address
is refused, as by a database that is gone. A copy whose tables were changed by any DDL is dropped.
"""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812

from rms_pipeline.mirror.statements import one_row
from rms_pipeline_tests.kept_connections import close_kept
from rms_pipeline_tests.servers import administrator, as_copy_of, new_name, url_of

# Every DDL statement writes, adds or removes a row of one of these catalogs.
_CATALOGS = (
    *("pg_attribute", "pg_attrdef", "pg_constraint", "pg_index", "pg_inherits", "pg_sequence"),
    *("pg_trigger", "pg_event_trigger", "pg_rewrite", "pg_policy", "pg_proc", "pg_type"),
    *("pg_namespace", "pg_default_acl", "pg_description", "pg_extension", "pg_statistic_ext"),
    *("pg_publication", "pg_operator", "pg_cast", "pg_collation", "pg_conversion", "pg_seclabel"),
    *("pg_ts_config", "pg_ts_dict", "pg_foreign_server", "pg_largeobject_metadata"),
)
# The columns of pg_class that TRUNCATE does not change. Statistics affect the planner, and only
# ANALYZE makes them.
_BUILD = " UNION ALL ".join(
    [f"SELECT count(*)::text || ' ' || max(xmin::text::bigint) FROM {name}" for name in _CATALOGS]
    + [
        "SELECT md5(string_agg(concat_ws(' ', oid, relname, relkind, relnamespace, relowner,"
        " relacl, reloptions, relpersistence, relrowsecurity, relforcerowsecurity), ','"
        " ORDER BY oid)) FROM pg_class WHERE oid >= 16384",
        "SELECT count(*)::text FROM pg_statistic WHERE starelid >= 16384",
    ]
)
# How many rows of the database's catalogs were ever written. To compare this takes an eighth of
# comparing the catalogs. Temporary tables and TRUNCATE change it, too. A crash lets it begin anew.
_WRITTEN_OF_NEW = "SELECT concat_ws(' ', pg_stat_get_bgwriter_stat_reset_time(), 0)"
_WRITTEN = (
    "SELECT concat_ws(' ', pg_stat_get_bgwriter_stat_reset_time(),"
    " sum(pg_stat_get_tuples_inserted(oid) + pg_stat_get_tuples_updated(oid)"
    " + pg_stat_get_tuples_deleted(oid))) FROM pg_class"
    " WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r' AND NOT relisshared"
)
# What the server keeps about the database elsewhere.
_ABOUT = (
    "SELECT string_agg(s::text, ',' ORDER BY s::text) FROM pg_db_role_setting s"
    " JOIN pg_database d ON d.oid = setdatabase WHERE datname = current_database()"
    " UNION ALL SELECT concat_ws(' ', datacl, datallowconn, datconnlimit, datdba) FROM pg_database"
    " WHERE datname = current_database()"
    " UNION ALL SELECT count(*)::text FROM pg_prepared_xacts WHERE database = current_database()"
)
_OTHERS = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_get_activity(NULL)"
    " WHERE datid = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND pid <> pg_backend_pid()"
)
_OURS = "relpersistence <> 't' AND (relnamespace >= 16384 OR relnamespace = 'public'::regnamespace)"
# In pages. For a few rows DELETE is much faster, but it leaves the space of many rows taken.
_MANY = 50
_TABLES = (
    "SELECT oid::regclass::text, pg_table_size(oid) / 8192 FROM pg_class"
    f" WHERE relkind = 'r' AND {_OURS} AND pg_relation_size(oid) > 0 AND NOT relname = ANY(%s)"
)
_SEQUENCES = (
    " FROM pg_class JOIN pg_sequence ON seqrelid = oid"
    f" WHERE {_OURS} "
    " AND CASE relkind WHEN 'S' THEN pg_sequence_last_value(oid) END IS NOT NULL"
)


def empty(connection: Connection, but_for: tuple[str, ...] = ()) -> None:
    """Delete all rows of our tables and Dagster's, except the tables `but_for`. All ids start
    anew.
    """
    with connection.cursor() as cursor:
        # Neither triggers nor foreign keys apply.
        cursor.execute(
            "SET LOCAL session_replication_role = replica; SET LOCAL lock_timeout = '9s'"
        )
        cursor.execute(_TABLES, (list(but_for),))
        found = cursor.fetchall()
        statements = [f"DELETE FROM {name}" for name, pages in found if pages <= _MANY]
        if many := [name for name, pages in found if pages > _MANY]:
            statements.append(f"TRUNCATE {', '.join(many)} CASCADE")
        statements.append(f"SELECT setval(oid::regclass, seqstart, false) {_SEQUENCES}")
        cursor.execute(";".join(statements))


def rows_in(connection: Connection, tables: tuple[str, ...]) -> dict[str, str]:
    """Return all rows of these tables as COPY writes them, by table."""
    found = {}
    with connection.cursor() as cursor:
        for name in tables:
            written = io.StringIO()
            cursor.copy_expert(f"COPY {name} TO STDOUT", written)
            found[name] = written.getvalue()
    return found


def put_back(connection: Connection, rows: dict[str, str]) -> None:
    """Restore the rows that `rows_in` returned, in tables that hold anything else."""
    for name, now in rows_in(connection, tuple(rows)).items():
        if now != rows[name]:
            with connection.cursor() as cursor:
                cursor.execute(f"DELETE FROM {name}")
                cursor.copy_expert(f"COPY {name} FROM STDIN", io.StringIO(rows[name]))


def read_all(connection: Connection) -> tuple[dict[str, str], list[tuple[str, int]]]:
    """Return the rows of all tables that hold any, by table, and how far each sequence is."""
    with connection.cursor() as cursor:
        cursor.execute(_TABLES, ([],))
        rows = rows_in(connection, tuple(name for name, _ in cursor.fetchall()))
        cursor.execute(f"SELECT oid::regclass::text, pg_sequence_last_value(oid) {_SEQUENCES}")
        return rows, cursor.fetchall()


def write_all(
    connection: Connection, rows: dict[str, str], sequences: list[tuple[str, int]]
) -> None:
    """Restore what `read_all` returned, in a database that was emptied."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        put_back(connection, rows)
        for name, last in sequences:
            cursor.execute("SELECT setval(%s, %s)", (name, last))


@dataclass
class _Copies:
    """The copies of one template on one server."""

    server_url: str
    template: str
    build: list[tuple[object, ...]] = field(default_factory=list)
    about: list[tuple[object, ...]] = field(default_factory=list)
    written: dict[str, str] = field(default_factory=dict)
    rows: dict[str, str] = field(default_factory=dict)
    sequences: list[tuple[str, int]] = field(default_factory=list)
    spare: list[str] = field(default_factory=list)

    def take(self) -> str:
        name = new_name()
        with administrator(self.server_url) as run:
            if self.spare:
                last = self.spare.pop()
                run(f"ALTER DATABASE {last} RENAME TO {name}")
                self.written[name] = self.written.pop(last)
                return name
            run(f"CREATE DATABASE {name} {as_copy_of(self.template)}")
            self.written[name] = run(_WRITTEN_OF_NEW)[0][0]
        if not self.build:
            with _connected(self.server_url, name) as connection:
                self._learn(connection)
        return name

    def give_back(self, name: str) -> None:
        close_kept(name)
        try:
            with _connected(self.server_url, name) as connection:
                if self._made_as_new(connection, name):
                    self.spare.append(name)
                    return
        except psycopg2.Error:
            """Somebody holds a lock, or nobody is let in."""
        self.written.pop(name, None)
        with administrator(self.server_url) as run:
            run(f"DROP DATABASE {name} WITH (FORCE)")

    def _learn(self, connection: Connection) -> None:
        """Learn what a new copy contains."""
        with connection.cursor() as cursor:
            cursor.execute(_BUILD)
            self.build = cursor.fetchall()
            cursor.execute(_ABOUT)
            self.about = cursor.fetchall()
        self.rows, self.sequences = read_all(connection)

    def _made_as_new(self, connection: Connection, name: str) -> bool:
        """Return whether the copy could be made as new."""
        with connection.cursor() as cursor:
            cursor.execute(_OTHERS)
            cursor.execute(_ABOUT)
            if cursor.fetchall() != self.about:
                return False
            # Processes of the server tell this as they end.
            cursor.execute(_WRITTEN)
            before, self.written[name] = self.written.pop(name, None), str(one_row(cursor)[0])
            if before != self.written[name]:
                cursor.execute(_BUILD)
                if cursor.fetchall() != self.build:
                    return False
            empty(connection)
            for table, rows in self.rows.items():
                cursor.copy_expert(f"COPY {table} FROM STDIN", io.StringIO(rows))
            for sequence, last in self.sequences:
                cursor.execute("SELECT setval(%s, %s)", (sequence, last))
        return True


@contextlib.contextmanager
def _connected(server_url: str, name: str) -> Iterator[Connection]:
    """A connection to a database of the server. Commits at the end."""
    connection = psycopg2.connect(url_of(server_url, name))
    try:
        yield connection
        connection.commit()
    finally:
        connection.close()


@cache
def _copies(server_url: str, template: str) -> _Copies:
    return _Copies(server_url, template)


@contextlib.contextmanager
def copy_of(server_url: str, template: str) -> Iterator[str]:
    """A database that equals the template and that nobody else uses. Yields its URL."""
    copies = _copies(server_url, template)
    name = copies.take()
    try:
        yield url_of(server_url, name)
    finally:
        copies.give_back(name)
