"""How far a running sync has come, for whoever watches it: the command, later the dashboard."""

from dataclasses import dataclass

from psycopg2.extensions import connection as Connection  # noqa: N812


@dataclass(frozen=True, slots=True)
class Progress:
    """Pages and records so far, of how many in all.

    `stage` is 'fetching', 'storing' or 'decoding' (of stored rows, whose batches count as pages).
    """

    stage: str
    pages: int
    pages_expected: int
    records: int
    records_expected: int


def note_progress(connection: Connection, run: str, progress: Progress) -> None:
    """Replaces what is known of `run`, and commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO sync_progress"
            " (run, stage, pages, pages_expected, records, records_expected)"
            " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (run) DO UPDATE SET"
            " stage = excluded.stage, pages = excluded.pages,"
            " pages_expected = excluded.pages_expected, records = excluded.records,"
            " records_expected = excluded.records_expected, updated_at = now()",
            (
                run,
                progress.stage,
                progress.pages,
                progress.pages_expected,
                progress.records,
                progress.records_expected,
            ),
        )
    connection.commit()


def read_progress(connection: Connection, run: str) -> Progress | None:
    """What `run` last noted, None before it began."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT stage, pages, pages_expected, records, records_expected"
            " FROM sync_progress WHERE run = %s",
            (run,),
        )
        row = cursor.fetchone()
    connection.commit()
    return Progress(*row) if row else None


def forget_old_progress(connection: Connection) -> None:
    """Drops what is known of syncs of long ago."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM sync_progress WHERE updated_at < now() - interval '30 days'")
    connection.commit()
