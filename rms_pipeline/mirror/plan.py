"""Finds out what an upgrade will do to this database, without changing anything.

This module compares what migrations declare with the catalog. The upgrade itself is in `schema`,
Dagster's own tables in `defs.instance_storage`, and printing in `cli.migrate`.

Figures are estimates. Rows are those that PostgreSQL last counted. Durations follow from the rates
below, which `benchmarks/upgrade.py` measures.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import psycopg2
from alembic.config import Config
from alembic.script import Script, ScriptDirectory

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.mirror.database import LOCK_WAIT, Database, DatabaseError, dagster_schema_beside
from rms_pipeline.mirror.descriptions import VIEWS, undescribed
from rms_pipeline.mirror.mapping import is_mapping_current
from rms_pipeline.mirror.postgres_errors import reason
from rms_pipeline.mirror.record_history import is_history_made
from rms_pipeline.mirror.schema import (
    HEAD,
    MIGRATIONS,
    NOT_RECORDED,
    VERSION_TABLE,
    current_version,
    demand_whole,
    is_up_to_date,
    lost_version,
    refuse_newer,
)
from rms_pipeline.mirror.statements import Connection, Cursor, one_row
from rms_pipeline.mirror.sync_metadata_view import (
    HISTORY,
    built_on,
    has_history_view,
    has_to_be_dropped,
    is_history_view_current,
)
from rms_pipeline.mirror.views import names_taken, stale_views, views

# Lower than what benchmarks/upgrade.py measured for 100,000 opportunities of 5.4 KB on two cores,
# with PostgreSQL 18: 37 MB a second rewritten, 1,319 rows a second decoded. An upgrade that ends
# early disturbs nobody. `Plan.rests_on` says the rates.
REWRITTEN_BYTES_PER_SECOND = 20e6
UPDATED_ROWS_PER_SECOND = 60_000
INDEXED_ROWS_PER_SECOND = 150_000
DECODED_ROWS_PER_SECOND = 1_000
COPIED_SYNCS_PER_SECOND = 300
# Of an index with a name or several columns, when it was just made. Most are smaller.
INDEXED_BYTES_PER_ROW = 60
# An empty table with its indexes, and what the catalogs say of them: all 57 together take 3.4 MB.
_MADE_TABLE_BYTES = 60_000
# An upgrade that does nothing to rows.
_SECONDS_AT_LEAST = 1.0
# If PostgreSQL has no figure, the rows of a table up to this size are counted.
_COUNTED_UP_TO_BYTES = 50_000_000
_PAGES_OF_A_PROOF = 8


@dataclass(frozen=True, slots=True)
class Migration:
    """A migration. `does` is a sentence. The rest is as the migration declares it
    (`migrations/frozen.py`).
    """

    version: str
    does: str
    makes: tuple[str, ...] = ()
    adds: dict[str, tuple[str, ...]] = field(default_factory=dict)
    touches: dict[str, tuple[str, ...]] = field(default_factory=dict)
    full_sync: str | None = None


@dataclass(frozen=True, slots=True)
class Touched:
    """An existing table, and what happens to it.

    `work` is "rewritten", "updated", "indexed", "altered" or several of these. `rows` and
    `size_bytes` (with indexes) are estimates of its present size, `seconds` of the time that the
    work takes. `readers_wait` says whether readers wait meanwhile, and not only writers.
    """

    table: str
    work: tuple[str, ...]
    rows: int
    size_bytes: int
    seconds: float
    readers_wait: bool
    writers_wait: bool


@dataclass(frozen=True, slots=True)
class Decoded:
    """A collection whose rows get this program's columns, decoded from what is stored."""

    table: str
    rows: int
    size_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class FullSync:
    """A full sync that is needed afterwards, why, and about how many calls it takes."""

    because: str
    calls: int


