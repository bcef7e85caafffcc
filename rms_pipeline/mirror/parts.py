"""`part_lists`: whose parts were listed completely, when, and whose lists are due.

A list is noted when all its pages have landed. It is noted again when it is stored: its parts are
merged, and rows of its parent that it does not show are deleted. If a sync ends in between for any
reason, the list stays due. A list that could not be read is named with the reason, and what was
known before stays.

This module decides which lists are due, compares them with the rows, and proves the result. Reading
them is in `current_rms.parts`, merging in `merge`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rms_pipeline.collections.base import CHANGED, Collection, Parts
from rms_pipeline.current_rms.parts import PartList
from rms_pipeline.mirror.completeness import refused_ids
from rms_pipeline.mirror.deletions import (
    WITH_A_CHANGE,
    WITH_ITS_PARENT,
    Deletions,
    move_to_deleted,
)
from rms_pipeline.mirror.merge import IN_THE_FUTURE
from rms_pipeline.mirror.proofs import Proof, keep_proof, open_proof
from rms_pipeline.mirror.statements import Connection, in_the_future, one_row
from rms_pipeline.mirror.walks import AGES_FROM

_BECAUSE = "the whole list of its {single} no longer shows it"
# Lists may show an older state for a moment. A list that was asked for so soon after its parent
# changed is asked for again by the next sync.
LAG = timedelta(minutes=1)
# A list that is empty against all signs is believed when it is still empty after this long. Until
# then it may be a mistake of an API that is only half up.
_EMPTY_FOR = timedelta(minutes=5)
# A list that failed is asked for again after this long, or when its parent changes.
_REST = timedelta(minutes=10)
# Lists that failed come last, and a sync asks for at most this many of them.
_MOST_FAILED = 10
_NAMED = 10


@dataclass(frozen=True, slots=True)
class DueList:
    """A list that is due.

    `changed` means that the parent changed since its list was last asked for, or that the list was
    asked for too soon after a change. `is_news` leaves out the second. `updated_at` (UTC) is the
    parent's own time of the last edit.
    """

    parent: int
    changed: bool
    updated_at: datetime | None
    is_news: bool


def _parts(collection: Collection) -> Parts:
    assert collection.parts is not None
    return collection.parts


# About a parent `o`, its version `v`, its list `l`, and the number `c.n` of rows of its parts. The
# parts may have changed when the mirror stored anything new of the parent, and when a webhook named
# it. If the parent was never listed, only changes since parts are mirrored count. A parent that
# only became known to the mirror does not count: a wider window brings thousands of them.
_SINCE = "(SELECT min(started_at) FROM walks WHERE collection = %(collection)s)"
# What a clock wrote that was ahead says nothing: then the time of the parent's edit counts, and
# such a list is asked for again.
_NEWS = (
    f"greatest(CASE WHEN {in_the_future('v.valid_from')} THEN o.{CHANGED} ELSE v.valid_from END,"
    f" CASE WHEN NOT {in_the_future('o.last_webhook_at')} THEN o.last_webhook_at END)"
)
_CHANGED = (
    f"coalesce(CASE WHEN {in_the_future('l.asked_at')} THEN true"
    f" WHEN l.asked_at IS NOT NULL THEN {_NEWS} >= l.asked_at ELSE {_NEWS} >= {_SINCE}"
    # One day more, in case a clock is wrong.
    f" AND greatest(o.{CHANGED} + interval '1 day', o.last_webhook_at) >= {_SINCE} END, false)"
)


# How many different parts a list has.
_DIFFERENT = "(SELECT count(DISTINCT listed.id) FROM unnest(l.ids) AS listed (id))"


def _is_empty(list_: str) -> str:
    """Return the condition that a list has neither parts nor records without an id."""
    return f"(cardinality({list_}.ids) = 0 AND {list_}.nameless = 0)"


def _is_in_doubt(collection: Collection) -> str:
    """Return the condition that a list `l` became empty a moment ago, which may be a mistake.

    A list may also be empty when it is read for the first time, or after its parent changed. That
    may be a mistake if the parent itself shows that it has parts.
    """
    parts = _parts(collection)
    rows = f"SELECT FROM {collection.name} i WHERE i.{parts.key} = l.parent_id"
    shows = f"SELECT FROM {parts.of.name} o WHERE o.id = l.parent_id AND {parts.has_some}"
    return (
        f"({_is_empty('l')} AND l.answered_at < l.asked_at + %(empty_for)s AND (EXISTS ({rows})"
        f" OR l.counted IS DISTINCT FROM 0 AND EXISTS ({shows})))"
    )


def _known(collection: Collection) -> str:
    """Return SQL for each live parent with what is known of its list."""
    parts = _parts(collection)
    return (
        f"SELECT o.id, o.updated_at_rms, l.*, coalesce(c.n, 0) AS n,"
        f" {_CHANGED} AS changed,"
        " coalesce(l.asked_at IS NOT NULL AND l.stored_at IS NULL, false) AS unstored,"
        " coalesce(l.stored_at IS NOT NULL AND coalesce(c.n, 0) <> l.mirrored, false) AS differs,"
        f" ({parts.soon}) IS TRUE AS soon, {_NEWS} AS news_at, {_is_empty('l')} AS is_empty"
        f" {_with_lists(collection)}"
        f" LEFT JOIN (SELECT {parts.key}, count(*) AS n FROM {collection.name} GROUP BY 1) c"
        f" ON c.{parts.key} = o.id"
    )


def _with_lists(collection: Collection) -> str:
    of = _parts(collection).of
    return (
        f"FROM {of.name} o LEFT JOIN {of.versions} v ON v.id = o.id"
        " LEFT JOIN part_lists l ON l.collection = %(collection)s AND l.parent_id = o.id"
    )


def _values(collection: Collection, now: datetime, ahead: timedelta) -> dict[str, object]:
    return {"collection": collection.name, "now": now, "until": now + ahead}


def due_lists(
    connection: Connection,
    collection: Collection,
    *,
    now: datetime,
    ahead: timedelta,
    limit: int,
    nightly_of: int | None = None,
    also: Sequence[int] = (),
) -> list[DueList]:
    """Return the parents whose lists have to be read, the most urgent first, at most `limit`.
    Commits.

    These are the parents that changed, those that an interrupted sync left, and those in `also`.
    For the walk `nightly_of`, they are also those that begin within `ahead` or are out and that
    this walk has not read yet, and those whose parts were held back from deletion. Lists read
    longest ago come first.
    """
    parts = _parts(collection)
    reasons = ["changed", "differs", "id = ANY(%(also)s)", "problem IS NOT NULL"]
    reasons.append("(again OR unstored) AND walk IS DISTINCT FROM %(walk)s")
    if nightly_of is not None:
        reasons.append("soon AND walk IS DISTINCT FROM %(walk)s")
        # Once a person confirms the deletion, it follows the list of that night.
        reasons.append(
            f"id IN (SELECT {parts.key} FROM {collection.name} JOIN held_deletions h USING (id)"
            " WHERE h.collection = %(collection)s)"
        )
    with connection.cursor() as cursor:
        cursor.execute(
            f"WITH known AS ({_known(collection)})"
            " SELECT id, changed OR coalesce(again, false), updated_at_rms, changed"
            " FROM (SELECT *, row_number() OVER"
            " (PARTITION BY problem IS NOT NULL ORDER BY problem_at) AS place FROM known"
            f" WHERE ({' OR '.join(reasons)})"
            " AND (problem_at IS NULL OR problem_at < %(now)s - %(rest)s OR news_at > problem_at"
            f" OR {in_the_future('problem_at')} OR %(all)s)) due"
            " WHERE problem IS NULL OR place <= %(failed)s"
            " ORDER BY problem IS NOT NULL, NOT (changed OR coalesce(again, false)),"
            " asked_at NULLS FIRST, id LIMIT %(limit)s",
            _values(collection, now, ahead)
            | {
                "walk": nightly_of,
                "also": list(also),
                "rest": _REST,
                "failed": _MOST_FAILED,
                "limit": limit,
                "all": nightly_of is not None,
            },
        )
        found = [DueList(*row) for row in cursor.fetchall()]
    connection.commit()
    return found


def told_lists(connection: Connection, collection: Collection, *, limit: int) -> list[DueList]:
    """Return the parents that webhooks have named since their lists were asked for. Commits.

    Those named first come first, at most `limit`.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT o.id, true, o.updated_at_rms, true {_with_lists(collection)}"
            f" WHERE NOT {in_the_future('o.last_webhook_at')}"
            f" AND ({in_the_future('l.asked_at')}"
            f" OR o.last_webhook_at >= coalesce(l.asked_at, {_SINCE}))"
            " AND (l.problem_at IS NULL OR o.last_webhook_at > l.problem_at"
            f" OR {in_the_future('l.problem_at')})"
            " ORDER BY o.last_webhook_at, o.id LIMIT %(limit)s",
            {"collection": collection.name, "limit": limit},
        )
        found = [DueList(*row) for row in cursor.fetchall()]
    connection.commit()
    return found


