"""Changes that people made to our tables and that stop a sync or make it wrong.

This module reads the catalog. Columns, indexes, foreign keys, constraints, triggers and views that
people add are no obstacle: a sync leaves out each row that they refuse.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.mirror.database import PUBLIC, DatabaseError, dagster_schema_beside
from rms_pipeline.mirror.descriptions import TABLES
from rms_pipeline.mirror.statements import Connection, Cursor, one_row

# The catalog's names of types.
_TYPES = {"timestamptz": "timestamp with time zone"}
# The column types that a merge writes. A column of another type would change the values.
COLUMNS = {c.name: {o.name: _TYPES.get(o.kind, o.kind) for o in c.table} for c in COLLECTIONS}
# Triggers of rows tell a proof that rows changed while it counted. Of the two triggers of events,
# one wakes the fast lane, and the other keeps programs of earlier releases from claiming events.
TRIGGERS = {
    *{
        (f"rms_content_{event}", c.name)
        for event in ("insert", "truncate", "delete", "update")
        for c in COLLECTIONS
    },
    ("rms_notify_webhook_events", "webhook_events"),
    ("rms_refuse_outdated_claim", "webhook_events"),
}
# A sync writes these with ON CONFLICT. PostgreSQL refuses that where a rule on INSERT or UPDATE is.
_NO_RULES = (
    *(c.versions for c in COLLECTIONS),
    "webhook_events",
    "webhook_absences",
    "week_counts",
    "sync_progress",
    "unreadable_records",
    "held_deletions",
    "part_lists",
    "mirrored_windows",
    "deletions_confirmed",
    "api_page_sizes",
    "api_refusals",
    "raw_page_bodies",
    "mirror_state",
)
_OURS = "SELECT to_regclass(t) FROM unnest(%(tables)s::text[]) AS t"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What blocks a sync, and how to remove it."""

    found: str
    advice: str


def obstacles(connection: Connection) -> list[Obstacle]:
    """Return what blocks the syncs of a mirror whose tables exist. Commits."""
    return _found_by(connection, _HARMFUL + _OTHERS)


def demand_no_obstacle(connection: Connection) -> None:
    """Raise DatabaseError if a sync would change other people's rows or store nothing. Commits.

    The other obstacles are left to the doctor, because each sync waits for this.
    """
    for obstacle in _found_by(connection, _HARMFUL):
        raise DatabaseError(f"{obstacle.found} {obstacle.advice}")


def _found_by(
    connection: Connection, checks: Sequence[Callable[[Cursor], Iterator[Obstacle]]]
) -> list[Obstacle]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT quote_ident(current_schema())")
        schema = one_row(cursor)[0]
        found = [obstacle for check in checks for obstacle in check(cursor)]
    connection.commit()
    if schema == PUBLIC:
        return found
    # With two mirrors in one database, the advice must not change the other mirror's tables.
    first = f"(In psql, run this first: SET search_path = {schema};)"
    return [replace(each, advice=f"{each.advice} {first}") for each in found]


def correct_numbering(connection: Connection) -> list[str]:
    """Move each sequence that is behind the rows which it numbers. Returns their tables. Commits.

    Rows that were copied without their sequences, as logical replication does, have taken the
    numbers that come next.
    """
    with connection.cursor() as cursor:
        behind = _behind(cursor)
        for sequence, table, column in behind:
            cursor.execute(f"SELECT max({column}) FROM {table}")
            cursor.execute("SELECT setval(%s::regclass, %s)", (sequence, *one_row(cursor)))
    connection.commit()
    return [table for _, table, _ in behind]


def _sequences(cursor: Cursor) -> Iterator[Obstacle]:
    if behind := _behind(cursor):
        yield Obstacle(
            f"The next numbers of {', '.join(table for _, table, _ in behind)} are taken by rows. "
            "So no new row can be stored there. Rows were copied without their sequences, as "
            "logical replication does.",
            "Run `rms-pipeline migrate`, which corrects this.",
        )