@dataclass(slots=True)
class Plan:
    """What `migrate` will do. If `nothing_to_do`, it does nothing.

    `in_the_way` are sentences: `migrate` refuses until that is changed. `waits_for` are sentences
    about programs at work now. `kept` are sentences about what people built.
    """

    schema: str
    database: str | None
    program: str = HEAD
    migrations: list[Migration] = field(default_factory=list)
    touched: list[Touched] = field(default_factory=list)
    decoded: list[Decoded] = field(default_factory=list)
    made_again: list[str] = field(default_factory=list)
    in_the_way: list[str] = field(default_factory=list)
    waits_for: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    full_sync: FullSync | None = None
    copied_syncs: int = 0

    @property
    def nothing_to_do(self) -> bool:
        return not (self.migrations or self.decoded or self.made_again)

    @property
    def rests_on(self) -> str:
        """What the durations rest on, in two sentences."""
        return (
            f"Times are estimates: {REWRITTEN_BYTES_PER_SECOND / 1e6:.0f} MB rewritten, "
            f"{UPDATED_ROWS_PER_SECOND:,} rows updated, {INDEXED_ROWS_PER_SECOND:,} rows indexed "
            f"and {DECODED_ROWS_PER_SECOND:,} rows decoded a second, which two idle cores and a "
            "fast disk exceed (benchmarks/upgrade.py measures it). Beside other work, or on a slow "
            "disk, it may take several times as long."
        )

    @property
    def seconds_locked(self) -> float:
        """Return about how long the migrations take. All of them are one transaction."""
        if not self.migrations:
            return 0.0
        copied = self.copied_syncs / COPIED_SYNCS_PER_SECOND
        return _SECONDS_AT_LEAST + copied + sum(t.seconds for t in self.touched)

    @property
    def seconds(self) -> float:
        return self.seconds_locked + sum(d.seconds for d in self.decoded)

    @property
    def disk_bytes(self) -> int:
        """Return about how much more disk is needed meanwhile: for new tables and indexes, for
        copies, and for the server's log.
        """
        made = _MADE_TABLE_BYTES * sum(len(m.makes) for m in self.migrations)
        copies = sum(
            2 * t.size_bytes if "rewritten" in t.work else t.size_bytes
            for t in self.touched
            if {"rewritten", "updated"} & set(t.work)
        )
        indexes = sum(INDEXED_BYTES_PER_ROW * t.rows for t in self.touched if "indexed" in t.work)
        return made + copies + indexes + sum(d.size_bytes for d in self.decoded)