def note_list(
    connection: Connection, collection: Collection, walk: int, found: PartList, due: DueList
) -> None:
    """Note that all pages of a list have landed for `walk`. Commits.

    A list that was asked for later than this one stays. If the list before was empty like this one
    and is not stored yet, both count as one, asked for when the first was.
    """
    asked = found.api_date or found.asked_at
    again = due.updated_at is not None and abs(asked - due.updated_at) < LAG
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO part_lists AS l (collection, parent_id, walk, asked_at, answered_at, ids,"
            " nameless, told, again) VALUES (%s, %s, %s, %s, %s, %s::bigint[], %s, %s, %s)"
            " ON CONFLICT (collection, parent_id) DO UPDATE SET walk = excluded.walk,"
            f" asked_at = CASE WHEN l.stored_at IS NULL AND {_is_empty('l')}"
            f" AND {_is_empty('excluded')} THEN least(l.asked_at, excluded.asked_at)"
            " ELSE excluded.asked_at END, answered_at = excluded.answered_at,"
            " ids = excluded.ids, nameless = excluded.nameless,"
            # What an interrupted sync knew and did not store is still known.
            " told = excluded.told OR (l.stored_at IS NULL AND l.told), again = excluded.again,"
            # What an earlier list held says nothing of a parent that changed since.
            " counted = CASE WHEN NOT %s THEN l.counted END,"
            " stored_at = NULL, problem = NULL, problem_at = NULL"
            " WHERE l.asked_at IS NULL OR l.asked_at <= excluded.asked_at"
            " OR l.answered_at > clock_timestamp() + interval '1 min'",
            (
                collection.name,
                found.parent,
                walk,
                found.asked_at,
                found.answered_at,
                list(found.ids),
                found.nameless,
                due.changed,
                again,
                due.is_news,
            ),
        )
    connection.commit()


