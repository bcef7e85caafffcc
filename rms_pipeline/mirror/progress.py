"""How far a running sync has come, for whoever watches it: the command, later the dashboard."""

import time
from dataclasses import dataclass

from psycopg2.extensions import connection as Connection  # noqa: N812

# Seconds; the progress bar looks as often.
_INTERVAL = 0.25


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


class ProgressNotes:
    """What a sync notes of itself as it goes: at once, and then as often as anyone would look."""

    def __init__(self, connection: Connection, run: str) -> None:
        self._connection, self._run = connection, run
        self._noted_at = -_INTERVAL
        self._latest: Progress | None = None

    def note(self, progress: Progress) -> None:
        """Commits, when it is time again."""
        self._latest = progress
        if time.monotonic() - self._noted_at >= _INTERVAL:
            self.finish()

    def finish(self) -> None:
        """Notes the latest progress if it was not. Commits."""
        if self._latest is not None:
            note_progress(self._connection, self._run, self._latest)
            self._latest = None
            self._noted_at = time.monotonic()


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
