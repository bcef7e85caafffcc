"""The newest names of customers, venues and owners, for the few that a page shows.

The views `customer_names`, `venue_names` and `owner_names` say the same of all of them, by reading
all opportunities.
"""

from collections.abc import Collection

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.statements import Cursor

# The columns of opportunities that hold the id and the name.
CUSTOMER = ("organisation_id", "organisation_name")
VENUE = ("venue_id", "venue_name")
OWNER = ("owner_id", "owner_name")


def newest_names(cursor: Cursor, party: tuple[str, str], ids: Collection[int]) -> dict[int, str]:
    """The names by id, of those of `ids` that an opportunity names. `party` is `CUSTOMER`, `VENUE`
    or `OWNER`."""
    found = _with_one_name(cursor, party, ids)
    for id_ in ids:
        if id_ not in found and (name := _newest_name(cursor, party, id_)) is not None:
            found[id_] = name
    return found


def _with_one_name(cursor: Cursor, party: tuple[str, str], ids: Collection[int]) -> dict[int, str]:
    """Those of `ids` that never had another name, which are nearly all: of these no opportunity has
    to be the newest one, and a customer or an owner may have very many."""
    id_column, name_column = party
    kind = next(kind for kind, (name, _) in OPPORTUNITIES.names.items() if name == name_column)
    cursor.execute(
        "SELECT one.id, one.name FROM (SELECT k.record_id AS id, min(k.name) AS name"
        "  FROM known_names k LEFT JOIN members m ON m.id = k.record_id AND m.name <> ''"
        "  WHERE k.collection = %(collection)s AND k.kind = %(kind)s"
        # As the index has it.
        "  AND coalesce(k.record_id, 0) = ANY(%(ids)s::bigint[]) AND k.record_id IS NOT NULL"
        "  GROUP BY k.record_id HAVING count(*) = 1 AND coalesce(bool_and(m.name = k.name), true)"
        # A name may be known for a while after its last opportunity is gone. A subquery of its own
        # ends at the first opportunity, where a join might read them all.
        f" ) one WHERE (SELECT true FROM opportunities o WHERE o.{id_column} = one.id LIMIT 1)",
        {"collection": OPPORTUNITIES.name, "kind": kind, "ids": list(ids)},
    )
    return dict(cursor.fetchall())


def _newest_name(cursor: Cursor, party: tuple[str, str], id_: int) -> str | None:
    """The name of one, of the opportunity that was changed last in Current RMS, or of `members` if
    that is newer still."""
    id_column, name_column = party
    for present in (True, False):
        # Apart from those without a time, and for one id alone: so PostgreSQL knows how many there
        # are, and begins at the newest of all where they are many.
        cursor.execute(
            "SELECT CASE WHEN m.name IS NOT NULL AND coalesce("
            "  m.updated_at_rms > newest.updated_at_rms, newest.updated_at_rms IS NULL)"
            " THEN m.name ELSE newest.name END"
            f" FROM (SELECT {id_column} AS party, {name_column} AS name, updated_at_rms"
            f"  FROM opportunities WHERE {id_column} = %(id)s AND {name_column} IS NOT NULL"
            f"  AND updated_at_rms IS {'NOT NULL' if present else 'NULL'}"
            f"  ORDER BY {'updated_at_rms DESC, ' if present else ''}id DESC LIMIT 1) newest"
            " LEFT JOIN members m ON m.id = newest.party AND m.name <> ''",
            {"id": id_},
        )
        row = cursor.fetchone()
        if row is not None:
            name: str = row[0]
            return name
    return None
