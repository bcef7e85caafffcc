"""Counts of the choices beside a list of opportunities."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from rms_pipeline.insight.names import CUSTOMER, newest_names
from rms_pipeline.mirror.criteria import NOBODY, Criteria, Searched, condition
from rms_pipeline.mirror.statements import Connection, Cursor

# At most so many rows are counted: with more, people narrow the list down first.
MOST_COUNTED = 10_000
_MOST_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Choice:
    """`count` opportunities have `value`. `name` is the value for people."""

    value: str
    name: str
    count: int


@dataclass(frozen=True, slots=True)
class Facet:
    """The choices of one kind, most frequent first. If there are more than `MOST_COUNTED`
    opportunities, only the first ones are counted, and each count is `at_least`."""

    kind: str
    choices: list[Choice]
    at_least: bool


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of choice: its SQL expression, the expression of its name, and `clear`, which removes
    the filter. `absent` is what people read of those that have none, if they can be chosen."""

    value: str
    name: str
    clear: Callable[[Criteria], Criteria]
    rows: str = ""
    absent: str = ""


_KINDS = {
    "status": _Kind("opportunity_status", "NULL::text", lambda c: replace(c, status="")),
    "state": _Kind("state_name", "NULL::text", lambda c: replace(c, state="")),
    "owner": _Kind("owner_name", "NULL::text", lambda c: replace(c, owner=""), absent="No owner"),
    "customer_id": _Kind(
        "organisation_id::text",
        "max(organisation_name)",
        lambda c: replace(c, customer_id=None),
    ),
    "venue": _Kind("venue_name", "NULL::text", lambda c: replace(c, venue=""), absent="No venue"),
    "store": _Kind(
        "store_id::text", "'Store ' || max(store_id)", lambda c: replace(c, store_id=None)
    ),
    # An opportunity must have all chosen tags, so this kind is counted with its own filter.
    "tag": _Kind("tag", "NULL::text", lambda c: c, ", unnest(tags) AS tag"),
}


def read_facets(connection: Connection, criteria: Criteria) -> list[Facet]:
    """The choices for `criteria`. Each kind is counted without its own filter. Commits."""
    # Kinds by which nothing is filtered are counted in one reading.
    alike: dict[Criteria, list[str]] = {}
    for name, kind in _KINDS.items():
        alike.setdefault(kind.clear(criteria), []).append(name)
    found: dict[str, Facet] = {}
    with connection.cursor() as cursor:
        for wider, names in alike.items():
            found |= _facets(cursor, names, wider)
        found["customer_id"] = _named(cursor, found["customer_id"])
    connection.commit()
    # With one store there is nothing to choose.
    found["store"] = replace(
        found["store"], choices=found["store"].choices if len(found["store"].choices) > 1 else []
    )
    return [found[name] for name in _KINDS if found[name].choices]


def _named(cursor: Cursor, customers: Facet) -> Facet:
    """With the newest names of customers: those of the counted rows may be older ones."""
    names = newest_names(cursor, CUSTOMER, [int(choice.value) for choice in customers.choices])
    choices = [replace(c, name=names.get(int(c.value), c.name)) for c in customers.choices]
    return replace(customers, choices=choices)


def _facets(cursor: Cursor, names: list[str], criteria: Criteria) -> dict[str, Facet]:
    sample = criteria.searched
    if sample is not None and sample.also:
        # To look through rows for so many that hold the words would take longer than anybody waits.
        criteria = replace(criteria, searched=Searched(sample.ids))
    where, values = condition(criteria)
    counted = " UNION ALL ".join(
        f"(SELECT '{name}', {kind.value}, {kind.name}, count(*)"
        f" FROM looked_at{kind.rows} WHERE {kind.value} IS NOT NULL"
        f" GROUP BY 2 ORDER BY 4 DESC, 2 LIMIT {_MOST_SHOWN})"
        for name, kind in ((name, _KINDS[name]) for name in names)
    )
    counted += "".join(
        f" UNION ALL SELECT '{name}', '{NOBODY}', '{kind.absent}', count(*) FROM looked_at"
        f" WHERE {kind.value} IS NULL HAVING count(*) > 0"
        for name, kind in ((name, _KINDS[name]) for name in names)
        if kind.absent
    )
    cursor.execute(
        "WITH looked_at AS MATERIALIZED (SELECT opportunity_status, state_name, owner_name,"
        " organisation_id, organisation_name, venue_name, store_id, tags FROM opportunities"
        f" WHERE {where} LIMIT %(most)s) {counted}"
        " UNION ALL SELECT NULL, NULL, NULL, count(*) FROM looked_at",
        values | {"most": MOST_COUNTED + 1},
    )
    rows = cursor.fetchall()
    at_least = any(kind is None and count > MOST_COUNTED for kind, _, _, count in rows)
    at_least = at_least or bool(sample and sample.also)
    return {
        name: Facet(
            name,
            sorted(
                (
                    Choice(value, called or value, n)
                    for kind, value, called, n in rows
                    if kind == name
                ),
                key=lambda choice: (-choice.count, choice.value),
            ),
            at_least,
        )
        for name in names
    }
