"""The proof that the mirror holds what the API's lists hold, and what mends it.

First the API counts the window, by ranges of ids cut at random, and lists those without dates. Then
whatever has changed since the watermark is read and merged. If nothing of it was new, and nobody
else changed the mirror from before the first count until after that, then the mirror of before the
first count already held all of it: what was counted is what it held. No clock decides. Otherwise
all is counted again. Where counts differ although nothing moves, the list is halved down to the
ids; each is asked for by itself and fetched, or deleted when the single record is gone.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from psycopg2.extensions import connection as Connection  # noqa: N812

from rms_pipeline.current_rms.client import CurrentRmsClient, ListAnswer
from rms_pipeline.current_rms.errors import (
    ApiUnavailable,
    CurrentRmsError,
    NotHonoured,
    RequestRefused,
    Unprocessable,
)
from rms_pipeline.current_rms.failing import PageSizes
from rms_pipeline.current_rms.keys import BY_CREATION, BY_ID, Key
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.current_rms.records import Fault, Record
from rms_pipeline.current_rms.seeds import ascending
from rms_pipeline.current_rms.spans import WHOLE, Span, inside, without
from rms_pipeline.current_rms.terms import MOST_PER_PAGE
from rms_pipeline.current_rms.walk import ORDER, Walk
from rms_pipeline.current_rms.window import (
    EVERYTHING,
    Params,
    Segment,
    Window,
    changed_since,
    segments_of,
)
from rms_pipeline.mirror import walks
from rms_pipeline.mirror.completeness import (
    SegmentRows,
    fetched_singly,
    ids_with_unreadable_dates,
    refused_ids,
    some_other_row,
)
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.deletions import HELD_BACK, Deletions
from rms_pipeline.mirror.merge import MergeResult, note_faults
from rms_pipeline.mirror.proofs import (
    NO_RANGES,
    UNDATED_APART,
    UNDATED_UNCOUNTED,
    PartCount,
    Proof,
    WriterHangs,
    content_number,
    keep_proof,
    newest_proof,
    open_proof,
)
from rms_pipeline.mirror.unreadable import unreadable
from rms_pipeline.sync.by_id import ask_by_id
from rms_pipeline.sync.doubts import merge_list, what_is_held
from rms_pipeline.sync.landing import OVERLAP
from rms_pipeline.sync.storing import name_unreadable, read_records, store_answer

# Pages that were asked for because a list and the mirror differ; not the same as a refresh, which
# knows of something new.
SUSPECT = "suspect"
ROUNDS, RANGES, MOST_CALLS = 4, 2, 200
# For so long the list of the API may not show yet what the single record shows.
LAG = timedelta(minutes=2)

_KEYS: dict[str, Key] = {"id": BY_ID, "id ranges": BY_ID, "created_at ranges": BY_CREATION}
_UNDATED = Segment("undated", (("q[starts_at_or_ends_at_null]", "1"),))
_MOVING = (
    "Something changed, in Current RMS or in the mirror, each of the {rounds} times that it was "
    "counted. The next sync tries again."
)
_CONTRADICTORY = (
    "The counts of Current RMS contradict one another, so they prove nothing. What its lists show "
    "is mirrored."
)
_OUT_OF_SCOPE = "Nothing can be counted, for Current RMS does not do what is asked: {}."
_CAPPED = (
    "Current RMS counts fewer records than its list holds, so its counts prove nothing. What "
    "the list shows is mirrored."
)


class _NotCounted(Exception):
    """Why there is no proof this time."""


@dataclass(slots=True)
class _Left:
    """What the list and the single record differ about: `young` ones may be a matter of seconds."""

    ids: dict[int, bool] = field(default_factory=dict)

    def old(self) -> list[int]:
        return sorted(i for i, young in self.ids.items() if not young)


def begin_proof(
    database: Database,
    client: CurrentRmsClient,
    run: str,
    *,
    every: timedelta = timedelta(0),
    dice: random.Random | None = None,
) -> Proof | None:
    """Counts, before an incremental sync reads what has changed: that is then the end of the proof
    (`finish_proof`).

    None before any full sync, and when the last proof was shown less than `every` ago. What goes
    wrong is kept as the reason why it could not be shown.
    """
    with database.session() as connection:
        scan = walks.newest_walk(connection, client.collection, kind=walks.FULL, settled=True)
        last = newest_proof(connection, client.collection)
        if scan is None:
            return None
        if last is not None and last.shown and client.now() - last.as_of < every:
            return None
        return Prover(connection, client, scan, run, lane=Lane.INCREMENTAL, dice=dice).begin()


def finish_proof(
    database: Database,
    client: CurrentRmsClient,
    proof: Proof,
    walk: walks.StoredWalk,
    merged: MergeResult,
    run: str,
    *,
    dice: random.Random | None = None,
) -> tuple[Proof, MergeResult]:
    """Closes `proof`, once the changes that `walk` read after it began have led to `merged`.

    Where those brought something new, or the counts differ, it goes on until the mirror is shown to
    be complete, or it is clear that it cannot be shown now. What is merged on the way comes back.
    """
    with database.session() as connection:
        scan = walks.find_walk(connection, proof.scan)
        since = walk.watermark or walk.since
        if scan is None or since is None:
            raise ValueError(
                f"proof {proof.id} rests on no full walk, or walk {walk.id} on nothing"
            )
        prover = Prover(
            connection,
            client,
            scan,
            run,
            lane=Lane.INCREMENTAL,
            remove=Deletions(connection, client.collection, run),
            dice=dice,
        )
        return prover.finish(proof, merged, walk.id, since, None), prover.result


class Prover:
    """Makes one proof, for `run`, of the window that `scan` (a full walk) read.

    `remove` is asked to delete the rows that are gone; None when nothing may be deleted now. What
    is merged on the way adds to `result`. `ranges` are counted apart.
    """

    def __init__(
        self,
        connection: Connection,
        client: CurrentRmsClient,
        scan: walks.StoredWalk,
        run: str,
        *,
        lane: Lane = Lane.WALK,
        ranges: int = RANGES,
        remove: Deletions | None = None,
        dice: random.Random | None = None,
    ) -> None:
        self.result = MergeResult()
        self.repaired = self.deleted = 0
        self._connection, self._client, self._scan, self._run = connection, client, scan, run
        self._collection = client.collection
        self._lane, self._ranges, self._remove = lane, ranges, remove
        self._sizes = PageSizes(client)
        self._dice = dice or random.Random()
        self._calls = client.counts.calls
        self._calls_before = 0
        self.window = None if scan.window is None else Window(*scan.window)
        # The list that is counted by ranges; those without dates are listed apart.
        self._ranged, *self._apart_segments = segments_of(self.window)
        self._key = _KEYS.get(scan.read_by.get(self._ranged.name, "id"))
        self._last = newest_proof(connection, self._collection)
        self._rests_on: dict[str, None] = {}
        self._refused: set[int] = set()
        self._odd: set[int] = set()
        self._left = _Left()
        # Of which a list showed, while this proof was made, what was before the mirror's.
        self._lagging: set[int] = set()
        self._asked: set[int] = set()
        self._holes: tuple[int, ...] = ()
        self._counted_around: tuple[set[int], set[int]] = set(), set()
        self._listed: dict[str, set[int]] = {}
        self._exact: dict[str, list[Span]] = {}
        self._found = False
        # What the API has counted so far: it caps nothing below that.
        self._greatest = 0
        if self._last is not None and self._last.scan == scan.id:
            self._greatest = self._last.greatest_count
            for part in self._last.parts:
                if (
                    part.listed
                    and (part.nameless or part.repeated)
                    and part.segment == self._ranged.name
                ):
                    self._exact.setdefault(part.segment, []).append(part.ids)

    # The sequence

    def begin(self) -> Proof:
        """The first counts, kept; what changed since is to be read and merged after them."""
        try:
            content, as_of, parts = self._count_all()
        except (CurrentRmsError, WriterHangs, _NotCounted) as error:
            failed = self._blank(0, self._client.now())
            return open_proof(
                self._connection,
                replace(failed, reason=_sentence(error), rounds=1, calls=self._spent()),
            )
        proof = self._summed(self._blank(content, as_of), parts)
        return open_proof(self._connection, replace(proof, rounds=1, calls=self._spent()))

    def finish(
        self, proof: Proof, merged: MergeResult, walk: int, since: datetime, window: Window | None
    ) -> Proof:
        """Closes `proof`, which counted before the changes that led to `merged` were read.

        Goes on counting where those brought something new: changes since `since` (the API's clock)
        are then read again, as part of `walk`; of those outside `window` only known ones count.
        """
        self._calls_before = proof.calls
        self._rests_on.update(dict.fromkeys(proof.rests_on))
        if proof.reason:
            return self._closed(proof, shown=False)
        self._prepare()
        # What could not be stored since it counted, it took for stored.
        refused = set() if merged.failed else self._refused
        self._counted_around = set(proof.unreadable), refused
        young = fetched_singly(self._connection, self._collection, proof.left, LAG.total_seconds())
        self._left.ids = {i: self._left.ids.get(i, i in young) for i in proof.left}
        return self._rounds(proof, merged, walk, since, window)

    def prove(self, walk: int, since: datetime, window: Window | None) -> Proof:
        """All of it at once, for what is mirrored now."""
        proof = self.begin()
        if proof.reason:
            return self._closed(proof, shown=False)
        try:
            merged, since = self._read_changes(walk, since, window)
        except CurrentRmsError as error:
            return self._closed(replace(proof, reason=_sentence(error)), shown=False)
        return self._rounds(proof, merged, walk, since, window)

    def _rounds(
        self,
        proof: Proof,
        merged: MergeResult,
        walk: int,
        since: datetime,
        window: Window | None,
    ) -> Proof:
        reason = ""
        try:
            while True:
                alike = all(part.alike for part in proof.parts)
                if self._was_still(proof.content, merged):
                    unlisted = self._unlisted()
                    if alike and not unlisted:
                        return self._concluded(proof)
                    reason = "" if alike else self._mend(proof.parts, walk)
                    reason = reason or self._settle(unlisted, walk)
                    if reason:
                        break
                if proof.rounds >= ROUNDS or self._spent() > MOST_CALLS:
                    reason = _MOVING.format(rounds=proof.rounds)
                    break
                content, as_of, parts = self._count_all()
                proof = self._summed(replace(proof, content=content, as_of=as_of), parts)
                proof = replace(proof, rounds=proof.rounds + 1)
                merged, since = self._read_changes(walk, since, window)
        except (CurrentRmsError, WriterHangs, _NotCounted) as error:
            reason = _sentence(error)
        return self._closed(replace(proof, reason=reason), shown=False)

    def _unlisted(self) -> set[int]:
        """Rows that no list shows and whose newest record was refused, not asked for yet.

        They are in no count of the mirror's, so that they would never show.
        """
        if self._remove is None:
            return set()
        found = self._refused.intersection(self._left.old()) - self._asked
        self._asked |= found
        return found

    def _was_still(self, content: int, merged: MergeResult) -> bool:
        """Whether the mirror is what it was before the first count, and the API brought no news.

        What was fetched anew and is the same as stored changes nothing, so it need not be compared
        again. Something `stale` differed, and lost to what the mirror had. Where the lists lag it
        is counted again with those apart.
        """
        if merged.stale or merged.created or merged.updated:
            return False
        if not set(merged.lagging) <= self._lagging:
            self._lagging |= set(merged.lagging)
            return False
        if self._cannot_be_had() != self._counted_around:
            # Counted as if it were mirrored, before it was found that it cannot be.
            return False
        return content_number(self._connection, self._collection) == content

    def _cannot_be_had(self) -> tuple[set[int], set[int]]:
        """Ids that the API cannot deliver, and those that PostgreSQL refused."""
        return set(unreadable(self._connection, self._collection)), refused_ids(
            self._connection, self._collection
        )

    def _concluded(self, proof: Proof) -> Proof:
        old = self._left.old()
        if old:
            shown = ", ".join(map(str, old[:10]))
            reason = (
                f"The list of Current RMS differs from its single records: {shown}. It may show "
                "less than there is (to this key's user, or without some states)."
            )
            return self._closed(replace(proof, reason=reason), shown=False)
        return self._closed(proof, shown=True)

    def _closed(self, proof: Proof, *, shown: bool) -> Proof:
        return keep_proof(
            self._connection,
            replace(
                proof,
                shown=shown,
                left=tuple(sorted(self._left.ids)),
                repaired=self.repaired,
                deleted=self.deleted,
                calls=self._spent(),
                rests_on=tuple(self._rests_on),
            ),
        )

    def _spent(self) -> int:
        return self._calls_before + self._client.counts.calls - self._calls

    def _blank(self, content: int, as_of: datetime) -> Proof:
        return Proof(
            id=0,
            collection=self._collection.name,
            run=self._run,
            scan=self._scan.id,
            as_of=as_of,
            content=content,
            window=self._bounds,
        )

    def _summed(self, proof: Proof, parts: Sequence[PartCount]) -> Proof:
        return replace(
            proof,
            counted=sum(p.counted for p in parts) + len(self._holes),
            mirrored=sum(p.mirrored for p in parts),
            unstorable=sum(p.unstorable + p.nameless for p in parts),
            repeated=sum(p.repeated for p in parts),
            greatest_count=self._greatest,
            unreadable=self._holes,
            left=tuple(sorted(self._left.ids)),
            rests_on=tuple(self._rests_on),
            parts=tuple(parts),
        )

    # Changes

    def _read_changes(
        self, walk: int, since: datetime, window: Window | None
    ) -> tuple[MergeResult, datetime]:
        """Merges what changed since; what came of it, and since when to ask the next time."""
        reading = Walk(self._client, [changed_since(since)], suspects=self._holes, lane=self._lane)
        merged = MergeResult()
        asked_at, pages = self._client.now(), 0
        for page in reading.pages():
            pages += 1
            asked_at = min(asked_at, page.answer.api_date or asked_at)
            merged += merge_list(
                self._connection,
                self._client,
                self._run,
                walk,
                page.segment,
                page.answer,
                lane=self._lane,
                window=window,
                covers=page.covers,
                lagging=self._lagging,
            )
        found = reading.report.undelivered.unreadable
        name_unreadable(self._connection, self._collection, self._run, found)
        self.result += merged
        # Where it is much, only what has changed meanwhile need be asked for again.
        return merged, max(since, asked_at - OVERLAP) if pages > 1 else since

    # Counting

    def _prepare(self) -> None:
        connection = self._connection
        self._refused = refused_ids(connection, self._collection)
        self._odd = ids_with_unreadable_dates(connection, self._collection)
        self._holes = tuple(sorted(unreadable(connection, self._collection)))
        if self._last is not None:
            young = fetched_singly(
                connection, self._collection, self._last.left, LAG.total_seconds()
            )
            for id_ in self._last.left:
                self._left.ids.setdefault(id_, id_ in young)

    @property
    def _bounds(self) -> tuple[datetime, datetime] | None:
        return None if self.window is None else (self.window.start, self.window.end)

    @property
    def _apart(self) -> set[int]:
        """Ids whose place in the API's lists only those lists can tell."""
        apart = self._refused | self._odd | set(self._left.ids) | self._lagging
        return apart.difference(self._holes)

    def _count_all(self) -> tuple[int, datetime, list[PartCount]]:
        """The number of the mirror's content, when the first count was asked for, and all parts."""
        if not self._scan.counts_believed:
            raise _NotCounted(_CAPPED)
        for refusal in self._client.terms.refusals:
            if refusal.what_follows:
                raise _NotCounted(_OUT_OF_SCOPE.format(refusal.sentence))
        content = content_number(self._connection, self._collection)
        self._prepare()
        self._counted_around = set(self._holes), set(self._refused)
        self._listed = {}
        as_of = self._client.now()
        parts = self._count_dated() + self._count_undated()
        self._sort_out_left()
        return content, as_of, parts

    def _rows(self, segment: Segment, key: Key = BY_ID) -> SegmentRows:
        return SegmentRows(self._collection, segment.name, self._bounds, key.name, self._apart)

    def _count_dated(self) -> list[PartCount]:
        segment, key = self._ranged, self._key
        listed = self._list_apart(segment)
        if key is not None and NO_RANGES not in self._rests_on:
            spans = self._spans(segment, key)
            try:
                parts = [self._compare(segment, key, span, listed) for span in spans]
            except (NotHonoured, RequestRefused) as error:
                _demand_refusal(error)
            else:
                if not self._are_whole_counts(parts):
                    return parts + [
                        self._list_part(segment, span, listed)[0]
                        for span in self._exact.get(segment.name, ())
                    ]
        self._rests_on[NO_RANGES] = None
        return [self._count_part(segment, None, WHOLE, listed)]

    def _compare(self, segment: Segment, key: Key, span: Span, listed: set[int]) -> PartCount:
        """By number; the ids themselves where one answer shows them all, for the same price."""
        if key is BY_ID:
            rows = self._rows(segment).count(self._connection, span)
            if rows < self._sizes.expected:
                return self._list_part(segment, span, listed)[0]
        return self._count_part(segment, key, span, listed)

    def _demand_uncapped(self, counted: int) -> None:
        """A count as great as any that the API has given may be all that it ever gives.

        Raises _NotCounted when that cannot be told apart.
        """
        if counted >= self._greatest:
            self._greatest = max(self._greatest, self._count(EVERYTHING, None, WHOLE))
        if counted and counted >= self._greatest:
            raise _NotCounted(_CAPPED)

    def _are_whole_counts(self, parts: Sequence[PartCount]) -> bool:
        """Whether each count is that of the whole list: the API ignored the ranges."""
        counts = {p.counted for p in parts}
        whole = sum(p.mirrored + p.unstorable for p in parts)
        return (
            len(parts) > 1
            and len(counts) == 1
            and counts == {whole}
            and not all(p.alike for p in parts)
        )

    def _spans(self, segment: Segment, key: Key) -> list[Span]:
        """All ids in as many ranges as are asked for, without what is looked at apart."""
        rows = self._rows(segment, key)
        total = rows.count(self._connection)
        cuts = set()
        # More ranges than pages tell nothing more.
        most = max(RANGES, min(self._ranges, total // self._sizes.expected))
        for _ in range(most - 1 if total else 0):
            # Never behind the last row: what lies beyond must be counted by itself.
            share = (self._dice.randrange(1, max(total, 2)) - 0.5) / total
            place = rows.middle(self._connection, WHOLE, share)
            if place is not None:
                cuts.add(place)
        ranges: list[Span] = []
        lower: int | None = None
        for cut in sorted(cuts):
            ranges.append((lower, cut))
            lower = cut + 1
        ranges.append((lower, None))
        if key is not BY_ID:
            return ranges
        left_out: list[Span] = [(i, i) for i in self._holes]
        left_out += self._exact.get(segment.name, [])
        return [part for span in ranges for part in without(span, left_out)]

    def _count_part(
        self, segment: Segment, key: Key | None, span: Span, listed: set[int]
    ) -> PartCount:
        counted = self._count(segment, key, span)
        rows = self._rows(segment, key or BY_ID)
        here = {i for i in listed if key is not BY_ID or inside(i, span)}
        mirrored = rows.count(self._connection, span) + len(here - self._refused)
        unstorable = len(here & self._refused)
        if key is not None:
            self._demand_uncapped(counted)
        return PartCount(
            segment.name,
            span if key is BY_ID else WHOLE,
            counted,
            mirrored,
            unstorable=unstorable,
            alike=counted == mirrored + unstorable,
        )

    def _count(self, segment: Segment, key: Key | None, span: Span) -> int:
        """By the API. Raises NotHonoured when it shows what was not asked for."""
        params = segment.params + (key.params(span) if key is not None else ())
        answer = self._client.list_records(params, per_page=1, lane=self._lane)
        for raw, record in zip(
            answer.page.records, read_records(self._collection, answer), strict=True
        ):
            value = None if key is None else key.value(raw)
            if value is not None and not inside(value, span):
                raise NotHonoured("a record outside the range asked for")
            if isinstance(record, Record) and segment is self._ranged:
                self._demand_in_window(record)
        total = answer.page.meta.total_row_count
        if total < len(answer.page.records):
            raise _NotCounted(_CAPPED)
        return total

    def _count_undated(self) -> list[PartCount]:
        if not self._apart_segments:
            return []
        if EVERYTHING.name in self._scan.read_by:
            self._rests_on[UNDATED_UNCOUNTED] = None
        if UNDATED_UNCOUNTED in self._rests_on:
            return []
        known_apart = self._last is not None and UNDATED_APART in self._last.rests_on
        is_tried = self._lane is Lane.WALK or not known_apart
        if UNDATED_APART not in self._rests_on and is_tried:
            try:
                return self._list_parts([_UNDATED])
            except (NotHonoured, RequestRefused) as error:
                _demand_refusal(error)
        self._rests_on[UNDATED_APART] = None
        turn, earlier = self._whose_turn()
        try:
            return self._list_parts(turn) + earlier
        except (NotHonoured, RequestRefused) as error:
            _demand_refusal(error)
        del self._rests_on[UNDATED_APART]
        self._rests_on[UNDATED_UNCOUNTED] = None
        return []

    def _whose_turn(self) -> tuple[list[Segment], list[PartCount]]:
        """Which of the lists apart to ask for, and what the last proof found of the others.

        With all of them a quiet proof would cost a call more each time.
        """
        last, all_of_them = self._last, self._apart_segments
        if self._lane is Lane.WALK or last is None or not last.shown or last.scan != self._scan.id:
            return all_of_them, []
        if self._apart or self._holes:
            # Whose place is uncertain may be in any of them.
            return all_of_them, []
        known = {s.name: [p for p in last.parts if p.segment == s.name] for s in all_of_them}
        if not all(known.values()):
            return all_of_them, []
        at = {name: parts[0].as_of or last.as_of for name, parts in known.items()}
        turn = min(all_of_them, key=lambda segment: at[segment.name])
        return [turn], [
            replace(part, as_of=at[name])
            for name, parts in known.items()
            if name != turn.name
            for part in parts
        ]

    def _list_parts(self, segments: Iterable[Segment]) -> list[PartCount]:
        holes: list[Span] = [(i, i) for i in self._holes]
        return [
            self._list_part(segment, span, None)[0]
            for segment in segments
            for span in without(WHOLE, holes)
        ]

    def _list_part(
        self, segment: Segment, span: Span, listed: set[int] | None
    ) -> tuple[PartCount, ListAnswer]:
        """The first page of a list compared by ids, the rest of it by number.

        `listed` are those of the ids apart that are known to be in the list; None to find out.
        """
        answer = self._page(segment, span)
        records, total = len(answer.page.records), answer.page.meta.total_row_count
        ids, rows = set(answer.ids), self._rows(segment)
        if total < records:
            raise _NotCounted(_CAPPED)
        known = self._client.terms.knows_page_size
        if total > records or (records and (records >= self._sizes.expected or not known)):
            self._demand_more_or_uncapped(segment, span, answer)
        nameless, repeated = records - len(answer.ids), len(answer.ids) - len(ids)
        never_sent = self._never_sent(segment, span, answer)
        nameless += never_sent
        whole = total <= records + never_sent
        apart = self._apart
        if listed is None:
            listed = ids & apart
            if not whole and apart - listed:
                listed |= self._list_apart(segment, apart - listed)
            self._listed.setdefault(segment.name, set()).update(listed)
        here = {i for i in listed if inside(i, span)}
        seen = span if whole else (span[0], max(ids, default=0))
        alike = rows.ids(self._connection, seen) == ids - apart
        if not whole and not ascending(answer.ids):
            alike = not (ids - apart) - rows.ids(self._connection, span)
        mirrored = rows.count(self._connection, span) + len(here - self._refused)
        unstorable = len(here & self._refused)
        counted = total - repeated
        return (
            PartCount(
                segment.name,
                span,
                counted,
                mirrored,
                nameless,
                repeated,
                unstorable,
                alike=alike and counted == mirrored + unstorable + nameless,
                listed=whole,
            ),
            answer,
        )

    def _never_sent(self, segment: Segment, span: Span, answer: ListAnswer) -> int:
        """How many are counted in `span` that no page of it sends: its first one, which is
        `answer`, has room for more, and nothing comes behind it."""
        total, records = answer.page.meta.total_row_count, len(answer.page.records)
        is_short = total > records and records < self._sizes.expected
        if not is_short or not self._client.terms.knows_page_size or not ascending(answer.ids):
            return 0
        rest: Span = (max(answer.ids) + 1 if answer.ids else span[0], span[1])
        if rest[0] is not None and rest[1] is not None and rest[0] > rest[1]:
            return total - records
        return 0 if self._page(segment, rest).page.records else total - records

    def _demand_more_or_uncapped(self, segment: Segment, span: Span, answer: ListAnswer) -> None:
        """A full page is not the end on the word of a count that may be capped."""
        total = answer.page.meta.total_row_count
        if total < self._greatest:
            return
        if total > len(answer.page.records) or not answer.ids:
            self._demand_uncapped(total)
        elif self._page(segment, (max(answer.ids) + 1, span[1])).ids:
            raise _NotCounted(_CAPPED)

    def _page(self, segment: Segment, span: Span) -> ListAnswer:
        """The first page of `segment` in `span`, in order of id where the API obeys that.

        Raises NotHonoured when it shows what was not asked for.
        """
        params = segment.params + (BY_ID.params(span) if span != WHOLE else ())
        try:
            answer = self._whole_page(params + ORDER)
        except Unprocessable:
            answer = self._whole_page(params)
        if not all(inside(i, span) for i in answer.ids):
            raise NotHonoured("records outside the range asked for")
        for record in read_records(self._collection, answer):
            if not isinstance(record, Record):
                continue
            if segment is self._ranged:
                self._demand_in_window(record)
                continue
            starts, ends = record.dates()
            fits = segment.fits(starts, ends) if segment.lacking else None in (starts, ends)
            if not fits:
                raise NotHonoured(
                    f"records with dates in the list of those without ({segment.name})"
                )
        return answer

    def _demand_in_window(self, record: Record) -> None:
        """Raises NotHonoured for one that has nothing to do in a list of the window."""
        if self.window is None:
            return
        starts, ends = record.dates()
        odd = record.id in self._odd or starts is None or ends is None
        if not odd and not self.window.contains(starts, ends):
            raise NotHonoured("Current RMS lists, and counts, records outside the window asked for")

    def _whole_page(self, params: Params) -> ListAnswer:
        return self._client.list_records(
            params, per_page=self._sizes.most or MOST_PER_PAGE, lane=self._lane
        )

    def _list_apart(self, segment: Segment, ids: set[int] | None = None) -> set[int]:
        """Those of the ids apart that the API lists in `segment`."""
        wanted = sorted(self._apart if ids is None else ids)
        size = self._sizes.expected
        found: set[int] = set()
        for start in range(0, len(wanted), size):
            chunk = wanted[start : start + size]
            params = segment.params + tuple(("q[id_in][]", str(i)) for i in chunk)
            answer = self._whole_page(params)
            if not set(answer.ids) <= set(chunk):
                raise _NotCounted(
                    "The API obeys no filter by id, so it is not known where it counts some "
                    f"{self._collection.name} whose place here is uncertain."
                )
            found.update(answer.ids)
        self._listed.setdefault(segment.name, set()).update(found)
        return found

    def _sort_out_left(self) -> None:
        """Whoever the list and the mirror agree about again is left no longer.

        A row whose newest record was refused is left once no list shows it.
        """
        listed = set().union(*self._listed.values()) if self._listed else set()
        segments = [self._ranged]
        if self._apart_segments and UNDATED_UNCOUNTED not in self._rests_on:
            segments.append(_UNDATED)
        mirrored: set[int] = set()
        for segment in segments:
            rows = SegmentRows(self._collection, segment.name, self._bounds)
            mirrored |= rows.among(
                self._connection, self._left.ids.keys() | self._lagging | self._refused
            )
        surplus = (self._refused & mirrored) - listed - set(self._holes)
        known = dict.fromkeys(surplus, False) | dict.fromkeys(self._lagging, True) | self._left.ids
        self._left.ids = {
            i: young for i, young in known.items() if (i in listed) != (i in mirrored)
        }

    # Mending

    def _mend(self, parts: Sequence[PartCount], walk: int) -> str:
        """Finds out where the counts differ, and what became of those ids; why not, or ''."""
        if self._remove is None:
            return HELD_BACK
        suspects: set[int] = set()
        self._found = False
        for part in parts:
            if part.alike:
                continue
            segment = self._segment(part.segment)
            cannot_narrow = self._key is not BY_ID or NO_RANGES in self._rests_on
            if segment is self._ranged and cannot_narrow and part.counted > self._sizes.expected:
                return (
                    f"Current RMS counts {part.counted:,} where the mirror has {part.mirrored:,}, "
                    "and obeys no filter that would locate the difference; the next full sync "
                    "tries again."
                )
            try:
                suspects |= self._locate(segment, part, walk)
            except (NotHonoured, Unprocessable) as error:
                return f"The difference in {segment.name} could not be located: {error}."
        reason = self._settle(suspects, walk)
        if not reason and not suspects and not self._found:
            # Each part of it agrees with the mirror.
            return _CONTRADICTORY
        return reason

    def _segment(self, name: str) -> Segment:
        known = {s.name: s for s in (self._ranged, _UNDATED, *self._apart_segments)}
        return known[name]

    def _locate(self, segment: Segment, part: PartCount, walk: int) -> set[int]:
        """Fetches what is missing in `part`; the ids of rows that are not in the API's list."""
        rows = self._rows(segment)
        listed = self._listed.get(segment.name, set())
        size = self._sizes.expected
        suspects: set[int] = set()
        spans: list[tuple[Span, int]] = [(part.ids, part.counted + part.repeated)]
        first = True
        while spans:
            span, counted = spans.pop()
            here = rows.count(self._connection, span)
            here += sum(inside(i, span) for i in listed)
            if counted == here and not first:
                continue
            first = False
            if self._spent() > MOST_CALLS:
                raise NotHonoured(f"it takes more than {MOST_CALLS} calls")
            middle = rows.middle(self._connection, span)
            lower, upper = span
            if counted <= size or middle is None or middle == upper or here < counted // 2:
                suspects |= self._look(segment, span, walk)
                continue
            left: Span = (lower, middle)
            in_left = self._count(segment, BY_ID, left)
            spans += [(left, in_left), ((middle + 1, upper), counted - in_left)]
        return suspects

    def _look(self, segment: Segment, span: Span, walk: int) -> set[int]:
        """Compares `span` id by id; fetches what is missing, and gives the ids of surplus rows."""
        suspects: set[int] = set()
        lower, upper = span
        while True:
            listed = self._listed.get(segment.name, set())
            part, answer = self._list_part(segment, (lower, upper), listed)
            ids = set(answer.ids)
            end = upper if part.listed else max(ids, default=lower or 0)
            mirrored = self._rows(segment).ids(self._connection, (lower, end))
            missing = ids - mirrored - self._apart
            if missing:
                stored = merge_list(
                    self._connection,
                    self._client,
                    self._run,
                    walk,
                    "repair",
                    answer,
                    lane=self._lane,
                    lagging=self._lagging,
                )
                self.result += stored
                # A list that lags shows for a while what was, and must not bring it back.
                self._lagging |= set(stored.lagging)
                self.repaired += len(missing - self._lagging)
                self._found = True
            suspects |= mirrored - ids
            never_sent = part.counted + part.repeated - len(answer.page.records)
            if part.listed and never_sent > 0:
                self._name_never_sent(segment, (lower, end), never_sent)
            if part.nameless or part.repeated:
                self._exact.setdefault(segment.name, []).append((lower, end))
                self._found = True
            if part.listed or not ascending(answer.ids) or not ids:
                return suspects
            if self._spent() > MOST_CALLS:
                raise NotHonoured(f"it takes more than {MOST_CALLS} calls")
            lower = max(ids) + 1

    def _name_never_sent(self, segment: Segment, span: Span, count: int) -> None:
        lower, upper = (str(end) if end is not None else "either end" for end in span)
        told = f"Current RMS counts {count:,} more in its list ({segment.name}) than it sends"
        fault = Fault(None, "(record)", f"{told}, between {lower} and {upper}", "")
        with self._connection.cursor() as cursor:
            note_faults(cursor, self._collection, self._run, [fault])
        self._connection.commit()

    def _settle(self, suspects: set[int], walk: int) -> str:
        """Asks for each of `suspects`, which no list shows, by itself: fetched, or deleted."""
        assert self._remove is not None
        young = fetched_singly(self._connection, self._collection, suspects, LAG.total_seconds())
        self._left.ids |= dict.fromkeys(young, True)
        gone: dict[int, tuple[datetime, datetime]] = {}
        failed: dict[int, CurrentRmsError] = {}
        ids = sorted(suspects - young)
        calls = self._remove.calls_for(len(ids), self._sizes.expected)
        asked = ask_by_id(
            self._client,
            ids,
            lane=self._lane,
            expected=False,
            wanted=what_is_held(self._connection, self._collection, ids),
            calls=calls,
            witnesses=some_other_row(self._connection, self._collection, suspects),
        )
        for verdict in asked:
            gone |= verdict.gone
            failed |= verdict.failed
            for answer in verdict.answers:
                outdone = verdict.outdone(answer, self._collection)
                self._store_suspects(answer, walk, outdone)
        unknown = ""
        if failed:
            shown = ", ".join(map(str, sorted(failed)[:10]))
            unknown = (
                f"No list of Current RMS shows {shown}, and whether they are still there it does "
                f"not say: {next(iter(failed.values()))}"
            )
        if not gone:
            return unknown
        before = self._remove.deleted
        reason = self._remove.remove_gone(gone)
        self.deleted += self._remove.deleted - before
        return reason or unknown

    def _store_suspects(self, answer: ListAnswer, walk: int, outdone: set[int]) -> None:
        self.result += store_answer(
            self._connection, self._collection, self._run, walk, SUSPECT, answer, without=outdone
        )
        for record in read_records(self._collection, answer):
            if isinstance(record, Record) and record.id in outdone:
                continue
            self.repaired += 1
            window = self.window
            if isinstance(record, Record) and (not window or window.contains(*record.dates())):
                changed = record.updated_at()
                now = answer.api_date or answer.asked_at
                self._left.ids[record.id] = changed is not None and changed > now - LAG


def _demand_refusal(error: Exception) -> None:
    """Goes on only where the API did not know what was asked (422, or 400)."""
    if not isinstance(error, NotHonoured | Unprocessable) and type(error) is not RequestRefused:
        raise error


def _sentence(error: Exception) -> str:
    said = str(error).strip()
    if isinstance(error, ApiUnavailable):
        said = f"Current RMS did not answer all that was asked: {said}"
    return said if said.endswith(".") else f"{said}."
