"""Handles records that a list shows in an older state than the mirror.

Either the list is late, or the records were set back. This module asks for them alone, because the
single record decides. Which records these are is found by `mirror.merge`.
"""

import contextlib
from collections.abc import Callable, Sequence
from collections.abc import Collection as Ids
from functools import partial

from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.client import CurrentRmsClient, ListAnswer
from rms_pipeline.current_rms.errors import FindsNone
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.current_rms.window import Window
from rms_pipeline.mirror import walks
from rms_pipeline.mirror.completeness import known_as_gone, some_other_row, unlisted
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.merge import MergeResult, held_times
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.sync.by_id import Wanted, ask_by_id, times_of
from rms_pipeline.sync.storing import (
    MergedWalk,
    merge_answer,
    merge_walks,
    read_records,
    store_answer,
)

# At most this many are asked for, and the result is applied to the others. A late list has few of
# them. An account that was restored from a backup has thousands.
MOST_ASKED = 25
_SEGMENT = "by_id"


def what_is_held(
    connection: Connection, collection: Collection, ids: Sequence[int], patience: float = 0.0
) -> Wanted:
    """Return what the mirror knows of `ids`, for a list of them that may be late."""
    held = held_times(connection, collection, ids, patience=patience)
    gone = known_as_gone(connection, collection, ids)
    return Wanted(
        held=held,
        gone=gone,
        once_is_enough=gone,
        unlisted=partial(unlisted, connection, collection),
    )


def merge_walk(
    database: Database,
    client: CurrentRmsClient,
    walk: walks.StoredWalk,
    run: str,
    *,
    lane: Lane,
) -> MergedWalk:
    """Merge the landed pages of `walk`, and clear up the records that they showed in an older
    state.

    Raises RequestRefused or ApiUnavailable.
    """
    began = walk.started_at

    def take(ids: Ids[int]) -> MergeResult:
        return merge_walks(
            database, client.collection, [walk.id], run, counted_since=began, only=ids
        ).result

    merged = merge_walks(
        database,
        client.collection,
        [walk.id],
        run,
        counted_since=began,
        doubting=True,
        # It is not settled yet. Until then, a process that continues begins with all its pages.
        redone_after_crash=True,
    )
    if merged.result.doubted:
        with database.session() as connection:
            settle_doubts(connection, client, run, walk.id, merged.result, take=take, lane=lane)
    return merged


def merge_list(
    connection: Connection,
    client: CurrentRmsClient,
    run: str,
    walk: int,
    segment: str,
    answer: ListAnswer,
    *,
    lane: Lane,
    window: Window | None = None,
    covers: tuple[int | None, int | None] | None = None,
    lagging: Ids[int] = (),
) -> MergeResult:
    """Land and merge a list that was requested beside a walk. `lagging` are ids known to be late in
    it.
    """

    def take(ids: Ids[int]) -> MergeResult:
        some = [r for r in read_records(client.collection, answer) if getattr(r, "id", None) in ids]
        return merge_answer(connection, client.collection, run, answer, some)

    merged = store_answer(
        connection,
        client.collection,
        run,
        walk,
        segment,
        answer,
        window=window,
        covers=covers,
        doubting=True,
    )
    settle_doubts(connection, client, run, walk, merged, take=take, lane=lane, known=lagging)
    return merged


def settle_doubts(
    connection: Connection,
    client: CurrentRmsClient,
    run: str,
    walk: int,
    merged: MergeResult,
    *,
    take: Callable[[Ids[int]], MergeResult],
    lane: Lane,
    known: Ids[int] = (),
) -> None:
    """Ask for each record of `merged.doubted` singly, and store the answer.

    If the single record cannot be fetched, `take` merges the list's version. Afterwards `merged`
    says what happened, and for which ids the list is `lagging`. The ids `known` to lag are not
    asked for. Raises RequestRefused or ApiUnavailable.
    """
    told = dict(merged.doubted)
    merged.doubted = ()
    lagging = told.keys() & set(known)
    left = sorted(told.keys() - lagging)
    asked, others = left[-MOST_ASKED:], left[:-MOST_ASKED]
    unheard = set(asked)
    behind = set[int]()
    # If no record is found by its id, the answers prove nothing.
    with contextlib.suppress(FindsNone):
        for verdict in ask_by_id(
            client,
            asked,
            lane=lane,
            # Nothing is deleted here.
            wanted=Wanted(singly=asked, once_is_enough=asked),
            witnesses=some_other_row(connection, client.collection, asked),
        ):
            behind |= verdict.gone.keys()
            for answer in verdict.answers:
                merged += store_answer(connection, client.collection, run, walk, _SEGMENT, answer)
                for id_, at in times_of(answer).items():
                    before = told.get(id_)
                    if before is not None and at is not None and before < at:
                        behind.add(id_)
            unheard -= verdict.gone.keys()
            unheard -= {i for answer in verdict.answers for i in answer.ids}
    if behind:
        lagging |= {*behind, *others}
    else:
        unheard |= set(others)
    if unheard:
        merged += take(unheard)
    merged.lagging += tuple(sorted(lagging))
