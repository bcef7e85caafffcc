"""`status_counts` and `week_counts`: the summaries that people look at first, kept ready."""

from typing import TYPE_CHECKING

from psycopg2.extensions import connection as Connection  # noqa: N812

from rms_pipeline.collections.base import Collection
from rms_pipeline.mirror.database import Database

if TYPE_CHECKING:
    import pandas as pd

NO_STATUS = "(none)"


def count_rows(connection: Connection, collection: Collection) -> int:
    """Live rows of `collection`."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {collection.name}")
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def refresh_status_counts(database: Database, time_zone: str) -> "pd.DataFrame":
    """Recounts `opportunities` by status, and by the week they start in (weeks of `time_zone`, from
    Monday), in one reading and one transaction, so the counts add up at `as_of`.

    Returns a frame with one row a status, most frequent first: `opportunity_status` (text),
    `opportunities` (int), `charge_total`, `total_value` (Decimal, the account's currency).
    """
    # Half of what the web service would import before its first answer.
    import pandas as pd

    with database.session() as connection, connection.cursor() as cursor:
        # One summary at a time, or two would insert the same status.
        cursor.execute("LOCK TABLE status_counts IN SHARE ROW EXCLUSIVE MODE")
        cursor.execute("DELETE FROM status_counts")
        cursor.execute(
            "WITH grouped AS MATERIALIZED ("
            " SELECT coalesce(opportunity_status, %(none)s) AS status,"
            " date_trunc('week', starts_at AT TIME ZONE %(zone)s)::date AS week,"
            " count(*) AS n, coalesce(sum(charge_total), 0) AS charge,"
            " coalesce(sum(total_value), 0) AS value FROM opportunities GROUP BY 1, 2),"
            # Only what differs is written: this runs after every webhook.
            " gone AS (DELETE FROM week_counts w WHERE NOT EXISTS (SELECT FROM grouped g"
            " WHERE g.week = w.week AND g.status = w.opportunity_status)),"
            " weeks AS (INSERT INTO week_counts AS w"
            " SELECT week, status, n, charge, value FROM grouped WHERE week IS NOT NULL"
            " ON CONFLICT (week, opportunity_status) DO UPDATE SET"
            " opportunities = excluded.opportunities, charge_total = excluded.charge_total,"
            " total_value = excluded.total_value"
            " WHERE (w.opportunities, w.charge_total, w.total_value) IS DISTINCT FROM"
            " (excluded.opportunities, excluded.charge_total, excluded.total_value))"
            " INSERT INTO status_counts"
            " SELECT status, sum(n)::bigint, sum(charge), sum(value), now()"
            " FROM grouped GROUP BY 1"
            " RETURNING opportunity_status, opportunities, charge_total, total_value",
            {"none": NO_STATUS, "zone": time_zone},
        )
        frame = pd.DataFrame(
            cursor.fetchall(),
            columns=["opportunity_status", "opportunities", "charge_total", "total_value"],
        )
    return frame.sort_values(
        ["opportunities", "opportunity_status"], ascending=[False, True], ignore_index=True
    )
