"""Search of opportunities, customers, venues and owners.

A result has all words, in any order. The first three letters of a word are enough. A shorter word
has to be a whole word. If it finds nothing, it is left out (`words`).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.blocks import BLOCK, BLOCKS, HELD_IN_BLOCK
from rms_pipeline.mirror.statements import Connection, Cursor
from rms_pipeline.mirror.words import BLOCK_BITS, exactly, in_block, is_beginning, words_in

# More words than anybody types narrow nothing down.
MOST_WORDS = 8
_BIGINT_MAX = 2**63 - 1
# So many blocks are looked through before anybody loses patience, and so many at a time.
_AT_LEAST, _AT_A_TIME = 7, 4


@dataclass(frozen=True, slots=True)
class Match:
    """A found opportunity. Times are UTC, and money is with tax. `is_exact` says that the text was
    its whole number or its id."""

    id: int
    number: str | None
    name: str
    status: str | None
    customer: str | None
    venue: str | None
    owner: str | None
    starts_at: datetime | None
    ends_at: datetime | None
    total_value: Decimal | None
    is_exact: bool


@dataclass(frozen=True, slots=True)
class NameMatch:
    """A found name. `kind` is customer, venue or owner. `id` is the id in Current RMS, if it is
    known."""

    kind: str
    name: str
    id: int | None


@dataclass(frozen=True, slots=True)
class Matches:
    """The found opportunities: exact ones first, then those with the highest ids.

    `too_short` are words that only count as whole words. `left_out` are those of them that were
    left out. `next` is the id at which the next page begins, None at the end. If the search
    `stopped` early, there may be nothing after it.
    """

    opportunities: list[Match]
    too_short: list[str]
    left_out: list[str]
    next: int | None
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class _Looked:
    """The found ids, and the id down to which the search has looked. None means that it has looked
    at all."""

    ids: list[int]
    down_to: int | None = None


def find(
    connection: Connection,
    text: str,
    *,
    most: int = 20,
    before: int | None = None,
    patience: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Matches:
    """The first `most` opportunities that have all words of `text`, with ids below `before` if
    given. Commits.

    A search takes longest if many opportunities have each word and none has all. It stops after
    `patience` seconds, but not before it has looked at about 200,000 ids.
    """
    words = list(dict.fromkeys(words_in(text)))[:MOST_WORDS]
    short = [word for word in words if not is_beginning(word)]
    long = [word for word in words if word not in short]
    left_out: list[str] = []
    with connection.cursor() as cursor:
        exact = _exact(cursor, words) if before is None else []
        until = None if patience is None else clock() + patience

        def look(words: Sequence[str]) -> _Looked:
            is_over = (lambda: False) if until is None else (lambda: clock() >= until)
            if not words:
                return _Looked([])
            return newest(cursor, as_query(words), most + 1, before, is_over)

        found = look(words)
        if not found.ids and found.down_to is None and short and not exact:
            left_out = short
            found = look(long)
        ids = found.ids[:most]
        wanted = exact + [id_ for id_ in ids if id_ not in exact]
        matches = _matches(cursor, wanted, exact)
    connection.commit()
    if len(found.ids) > most:
        return Matches(matches, short, left_out, ids[-1])
    return Matches(matches, short, left_out, found.down_to, found.down_to is not None)


def find_names(
    connection: Connection, text: str, most: int = 6, kind: str | None = None
) -> list[NameMatch]:
    """Customers, venues and owners, or those of one `kind`, whose names have all words of `text`.
    Names that begin with the text come first, then all in alphabetical order. Commits."""
    words = list(dict.fromkeys(words_in(text)))[:MOST_WORDS]
    if not any(map(is_beginning, words)):
        return []
    query = as_query(words, is_known_name=True)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT kind, name, record_id FROM known_names WHERE collection = %s"
            " AND words @@ %s::tsquery AND (%s IS NULL OR kind = %s)"
            " ORDER BY NOT starts_with(lower(name), lower(%s)), kind, name, record_id LIMIT %s",
            (OPPORTUNITIES.name, query, kind, kind, text.strip(), most),
        )
        found = [NameMatch(*row) for row in cursor.fetchall()]
    connection.commit()
    return found


def as_query(words: Sequence[str], *, is_known_name: bool = False, whole: bool = False) -> str:
    """All `words` as a tsquery, as `whole` words or as beginnings. The query is for an opportunity
    (`BLOCK` stands for its block) or for a known name."""
    return " & ".join(_term(word, None if is_known_name else BLOCK, whole) for word in words)


def _term(word: str, block: str | None, is_whole: bool) -> str:
    """A word, or the beginning of a word, as PostgreSQL writes it in a tsquery."""
    lexeme = word if block is None else in_block(block, word)
    # Words hold no quotes and no backslashes.
    return f"'{lexeme}'{':*' if is_beginning(word) and not is_whole else ''}"


def _exact(cursor: Cursor, words: Sequence[str]) -> list[int]:
    """The ids of opportunities whose number or id is the one word of the text."""
    if len(words) != 1 or not words[0].isdecimal():
        return []
    cursor.execute(
        f"SELECT id FROM {OPPORTUNITIES.words} WHERE words @@ %s::tsquery LIMIT 5",
        (f"'{exactly(words[0])}'",),
    )
    return sorted((row[0] for row in cursor.fetchall()), reverse=True)


def newest(
    cursor: Cursor,
    query: str,
    most: int,
    before: int | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> _Looked:
    """The first `most` ids below `before` that match a `query` (`as_query`). Searches block after
    block, the newest first, until there are enough or `is_over` says so. The result can include ids
    of rows that were deleted by hand."""
    found: list[int] = []
    looked_at, at_a_time = 0, 1
    while True:
        wanted = most - len(found)
        cursor.execute(
            _IN_BLOCKS,
            {
                "query": query,
                "most": wanted,
                "before": _BIGINT_MAX if before is None else before,
                "blocks": at_a_time,
            },
        )
        # A block without any has one row, without an id.
        looked: list[tuple[int, int | None]] = cursor.fetchall()
        found += [id_ for _, id_ in looked if id_ is not None]
        blocks = len({block for block, _ in looked})
        # With as many rows as were wanted, the last block may not be read to its end.
        is_cut = len(looked) >= wanted
        if len(found) >= most or (blocks < at_a_time and not is_cut):
            return _Looked(found[:most])
        block, last = looked[-1]
        before = last if is_cut and last is not None else block << BLOCK_BITS
        looked_at += blocks
        if looked_at >= _AT_LEAST and is_over():
            return _Looked(found, before)
        # Few at first: the newest block is all that most searches need.
        at_a_time = min(2 * at_a_time, _AT_A_TIME)


def in_newest_blocks(cursor: Cursor, query: str, most: int) -> list[int]:
    """The ids of `most` opportunities that match a `query` (`as_query`), or of all if they are
    fewer. Those of newer blocks come first, and within a block they have no order, which takes half
    the time of `newest`. The result can include ids of rows that were deleted by hand."""
    cursor.execute(_OF_BLOCKS, {"query": query, "most": most, "before": None, "blocks": None})
    found: list[int] | None = (cursor.fetchone() or (None,))[0]
    return found or []


def in_next_block(
    cursor: Cursor, query: str, before: int | None, most: int
) -> tuple[int, list[int]] | None:
    """The lowest id that the first block below `before` may have, and the ids in it that match a
    `query` (`as_query`), in no order. None if there is no block, or if more than `most` match. The
    result can include ids of rows that were deleted by hand."""
    cursor.execute(_OF_ONE_BLOCK, {"query": query, "most": most + 1, "before": before, "blocks": 1})
    block, found = cursor.fetchone() or (None, None)
    if block is None or len(found or ()) > most:
        return None
    return block << BLOCK_BITS, found or []


# Row by row, so that a block is not looked through once there are enough.
_IN_BLOCKS = (
    f"{BLOCKS} SELECT block, found.id FROM blocks LEFT JOIN LATERAL (SELECT w.id"
    f" FROM {HELD_IN_BLOCK} WHERE w.id < %(before)s ORDER BY w.id DESC LIMIT %(most)s) found"
    " ON true WHERE block IS NOT NULL LIMIT %(most)s"
)
# As one array, which is read faster than thousands of rows.
_OF_BLOCKS = (
    f"{BLOCKS} SELECT array_agg(id) FROM (SELECT w.id FROM blocks CROSS JOIN LATERAL"
    f" {HELD_IN_BLOCK} WHERE block IS NOT NULL LIMIT %(most)s) found"
)

_OF_ONE_BLOCK = (
    f"{BLOCKS} SELECT block, (SELECT array_agg(id) FROM (SELECT w.id FROM {HELD_IN_BLOCK}"
    " LIMIT %(most)s) found) FROM blocks"
)


def _matches(cursor: Cursor, ids: Sequence[int], exact: Sequence[int]) -> list[Match]:
    cursor.execute(
        "SELECT id, number, name, opportunity_status, organisation_name, venue_name, owner_name,"
        " starts_at, ends_at, total_value, id = ANY(%(exact)s::bigint[]) FROM opportunities"
        " WHERE id = ANY(%(ids)s::bigint[]) ORDER BY array_position(%(ids)s::bigint[], id)",
        {"ids": list(ids), "exact": list(exact)},
    )
    rows: list[tuple[Any, ...]] = cursor.fetchall()
    return [Match(*row) for row in rows]
