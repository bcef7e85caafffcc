"""How much disk space the mirror takes."""

from dataclasses import dataclass

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.mirror.database import dagster_schema_beside
from rms_pipeline.mirror.statements import Connection, one_row

# All tables that migrations make, by their purpose.
OUR_TABLES = (
    *(table for c in COLLECTIONS for table in (c.name, c.deleted, c.versions)),
    *(c.changes for c in COLLECTIONS if c.noted),
    *("raw_rms_pages", "raw_page_bodies"),
    *("walks", "sync_faults", "sync_progress", "unreadable_records"),
    *("proofs", "proof_counts", "held_deletions", "deletions_confirmed"),
    "part_lists",
    *("webhook_events", "webhook_absences"),
    *("api_budget", "api_page_sizes", "api_refusals", "api_troubles"),
    *("status_counts", "week_counts", "daily_status_counts", "statuses"),
    *("required_fields", "custom_field_keys", "custom_field_labels", "promoted_fields"),
    *(c.side for c in COLLECTIONS if c.promotes),
    *(c.past for c in COLLECTIONS if c.remembers),
    *("opportunity_words", "known_names"),
    *("sync_runs", "sync_figures"),
    *(
        "saved_views",
        "calendar_feeds",
        "mirrored_windows",
        "mirror_state",
        "run_workers",
        "rms_pipeline_alembic_version",
    ),
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes on disk, with indexes and out-of-line values: of the `database`, and of each of
    `tables`.

    The tables are ours and Dagster's, largest first. `raw_pages` is a number of rows.
    """

    database: int
    tables: dict[str, int]
    raw_pages: int


def measure(connection: Connection) -> Sizes:
    """Return the sizes now. Raises psycopg2.Error if our tables do not exist. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT CASE n.nspname WHEN current_schema() THEN c.relname"
            " ELSE n.nspname || '.' || c.relname END, pg_total_relation_size(c.oid) AS size"
            " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r'"
            " AND (n.nspname = %s OR n.nspname = current_schema() AND c.relname = ANY(%s))"
            " ORDER BY size DESC, 1",
            (dagster_schema_beside(connection), list(OUR_TABLES)),
        )
        tables = {name: int(size) for name, size in cursor.fetchall()}
        cursor.execute(
            "SELECT pg_database_size(current_database()), (SELECT count(*) FROM raw_rms_pages)"
        )
        row = one_row(cursor)
    connection.commit()
    return Sizes(int(row[0]), tables, int(row[1]))
