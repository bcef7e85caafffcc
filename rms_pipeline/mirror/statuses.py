"""What each status means: the phases that the dashboard adds up and that lists can show alone.

The table `statuses` has the phase of each status, and people may edit it. A status that is not in
it counts as open, and so does an absent one.
"""

from dataclasses import dataclass
from typing import Literal

from rms_pipeline.mirror.statements import Connection, one_row

Phase = Literal["open", "confirmed", "lost"]
OPEN: Phase = "open"
CONFIRMED: Phase = "confirmed"
LOST: Phase = "lost"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The statuses of `phases` under one name."""

    title: str
    phases: frozenset[Phase]

    @property
    def condition(self) -> str:
        """Return the SQL condition for a row of opportunities. It contains no value that a user
        typed.
        """
        is_rest = OPEN in self.phases
        named = ", ".join(f"'{phase}'" for phase in sorted(self.phases))
        chosen = "NOT IN" if is_rest else "IN"
        return (
            f"coalesce(opportunity_status, '') {'<> ALL' if is_rest else '= ANY'}"
            f"(ARRAY(SELECT name FROM statuses WHERE phase {chosen} ({named})))"
        )


# Keys stand in a list's address in place of a status. No real status has these names.
OUTCOMES = {
    "is:confirmed": Outcome("Confirmed", frozenset({CONFIRMED})),
    "is:undecided": Outcome("Undecided", frozenset({OPEN})),
    "is:open": Outcome("Confirmed or undecided", frozenset({OPEN, CONFIRMED})),
    "is:closed": Outcome("Cancelled, lost or dead", frozenset({LOST})),
}


def read_phases(connection: Connection) -> dict[str, Phase]:
    """Return the phase of each status that `statuses` names. Commits."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, phase FROM statuses")
        phases: dict[str, Phase] = dict(cursor.fetchall())
    connection.commit()
    return phases


def read_colours(connection: Connection) -> dict[str, str]:
    """Return the colour (#rrggbb) of each status for which `statuses` has one. Commits."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, colour FROM statuses WHERE colour IS NOT NULL")
        colours: dict[str, str] = dict(cursor.fetchall())
    connection.commit()
    return colours


def unknown_statuses(connection: Connection) -> dict[str, int]:
    """Return statuses of live rows that `statuses` does not name, and their numbers of rows.
    Commits.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT opportunity_status, count(*) FROM opportunities o"
            " WHERE opportunity_status IS NOT NULL AND NOT EXISTS"
            " (SELECT FROM statuses s WHERE s.name = o.opportunity_status)"
            " GROUP BY 1 ORDER BY 2 DESC, 1"
        )
        found: dict[str, int] = dict(cursor.fetchall())
    connection.commit()
    return found


def without_a_hire(connection: Connection, most: int = 10) -> tuple[int, list[int]]:
    """Return how many rows end before they start, so that they have no hire, and the first ids.

    The dates are those of the hire: delivery and collection come before start and end. Commits.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*), (array_agg(id ORDER BY id))[:%s] FROM opportunities"
            " WHERE hire IS NULL AND coalesce(deliver_starts_at, starts_at) IS NOT NULL"
            " AND coalesce(collect_ends_at, ends_at) IS NOT NULL",
            (most,),
        )
        count, ids = one_row(cursor)
    connection.commit()
    return count, ids or []
