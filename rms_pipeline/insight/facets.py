"""What the opportunities of a list have in common, counted: the choices beside the list."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from rms_pipeline.mirror.criteria import Criteria, condition
from rms_pipeline.mirror.statements import Connection, Cursor

# So many are looked at, at most: who has more than that wants to narrow it down, not to count.
MOST_COUNTED = 10_000
_MOST_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Choice:
    """`count` opportunities have `value`; `name` is what people call it."""

    value: str
    name: str
    count: int


@dataclass(frozen=True, slots=True)
class Facet:
    """The choices of one kind, most frequent first. Where there are more than `MOST_COUNTED`
    opportunities, counts are of the first so many, and each is `at_least` as high."""

    kind: str
    choices: list[Choice]
    at_least: bool


@dataclass(frozen=True, slots=True)
class _Kind:
    """What is counted: an expression, and one for its name; `clear` takes the filter by it away."""

    value: str
    name: str
    clear: Callable[[Criteria], Criteria]
    rows: str = ""


_KINDS = {
    "status": _Kind("opportunity_status", "NULL", lambda c: replace(c, status="")),
    "state": _Kind("state_name", "NULL", lambda c: replace(c, state="")),
    "owner": _Kind("owner_name", "NULL", lambda c: replace(c, owner="")),
    "customer_id": _Kind(
        "organisation_id::text",
        "max(organisation_name)",
        lambda c: replace(c, customer_id=None),
    ),
    "venue": _Kind("venue_name", "NULL", lambda c: replace(c, venue="")),
    # Tags are all to be there: others narrow it down further.
    "tag": _Kind("tag", "NULL", lambda c: c, ", unnest(tags) AS tag"),
}


def read_facets(connection: Connection, criteria: Criteria) -> list[Facet]:
    """The choices for `criteria`, each kind as if nothing of that kind were chosen. Commits."""
    facets = []
    with connection.cursor() as cursor:
        for name, kind in _KINDS.items():
            facets.append(_facet(cursor, name, kind, kind.clear(criteria)))
    connection.commit()
    return [facet for facet in facets if facet.choices]


def _facet(cursor: Cursor, name: str, kind: _Kind, criteria: Criteria) -> Facet:
    where, values = condition(criteria)
    cursor.execute(
        "WITH looked_at AS MATERIALIZED (SELECT opportunity_status, state_name, owner_name,"
        f" organisation_id, organisation_name, venue_name, tags FROM opportunities WHERE {where}"
        " LIMIT %(most)s)"
        f" SELECT {kind.value}, {kind.name}, count(*), (SELECT count(*) FROM looked_at)"
        f" FROM looked_at{kind.rows} WHERE {kind.value} IS NOT NULL"
        f" GROUP BY 1 ORDER BY 3 DESC, 1 LIMIT {_MOST_SHOWN}",
        values | {"most": MOST_COUNTED + 1},
    )
    found = cursor.fetchall()
    at_least = bool(found) and found[0][3] > MOST_COUNTED
    choices = [Choice(value, called or value, count) for value, called, count, _ in found]
    return Facet(name, choices, at_least)
