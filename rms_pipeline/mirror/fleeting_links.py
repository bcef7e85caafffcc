"""Rows whose record is the same but for links that differ at each read.

They do not count as changed. Their links go stale, so `data` keeps the newest all the same.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from psycopg2.extensions import cursor as Cursor  # noqa: N812

from rms_pipeline.current_rms.payloads import Opportunity, same_but_for_links


def note_asked(
    cursor: Cursor, same: Sequence[int], linked: Mapping[int, bytes], asked_at: datetime
) -> None:
    """Notes of rows found the same when they were asked for, and takes over newer links.

    Those go stale, so the newest are kept; that writes `data` anew where they differ, and only
    there. `linked` are the records that have any.
    """
    plain = [id_ for id_ in same if id_ not in linked]
    if plain:
        cursor.execute(
            "UPDATE opportunities SET synced_at = %s WHERE id = ANY(%s)", (asked_at, plain)
        )
    if fleeting := [id_ for id_ in same if id_ in linked]:
        # No change of what the rows hold, so that no proof has to begin again (`rms_note_content`).
        cursor.execute("SELECT set_config('rms_pipeline.only_links', 'on', true)")
        cursor.execute(
            # The old value as it is, when it is the same: it is then not compressed again.
            "UPDATE opportunities o SET synced_at = %s,"
            " data = CASE WHEN o.data = n.data THEN o.data ELSE n.data END"
            " FROM (SELECT * FROM unnest(%s::bigint[], %s::jsonb[])) AS n (id, data)"
            " WHERE o.id = n.id",
            (asked_at, fleeting, [linked[id_].decode() for id_ in fleeting]),
        )
        cursor.execute("SELECT set_config('rms_pipeline.only_links', 'off', true)")


def differ_in_links_only(
    cursor: Cursor,
    linked: Mapping[int, bytes],
    changed: Sequence[Opportunity],
    settable: Sequence[str],
) -> set[int]:
    """Which of `changed` are the rows that are there but for links: those have no fingerprint that
    tells (a fault, a row from before it left links out), or came with other bytes. `settable` are
    the columns that a merge writes."""
    ids = [o.id for o in changed if o.id in linked]
    if not ids:
        return set()
    columns = [c for c in settable if c != "data"]
    cursor.execute(
        f"SELECT id, data::text, {', '.join(columns)} FROM opportunities WHERE id = ANY(%s)", (ids,)
    )
    there = {row[0]: row[1:] for row in cursor.fetchall()}
    return {
        o.id
        for o in changed
        if o.id in there
        and o.id in linked
        and there[o.id][0] is not None
        and list(there[o.id][1:]) == [getattr(o, c) for c in columns]
        and same_but_for_links(there[o.id][0].encode(), o.data)
    }
