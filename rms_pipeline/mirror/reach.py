"""How far back a collection is mirrored: what people asked for beyond the setting, and what full
syncs have covered.

What was asked for is a number of days, as the setting is, so that the window moves on by itself and
a full sync that was ended half-way can be gone on with. It counts where it reaches further than the
setting. Rows that leave the window stay, so what was covered once is covered from then on.
"""

from dataclasses import dataclass
from datetime import datetime

from rms_pipeline.collections.base import Collection
from rms_pipeline.mirror.statements import Connection

# As far as the setting may reach, too.
MOST_DAYS = 36_500


@dataclass(frozen=True, slots=True)
class Reach:
    """`days_back` is what was asked for `asked_at` (UTC) by `asked_by`, None for no more than the
    setting. Everything that ended at `reaches_back_to` (UTC) or later was read once, and what
    changed since; None before the first full sync."""

    days_back: int | None = None
    asked_at: datetime | None = None
    asked_by: str | None = None
    reaches_back_to: datetime | None = None

    def days(self, setting: int) -> int:
        """How many days back full syncs read, where the setting says `setting`."""
        return max(setting, self.days_back or 0)


def read_reach(connection: Connection, collection: Collection) -> Reach:
    """Of `collection`. Commits."""
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
    """Has each full sync from now on read so many days back; None: no more than the setting.

    One that reads already goes on with the window that it began with. Commits.
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
    """Notes how far back the full walk `walk` reached. Does not commit."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO mirrored_windows AS w (collection, reaches_back_to)"
            " SELECT collection, window_start FROM walks WHERE id = %s AND kind = 'full'"
            " AND window_start IS NOT NULL ON CONFLICT (collection) DO UPDATE SET"
            " reaches_back_to = least(w.reaches_back_to, excluded.reaches_back_to)",
            (walk,),
        )
