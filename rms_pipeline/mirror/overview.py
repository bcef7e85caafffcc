"""What the dashboard shows first. It is read from stored summaries and through indexes.

So it takes the same few milliseconds with a thousand rows and with a million.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Context, Decimal

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.changes import STATUS
from rms_pipeline.mirror.queued_events import RECORD
from rms_pipeline.mirror.statements import Connection, described
from rms_pipeline.mirror.statuses import OPEN, Phase
from rms_pipeline.mirror.walks import emptied_at

WEEKS = 26
WEBHOOK_DAYS = 7
# Enough digits for the largest and the smallest amount that can be stored, 10 to the ±1000.
_EXACT = Context(prec=2_100)


@dataclass(frozen=True, slots=True)
class StatusCount:
    """One status: the number of opportunities, and their value in the account's currency."""

    status: str
    opportunities: int
    charge_total: Decimal
    total_value: Decimal


@dataclass(frozen=True, slots=True)
class WeekCount:
    """Opportunities of one status that start in the week from the Monday `week`."""

    week: date
    status: str
    opportunities: int
    total_value: Decimal


@dataclass(frozen=True, slots=True)
class RecentEdit:
    """A recently edited opportunity. `old_status` is None unless that edit changed its status."""

    id: int
    name: str
    status: str | None
    customer: str | None
    updated_at: datetime
    old_status: str | None
    changed_by: str | None


@dataclass(frozen=True, slots=True)
class WebhookDay:
    """Webhooks about records of any collection received on `day`: how many are settled, how many
    dead.
    """

    day: date
    received: int
    settled: int
    dead: int


@dataclass(frozen=True, slots=True)
class ActiveOpportunity:
    """An opportunity and its webhooks of the last days. `name` is None if it was never here."""

    id: int
    name: str | None
    status: str | None
    webhooks: int
    last_at: datetime
    is_deleted: bool


@dataclass(frozen=True, slots=True)
class Overview:
    """The dashboard's overview.

    `as_of` (UTC) is when statuses and weeks were counted, or None before any sync. `phases` has the
    phase of each status; a missing one is open. `colours` (#rrggbb) come from the table `statuses`.
    """

    as_of: datetime | None
    statuses: list[StatusCount]
    weeks: list[WeekCount]
    recent: list[RecentEdit]
    webhook_days: list[WebhookDay]
    most_active: list[ActiveOpportunity]
    phases: dict[str, Phase]
    colours: dict[str, str]

    @property
    def total(self) -> int:
        return sum(s.opportunities for s in self.statuses)

    @property
    def total_value(self) -> Decimal:
        return add_up(s.total_value for s in self.statuses)

    def worth(self, phase: Phase) -> Decimal:
        """Return the value with tax of the opportunities in `phase`."""
        return add_up(
            s.total_value for s in self.statuses if self.phases.get(s.status, OPEN) == phase
        )


def add_up(amounts: Iterable[Decimal]) -> Decimal:
    """Return the exact sum, as PostgreSQL computes it. Python's `sum` rounds to 28 digits."""
    total = Decimal(0)
    for amount in amounts:
        total = _EXACT.add(total, amount)
    return total


def read_statuses(connection: Connection) -> tuple[datetime | None, list[StatusCount]]:
    """Return when opportunities were last counted (UTC, None for never), and the counts by status.

    The most frequent status comes first. An account without an opportunity has no count. It was
    counted when a sync found none.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT as_of, opportunity_status, opportunities, charge_total, total_value"
            " FROM status_counts ORDER BY opportunities DESC, opportunity_status"
        )
        counted = cursor.fetchall()
    as_of = counted[0][0] if counted else emptied_at(connection, OPPORTUNITIES)
    connection.commit()
    return as_of, [StatusCount(*row[1:]) for row in counted]


def read_overview(connection: Connection, time_zone: str, *, most: int = 8) -> Overview:
    """Return the present overview. Days and weeks are those of `time_zone`. Lists have at most
    `most` rows.
    """
    as_of, statuses = read_statuses(connection)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT week, opportunity_status, opportunities, total_value FROM week_counts"
            " WHERE week >= date_trunc('week', now() AT TIME ZONE %(zone)s)::date"
            " AND week < date_trunc('week', now() AT TIME ZONE %(zone)s)::date + 7 * %(weeks)s"
            " ORDER BY week, opportunity_status",
            {"zone": time_zone, "weeks": WEEKS},
        )
        weeks = [WeekCount(*row) for row in cursor.fetchall()]
        cursor.execute(
            described("recent_edits"),
            {"most": most, "status": STATUS},
        )
        recent = [RecentEdit(*row) for row in cursor.fetchall()]
        cursor.execute(
            described("webhook_days", record=RECORD),
            {"zone": time_zone, "days": WEBHOOK_DAYS},
        )
        webhook_days = [WebhookDay(*row) for row in cursor.fetchall()]
        cursor.execute(
            described("most_active"),
            {"days": WEBHOOK_DAYS, "most": most},
        )
        most_active = [ActiveOpportunity(*row) for row in cursor.fetchall()]
        cursor.execute("SELECT name, phase, colour FROM statuses ORDER BY sort, name")
        named: list[tuple[str, Phase, str | None]] = cursor.fetchall()
    connection.commit()
    return Overview(
        as_of=as_of,
        statuses=statuses,
        weeks=weeks,
        recent=recent,
        webhook_days=webhook_days,
        most_active=most_active,
        phases={name: phase for name, phase, _ in named},
        colours={name: colour for name, _, colour in named if colour},
    )