@cache
def all_migrations() -> tuple[Migration, ...]:
    """Return all migrations, the first one first."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    scripts = ScriptDirectory.from_config(config).walk_revisions()
    return tuple(_declared(script) for script in scripts)[::-1]


def _declared(script: Script) -> Migration:
    module = script.module
    return Migration(
        script.revision,
        " ".join(script.doc.split()),
        tuple(getattr(module, "makes", ())),
        dict(getattr(module, "adds", {})),
        dict(getattr(module, "touches", {})),
        getattr(module, "full_sync", None),
    )


def plan_upgrade(database: Database, *, dagster_changes: bool = False) -> Plan:
    """Return what `migrate` will do to `database`, without changing it. Rights to read are enough.

    Set `dagster_changes` if Dagster's own tables will be migrated too. Raises DatabaseError if the
    tables are of a newer version, if some are missing, or if nothing can be read.
    """
    with database.session() as connection:
        connection.set_session("READ COMMITTED", readonly=True)
        try:
            return _plan(connection, database.schema, dagster_changes)
        except psycopg2.errors.InsufficientPrivilege as error:
            with connection.cursor() as cursor:
                connection.rollback()
                cursor.execute("SELECT quote_ident(current_user), quote_ident(current_schema())")
                user, schema = one_row(cursor)
            raise DatabaseError(
                f"The user {user} may not read what the plan needs ({reason(error)}). As the owner "
                f"of the tables: GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {user};"
            ) from None


def _plan(connection: Connection, schema: str, dagster_changes: bool) -> Plan:
    version = current_version(connection)
    refuse_newer(version)
    with connection.cursor() as cursor:
        plan = Plan(schema, version)
        plan.migrations = [m for m in all_migrations() if version is None or m.version > version]
        made = {name for m in plan.migrations for name in m.makes}
        plan.in_the_way += _taken_columns(cursor, plan.migrations, made)
        if version is None and (lost := lost_version(connection)):
            plan.in_the_way.append(lost)
            return plan
        plan.kept += _renamed(cursor, plan.migrations)
        if version is None:
            return plan
        if version == HEAD:
            demand_whole(connection)
        work = {name: words for name, words in _work(plan.migrations) if name not in made}
        plan.touched = _touched(cursor, work)
        if any(m.version == _COPIES_HISTORY for m in plan.migrations):
            plan.copied_syncs = _syncs_in_dagsters_history(cursor)
        plan.decoded = list(_decoded(cursor, made, version))
        plan.made_again = _made_again(cursor, version, dagster_changes)
        if has_to_be_dropped(connection) or (dagster_changes and has_history_view(connection)):
            built = built_on(cursor, HISTORY)
            if built:
                plan.in_the_way.append(
                    f"{HISTORY} must be created again, but these views depend on it: "
                    f"{', '.join(built)}. Drop them first, and create them again afterwards."
                )
        tables = [*work, *(name for d in plan.decoded for name in _tables_of(d.table))]
        if plan.migrations or plan.decoded:
            plan.kept += _kept(cursor, plan, tables)
            plan.waits_for = _at_work(cursor, tables)
            plan.in_the_way += _foreign(cursor, list(work))
        plan.full_sync = _full_sync(cursor, plan.migrations, version)
    return plan


# The migration that copies syncs from Dagster's history.
_COPIES_HISTORY = "0020"


def _work(pending: list[Migration]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield what the migrations do to each table."""
    tables = dict.fromkeys(name for m in pending for name in m.touches)
    for table in tables:
        words = {word for m in pending for word in m.touches.get(table, ())}
        if "rewritten" in words:
            words -= {"altered"}
        yield table, tuple(word for word in _WORDS if word in words)


# Ordered from expensive to cheap.
_WORDS = ("rewritten", "updated", "indexed", "altered", "watched")


def _taken_columns(cursor: Cursor, pending: list[Migration], made: set[str]) -> list[str]:
    """Return columns that people added with names that migrations are about to use."""
    wanted = [
        (table, column)
        for m in pending
        for table, columns in m.adds.items()
        if table not in made
        for column in columns
    ]
    cursor.execute(
        "SELECT a.attrelid::regclass::text, a.attname FROM unnest(%s::text[], %s::text[])"
        " AS w (t, c) JOIN pg_attribute a ON a.attrelid = to_regclass(w.t) AND a.attname = w.c"
        " AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, 2",
        ([t for t, _ in wanted], [c for _, c in wanted]),
    )
    return [
        f"Somebody added a column {column} to {table}, but a migration adds a column with the "
        f"same name. Rename yours: ALTER TABLE {table} RENAME COLUMN {column} TO my_{column};"
        for table, column in cursor.fetchall()
    ]


def _renamed(cursor: Cursor, pending: list[Migration]) -> list[str]:
    """Return other people's tables with names that migrations are about to use. They are
    renamed.
    """
    cursor.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident("
        "current_schema())) AND relname = ANY(%s) AND relkind IN ('r', 'p', 'f', 'v', 'm')"
        " ORDER BY 1",
        (sorted({name for m in pending for name in m.makes}),),
    )
    found = [row[0] for row in cursor.fetchall()]
    cursor.execute("SELECT to_regclass('mirror_state') IS NOT NULL")
    noted = cursor.fetchone() == (True,) and not any("mirror_state" in m.makes for m in pending)
    return [
        f"{name}, which another program made, is renamed to {name}_before_rms_pipeline, "
        "and keeps its rows."
        for name in [*found, *names_taken(cursor, noted=noted)]
    ]