def note_unreached(connection: Connection, collection: Collection, parents: Sequence[int]) -> None:
    """Note that the lists of these parents were due and were not read. Commits.

    Otherwise nobody would know it of a parent that changes again before the walk is proved.
    """
    if not parents:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO part_lists AS l (collection, parent_id, again)"
            " SELECT %s, *, true FROM unnest(%s::bigint[]) AS n (parent) ORDER BY parent"
            " ON CONFLICT (collection, parent_id) DO UPDATE SET again = true WHERE NOT l.again",
            (collection.name, list(parents)),
        )
    connection.commit()


def note_problems(
    connection: Connection, collection: Collection, problems: Mapping[int, str]
) -> None:
    """Note why the lists of these parents could not be read. Commits."""
    if not problems:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO part_lists (collection, parent_id, problem, problem_at)"
            " SELECT %s, *, clock_timestamp() FROM unnest(%s::bigint[], %s::text[])"
            " AS n (parent, problem) ORDER BY parent"
            " ON CONFLICT (collection, parent_id) DO UPDATE SET problem = excluded.problem,"
            " problem_at = excluded.problem_at",
            (collection.name, list(problems), list(problems.values())),
        )
    connection.commit()


def forget_lists(
    connection: Connection, collection: Collection, walk: int, before: datetime
) -> None:
    """Make lists of `walk` due that were asked for before `before`, because their pages are gone.

    Commits.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE part_lists SET walk = NULL WHERE collection = %s AND walk = %s"
            " AND asked_at < %s",
            (collection.name, walk, before),
        )
    connection.commit()


def make_all_due(connection: Connection, collection: Collection) -> None:
    """Make every list due that was ever read, because it is not known which of them changed.

    Commits.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE part_lists SET again = true WHERE collection = %s AND asked_at IS NOT NULL"
            " AND NOT again",
            (collection.name,),
        )
    connection.commit()


