"""Finding opportunities, customers, venues and owners by any words of theirs.

All words have to be there, in any order. From three letters on the beginning of a word is enough;
a shorter one has to be a whole word, or is left out where that finds nothing (`words`).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.criteria import BLOCK
from rms_pipeline.mirror.statements import Connection, Cursor
from rms_pipeline.mirror.words import BLOCK_BITS, exactly, in_block, is_beginning, words_in

# More words than anybody types narrow nothing down.
MOST_WORDS = 8
_BIGINT_MAX = 2**63 - 1
# So many blocks are looked through before anybody loses patience, and so many at a time.
_AT_LEAST, _AT_A_TIME = 7, 4


@dataclass(frozen=True, slots=True)
class Match:
    """An opportunity that was found. Times are UTC, money with tax. `is_exact` where what was
    searched is its whole number or id."""

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
    """A name that was found; `kind` says whose: customer, venue or owner. `id` is theirs in Current
    RMS, where it is known."""

    kind: str
    name: str
    id: int | None


@dataclass(frozen=True, slots=True)
class Matches:
    """What was found, the newest first (those with the highest ids), after exact ones.

    `too_short` are words that count only as whole words, and `left_out` those of them that had to
    be left out. `next` is the id before which there are more, or may be, where it `stopped`
    before all were looked through; None at the end.
    """

    opportunities: list[Match]
    too_short: list[str]
    left_out: list[str]
    next: int | None
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class _Looked:
    """Ids that were found, and the id down to which was looked; None for all there are."""

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
    """The first `most` opportunities that hold all words of `text`, or those of them whose ids are
    below `before`. Commits.

    Words that many hold each, and nobody together, take the longest: after `patience` seconds it
    stops, some 200,000 ids at the least from where it began.
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


def find_names(connection: Connection, text: str, most: int = 6) -> list[NameMatch]:
    """Customers, venues and owners whose names hold all words of `text`: first the names that begin
    with it, then in their order. Commits."""
    words = list(dict.fromkeys(words_in(text)))[:MOST_WORDS]
    if not any(map(is_beginning, words)):
        return []
    query = as_query(words, is_known_name=True)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT kind, name, record_id FROM known_names WHERE collection = %s"
            " AND words @@ %s::tsquery"
            " ORDER BY NOT starts_with(lower(name), lower(%s)), kind, name, record_id LIMIT %s",
            (OPPORTUNITIES.name, query, text.strip(), most),
        )
        found = [NameMatch(*row) for row in cursor.fetchall()]
    connection.commit()
    return found


def as_query(words: Sequence[str], *, is_known_name: bool = False, whole: bool = False) -> str:
    """All of `words` (as `whole` ones, or beginnings) as a tsquery: of an opportunity, in which
    `BLOCK` stands for its block, or of a known name."""
    return " & ".join(_term(word, None if is_known_name else BLOCK, whole) for word in words)


def _term(word: str, block: str | None, is_whole: bool) -> str:
    """`word`, or the beginning of one, as PostgreSQL writes it in a tsquery."""
    lexeme = word if block is None else in_block(block, word)
    # Words hold no quotes and no backslashes.
    return f"'{lexeme}'{':*' if is_beginning(word) and not is_whole else ''}"


def _exact(cursor: Cursor, words: Sequence[str]) -> list[int]:
    """Ids of those whose number or id is the one word that was typed."""
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
    """Ids of the first `most` below `before` that fit a `query` (`as_query`): block by block, the
    newest first, until there are enough, or it `is_over`. Those of rows that were deleted by hand,
    too."""
    found: list[int] = []
    looked_at, at_a_time = 0, 1
    while True:
        cursor.execute(
            _IN_BLOCKS,
            {
                "query": query,
                "most": most - len(found),
                "before": _BIGINT_MAX if before is None else before,
                "blocks": at_a_time,
            },
        )
        looked: list[tuple[int, list[int]]] = cursor.fetchall()
        found += [id_ for _, ids in looked for id_ in ids]
        if len(looked) < at_a_time or len(found) >= most:
            return _Looked(found[:most])
        before = looked[-1][0] << BLOCK_BITS
        looked_at += len(looked)
        if looked_at >= _AT_LEAST and is_over():
            return _Looked(found, before)
        # Few at first: the newest block is all that most searches need.
        at_a_time = min(2 * at_a_time, _AT_A_TIME)


_IN_BLOCKS = (
    "WITH RECURSIVE blocks (block, number) AS ("
    f"(SELECT id >> {BLOCK_BITS}, 1 FROM {OPPORTUNITIES.words}"
    " WHERE id < %(before)s ORDER BY id DESC LIMIT 1) UNION ALL"
    f" SELECT (SELECT id >> {BLOCK_BITS} FROM {OPPORTUNITIES.words}"
    f" WHERE id < block << {BLOCK_BITS} ORDER BY id DESC LIMIT 1), number + 1 FROM blocks"
    " WHERE block IS NOT NULL AND number < %(blocks)s)"
    " SELECT block, ARRAY(SELECT w.id FROM"
    # By the index of words alone: along the ids one would read all that do not match.
    f" (SELECT id FROM {OPPORTUNITIES.words}"
    f" WHERE words @@ replace(%(query)s, '{BLOCK}', block::text)::tsquery OFFSET 0) w"
    " WHERE w.id < %(before)s ORDER BY w.id DESC LIMIT %(most)s)"
    " FROM blocks WHERE block IS NOT NULL ORDER BY number"
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
