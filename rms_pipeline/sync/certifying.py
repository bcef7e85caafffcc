"""The certificate: the API's own count of the window against the mirror's, and what mends it.

Counts are asked for with `per_page=1`. Where they differ, the list is halved until the ranges that
differ are small, and only those are read again.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812

from rms_pipeline.current_rms.client import CurrentRmsClient, ListAnswer
from rms_pipeline.current_rms.errors import NotHonoured, Unprocessable
from rms_pipeline.current_rms.keys import BY_CREATION, BY_ID, Key
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.current_rms.ranges import read_ranges
from rms_pipeline.current_rms.spans import WHOLE, Span
from rms_pipeline.current_rms.window import EVERYTHING, Segment, Window
from rms_pipeline.mirror.completeness import (
    SegmentRows,
    count_seen,
    count_unreadable_dates,
    refused_ids,
)
from rms_pipeline.mirror.merge import MergeResult
from rms_pipeline.mirror.walks import StoredWalk
from rms_pipeline.sync.storing import store_answer

_ROUNDS = 4
_MOST_CALLS = 200
_KEYS: dict[str, Key] = {"id": BY_ID, "id ranges": BY_ID, "created_at ranges": BY_CREATION}

_HELD_BACK = "Deletions wait for confirmation."
Remover = Callable[[set[int]], bool]


@dataclass(frozen=True, slots=True)
class Certificate:
    """`shown` when the mirror held exactly what the API counted in the window `as_of` (UTC).

    `mirrored` are rows of the window, `unstorable` records that no row can stand for (no id, or
    refused by PostgreSQL). `repaired` records had to be fetched again to get there, in `calls`.
    """

    shown: bool
    as_of: datetime
    counted: int
    mirrored: int
    unstorable: int
    repaired: int
    calls: int
    reason: str = ""

    @property
    def sentence(self) -> str:
        """ "complete as of 2026-11-24 12:03 UTC: 5,012 of 5,012", or why that cannot be said."""
        numbers = f"{self.mirrored:,} of {self.counted:,}"
        if self.unstorable:
            numbers += f", and {self.unstorable:,} that cannot be stored (see sync_faults)"
        if self.shown:
            return f"complete as of {self.as_of:%Y-%m-%d %H:%M:%S} UTC: {numbers}"
        return f"not shown to be complete: {numbers} at {self.as_of:%H:%M:%S} UTC. {self.reason}"

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "as_of": self.as_of.isoformat(), "sentence": self.sentence}


@dataclass(slots=True)
class _Comparison:
    as_of: datetime
    counted: dict[str, int] = field(default_factory=dict)
    mirrored: dict[str, int] = field(default_factory=dict)
    unstorable: int = 0

    @property
    def differing(self) -> list[str]:
        return [s for s, n in self.counted.items() if n != self.mirrored[s]]


def certify(
    connection: Connection,
    client: CurrentRmsClient,
    walk: StoredWalk,
    run: str,
    *,
    remove: Remover | None,
    result: MergeResult,
) -> Certificate:
    """Compares, and mends what differs, until the counts agree or it is clear that they will not.

    `remove` is given ids of rows that the API did not list where they should be, to find out what
    became of them, and says whether those that are gone could go; None when nothing may be mended.
    What is merged on the way adds to `result`.
    """
    certifier = _Certifier(connection, client, walk, run, result)
    before = client.counts.calls
    reason = ""
    for round_ in range(_ROUNDS):
        found = certifier.compare()
        differing = certifier.unexplained(found)
        if not differing or remove is None or client.counts.calls - before > _MOST_CALLS:
            break
        if round_ < _ROUNDS - 1:
            reason = certifier.mend(differing, remove)
            if reason:
                break
    if differing and not reason:
        reason = (
            _HELD_BACK
            if remove is None
            else "The account may be changing too fast to be counted; the next full sync tries "
            "again."
        )
    return Certificate(
        shown=not differing,
        as_of=found.as_of,
        counted=sum(found.counted.values()),
        mirrored=sum(found.mirrored.values()) - found.unstorable,
        unstorable=found.unstorable,
        repaired=certifier.repaired,
        calls=client.counts.calls - before,
        reason=reason if differing else "",
    )


class _Certifier:
    def __init__(
        self,
        connection: Connection,
        client: CurrentRmsClient,
        walk: StoredWalk,
        run: str,
        result: MergeResult,
    ) -> None:
        assert walk.window is not None
        self.repaired = 0
        self._connection, self._client, self._walk = connection, client, walk
        self._run, self._result = run, result
        self._window = walk.window
        self._refused = refused_ids(connection, walk.id, run)
        segments = {s.name: s for s in Window(*walk.window).segments()}
        if EVERYTHING.name in walk.read_by:
            segments = {"dated": segments["dated"], EVERYTHING.name: EVERYTHING}
        self._segments: dict[str, Segment] = segments

    def compare(self) -> _Comparison:
        found = _Comparison(self._client.now())
        for name, segment in self._segments.items():
            found.counted[name] = self._client.count(segment.params)
            if segment is EVERYTHING:
                # The mirror does not hold everything; what was read of it must do.
                mirrored = count_seen(self._connection, self._walk.id, name)
                refused = 0
            else:
                mirrored = SegmentRows(name, self._window).count(self._connection)
                refused = len(self._refused.get(name, ()))
            unstorable = self._walk.nameless.get(name, 0) + refused
            found.mirrored[name] = mirrored + unstorable
            found.unstorable += unstorable
        return found

    def unexplained(self, found: _Comparison) -> list[str]:
        """Segments that differ, but for records whose unreadable dates file them elsewhere."""
        differing = found.differing
        if differing and sum(found.counted.values()) == sum(found.mirrored.values()):
            odd = count_unreadable_dates(self._connection, self._run)
            if all(abs(found.counted[s] - found.mirrored[s]) <= odd for s in differing):
                return []
        return differing

    def mend(self, differing: list[str], remove: Remover) -> str:
        """Reads again where `differing` segments differ; why that is impossible, or ''."""
        surplus: set[int] = set()
        reason = ""
        for name in differing:
            key = _KEYS.get(self._walk.read_by.get(name, "id"))
            if name == EVERYTHING.name or key is None:
                reason = (
                    f"The API obeys no filter that would locate the difference in {name}; "
                    "the next full sync tries again."
                )
                break
            try:
                self._mend_segment(self._segments[name], key, surplus)
            except (NotHonoured, Unprocessable) as error:
                reason = f"The difference in {name} could not be located: {error}."
                break
        # All at once, or some would go before it shows that they are too many.
        if surplus and not remove(surplus):
            return _HELD_BACK
        return reason

    def _mend_segment(self, segment: Segment, key: Key, surplus: set[int]) -> None:
        rows = SegmentRows(segment.name, self._window, key.name)
        refused = self._refused.get(segment.name, set()) if key is BY_ID else set()

        def count_here(span: Span) -> int:
            among = sum(
                1
                for i in refused
                if (span[0] is None or i >= span[0]) and (span[1] is None or i <= span[1])
            )
            return rows.count(self._connection, span) + among

        spans: list[tuple[Span, int]] = [(WHOLE, self._client.count(segment.params))]
        while spans:
            span, counted = spans.pop()
            here = count_here(span)
            if counted == here:
                continue
            middle = rows.middle(self._connection, span)
            lower, upper = span
            if (
                counted <= self._client.page_size
                or middle is None
                or here < counted // 2
                or middle == upper
            ):
                surplus |= self._read_again(segment, key, span, rows)
                continue
            left: Span = (lower, middle)
            in_left = self._client.count(segment.params + key.params(left))
            spans += [(left, in_left), ((middle + 1, upper), counted - in_left)]

    def _read_again(self, segment: Segment, key: Key, span: Span, rows: SegmentRows) -> set[int]:
        """The ids of rows in `span` that the API does not list there."""

        def ask(part: Span) -> ListAnswer:
            return self._client.list_opportunities(
                segment.params + key.params(part), lane=Lane.WALK
            )

        listed: set[int] = set()
        for _, answer in read_ranges(ask, key, [span], lanes=1):
            stored = store_answer(self._connection, self._run, self._walk.id, "repair", answer)
            self._result += stored
            self.repaired += stored.stored
            listed.update(answer.ids)
        return rows.ids(self._connection, span) - listed