def _size(cursor: Cursor, table: str) -> tuple[int, int]:
    """Return about how many rows, and bytes with indexes. Both are 0 if there is no such table."""
    cursor.execute(
        "SELECT reltuples, pg_total_relation_size(oid),"
        " has_table_privilege(oid, 'SELECT') FROM pg_class WHERE oid = to_regclass(%s)",
        (table,),
    )
    row = cursor.fetchone()
    if row is None:
        return 0, 0
    rows, size, readable = row
    if readable and (rows < 0 or size < _COUNTED_UP_TO_BYTES):
        cursor.execute(f"SELECT count(*) FROM {table}")
        (rows,) = one_row(cursor)
    return max(int(rows), 0), int(size)


def _touched(cursor: Cursor, work: dict[str, tuple[str, ...]]) -> list[Touched]:
    found = []
    for table, words in work.items():
        rows, size = _size(cursor, table)
        seconds = 0.0
        if "rewritten" in words:
            seconds += size / REWRITTEN_BYTES_PER_SECOND
        if "updated" in words:
            seconds += rows / UPDATED_ROWS_PER_SECOND
        if "indexed" in words:
            seconds += rows / INDEXED_ROWS_PER_SECOND
        readers_wait = bool({"rewritten", "altered"} & set(words))
        writers_wait = readers_wait or bool({"indexed", "watched"} & set(words))
        found.append(Touched(table, words, rows, size, seconds, readers_wait, writers_wait))
    order = {word: n for n, word in enumerate(_WORDS)}
    return sorted(found, key=lambda t: (order[t.work[0]], -t.size_bytes, t.table))


def _tables_of(name: str) -> tuple[str, ...]:
    return next((c.name, c.deleted) for c in COLLECTIONS if c.name == name)


def _decoded(cursor: Cursor, made: set[str], version: str) -> Iterator[Decoded]:
    for collection in COLLECTIONS:
        if collection.name in made:
            continue
        # Before this table existed, nothing was noted.
        if version >= "0002" and is_mapping_current(cursor.connection, collection):
            continue
        sizes = [_size(cursor, table) for table in (collection.name, collection.deleted)]
        rows = sum(rows for rows, _ in sizes)
        yield Decoded(
            collection.name, rows, sum(size for _, size in sizes), rows / DECODED_ROWS_PER_SECOND
        )


def _made_again(cursor: Cursor, version: str, dagster_changes: bool) -> list[str]:
    """Return sentences about what follows the migrations without being part of one."""
    connection = cursor.connection
    cursor.execute(
        "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = to_regclass(%s)", (HISTORY,)
    )
    owner = (cursor.fetchone() or (None,))[0]
    found = []
    # Before 0002 there was no table that says what the view was made from.
    is_current = version >= "0002" and is_history_view_current(connection, owner)
    if dagster_changes or not is_current:
        found.append(f"The view {HISTORY} is created again. Grants on it stay.")
    if version == HEAD:
        found += [
            f"The view {c.history} and the functions for a point in time are created again. Grants "
            "on them stay."
            for c in COLLECTIONS
            if c.remembers and not is_history_made(connection, c)
        ]
    # Before 0002 nothing says what was made.
    stale = stale_views(connection) if version >= "0002" else [view.name for view in views()]
    if stale:
        found.append(
            f"These views are created or replaced. Grants on them stay: {', '.join(stale)}."
        )
    for view in set(stale) - set(names_taken(cursor, noted=version >= "0002")):
        if built := built_on(cursor, view):
            found.append(
                f"If columns of {view} change, `migrate` asks you to drop what is built on it "
                f"first: {', '.join(built)}."
            )
    if texts := len(undescribed(connection)):
        found.append(f"{texts} descriptions of tables and columns are written.")
    if version == HEAD and not found and not is_up_to_date(connection, owner):
        found.append("Views and functions of this program are created again.")
    return found


