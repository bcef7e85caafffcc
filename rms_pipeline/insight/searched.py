"""Looks up the text that was typed above a list, before the list is read.

It works as the search does: all words in any order, from three letters on their beginnings, without
accents (`mirror.words`). If no words match, the text is a part of a name or of a customer's name,
among the newest opportunities. The result is ids, so the list, its count and its choices use an
index.
"""

import re
from dataclasses import replace

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.insight.find import MOST_WORDS, as_query, in_newest_blocks
from rms_pipeline.mirror.criteria import (
    Criteria,
    Customers,
    Searched,
    literally,
    search_parts,
    without_nul,
)
from rms_pipeline.mirror.statements import Connection, Cursor
from rms_pipeline.mirror.words import is_beginning, words_in

# As many ids are asked for one by one. Of more the list itself is read, in which they are frequent.
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
    # So many hold it that the list itself shows them soon.
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

    def names(statement: str) -> tuple[str, ...]:
        # A name may be there several times. To find that out of all would mean to read all.
        cursor.execute(f"{statement} LIMIT {_MOST_NAMES + 1}", values)
        return tuple(row[0] for row in cursor.fetchall())

    known = "SELECT name FROM known_names WHERE collection = %(collection)s"
    known += " AND kind = 'customer'"
    if any(map(is_beginning, words)) and (
        found := names(f"{known} AND words @@ %(query)s::tsquery")
    ):
        return Customers(found, values["query"] if len(found) > _MOST_NAMES else "")
    # As ILIKE, which would put the part into lower case once for each name.
    part = "name LIKE %(same_in_any_case)s AND lower(name) LIKE lower(%(part)s)"
    found = names(f"{known} AND {part}") or names(
        f"SELECT DISTINCT organisation_name FROM opportunities WHERE {_NEWEST}"
        " AND organisation_name ILIKE %(part)s"
    )
    return None if len(found) > _MOST_NAMES else Customers(found)


def _same_in_any_case(text: str) -> str:
    """A pattern of the characters of `text` that have no case. Each text that contains `text` in
    any case matches it, and it is compared in a fraction of the time."""
    parts = re.split(r"[^0-9 &.,'/()+-]+", text)
    return f"%{'%'.join(literally(part) for part in parts if part)}%"
