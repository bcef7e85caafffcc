"""The newest names of customers, venues and owners, for the few that a page shows.

The views `customer_names`, `venue_names` and `owner_names` say the same of all of them, by reading
all opportunities.
"""

from collections.abc import Collection

from rms_pipeline.mirror.statements import Cursor

# The columns of opportunities that hold the id and the name.
CUSTOMER = ("organisation_id", "organisation_name")
VENUE = ("venue_id", "venue_name")
OWNER = ("owner_id", "owner_name")


def newest_names(cursor: Cursor, party: tuple[str, str], ids: Collection[int]) -> dict[int, str]:
    """The names by id, of those of `ids` that an opportunity names. `party` is `CUSTOMER`, `VENUE`
    or `OWNER`."""
    id_column, name_column = party
    cursor.execute(
        f"SELECT wanted.id, CASE WHEN m.name IS NOT NULL AND coalesce("
        "  m.updated_at_rms > newest.updated_at_rms, newest.updated_at_rms IS NULL)"
        " THEN m.name ELSE newest.name END FROM unnest(%s::bigint[]) AS wanted (id)"
        f" CROSS JOIN LATERAL (SELECT {name_column} AS name, updated_at_rms FROM opportunities"
        f"  WHERE {id_column} = wanted.id AND {name_column} IS NOT NULL"
        "  ORDER BY updated_at_rms DESC NULLS LAST, id DESC LIMIT 1) newest"
        " LEFT JOIN members m ON m.id = wanted.id AND m.name <> ''",
        (list(ids),),
    )
    found: dict[int, str] = dict(cursor.fetchall())
    return found
