"""What will come to pass, by status: the phases that the dashboard adds up and lists show alone.

The table `statuses` says the phase of each, and people may edit it. A status that is not in it is
open, and so is an absent one.
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
    """The statuses of `phases` by one name."""

    title: str
    phases: frozenset[Phase]

    @property
    def condition(self) -> str:
        """That a row of opportunities is one of them, in SQL without a value of anybody's."""
        is_rest = OPEN in self.phases
        named = ", ".join(f"'{phase}'" for phase in sorted(self.phases))
        chosen = "NOT IN" if is_rest else "IN"
        return (
            f"coalesce(opportunity_status, '') {'<> ALL' if is_rest else '= ANY'}"
            f"(ARRAY(SELECT name FROM statuses WHERE phase {chosen} ({named})))"
        )


# By what stands in a list's address in place of a status, which no status of people's is called.
OUTCOMES = {
    "is:confirmed": Outcome("Confirmed", frozenset({CONFIRMED})),
    "is:undecided": Outcome("Undecided", frozenset({OPEN})),
    "is:open": Outcome("Confirmed or undecided", frozenset({OPEN, CONFIRMED})),
    "is:closed": Outcome("Cancelled, lost or dead", frozenset({LOST})),
}


def read_phases(connection: Connection) -> dict[str, Phase]:
    """The phase of each status that `statuses` names. Commits."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, phase FROM statuses")
        phases: dict[str, Phase] = dict(cursor.fetchall())
    connection.commit()
    return phases


def read_colours(connection: Connection) -> dict[str, str]:
    """The colour of each status for which `statuses` says one, as #rrggbb. Commits."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, colour FROM statuses WHERE colour IS NOT NULL")
        colours: dict[str, str] = dict(cursor.fetchall())
    connection.commit()
    return colours


def unknown_statuses(connection: Connection) -> dict[str, int]:
    """Statuses of live rows that `statuses` does not name, and how many rows have each. Commits."""
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
    """How many rows end before they start, so that they have no hire, and the first ids. Commits.

    By the dates that the hire is made of: those of delivery and collection come first.
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