def _syncs_in_dagsters_history(cursor: Cursor) -> int:
    schema = dagster_schema_beside(cursor.connection)
    cursor.execute(
        "SELECT reltuples FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = 'runs'",
        (schema,),
    )
    row = cursor.fetchone()
    return max(int(row[0]), 0) if row else 0


def _kept(cursor: Cursor, plan: Plan, tables: list[str]) -> Iterator[str]:
    """Yield sentences about what people built on tables that are changed or decoded again."""
    ours = [HISTORY, *VIEWS, *(view.name for view in views())]
    cursor.execute(
        "SELECT DISTINCT r.ev_class::regclass::text FROM pg_depend d"
        " JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid"
        " WHERE d.refclassid = 'pg_class'::regclass"
        " AND d.refobjid IN (SELECT to_regclass(t) FROM unnest(%(tables)s::text[]) AS t)"
        " AND r.ev_class <> d.refobjid"
        " AND r.ev_class <> ALL(SELECT coalesce(to_regclass(t), 0::oid)"
        " FROM unnest(%(ours)s::text[]) AS t) ORDER BY 1",
        {"tables": tables, "ours": ours},
    )
    if readers := [row[0] for row in cursor.fetchall()]:
        yield f"Views that read these tables stay: {', '.join(readers)}."
    cursor.execute(
        "SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END"
        " FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a"
        " WHERE c.oid IN (SELECT to_regclass(t) FROM unnest(%s::text[]) AS t)"
        " AND a.grantee <> c.relowner ORDER BY 1",
        ([*tables, *ours],),
    )
    if roles := [row[0] for row in cursor.fetchall()]:
        yield f"Grants on these tables stay, for these roles: {', '.join(roles)}."
    decoded = [name for d in plan.decoded if d.rows for name in _tables_of(d.table)]
    cursor.execute(
        "SELECT quote_ident(tgname), tgrelid::regclass::text,"
        " tgrelid IN (SELECT to_regclass(t) FROM unnest(%(decoded)s::text[]) AS t)"
        " AND tgtype & 16 <> 0 FROM pg_trigger"
        " WHERE tgrelid IN (SELECT to_regclass(t) FROM unnest(%(tables)s::text[]) AS t)"
        " AND NOT tgisinternal AND tgname NOT LIKE 'rms\\_%%' ORDER BY 2, 1",
        {"tables": tables, "decoded": decoded},
    )
    for trigger, table, fires in cursor.fetchall():
        fires_too = " It fires for rows that are decoded again." if fires else ""
        yield f"The trigger {trigger} on {table} stays.{fires_too}"
    yield from _own_columns(cursor, tables)
    added = {t: c for m in plan.migrations for t, c in m.adds.items()}
    cursor.execute(
        "SELECT quote_ident(pubname), string_agg(tablename, ', ' ORDER BY tablename)"
        " FROM pg_publication_tables WHERE schemaname = current_schema()"
        " AND tablename = ANY(%s) GROUP BY 1 ORDER BY 1",
        (tables,),
    )
    for publication, published in cursor.fetchall():
        text = f"The publication {publication} stays, and sends what changes in {published}."
        if new := [f"{t} ({', '.join(added[t])})" for t in published.split(", ") if t in added]:
            text += (
                " Add the new columns at its subscribers first, or they stop receiving: "
                f"{'; '.join(new)}."
            )
        yield text


def _own_columns(cursor: Cursor, tables: list[str]) -> Iterator[str]:
    for collection in COLLECTIONS:
        for table in (collection.name, collection.deleted):
            if table not in tables:
                continue
            cursor.execute(
                "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute"
                " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"
                " AND attname <> ALL(%s)",
                (table, [*(c.name for c in collection.table), "deleted_at", "deleted_because"]),
            )
            if own := one_row(cursor)[0]:
                yield f"Columns that somebody added to {table} stay, with their values: {own}."


