"""What will come to pass, by status: the kinds that the dashboard adds up and lists show alone."""

from dataclasses import dataclass

# How Current RMS names what will, and what will not, come to pass. A status that it does not know
# counts as undecided, and so does an absent one.
CONFIRMED = frozenset({"Reserved", "Active", "Completed"})
CLOSED = frozenset({"Cancelled", "Lost", "Dead"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """Several statuses by one name: `statuses`, or all but these when `is_rest`."""

    title: str
    statuses: frozenset[str]
    is_rest: bool = False


# By what stands in a list's address in place of a status, which no status of people's is called.
OUTCOMES = {
    "is:confirmed": Outcome("Confirmed", CONFIRMED),
    "is:undecided": Outcome("Undecided", CONFIRMED | CLOSED, is_rest=True),
    "is:open": Outcome("Confirmed or undecided", CLOSED, is_rest=True),
    "is:closed": Outcome("Cancelled, lost or dead", CLOSED),
}
