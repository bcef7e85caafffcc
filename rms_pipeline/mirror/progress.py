"""How far a running sync has come, for everyone who watches it: the command, the dashboard."""

import time
from dataclasses import asdict, dataclass

from rms_pipeline.mirror.statements import Connection
from rms_pipeline.mirror.walks import AGES_FROM

# Seconds. The progress bar looks as often.
_INTERVAL = 0.25


@dataclass(frozen=True, slots=True)
class Progress:
    """Pages and records so far, and how many there are in all.

    `stage` is 'fetching', 'storing' or 'decoding' (of stored rows, whose batches count as pages).
    """

    stage: str
    pages: int
    pages_expected: int
    records: int
    records_expected: int


@dataclass(frozen=True, slots=True)
class Pace(Progress):
    """Progress with its times.

    The stage has run for `stage_seconds`, starting at `stage_began_at` pages (pages of an
    unfinished sync are there already). Nothing was noted for `idle_seconds`.
    """

    stage_began_at: int
    stage_seconds: float
    idle_seconds: float

    @property
    def seconds_left(self) -> float | None:
        """Return the seconds until this stage ends at its pace so far, or None if that is not known
        yet.
        """
        done = self.pages - self.stage_began_at
        if done <= 0 or self.stage_seconds <= 0:
            return None
        left = self.stage_seconds / done * max(self.pages_expected - self.pages, 0)
        return max(left - self.idle_seconds, 0.0)


class ProgressNotes:
    """What a sync notes of itself: at once, and then as often as anyone looks."""

    def __init__(self, connection: Connection, run: str) -> None:
        self._connection, self._run = connection, run
        self._noted_at = -_INTERVAL
        self._latest: Progress | None = None

    def note(self, progress: Progress) -> None:
        """Note the progress if it is time again. Commits."""
        self._latest = progress
        if time.monotonic() - self._noted_at >= _INTERVAL:
            self.finish()

    def finish(self) -> None:
        """Note the latest progress if it was not noted. Commits."""
        if self._latest is not None:
            note_progress(self._connection, self._run, self._latest)
            self._latest = None
            self._noted_at = time.monotonic()


def note_progress(connection: Connection, run: str, progress: Progress) -> None:
    """Replace what is known of `run`, and commit."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO sync_progress AS p"
            " (run, stage, pages, pages_expected, records, records_expected, stage_began_at)"
            " VALUES (%(run)s, %(stage)s, %(pages)s, %(pages_expected)s, %(records)s,"
            " %(records_expected)s, %(pages)s) ON CONFLICT (run) DO UPDATE SET"
            # The next collection starts again at its first page.
            " stage_started_at = CASE WHEN p.stage = excluded.stage AND p.pages <= excluded.pages"
            " THEN p.stage_started_at ELSE now() END,"
            " stage_began_at = CASE WHEN p.stage = excluded.stage AND p.pages <= excluded.pages"
            " THEN p.stage_began_at ELSE excluded.pages END,"
            " stage = excluded.stage, pages = excluded.pages,"
            " pages_expected = excluded.pages_expected, records = excluded.records,"
            " records_expected = excluded.records_expected, updated_at = now()",
            {"run": run, **asdict(progress)},
        )
    connection.commit()


def read_progress(connection: Connection, run: str) -> Pace | None:
    """Return what `run` noted last, or None before it began."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT stage, pages, pages_expected, records, records_expected, stage_began_at,"
            " extract(epoch FROM updated_at - stage_started_at)::float8,"
            " extract(epoch FROM clock_timestamp() - updated_at)::float8"
            " FROM sync_progress WHERE run = %s",
            (run,),
        )
        row = cursor.fetchone()
    connection.commit()
    return Pace(*row) if row else None


def collection_at_work(connection: Connection, run: str, stage: str) -> str | None:
    """Return the collection whose pages `run` fetches or stores in that `stage`, or None if
    unknown.

    Commits.
    """
    is_complete = "NOT NULL" if stage != "fetching" else "NULL"
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT collection FROM walks WHERE %s = ANY(runs) AND kind IN ('full', 'changes')"
            f" AND settled_at IS NULL AND completed_at IS {is_complete} ORDER BY id LIMIT 1",
            (run,),
        )
        row = cursor.fetchone()
    connection.commit()
    return row[0] if row else None


def forget_old_progress(connection: Connection) -> None:
    """Delete what is known of old syncs."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"DELETE FROM sync_progress WHERE updated_at < {AGES_FROM} - interval '30 days'"
        )
    connection.commit()