def _behind(cursor: Cursor) -> list[tuple[str, ...]]:
    """The sequences that give numbers which rows have, each with its table and column.

    Those of Dagster's tables beside the mirror count, too.
    """
    numbered = _rows(
        cursor,
        "SELECT s.oid::regclass::text, c.oid::regclass::text, quote_ident(a.attname)"
        " FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'"
        " JOIN pg_class c ON c.oid = d.refobjid"
        " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid"
        " WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass"
        " AND d.deptype IN ('a', 'i') AND a.atttypid IN ('int4'::regtype, 'int8'::regtype)"
        f" AND (c.oid IN ({_OURS}) OR c.relnamespace = to_regnamespace(quote_ident(%(dagster)s)))"
        # The planner may ask the first of them before it knows what is a sequence.
        " AND CASE WHEN s.relkind = 'S' THEN has_sequence_privilege(s.oid, 'SELECT') END"
        " AND has_table_privilege(c.oid, 'SELECT')"
        " ORDER BY 2",
        dagster=dagster_schema_beside(cursor.connection),
    )
    if not numbered:
        return []
    each = (
        f"SELECT {place} FROM {sequence}"
        f" WHERE last_value - (NOT is_called)::int < (SELECT max({column}) FROM {table})"
        for place, (sequence, table, column) in enumerate(numbered)
    )
    cursor.execute(" UNION ALL ".join(each))
    return [numbered[place] for (place,) in cursor.fetchall()]


def _rows(cursor: Cursor, question: str, **values: object) -> list[tuple[str, ...]]:
    cursor.execute(question, {"tables": list(TABLES)} | values)
    return cursor.fetchall()


def _rules(cursor: Cursor) -> Iterator[Obstacle]:
    found = _rows(
        cursor,
        "SELECT quote_ident(rulename), c.oid::regclass::text, is_instead FROM pg_rewrite r"
        f" JOIN pg_class c ON c.oid = ev_class WHERE c.oid IN ({_OURS}) AND ev_type <> '1'"
        " AND c.relkind IN ('r', 'p') AND ev_enabled <> 'D'"
        " AND (is_instead OR (ev_type IN ('2', '3') AND c.relname = ANY(%(no_rules)s))) ORDER BY 1",
        no_rules=list(_NO_RULES),
    )
    for rule, table, is_instead in found:
        kind = "replaces what a sync writes there by something else" if is_instead else (
            "adds a command to what a sync writes there, and PostgreSQL does not allow that"
        )  # fmt: skip
        yield Obstacle(
            f"The rule {rule} on the table {table} {kind}.",
            f"Drop the rule, and use a trigger instead: DROP RULE {rule} ON {table};",
        )


def _heirs(cursor: Cursor) -> Iterator[Obstacle]:
    found = _rows(
        cursor,
        "SELECT inhrelid::regclass::text, inhparent::regclass::text FROM pg_inherits"
        f" JOIN pg_class c ON c.oid = inhrelid WHERE inhparent IN ({_OURS})"
        " AND NOT c.relispartition ORDER BY 1",
    )
    for child, parent in found:
        yield Obstacle(
            f"The table {child} inherits from {parent}, so syncs would count, change and delete "
            "its rows together with those of the mirror.",
            f"As its owner: ALTER TABLE {child} NO INHERIT {parent};",
        )


def _policies(cursor: Cursor) -> Iterator[Obstacle]:
    found = _rows(
        cursor,
        "SELECT c.oid::regclass::text, quote_ident(current_user) FROM pg_class c"
        f" WHERE c.oid IN ({_OURS}) AND row_security_active(c.oid) ORDER BY 1",
    )
    if found:
        tables, user = ", ".join(table for table, _ in found), found[0][1]
        yield Obstacle(
            f"Policies of row-level security hide rows of {tables} from the user {user}, so the "
            "mirror would not be complete.",
            f"As the tables' owner: ALTER TABLE {found[0][0]} NO FORCE ROW LEVEL SECURITY; or as "
            f"an administrator: ALTER ROLE {user} BYPASSRLS;",
        )