def forget_lists_of_gone(connection: Connection, collection: Collection, *, days: int) -> int:
    """Forget the lists of parents that were deleted `days` ago, unless rows of their parts are
    left.

    Returns how many. If such a parent comes back, its list is due like any other. Commits.
    """
    parts = _parts(collection)
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM part_lists l WHERE collection = %s"
            " AND greatest(asked_at, problem_at,"
            f" (SELECT deleted_at FROM {parts.of.deleted} WHERE id = l.parent_id))"
            f" < {AGES_FROM} - make_interval(days => %s)"
            f" AND NOT EXISTS (SELECT FROM {parts.of.name} WHERE id = l.parent_id)"
            f" AND NOT EXISTS (SELECT FROM {collection.name} WHERE {parts.key} = l.parent_id)",
            (collection.name, days),
        )
        gone = cursor.rowcount
    connection.commit()
    return gone


def count_lists(connection: Connection, collection: Collection, walk: int) -> int:
    """Return how many parents' lists `walk` has read. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM part_lists WHERE collection = %s AND walk = %s",
            (collection.name, walk),
        )
        row = cursor.fetchone()
    connection.commit()
    return int(row[0]) if row else 0


# Storing


def others_are_storing(connection: Connection, collection: Collection, walk: int) -> bool:
    """Return whether another walk than `walk` read a list in the last minute that is not stored
    yet. Commits.

    Empty lists are left out: they are not stored for some minutes.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM part_lists l WHERE collection = %s AND stored_at IS NULL"
            " AND walk <> %s AND asked_at BETWEEN clock_timestamp() - interval '1 min'"
            f" AND clock_timestamp() AND NOT {_is_empty('l')})",
            (collection.name, walk),
        )
        (found,) = one_row(cursor)
    connection.commit()
    return bool(found)


