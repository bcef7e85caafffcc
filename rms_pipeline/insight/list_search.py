"""Looks up the text that was typed above a list, before the list is read.

It works as the search does: all words in any order, from three letters on their beginnings, without
accents (`mirror.words`). If no words match, the text is a part of a name or of a customer's name,
among the newest opportunities. The result is ids, so the list, its count and its choices use an
index.
"""

import re
from dataclasses import replace

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.insight.find import MOST_WORDS, as_query, in_newest_blocks, in_next_block
from rms_pipeline.mirror.criteria import (
    Criteria,
    Customers,
    Searched,
    condition,
    literally,
    search_parts,
    without_nul,
)
from rms_pipeline.mirror.statements import Connection, Cursor, one_row
from rms_pipeline.mirror.words import is_beginning, words_in

# The first of a list are looked for in as many blocks of ids, if none of them holds more, and if no
# more were changed since.
_MOST_BLOCKS, MOST_HELD, MOST_CHANGED = 3, 2_000, 60_000
# Up to this many ids are asked for one by one. If there are more, the list itself is read, because
# then it holds many of them.
MOST_IDS = 10_000
_MOST_NAMES = 1_000
# A part of a word is in no index: it is looked for in as many rows, those of the highest ids.
MOST_LOOKED_THROUGH = 20_000
# Several words that no name holds together are seldom parts of longer ones.
MOST_LOOKED_THROUGH_FOR_SEVERAL = 8_000
_AMONG = (
    "id >= coalesce((SELECT id FROM opportunities ORDER BY id DESC"
    " OFFSET {} LIMIT 1), -9223372036854775808)"
)
_NEWEST = _AMONG.format(MOST_LOOKED_THROUGH - 1)
_NEWEST_FOR_SEVERAL = _AMONG.format(MOST_LOOKED_THROUGH_FOR_SEVERAL - 1)


def searched(connection: Connection, criteria: Criteria) -> Criteria:
    """`criteria` with the result of the search for the typed text. Commits."""
    if not criteria.search and not criteria.customer:
        return criteria
    with connection.cursor() as cursor:
        if criteria.search:
            criteria = replace(criteria, searched=_opportunities(cursor, criteria.search))
        if criteria.customer:
            criteria = replace(criteria, customers=_customers(cursor, criteria.customer))
    connection.commit()
    return criteria


def last_changed(connection: Connection, criteria: Criteria, most: int) -> list[int] | None:
    """The ids of the first `most` opportunities of a list of typed words, the last changed first.
    None if they are not found soon: `searched` finds them. Commits.

    The newest opportunities that have the words are found first. Whatever belongs before the last
    of them was changed after it. So of all others only those are looked at that were changed since.
    """
    words = words_in(criteria.search)[:MOST_WORDS]
    if criteria.sort != "-updated" or not words:
        return None
    with connection.cursor() as cursor:
        found = None
        # A search for a number finds its opportunities in another way.
        if not _numbered(cursor, criteria.search):
            customers = _customers(cursor, criteria.customer) if criteria.customer else None
            others = replace(criteria, search="", searched=None, customers=customers)
            found = _last_changed(cursor, others, as_query(words), most)
    connection.commit()
    return found


def _last_changed(cursor: Cursor, others: Criteria, query: str, most: int) -> list[int] | None:
    where, values = condition(others)
    ids: list[int] = []
    down_to: int | None = None
    newest: list[tuple[int, str]] = []
    for _ in range(_MOST_BLOCKS):
        block = in_next_block(cursor, query, down_to, MOST_HELD)
        if block is None:
            return None
        down_to, held = block
        ids += held
        if len(ids) < most:
            continue
        cursor.execute(
            "SELECT id, updated_at_rms::text FROM opportunities"
            " WHERE id = ANY(%(ids)s::bigint[]) AND updated_at_rms IS NOT NULL"
            f" AND {where} ORDER BY updated_at_rms DESC, id DESC LIMIT %(most)s",
            values | {"ids": ids, "most": most},
        )
        newest = cursor.fetchall()
        if len(newest) == most:
            break
    else:
        return None
    last, changed_at = newest[-1]
    cursor.execute(
        # An index has all that this reads.
        "SELECT count(*), array_agg(id) FILTER (WHERE id < %(down_to)s) FROM ("
        "SELECT id FROM opportunities WHERE (updated_at_rms, id) > (%(changed_at)s::timestamptz,"
        " %(last)s) ORDER BY updated_at_rms DESC, id DESC LIMIT %(most)s + 1) changed_since",
        {"down_to": down_to, "changed_at": changed_at, "last": last, "most": MOST_CHANGED},
    )
    changed, older = one_row(cursor)
    if changed > MOST_CHANGED or len(older or ()) > MOST_HELD:
        return None
    first = [id_ for id_, _ in newest]
    if not older:
        return first
    # The older ones are looked at one by one, for their words.
    where, values = condition(replace(others, searched=Searched(tuple(first), also=query)))
    cursor.execute(
        "SELECT id FROM opportunities WHERE id = ANY(%(first)s::bigint[])"
        f" OR (id = ANY(%(older)s::bigint[]) AND {where})"
        " ORDER BY updated_at_rms DESC, id DESC LIMIT %(most)s",
        values | {"first": first, "older": older, "most": most},
    )
    return [row[0] for row in cursor.fetchall()]


