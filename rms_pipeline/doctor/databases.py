"""Does the database answer, can we use it, does it have our tables, and how large are they?"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import psycopg2
from psycopg2.extensions import quote_ident

from rms_pipeline.account import account_name
from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.doctor.finding import Examination, Finding, fine, problem, warning
from rms_pipeline.mirror.database import PUBLIC, dagster_schema_beside, leads_through_pooler
from rms_pipeline.mirror.descriptions import TABLES
from rms_pipeline.mirror.embedded import open_database
from rms_pipeline.mirror.mapping import is_mapping_current
from rms_pipeline.mirror.obstacles import obstacles
from rms_pipeline.mirror.ownership import mirrored_account
from rms_pipeline.mirror.schema import (
    HEAD,
    VERSION_TABLE,
    current_version,
    lost_version,
    mirrors_elsewhere,
    missing_tables,
)
from rms_pipeline.mirror.session_probe import probe_session
from rms_pipeline.mirror.sizes import measure
from rms_pipeline.mirror.statements import Connection, Cursor, one_row
from rms_pipeline.mirror.sync_metadata_view import has_history_view
from rms_pipeline.sandbox import SANDBOX_SUBDOMAIN

_GB = 1_000_000_000
# Below 7 a sync fails; of `up`, 18 were seen on a first start, and a run beside it has its own.
CONNECTIONS_OF_A_SYNC, CONNECTIONS_OF_UP = 7, 30
_SHOWN_TABLES = 3
# Reports look a year back, and hires are booked a year ahead.
_DAYS_OF_CLOCKS = range(-400, 400)
_BESIDE_TABLES = (*(c.content for c in COLLECTIONS), "sync_metadata")


def check_database(exam: Examination) -> Iterator[Finding]:
    """Whether it answers and is new enough."""
    database = open_database(exam.settings)
    with database.session() as connection:
        version = connection.get_parameter_status("server_version") or "of an unknown version"
        room = None if leads_through_pooler(connection) else _room(connection)
    exam.database = database
    answers = f"PostgreSQL {version.partition(' ')[0]} answers."
    if room is None or room[0] >= CONNECTIONS_OF_UP:
        yield fine("database", answers)
        return
    left, limit, statement = room
    found = f"{answers} It accepts {max(left, 0)} connections of this program ({limit})."
    advice = f"As an administrator of the server: {statement}"
    if left < CONNECTIONS_OF_A_SYNC:
        yield problem("database", f"{found} A sync needs {CONNECTIONS_OF_A_SYNC}.", advice)
    else:
        needs = f"`rms-pipeline up` takes some {CONNECTIONS_OF_UP}."
        yield warning("database", f"{found} A sync has enough. {needs}", advice)


def _room(connection: Connection) -> tuple[int, str, str] | None:
    """How many connections the user can have (with our open ones), what limits that, and what would
    change it. If there are several limits, the lowest counts."""
    with connection.cursor() as cursor:
        cursor.execute(
            "WITH others AS MATERIALIZED (SELECT usesysid, datid FROM pg_stat_activity"
            " WHERE datid IS NOT NULL AND application_name IS DISTINCT FROM 'rms_pipeline'"
            " AND application_name IS DISTINCT FROM %s), limits (room, name, change) AS ("
            " SELECT rolconnlimit - (SELECT count(*) FROM others WHERE usesysid = r.oid),"
            " 'CONNECTION LIMIT of the role ' || quote_ident(rolname),"
            " format('ALTER ROLE %%I CONNECTION LIMIT -1;', rolname)"
            " FROM pg_roles r WHERE rolname = current_user AND rolconnlimit >= 0 AND NOT rolsuper"
            " UNION ALL"
            " SELECT datconnlimit - (SELECT count(*) FROM others WHERE datid = d.oid),"
            " 'CONNECTION LIMIT of the database ' || quote_ident(datname),"
            " format('ALTER DATABASE %%I CONNECTION LIMIT -1;', datname)"
            " FROM pg_database d, pg_roles r WHERE datname = current_database()"
            " AND datconnlimit >= 0 AND rolname = current_user AND NOT rolsuper"
            " UNION ALL"
            " SELECT current_setting('max_connections')::bigint"
            " - current_setting('superuser_reserved_connections')::bigint"
            " - (SELECT count(*) FROM others), 'max_connections of the server',"
            " 'raise max_connections, or end what needs none.')"
            " SELECT room, name, change FROM limits ORDER BY room LIMIT 1",
            (dagster_schema_beside(connection),),
        )
        row = cursor.fetchone()
    return None if row is None else (int(row[0]), row[1], row[2])


def check_rights(exam: Examination) -> Iterator[Finding]:
    """Whether the user can create what the mirror and Dagster need, and use what exists."""
    schema, dagster = exam.reached.schema, exam.reached.dagster_schema
    ours = exam.reached.schema_in_sql
    with exam.reached.session() as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_user, current_database(), to_regnamespace(%(ours)s) IS NOT NULL,"
            " coalesce(has_schema_privilege(to_regnamespace(%(ours)s), 'USAGE'), false),"
            " coalesce(has_schema_privilege(to_regnamespace(%(ours)s), 'CREATE'), false),"
            " coalesce(has_schema_privilege(to_regnamespace(%(dagster)s), 'CREATE'),"
            " has_database_privilege(current_database(), 'CREATE')),"
            " to_regnamespace(%(dagster)s) IS NOT NULL,"
            " has_database_privilege(current_database(), 'TEMP'),"
            " has_database_privilege(current_database(), 'CREATE')",
            {"ours": schema, "dagster": dagster},
        )
        row = one_row(cursor)
        user, name = (quote_ident(part, cursor) for part in row[:2])
        has_schema, uses, creates, in_dagster, has_dagster, temporary, makes_schemas = row[2:]
        if not has_schema:
            if schema != PUBLIC and makes_schemas:
                yield fine("rights", f"{user} may create the schema {schema}; the first sync does.")
                return
            yield problem(
                "rights",
                f"The database {name} has no schema {schema}, where the mirror's tables live.",
                f"As an administrator of the database: CREATE SCHEMA {ours} AUTHORIZATION {user};",
            )
            return
        unusable = _unusable(cursor, dagster) if uses else []
        ready = uses and not unusable and current_version(connection) == HEAD
    if unusable:
        more = ", ..." if len(unusable) > _SHOWN_TABLES else ""
        some = ", ".join(unusable[:_SHOWN_TABLES]) + more
        grants = " ".join(
            f"GRANT USAGE ON SCHEMA {s} TO {user}; GRANT ALL ON ALL TABLES IN SCHEMA {s} TO {user};"
            f" GRANT ALL ON ALL SEQUENCES IN SCHEMA {s} TO {user};"
            f" GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {s} TO {user};"
            for s in (ours, dagster)
        )
        yield problem(
            "rights",
            f"{user} may not write to (or read) {len(unusable)} tables or sequences of the mirror "
            f"({some}), so no sync can store anything.",
            f"Use the user that created them in POSTGRES_URL. Or run, as their owner: {grants}",
        )
        return
    lacking = []
    if not (uses and creates):
        usage = "" if uses else "USAGE, "
        lacking.append(f"GRANT {usage}CREATE ON SCHEMA {ours} TO {user};")
    if not in_dagster:
        place = f"SCHEMA {dagster}" if has_dagster else f"DATABASE {name}"
        lacking.append(f"GRANT CREATE ON {place} TO {user};")
    if not temporary:
        lacking.append(f"GRANT TEMPORARY ON DATABASE {name} TO {user};")
    if not lacking:
        yield fine("rights", f"{user} may create tables in {schema} and the schema {dagster}.")
        return
    advice = f"As an administrator of the database: {' '.join(lacking)}"
    if ready and temporary:
        found = f"{user} can use the tables, but cannot change them when the program is upgraded."
        yield warning("rights", found, advice)
    else:
        yield problem(
            "rights", f"{user} has no permission to create what the mirror needs.", advice
        )


def _unusable(cursor: Cursor, dagster: str) -> list[str]:
    """Tables of ours and of Dagster that the user cannot use as a sync does."""
    cursor.execute(
        "WITH parts AS (SELECT c.oid, c.relname::text AS name, c.relkind, n.oid AS schema,"
        " n.nspname <> %(dagster)s AS is_ours FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE (n.nspname = %(dagster)s AND c.relkind IN ('r', 'p', 'S'))"
        " OR c.oid IN (SELECT to_regclass(t) FROM unnest(%(tables)s::text[]) AS t))"
        " SELECT CASE WHEN is_ours THEN name ELSE format('%%s.%%s', %(dagster)s, name) END"
        " FROM parts WHERE NOT (has_schema_privilege(schema, 'USAGE') AND CASE relkind"
        " WHEN 'S' THEN has_sequence_privilege(oid, 'SELECT') AND (is_ours OR"
        " has_sequence_privilege(oid, 'USAGE'))"
        " WHEN 'v' THEN has_table_privilege(oid, 'SELECT')"
        " ELSE has_table_privilege(oid, 'SELECT') AND (name = %(version)s OR"
        " (has_table_privilege(oid, 'INSERT') AND has_table_privilege(oid, 'UPDATE')"
        " AND has_table_privilege(oid, 'DELETE'))) END)"
        # Only a few are named, so one of each sort comes before the second of any.
        " ORDER BY row_number() OVER (PARTITION BY is_ours, relkind = 'S' ORDER BY name), 1",
        {
            "dagster": dagster,
            "tables": [*TABLES, *_BESIDE_TABLES, VERSION_TABLE],
            "version": VERSION_TABLE,
        },
    )
    return [row[0] for row in cursor.fetchall()]


def check_tables(exam: Examination) -> Iterator[Finding]:
    """Whether our tables are those of this version."""
    with exam.reached.session() as connection:
        version = current_version(connection)
        view = has_history_view(connection)
        mapped = version == HEAD and all(is_mapping_current(connection, c) for c in COLLECTIONS)
        elsewhere = mirrors_elsewhere(connection) if version is None else ""
        lost = lost_version(connection) if version is None else None
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT t FROM unnest(%s::text[]) AS t WHERE to_regclass(t) IS NULL",
                (list(TABLES),),
            )
            missing = [row[0] for row in cursor.fetchall()]
    if lost is not None:
        found, _, advice = lost.partition(". ")
        yield problem("tables", f"{found}.", advice)
    elif version is None:
        found = f"This database holds no mirror yet. {elsewhere}".rstrip()
        yield warning("tables", found, "Run `rms-pipeline up` or `rms-pipeline sync initial`.")
    elif version > HEAD:
        yield problem(
            "tables",
            f"A newer version of this program made the tables (schema {version}, not {HEAD}).",
            "Install that version or a later one.",
        )
    elif version != HEAD or not view:
        lacking = f"of an older version (schema {version}, not {HEAD})" if view else "not complete"
        yield warning("tables", f"The tables are {lacking}.", "Run `rms-pipeline migrate`.")
    elif missing:
        yield problem(
            "tables",
            f"Tables are missing: {', '.join(missing)}. Somebody dropped them, or a backup was "
            "restored without them.",
            "Restore them from a backup. Or start again: empty this database, or use another one "
            "(POSTGRES_URL), and run `rms-pipeline sync initial`.",
        )
    elif not mapped:
        found = "Another version of this program filled the columns of the rows."
        yield warning("tables", found, "Run `rms-pipeline migrate`. It fills them again.")
    else:
        exam.tables_ready = True
        yield fine("tables", f"All tables are there (schema {HEAD}), and the history of syncs.")


def check_alterations(exam: Examination) -> Iterator[Finding]:
    """Whether an object that people added to the tables, or removed, blocks a sync."""
    with exam.reached.session() as connection:
        if current_version(connection) != HEAD or missing_tables(connection):
            yield warning("alterations", "Not checked: it needs the tables.", "See tables.")
            return
        found = obstacles(connection)
    for obstacle in found:
        yield problem("alterations", obstacle.found, obstacle.advice)
    if not found:
        yield fine(
            "alterations",
            "No trigger, rule, policy or constraint that was added to the tables blocks a sync.",
        )


def check_account(exam: Examination) -> Iterator[Finding]:
    """Whether the mirror belongs to the configured account."""
    with exam.reached.session() as connection:
        owner = mirrored_account(connection) if current_version(connection) else None
    account = account_name(exam.settings)
    if owner is None:
        yield fine(
            "account",
            f"The mirror belongs to no account yet. The first sync ties it to {account}.",
        )
    elif owner == account:
        yield fine("account", f"The mirror belongs to {account}.")
    elif owner == SANDBOX_SUBDOMAIN:
        found = "The mirror holds the sandbox's invented records."
        yield warning("account", found, f"The next sync replaces them with those of {account}.")
    else:
        wanted = f"CURRENT_RMS_SUBDOMAIN is {account}"
        if exam.settings.uses_sandbox:
            wanted = "no account is configured"
        yield problem(
            "account",
            f"This database mirrors the account {owner}, but {wanted}: no sync will write to it.",
            f"Set CURRENT_RMS_SUBDOMAIN and CURRENT_RMS_API_KEY to those of {owner}, or use "
            "another database (POSTGRES_URL).",
        )


def check_time_zone(exam: Examination) -> Iterator[Finding]:
    """Whether clocks of the company go alike in views, which PostgreSQL works out, and on pages,
    which this program does. Countries change their rules, and each has a list of them."""
    name = exam.settings.time_zone
    now = datetime.now(UTC)
    moments = [now + timedelta(days=days) for days in _DAYS_OF_CLOCKS]
    with exam.reached.session() as connection, connection.cursor() as cursor:
        try:
            cursor.execute(
                "SELECT moment AT TIME ZONE %s FROM unnest(%s::timestamptz[])"
                " WITH ORDINALITY AS asked (moment, n) ORDER BY n",
                (name, moments),
            )
        except psycopg2.errors.InvalidParameterValue:
            connection.rollback()
            yield problem(
                "time zone",
                f"PostgreSQL does not know the time zone {name} of RMS_TIME_ZONE.",
                "Set RMS_TIME_ZONE to a name that SELECT name FROM pg_timezone_names lists.",
            )
            return
        there = [local for (local,) in cursor.fetchall()]
    zone = ZoneInfo(name)
    differ = [
        moment
        for moment, local in zip(moments, there, strict=True)
        if moment.astimezone(zone).replace(tzinfo=None) != local
    ]
    if differ:
        yield warning(
            "time zone",
            f"The clocks of {name} differ between PostgreSQL and this program, for example on "
            f"{differ[0]:%-d %B %Y}. Days in views then begin at another time than on pages.",
            "One of the two has older time zone data. Update PostgreSQL, and the package tzdata "
            "of the system that runs this program.",
        )
    else:
        yield fine("time zone", f"The clocks of {name} are the same in PostgreSQL.")


def check_pooler(exam: Examination) -> Iterator[Finding]:
    """Whether session locks and notifications work."""
    probe = probe_session(exam.reached)
    lost = [
        what
        for what, kept in (
            ("session locks", probe.keeps_locks),
            ("notifications", probe.keeps_listening),
        )
        if not kept
    ]
    if lost:
        yield problem(
            "pooler",
            f"{' and '.join(lost).capitalize()} do not work: a transaction pooler is between "
            "this program and PostgreSQL. Syncs would not wait for one another, and dead syncs "
            "would not be noticed.",
            "Set POSTGRES_URL_NON_POOLING to the same database's direct address (often the same "
            "host with port 5432).",
        )
    else:
        yield fine("pooler", "Session locks and notifications work.")
    if not probe.same_database:
        yield problem(
            "pooler",
            "POSTGRES_URL and POSTGRES_URL_NON_POOLING point to different databases.",
            "Set both to the same database.",
        )


def check_storage(exam: Examination) -> Iterator[Finding]:
    """How large the mirror is."""
    with exam.reached.session() as connection:
        sizes = measure(connection)
    largest = list(sizes.tables.items())[:_SHOWN_TABLES]
    found = (
        f"{_readable(sizes.database)} in all; "
        + ", ".join(f"{name} {_readable(size)}" for name, size in largest)
        + f"; {sizes.raw_pages:,} raw pages."
    )
    pages = sizes.tables["raw_rms_pages"] + sizes.tables["raw_page_bodies"]
    if pages > 3 * sizes.tables["opportunities"] + _GB:
        yield warning(
            "storage",
            f"{found} The raw pages take far more than three full syncs need.",
            "Check that the job reconciliation completes, because each full sync deletes old "
            "pages. `VACUUM FULL raw_rms_pages, raw_page_bodies` then gives the space back to the "
            "disk.",
        )
    else:
        yield fine("storage", found)


def _readable(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1_000:
            return f"{size:,.0f} {unit}"
        size /= 1_000
    return f"{size:,.1f} GB"