def _at_work(cursor: Cursor, tables: list[str]) -> list[str]:
    """Return who holds locks that a migration waits for, and whether this program runs now."""
    cursor.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND application_name = 'rms_pipeline'"
    )
    (connections,) = one_row(cursor)
    found = []
    if connections:
        found.append(
            f"{connections} connections of rms_pipeline are open now. Stop `up`, `web` and syncs "
            "of the version before, unless CHANGELOG.md says that they may run on."
        )
    cursor.execute(
        "SELECT l.pid, coalesce(nullif(a.application_name, ''), a.usename, 'a client'),"
        " string_agg(DISTINCT l.relation::regclass::text, ', ') FROM pg_locks l"
        " JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'relation' AND l.granted"
        " AND l.pid <> pg_backend_pid() AND a.application_name <> 'rms_pipeline'"
        " AND l.relation IN (SELECT to_regclass(t) FROM unnest(%s::text[]) AS t)"
        " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " GROUP BY 1, 2 ORDER BY 1",
        (tables,),
    )
    return found + [
        f"{name} (process {pid}) uses {held} now. `migrate` waits for it, at most {LOCK_WAIT}."
        for pid, name, held in cursor.fetchall()
    ]


def _foreign(cursor: Cursor, tables: list[str]) -> list[str]:
    """Return tables that do not belong to the owner of the others, who then cannot alter them."""
    cursor.execute(
        "SELECT c.oid::regclass::text, quote_ident(pg_get_userbyid(c.relowner)),"
        " quote_ident(pg_get_userbyid(v.relowner)) FROM pg_class c"
        " JOIN pg_class v ON v.oid = to_regclass(%s)"
        " WHERE c.oid IN (SELECT to_regclass(t) FROM unnest(%s::text[]) AS t)"
        " AND NOT pg_has_role(v.relowner, c.relowner, 'USAGE') ORDER BY 1",
        (VERSION_TABLE, tables),
    )
    return [
        f"{table} belongs to {owner}, and the other tables to {others}, who cannot alter it. As "
        f"{owner} or an administrator: ALTER TABLE {table} OWNER TO {others};"
        for table, owner, others in cursor.fetchall()
    ]


def _full_sync(cursor: Cursor, pending: list[Migration], version: str) -> FullSync | None:
    """Return the full sync that `schema.full_sync_wanted` will ask for."""
    name = COLLECTIONS[0].name
    rows, _ = _size(cursor, name)
    because = next((m.full_sync for m in reversed(pending) if m.full_sync and rows), None)
    if version < "0002":
        because = because or (
            "The database does not record when the existing rows were read." if rows else ""
        )
    else:
        # Before 0021 there was one collection.
        of_it = "" if version < "0021" else f" AND collection = '{name}'"
        stored = f"kind = 'full' AND settled_at IS NOT NULL{of_it}"
        cursor.execute(
            f"SELECT EXISTS (SELECT FROM walks WHERE {stored} AND watermark IS NOT NULL),"
            " (SELECT m.value::json ->> 'because' FROM mirror_state m"
            " WHERE m.name = 'full_sync_wanted' AND NOT EXISTS (SELECT FROM walks"
            f" WHERE {stored} AND started_at > (m.value::json ->> 'since')::timestamptz))"
        )
        has_full_sync, wanted = one_row(cursor)
        if rows and not has_full_sync:
            because = NOT_RECORDED
        because = because or wanted
    if not because:
        return None
    return FullSync(because, -(-rows // _page_size(cursor, name)) + _PAGES_OF_A_PROOF)


def _page_size(cursor: Cursor, collection: str) -> int:
    cursor.execute("SELECT to_regclass('api_page_sizes') IS NOT NULL")
    if cursor.fetchone() == (True,):
        cursor.execute(
            "SELECT min(page_size) FROM api_page_sizes WHERE collection = %s", (collection,)
        )
        if size := one_row(cursor)[0]:
            return int(size)
    return _SERVED_SINCE_JUNE


# How many records Current RMS puts on a page, if no answer has shown it yet.
_SERVED_SINCE_JUNE = 25
