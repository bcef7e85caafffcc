"""The checks of the view sense_checks: the title of each, and what it finds now."""

from dataclasses import dataclass

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.statements import Connection, one_row

_MANY = 100_000
# What must hold, for each check.
SENSE_CHECKS = {
    "late_back": "Nothing is still Active whose hire has ended.",
    "starts_soon_and_open": "Nothing that starts within seven days is still open.",
    "confirmed_without_dates": "What is confirmed and not completed has a start or an end.",
    "confirmed_at_zero": "Everything that is confirmed has a charge.",
    "ends_before_it_starts": "Nothing ends before it starts.",
    "completed_and_not_invoiced": "Everything that is Completed is invoiced.",
    "costs_above_charge": "Nothing costs more than it charges.",
    "dates_changed_after_confirmation": "No dates were changed after the confirmation.",
    "required_field_empty": "No field is empty that the table required_fields names.",
}
# The title above what a check found, on the page Today. The first two checks have lists there.
FOUND_TITLES = {
    "confirmed_without_dates": "Confirmed, and has no dates",
    "confirmed_at_zero": "Confirmed, and charges nothing",
    "ends_before_it_starts": "Ends before it starts",
    "completed_and_not_invoiced": "Completed, not invoiced",
    "costs_above_charge": "Costs more than it charges",
    "dates_changed_after_confirmation": "Dates changed after the confirmation",
    "required_field_empty": "A required field is empty",
}


@dataclass(frozen=True, slots=True)
class Doubt:
    """An opportunity that a check found. `says` is the problem."""

    id: int
    number: str | None
    name: str
    customer: str | None
    says: str


@dataclass(frozen=True, slots=True)
class Doubts:
    """The result of a check: how many opportunities, and the first ones."""

    check: str
    count: int
    first: list[Doubt]


def doubts(connection: Connection, checks: list[str], most: int = 5) -> list[Doubts]:
    """The results of those of `checks` that found something. Reads all rows. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT s.sense_check, s.n, o.id, o.number, o.name, o.organisation_name, s.says"
            " FROM (SELECT sense_check, opportunity_id, says, count(*) OVER checked AS n,"
            " row_number() OVER (checked ORDER BY moment DESC NULLS LAST, opportunity_id DESC)"
            " AS place FROM sense_checks WHERE sense_check = ANY(%s)"
            " WINDOW checked AS (PARTITION BY sense_check)) s"
            " JOIN opportunities o ON o.id = s.opportunity_id WHERE s.place <= %s"
            " ORDER BY array_position(%s, s.sense_check), s.place",
            (checks, most, checks),
        )
        found: dict[str, Doubts] = {}
        for check, count, *one in cursor.fetchall():
            found.setdefault(check, Doubts(check, count, [])).first.append(Doubt(*one))
    connection.commit()
    return [*found.values()]


def are_many(connection: Connection) -> bool:
    """Whether opportunities are so many, by PostgreSQL's estimate, that `doubts` takes seconds.
    Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT reltuples > %s FROM pg_class WHERE oid = 'opportunities'::regclass", (_MANY,)
        )
        (found,) = one_row(cursor)
    connection.commit()
    return bool(found)


def what_makes_no_sense(connection: Connection, most: int = 10) -> dict[str, tuple[int, list[int]]]:
    """For each check that found something: how many opportunities, and the first ids (at most
    `most`). Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT sense_check, count(*), (array_agg(opportunity_id ORDER BY opportunity_id))[:%s]"
            " FROM sense_checks GROUP BY 1",
            (most,),
        )
        found = {check: (count, ids) for check, count, ids in cursor.fetchall()}
    connection.commit()
    return found


def unknown_required_fields(connection: Connection) -> list[str]:
    """Names in `required_fields` for opportunities that are neither a column read from the record
    nor a custom field of the account. Commits."""
    columns = [c.name for c in OPPORTUNITIES.columns if c.is_mapped and c.kind != "jsonb"]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT field FROM required_fields WHERE collection = %s AND field <> ALL(%s)"
            " AND NOT starts_with(field, 'custom_fields.') ORDER BY 1",
            (OPPORTUNITIES.name, columns),
        )
        found = [row[0] for row in cursor.fetchall()]
    connection.commit()
    return found