def compare_lists(
    connection: Connection, collection: Collection, walk: int, run: str, *, confirmed: bool
) -> Deletions:
    """Remove rows that the complete lists of `walk` do not show, and note those lists as stored.

    The lists are merged already. A row about which something newer is known stays, and its list is
    due again. A list that has become empty is not stored, and so stays due, until it was empty for
    some minutes. If the parent changed too, the deletion is believed. Otherwise only as many rows
    are deleted as is allowed. If `confirmed`, any list and any number is believed. Commits.
    """
    deletions = Deletions(connection, collection, run, confirmed=confirmed)
    parts = _parts(collection)
    of_walk = "l.collection = %(collection)s AND l.walk = %(walk)s AND l.stored_at IS NULL"
    if not confirmed:
        of_walk += f" AND NOT {_is_in_doubt(collection)}"
    values = {"collection": collection.name, "walk": walk, "empty_for": _EMPTY_FOR}
    with connection.cursor() as cursor:
        # If fetches overlapped, nobody knows which was answered first.
        cursor.execute(
            "SELECT i.id, l.asked_at, l.answered_at, l.told AND cardinality(l.ids) > 0"
            f" FROM part_lists l JOIN {collection.name} i ON i.{parts.key} = l.parent_id"
            f" JOIN {collection.versions} v ON v.id = i.id"
            f" WHERE {of_walk} AND i.id <> ALL(l.ids)"
            # A part without an id may be any of those that are not listed. So may one whose place a
            # part takes that is listed twice.
            f" AND l.nameless = 0 AND cardinality(l.ids) = {_DIFFERENT}"
            f" AND (v.answered_at IS NULL OR v.answered_at <= l.asked_at OR v.{IN_THE_FUTURE})"
            " ORDER BY i.id",
            values,
        )
        suspects = cursor.fetchall()
    connection.commit()
    because = _BECAUSE.format(single=parts.of.single)
    expected = {id_: (asked, answered) for id_, asked, answered, is_told in suspects if is_told}
    silent = {id_: (asked, answered) for id_, asked, answered, is_told in suspects if not is_told}
    removal = move_to_deleted(connection, collection, expected, WITH_A_CHANGE, run, confirmed=True)
    deletions.deleted += len(removal.gone)
    deletions.remove_gone(silent, because)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE part_lists l SET stored_at = clock_timestamp(),"
            f" counted = {_DIFFERENT} + l.nameless, mirrored = found.n,"
            f" unstorable = {_DIFFERENT} - found.listed + l.nameless,"
            " again = l.again OR found.later > 0"
            f" FROM (SELECT p.parent_id, count(i.id) AS n,"
            " count(i.id) FILTER (WHERE i.id = ANY(p.ids)) AS listed,"
            " count(i.id) FILTER (WHERE i.id <> ALL(p.ids) AND v.answered_at > p.asked_at) AS later"
            f" FROM part_lists p LEFT JOIN {collection.name} i ON i.{parts.key} = p.parent_id"
            f" LEFT JOIN {collection.versions} v ON v.id = i.id"
            " WHERE p.collection = %(collection)s AND p.walk = %(walk)s AND p.stored_at IS NULL"
            f" GROUP BY p.parent_id) found WHERE {of_walk} AND l.parent_id = found.parent_id",
            values,
        )
    connection.commit()
    return deletions


def remove_orphans(connection: Connection, collection: Collection, now: datetime, run: str) -> int:
    """Remove parts of parents that are gone. Returns how many. Commits.

    If a parent comes back, its list is due.
    """
    parts = _parts(collection)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT i.id, i.{parts.key} FROM {collection.name} i"
            f" JOIN {parts.of.versions} v ON v.id = i.{parts.key} WHERE v.deleted AND NOT EXISTS"
            f" (SELECT FROM {parts.of.name} o WHERE o.id = v.id) ORDER BY i.id"
        )
        orphans = cursor.fetchall()
        cursor.execute(
            "UPDATE part_lists SET again = true WHERE collection = %s AND parent_id = ANY(%s)",
            (collection.name, sorted({parent for _, parent in orphans})),
        )
    connection.commit()
    gone = {id_: (now, now) for id_, _ in orphans}
    removal = move_to_deleted(connection, collection, gone, WITH_ITS_PARENT, run, confirmed=True)
    return len(removal.gone)


# The proof

_EMPTIED = (
    "its list is empty, although it had some or shows charges for some. That has to last for some "
    "minutes before it is believed"
)
# What became known after the walk began is of the next one, unless this walk did not reach an
# earlier change of the same parent either (`note_unreached`).
_LEFT = (
    "changed AND (news_at < %(began)s OR again AND walk IS DISTINCT FROM %(walk)s)"
    " OR unstored OR differs OR problem IS NOT NULL OR (soon AND stored_at IS NULL)"
)


