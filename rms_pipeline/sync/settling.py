"""After the pages of a full walk are merged: who is gone, and is everything there?

A row leaves only by two witnesses: a complete reading of where it should be did not list it, and
`GET /opportunities/{id}` answers that it is gone. If too many would leave at once, none does.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812

from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.mirror import walks
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.deletions import (
    count_window,
    move_to_deleted,
    note_asked,
    oldest_outside,
    those_kept,
    unseen_rows,
)
from rms_pipeline.mirror.merge import MergeResult
from rms_pipeline.sync.by_id import ask_by_id
from rms_pipeline.sync.certifying import Certificate, certify
from rms_pipeline.sync.storing import store_answer

GUARDED_SHARE = 0.05
GUARDED_COUNT = 20
_BY_TWO_WITNESSES = "a full walk did not see it, and asking for it by id found nothing"
_BY_ID_ALONE = "outside the window; asking for it by id found nothing"


@dataclass(slots=True)
class Settled:
    """What a full walk led to. Counts are rows.

    `deleted` left the table. `held_back` would have, but were too many to go without confirmation;
    `held_outside` are the ids of those of them that lie outside the window, from earlier walks too.
    `left_window` were not in the walk but are there. `reverified` rows outside the window were
    asked for again. `result` is what was merged meanwhile.
    """

    certificate: Certificate
    deleted: int = 0
    held_back: int = 0
    held_outside: list[int] = field(default_factory=list)
    left_window: int = 0
    reverified: int = 0
    calls: int = 0
    result: MergeResult = field(default_factory=MergeResult)

    def deletions(self) -> dict[str, Any]:
        return {
            "deleted": self.deleted,
            "held_back": self.held_back,
            "held_outside": self.held_outside,
        }


def settle_full_walk(
    database: Database,
    client: CurrentRmsClient,
    walk: walks.StoredWalk,
    run: str,
    *,
    confirm_deletions: bool = False,
    reverify_calls: int = 0,
) -> Settled:
    """Removes what is gone, certifies the window, and asks again for rows outside it.

    `walk` is complete and merged. `confirm_deletions` lets any number of rows go; `reverify_calls`
    bounds the calls spent on rows outside the window.
    """
    assert walk.window is not None
    before = client.counts.calls
    with database.session() as connection:
        settling = _Settling(connection, client, walk, run, confirm_deletions)
        settling.remove(unseen_rows(connection, walk.id, walk.started_at, walk.window))
        certificate = certify(
            connection,
            client,
            walk,
            run,
            remove=None if settling.held_back else settling.remove,
            result=settling.result,
        )
        reverified = settling.reverify(reverify_calls)
        settled = Settled(
            certificate=certificate,
            deleted=settling.deleted,
            held_back=settling.held_back,
            held_outside=settling.held_outside,
            left_window=settling.left_window,
            reverified=reverified,
            calls=client.counts.calls - before,
            result=settling.result,
        )
        walks.settle_walk(
            connection,
            walk.id,
            certificate=certificate.as_json(),
            deletions=settled.deletions(),
        )
    return settled


class _Settling:
    def __init__(
        self,
        connection: Connection,
        client: CurrentRmsClient,
        walk: walks.StoredWalk,
        run: str,
        confirmed: bool,
    ) -> None:
        assert walk.window is not None
        self.result = MergeResult()
        self.deleted = self.held_back = self.left_window = 0
        self.held_outside: list[int] = []
        self._connection, self._client, self._walk, self._run = connection, client, walk, run
        self._window = walk.window
        self._most: float = max(
            GUARDED_COUNT, GUARDED_SHARE * count_window(connection, walk.window)
        )
        self._confirmed = confirmed
        if confirmed:
            self._most = float("inf")

    def remove(self, suspects: Iterable[int]) -> bool:
        """Asks for `suspects`, which a complete reading did not list, and removes who is gone.

        False when they are too many, and stay.
        """
        ids = sorted(suspects)
        gone = {}
        for verdict in ask_by_id(self._client, ids, lane=Lane.WALK, expected=False):
            for answer in verdict.answers:
                self.result += store_answer(
                    self._connection, self._run, self._walk.id, "by_id", answer
                )
            gone.update(verdict.gone)
            if self.deleted + len(gone) > self._most:
                # How many more there are need not be known to see that something is wrong.
                self.held_back = len(gone)
                return False
        self.left_window += len(ids) - len(gone)
        self.deleted += len(move_to_deleted(self._connection, gone, _BY_TWO_WITNESSES, self._run))
        return True

    def reverify(self, calls: int) -> int:
        """Asks again for rows outside the window, those of longest ago first.

        Once it is confirmed that rows may go, those held back before are asked for as well.
        """
        last = walks.newest_walk(self._connection, kind=walks.FULL, settled=True)
        held = (last.deletions or {}).get("held_outside", []) if last else []
        held = those_kept(self._connection, held)
        limit = self._client.counts.calls + calls
        ids = oldest_outside(self._connection, self._window, self._client.page_size * calls)
        asked = self._ask_again(held) if self._confirmed else {}
        while ids and self._client.counts.calls < limit:
            # Anew each time: the answers tell how many fit into one.
            size = self._client.page_size
            asked |= self._ask_again([i for i in ids[:size] if i not in asked])
            ids = ids[size:]
        gone = {id_: times for id_, times in asked.items() if times is not None}
        if self.deleted + len(gone) > self._most:
            note_asked(self._connection, gone)
            held = sorted({*held, *gone})
        else:
            self.deleted += len(move_to_deleted(self._connection, gone, _BY_ID_ALONE, self._run))
        there = {id_ for id_, times in asked.items() if times is None}
        self.held_outside = those_kept(self._connection, [i for i in held if i not in there])
        self.held_back += len(self.held_outside)
        return len(asked)

    def _ask_again(self, ids: Sequence[int]) -> dict[int, tuple[datetime, datetime] | None]:
        """For each id when its absence was asked for and answered, None for one that is there."""
        asked: dict[int, tuple[datetime, datetime] | None] = dict.fromkeys(ids)
        for verdict in ask_by_id(self._client, ids, lane=Lane.WALK):
            for answer in verdict.answers:
                self.result += store_answer(
                    self._connection, self._run, self._walk.id, "by_id", answer
                )
            asked.update(verdict.gone)
        return asked
