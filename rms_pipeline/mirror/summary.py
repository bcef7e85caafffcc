"""`status_counts`: the summary that people look at first."""

import pandas as pd
from psycopg2.extensions import connection as Connection  # noqa: N812

from rms_pipeline.mirror.database import Database

NO_STATUS = "(none)"


def count_rows(connection: Connection) -> int:
    """Live opportunities in the mirror."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM opportunities")
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def refresh_status_counts(database: Database) -> pd.DataFrame:
    """Recounts `opportunities` by status in one transaction, so the counts add up at `as_of`.

    Returns a frame with one row a status, most frequent first: `opportunity_status` (text),
    `opportunities` (int), `charge_total`, `total_value` (Decimal, the account's currency).
    """
    with database.session() as connection, connection.cursor() as cursor:
        # One summary at a time, or two would insert the same status.
        cursor.execute("LOCK TABLE status_counts IN SHARE ROW EXCLUSIVE MODE")
        cursor.execute("DELETE FROM status_counts")
        cursor.execute(
            "INSERT INTO status_counts SELECT coalesce(opportunity_status, %s), count(*),"
            " coalesce(sum(charge_total), 0), coalesce(sum(total_value), 0), now()"
            " FROM opportunities GROUP BY 1"
            " RETURNING opportunity_status, opportunities, charge_total, total_value",
            (NO_STATUS,),
        )
        frame = pd.DataFrame(
            cursor.fetchall(),
            columns=["opportunity_status", "opportunities", "charge_total", "total_value"],
        )
    return frame.sort_values(
        ["opportunities", "opportunity_status"], ascending=[False, True], ignore_index=True
    )