def _publications(cursor: Cursor) -> Iterator[Obstacle]:
    found = _rows(
        cursor,
        "SELECT c.oid::regclass::text, string_agg(DISTINCT quote_ident(t.pubname), ', ')"
        " FROM pg_publication_tables t JOIN pg_publication p USING (pubname)"
        " JOIN pg_class c ON c.oid = to_regclass(format('%%I.%%I', t.schemaname, t.tablename))"
        f" WHERE c.oid IN ({_OURS}) AND (p.pubupdate OR p.pubdelete) AND (c.relreplident = 'n'"
        " OR (c.relreplident = 'd' AND NOT EXISTS (SELECT FROM pg_index i"
        " WHERE i.indrelid = c.oid AND i.indisprimary)) OR (c.relreplident = 'i' AND NOT EXISTS"
        " (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident)))"
        " GROUP BY 1 ORDER BY 1",
    )
    for table, publication in found:
        yield Obstacle(
            f"The publication {publication} includes {table}, which has no replica identity. "
            "PostgreSQL then refuses to update or delete its rows.",
            f"As its owner: ALTER TABLE {table} REPLICA IDENTITY FULL;",
        )


def _triggers(cursor: Cursor) -> Iterator[Obstacle]:
    found = _rows(
        cursor,
        "SELECT n.name, n.place, t.tgname IS NULL"
        " FROM unnest(%(names)s::text[], %(places)s::text[]) AS n (name, place)"
        " LEFT JOIN pg_trigger t ON t.tgname = n.name AND t.tgrelid = to_regclass(n.place)"
        " WHERE t.tgname IS NULL OR t.tgenabled NOT IN ('O', 'A') ORDER BY 1",
        names=[name for name, _ in TRIGGERS],
        places=[place for _, place in TRIGGERS],
    )
    gone = [name for name, _, is_gone in found if is_gone]
    cursor.execute(
        "SELECT s FROM unnest(%s::text[]) AS s WHERE to_regclass(s) IS NULL ORDER BY 1",
        ([c.content for c in COLLECTIONS],),
    )
    gone += [f"the sequence {name}" for (name,) in cursor.fetchall()]
    if gone:
        yield Obstacle(
            f"Triggers or sequences of the mirror's tables were dropped: {', '.join(gone)}. "
            "Without them a certificate may be wrong, and webhooks wait.",
            "Restore them from a backup, or start again with an empty database.",
        )
    for name, place, is_gone in found:
        if not is_gone:
            yield Obstacle(
                f"The trigger {name} of {place} is switched off. Without it a certificate may be "
                "wrong, or webhooks wait.",
                f"ALTER TABLE {place} ENABLE TRIGGER {name};",
            )


def _columns(cursor: Cursor) -> Iterator[Obstacle]:
    wanted = [
        (table, column, type_)
        for c in COLLECTIONS
        for table in (c.name, c.deleted)
        for column, type_ in COLUMNS[c.name].items()
    ]
    found = _rows(
        cursor,
        "SELECT c.table_name, c.name, c.type, format_type(a.atttypid, a.atttypmod)"
        " FROM unnest(%(rows)s::text[], %(columns)s::text[], %(types)s::text[])"
        " AS c (table_name, name, type)"
        " LEFT JOIN pg_attribute a ON a.attrelid = to_regclass(c.table_name) AND a.attname = c.name"
        " AND NOT a.attisdropped WHERE to_regclass(c.table_name) IS NOT NULL"
        " AND format_type(a.atttypid, a.atttypmod) IS DISTINCT FROM c.type ORDER BY 1, 2",
        rows=[table for table, _, _ in wanted],
        columns=[column for _, column, _ in wanted],
        types=[type_ for _, _, type_ in wanted],
    )
    for table, column, type_, there in found:
        if there is None:
            yield Obstacle(
                f"The column {column} of {table} was dropped or renamed.",
                f"Rename it back, or add it again: ALTER TABLE {table} ADD COLUMN {column} "
                f"{type_}; then run `rms-pipeline rebuild`.",
            )
        else:
            yield Obstacle(
                f"The column {column} of {table} is now {there}, so it cannot hold every value "
                "that the API sends.",
                f"ALTER TABLE {table} ALTER COLUMN {column} TYPE {type_} USING "
                f"{column}::{type_}; then run `rms-pipeline rebuild`.",
            )


# A sync would change other people's rows, or store nothing.
_HARMFUL = (_rules, _heirs)
_OTHERS = (_policies, _publications, _triggers, _columns, _sequences)
