"""How far back a collection is mirrored: what people asked for, and what full syncs have covered.

People ask for a number of days, as in the setting. So the window moves on by itself, and an
interrupted full sync can be continued. It counts if it reaches further than the setting. Rows that
leave the window stay, so what was covered once stays covered.
"""

from dataclasses import dataclass
from datetime import datetime

from rms_pipeline.collections.base import Collection
from rms_pipeline.mirror.statements import Connection

# The setting has the same maximum.
MOST_DAYS = 36_500


@dataclass(frozen=True, slots=True)
class Reach:
    """How far back a collection reaches.

    `days_back` was asked for at `asked_at` (UTC) by `asked_by`, or is None if nothing beyond the
    setting was asked for. Everything that ended at `reaches_back_to` (UTC) or later was read once,
    with its changes since. It is None before the first full sync.
    """

    days_back: int | None = None
    asked_at: datetime | None = None
    asked_by: str | None = None
    reaches_back_to: datetime | None = None

    def days(self, setting: int) -> int:
        """Return how many days back full syncs read, if the setting is `setting`."""
        return max(setting, self.days_back or 0)


def read_reach(connection: Connection, collection: Collection) -> Reach:
    """Return the reach of `collection`. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT days_back, asked_at, asked_by, reaches_back_to FROM mirrored_windows"
            " WHERE collection = %s",
            (collection.name,),
        )
        row = cursor.fetchone()
    connection.commit()
    return Reach(*row) if row else Reach()


def ask_for_days_back(
    connection: Connection, collection: Collection, days_back: int | None, by: str | None
) -> None:
    """Let each full sync from now on read so many days back. None means: no more than the setting.

    A full sync that reads already keeps its window. Commits.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO mirrored_windows (collection, days_back, asked_at, asked_by)"
            " VALUES (%s, %s, clock_timestamp(), %s) ON CONFLICT (collection) DO UPDATE SET"
            " days_back = excluded.days_back, asked_at = excluded.asked_at,"
            " asked_by = excluded.asked_by",
            (collection.name, days_back, by),
        )
    connection.commit()


def note_covered(connection: Connection, walk: int) -> None:
    """Note how far back the full walk `walk` reached. Does not commit."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO mirrored_windows AS w (collection, reaches_back_to)"
            " SELECT collection, window_start FROM walks WHERE id = %s AND kind = 'full'"
            " AND window_start IS NOT NULL ON CONFLICT (collection) DO UPDATE SET"
            " reaches_back_to = least(w.reaches_back_to, excluded.reaches_back_to)",
            (walk,),
        )