def prove_lists(
    connection: Connection,
    collection: Collection,
    walk: int,
    run: str,
    *,
    began: datetime,
    ahead: timedelta,
    calls: int,
    deleted: int,
) -> Proof:
    """Return for how many parents the parts are mirrored as their lists showed them, and the
    exceptions.

    It is about the parents that began within `ahead` or were out at the last nightly reading, as of
    the earliest list of those, and about the parents that changed since parts are mirrored and
    before `began`, the start of the walk. What changed since is read by the next sync. Commits.
    """
    refused = refused_ids(connection, collection)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT (SELECT started_at FROM walks WHERE collection = %s AND kind = 'full'"
            " AND completed_at IS NOT NULL ORDER BY id DESC LIMIT 1)",
            (collection.name,),
        )
        (night,) = one_row(cursor)
        # Others have come nearer since then. The next night reads them.
        values = _values(collection, night or began, ahead) | {"began": began, "walk": walk}
        cursor.execute(
            f"WITH known AS ({_known(collection)}),"
            f" judged AS (SELECT *, coalesce({_LEFT}, false) AS is_left FROM known)"
            " SELECT count(*) FILTER (WHERE is_listed), coalesce(sum(counted) FILTER"
            " (WHERE is_listed), 0), coalesce(sum(n) FILTER (WHERE is_listed), 0),"
            " coalesce(sum(unstorable) FILTER (WHERE is_listed), 0),"
            " min(asked_at) FILTER (WHERE is_listed AND soon), count(*) FILTER (WHERE is_left),"
            " count(*) FILTER (WHERE is_listed AND n > counted - unstorable),"
            " (array_agg(id ORDER BY problem IS NULL, id) FILTER (WHERE is_left))[:%(named)s],"
            " (array_agg(coalesce(problem, CASE WHEN unstored AND is_empty THEN %(emptied)s END)"
            " ORDER BY problem IS NULL, id) FILTER (WHERE is_left))[:%(named)s],"
            " coalesce(sum(stale) FILTER (WHERE is_listed), 0)"
            " FROM (SELECT *, NOT is_left AND stored_at IS NOT NULL AS is_listed FROM judged) j"
            # Rows whose newest records PostgreSQL refused show an older state.
            f" LEFT JOIN (SELECT {_parts(collection).key} AS id, count(*) AS stale"
            f" FROM {collection.name} WHERE id = ANY(%(refused)s) GROUP BY 1) r USING (id)",
            values | {"named": _NAMED, "refused": sorted(refused), "emptied": _EMPTIED},
        )
        row = one_row(cursor)
        parents, counted, mirrored, unstorable, as_of, left, surplus, ids, problems, stale = row
        named = dict(zip(ids or (), problems or (), strict=True))
    connection.commit()
    proof = open_proof(
        connection,
        Proof(
            id=0,
            collection=collection.name,
            run=run,
            scan=walk,
            as_of=min(as_of or began, began),
            content=0,
            window=None,
            parents=int(parents),
        ),
    )
    return keep_proof(
        connection,
        replace(
            proof,
            counted=int(counted),
            mirrored=int(mirrored - stale),
            unstorable=int(unstorable + stale),
            calls=calls,
            deleted=deleted,
            rounds=1,
            shown=not left and not surplus,
            reason=_reason(collection, left, named, surplus),
        ),
    )


def _reason(
    collection: Collection, left: int, named: Mapping[int, str | None], surplus: int
) -> str:
    told = []
    if left:
        some = ", ".join(f"{id_} ({problem or 'not read yet'})" for id_, problem in named.items())
        more = f" and {left - len(named):,} more" if left > len(named) else ""
        told.append(
            f"Left out: {some}{more}. The next sync asks for the {collection.in_words()} of these."
        )
    if surplus:
        told.append(
            f"{surplus:,} have more rows than their lists show; see deletions_held_back. Where a "
            f"list has {collection.in_words()} without an id, or one twice, no row is deleted."
        )
    return " ".join(told)