def _opportunities(cursor: Cursor, text: str) -> Searched | None:
    words = words_in(text)[:MOST_WORDS]
    found = dict.fromkeys(_numbered(cursor, text))
    # A person who types an existing number wants no words that begin like it, and with its zeros no
    # others at all.
    query = as_query(words, whole=bool(found) and text.isdecimal())
    if words and not (found and text.startswith("0")):
        by_words = in_newest_blocks(cursor, query, MOST_IDS + 1)
        if len(by_words) > MOST_IDS:
            return Searched(tuple(by_words[:MOST_IDS]), also=query)
        found |= dict.fromkeys(by_words)
    if not found:
        parts, values = search_parts(text)
        named = " OR ".join(part for part in parts if "ILIKE" in part)
        among = _NEWEST if len(words) < 2 else f"{_NEWEST} AND {_NEWEST_FOR_SEVERAL}"
        cursor.execute(
            f"SELECT id FROM opportunities WHERE {among} AND ({named}) LIMIT {MOST_IDS + 1}",
            values,
        )
        found = dict.fromkeys(row[0] for row in cursor.fetchall())
    # So many match that reading the list itself finds them soon.
    return None if len(found) > MOST_IDS else Searched(tuple(found))


def _numbered(cursor: Cursor, text: str) -> list[int]:
    """The opportunity with this id, and those whose number begins with it."""
    if re.search(r"\s", text):
        return []
    parts, values = search_parts(text)
    found: list[int] = []
    for part in parts:
        if "ILIKE" not in part:
            cursor.execute(
                f"SELECT id FROM opportunities WHERE {part} LIMIT {MOST_IDS + 1}", values
            )
            found += [row[0] for row in cursor.fetchall()]
    return found


def _customers(cursor: Cursor, text: str) -> Customers | None:
    """Names of customers that contain the text. None if so many match that a list finds them soon
    without this."""
    words = words_in(text)[:MOST_WORDS]
    values = {
        "collection": OPPORTUNITIES.name,
        "query": as_query(words, is_known_name=True),
        "part": f"%{literally(without_nul(text))}%",
        "same_in_any_case": _same_in_any_case(without_nul(text)),
    }

    def found(statement: str, *, by_words: bool = False) -> Customers:
        # A name may be there several times. To find that out of all would mean to read all.
        cursor.execute(f"{statement} LIMIT {_MOST_NAMES + 1}", values)
        rows = cursor.fetchall()
        ids = tuple({id_ for _, id_ in rows})
        are_many = len(rows) > _MOST_NAMES
        return Customers(
            tuple(name for name, _ in rows),
            values["query"] if by_words and are_many else "",
            () if are_many or None in ids else ids,
        )

    known = "SELECT name, record_id FROM known_names WHERE collection = %(collection)s"
    known += " AND kind = 'customer'"
    if any(map(is_beginning, words)):
        customers = found(f"{known} AND words @@ %(query)s::tsquery", by_words=True)
        if customers.names:
            return customers
    # As ILIKE, which would put the part into lower case once for each name.
    part = "name LIKE %(same_in_any_case)s AND lower(name) LIKE lower(%(part)s)"
    customers = found(f"{known} AND {part}")
    if not customers.names:
        customers = found(
            f"SELECT DISTINCT organisation_name, NULL::bigint FROM opportunities WHERE {_NEWEST}"
            " AND organisation_name ILIKE %(part)s"
        )
    return None if len(customers.names) > _MOST_NAMES else customers


def _same_in_any_case(text: str) -> str:
    """A pattern of the characters of `text` that have no case. Each text that contains `text` in
    any case matches it, and it is compared in a fraction of the time."""
    parts = re.split(r"[^0-9 &.,'/()+-]+", text)
    return f"%{'%'.join(literally(part) for part in parts if part)}%"
