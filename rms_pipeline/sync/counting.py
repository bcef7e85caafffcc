"""Counts a window in the API and in the mirror, and compares the two.

This module decides what is asked for (ranges of ids cut at random, and lists of records without
dates), and when an answer proves nothing. When to count, and what to do about a difference, is in
`prove`.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from rms_pipeline.current_rms.client import CurrentRmsClient, ListAnswer
from rms_pipeline.current_rms.errors import (
    NotHonoured,
    RequestRefused,
    Unprocessable,
)
from rms_pipeline.current_rms.failing import PageSizes
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.current_rms.records import Record
from rms_pipeline.current_rms.scan import ORDER
from rms_pipeline.current_rms.spans import (
    BY_CREATION,
    BY_ID,
    WHOLE,
    Key,
    Span,
    ascending,
    inside,
    without,
)
from rms_pipeline.current_rms.terms import MOST_PER_PAGE
from rms_pipeline.current_rms.window import (
    EVERYTHING,
    ROUNDED,
    Params,
    Segment,
    Window,
    segments_of,
)
from rms_pipeline.mirror import walks
from rms_pipeline.mirror.completeness import (
    SegmentRows,
    delivered_singly,
    fetched_singly,
    ids_at_the_edges,
    ids_with_unreadable_dates,
    is_held,
    refused_ids,
)
from rms_pipeline.mirror.proofs import (
    NO_RANGES,
    REPEATS_BEGAN,
    UNDATED_APART,
    UNDATED_UNCOUNTED,
    WHOLE_DAYS,
    PartCount,
    content_number,
    newest_proof,
)
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.mirror.unreadable import unreadable
from rms_pipeline.sync.storing import read_records

RANGES = 2
_KEYS: dict[str, Key] = {"id": BY_ID, "id ranges": BY_ID, "created_at ranges": BY_CREATION}
UNDATED = Segment("undated", (("q[starts_at_or_ends_at_null]", "1"),))
# For this long, the API's list may not yet show what the single record shows.
LAG = timedelta(minutes=2)
_OUT_OF_SCOPE = (
    "The records cannot be counted, because Current RMS does not do what is requested: {}."
)
_CAPPED = (
    "Current RMS counts fewer records than its list holds, so its counts prove nothing. "
    "The mirror holds what the list shows."
)
_IN_PIECES = (
    "Current RMS counts {:,} records in a list, but {:,} in the parts of it, so its counts prove "
    "nothing. The mirror holds what the list shows."
)
_NONE_SENT = "Current RMS counts {:,} records and sends none of them, so its counts prove nothing."
_UNTOLD = (
    "Current RMS counts {:,} records in one list, as many as in the whole account. Nothing shows "
    "whether its counts stop there, so they prove nothing."
)
_RESTLESS = (
    "The counts of Current RMS changed each of the {} times that they were requested. The next "
    "sync tries again."
)
_OVERCOUNTED = (
    "Current RMS counts more records than there can be (two of one id), so its counts prove "
    "nothing. What its lists show is mirrored."
)


# How often a count is requested that changes while it is checked.
_TRIES = 3


class NotCounted(Exception):
    """The reason why there is no proof this time."""


@dataclass(slots=True)
class Left:
    """Ids about which the list and the single record differ. For `young` ones it may be a matter of
    seconds.
    """

    ids: dict[int, bool] = field(default_factory=dict)

    def old(self) -> list[int]:
        return sorted(i for i, young in self.ids.items() if not young)


class Counting:
    """Counts the parts of the window that `scan` (a full walk) read, as often as needed.

    `ranges` is how many ranges of ids are counted separately.
    """

    def __init__(
        self,
        connection: Connection,
        client: CurrentRmsClient,
        scan: walks.StoredWalk,
        *,
        lane: Lane = Lane.WALK,
        ranges: int = RANGES,
        dice: random.Random | None = None,
    ) -> None:
        self._connection, self._client, self._scan = connection, client, scan
        self._collection = client.collection
        self._lane, self._ranges = lane, ranges
        self._sizes = PageSizes(client)
        self._dice = dice or random.Random()
        self._rests_on: dict[str, None] = {}
        self.window = None if scan.window is None else Window(*scan.window)
        if self.window is not None and client.terms.compares_whole_days:
            self.window = self.window.inner()
            self._rests_on[WHOLE_DAYS] = None
        # The first list is counted by ranges. Records without dates are in lists of their own.
        self._ranged, *self._apart_segments = segments_of(self.window)
        self._key = _KEYS.get(scan.read_by.get(self._ranged.name, "id"))
        self._last = newest_proof(connection, self._collection)
        self._refused: set[int] = set()
        self._odd: set[int] = set()
        self._left = Left()
        # Ids of which a list showed an older state than the mirror while this proof was made.
        self._lagging: set[int] = set()
        self._holes: tuple[int, ...] = ()
        # Ids that make their lists fail, and that come when they are asked for alone.
        self._singly: set[int] = set()
        self._counted_around: tuple[set[int], set[int]] = set(), set()
        self._listed: dict[str, set[int]] = {}
        # For each part that was listed: how many records are counted there that no page sends.
        self._never_came: list[tuple[Segment, Span, int]] = []
        self._exact: dict[str, list[Span]] = {}
        # The highest count so far. The API's counter has no maximum below it.
        self._greatest = 0
        if self._last is not None and self._last.scan == scan.id:
            self._greatest = self._last.greatest_count
            if REPEATS_BEGAN in self._last.rests_on:
                self._rests_on[REPEATS_BEGAN] = None
            for part in self._last.parts:
                if (
                    part.listed
                    and (part.nameless or part.repeated)
                    and part.segment == self._ranged.name
                ):
                    self._compare_by_id(self._ranged, part.ids)

    def _prepare(self) -> None:
        connection = self._connection
        self._refused = refused_ids(connection, self._collection)
        self._odd = ids_with_unreadable_dates(connection, self._collection)
        if self.window is not None and WHOLE_DAYS in self._rests_on:
            edges = self.window.start, self.window.end
            self._odd |= ids_at_the_edges(connection, self._collection, edges, ROUNDED)
        self._holes = tuple(sorted(unreadable(connection, self._collection)))
        self._singly = delivered_singly(connection, self._collection, self._scan.id)
        self._singly.difference_update(self._holes)
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
        """Return the ids that are compared one by one: only the API's lists can say where they
        belong.
        """
        apart = self._refused | self._odd | set(self._left.ids) | self._lagging
        return apart.difference(self._around)

    @property
    def _around(self) -> set[int]:
        """Return the ids that no question about a list may include, because the question would
        fail.
        """
        return self._singly.union(self._holes)

    @property
    def _around_spans(self) -> list[Span]:
        return [(i, i) for i in sorted(self._around)]

    def _count_all(self) -> tuple[int, datetime, list[PartCount]]:
        """Return the number of the mirror's content, the time of the first count, and all parts."""
        if not self._scan.counts_believed:
            raise NotCounted(_CAPPED)
        for refusal in self._client.terms.refusals:
            if refusal.what_follows:
                raise NotCounted(_OUT_OF_SCOPE.format(refusal.sentence))
        content = content_number(self._connection, self._collection)
        self._prepare()
        self._counted_around = set(self._holes), set(self._refused)
        self._listed, self._never_came = {}, []
        as_of = self._client.now()
        parts = self._count_dated() + self._count_undated() + self._count_singly()
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
        """Compare by number. If one answer shows all ids, compare the ids, for the same price."""
        if key is BY_ID:
            rows = self._rows(segment).count(self._connection, span)
            if rows < self._sizes.expected:
                return self._list_part(segment, span, listed)[0]
        return self._count_part(segment, key, span, listed)

    def _is_uncapped(
        self, segment: Segment, key: Key, span: Span, counted: int, shown: int | None
    ) -> bool:
        """Return whether `counted` is right, and not simply the maximum of the API's counter. False
        if the count has changed since, so that it must be requested again.

        A count as high as any so far may be that maximum. If the whole account has no more, the
        range is counted in pieces, around the record that the list has `shown` (its value of
        `key`). Each piece is smaller than the count, so its own count is right. Together the pieces
        are the whole range. Raises NotCounted if they contradict the count.
        """
        if not counted or counted < self._greatest:
            return True
        self._greatest = max(self._greatest, self._count_everything(counted))
        if counted < self._greatest:
            return True
        if shown is None:
            raise NotCounted(_NONE_SENT.format(counted))
        pieces = [self._count(segment, key, piece) for piece in without(span, [(shown, shown)])]
        if key is BY_ID and sum(pieces) + 1 == counted and max(pieces, default=0) < counted:
            return True
        # Several records may have one creation time, and an id may be listed more than once.
        pieces.append(self._count(segment, key, (shown, shown)))
        if sum(pieces) == counted and max(pieces) < counted:
            return True
        if self._count(segment, key, span) != counted:
            return False
        if sum(pieces) == counted:
            raise NotCounted(_UNTOLD.format(counted))
        raise NotCounted(_IN_PIECES.format(counted, sum(pieces)))

    def _count_everything(self, enough: int) -> int:
        """Return how many records the account has, or some number above `enough`.

        The count avoids records that the API cannot deliver: a list that begins with one of them
        fails.
        """
        total = len(self._around)
        for span in without(WHOLE, self._around_spans):
            if total > enough:
                break
            total += self._count(EVERYTHING, None if span == WHOLE else BY_ID, span)
        return total

    def _are_whole_counts(self, parts: Sequence[PartCount]) -> bool:
        """Return whether each count is that of the whole list, because the API ignored the
        ranges.
        """
        counts = {p.counted for p in parts}
        whole = sum(p.mirrored + p.unstorable for p in parts)
        return (
            len(parts) > 1
            and len(counts) == 1
            and counts == {whole}
            and not all(p.alike for p in parts)
        )

    def _spans(self, segment: Segment, key: Key) -> list[Span]:
        """Return all ids in as many ranges as asked for, without the ids that are compared one by
        one.
        """
        rows = self._rows(segment, key)
        total = rows.count(self._connection)
        cuts = set()
        # More ranges than pages add no information.
        most = max(RANGES, min(self._ranges, total // self._sizes.expected))
        for _ in range(most - 1 if total else 0):
            # Never after the last row: ids above it must be counted by themselves.
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
        left_out = self._around_spans + self._exact.get(segment.name, [])
        return [part for span in ranges for part in without(span, left_out)]

    def _count_part(
        self, segment: Segment, key: Key | None, span: Span, listed: set[int]
    ) -> PartCount:
        counted = self._uncapped_count(segment, key, span)
        rows = self._rows(segment, key or BY_ID)
        here = {i for i in listed if key is not BY_ID or inside(i, span)}
        mirrored = rows.count(self._connection, span) + len(here - self._refused)
        unstorable = len(here & self._refused)
        return PartCount(
            segment.name,
            span if key is BY_ID else WHOLE,
            counted,
            mirrored,
            unstorable=unstorable,
            alike=counted == mirrored + unstorable,
        )

    def _uncapped_count(self, segment: Segment, key: Key | None, span: Span) -> int:
        for _ in range(_TRIES):
            counted, shown = self._count_and_show(segment, key, span)
            if key is None or self._is_uncapped(segment, key, span, counted, shown):
                return counted
        raise NotCounted(_RESTLESS.format(_TRIES))

    def _count(self, segment: Segment, key: Key | None, span: Span) -> int:
        return self._count_and_show(segment, key, span)[0]

    def _count_and_show(
        self, segment: Segment, key: Key | None, span: Span
    ) -> tuple[int, int | None]:
        """Return the API's count, and the value of `key` of a record that came with it, if any.

        Raises NotHonoured if the answer shows that the question was ignored.
        """
        shown: int | None = None
        params = segment.params + (key.params(span) if key is not None else ())
        answer = self._client.list_records(params, per_page=1, lane=self._lane)
        for raw, record in zip(
            answer.page.records, read_records(self._collection, answer), strict=True
        ):
            value = None if key is None else key.value(raw)
            if value is not None and not inside(value, span):
                raise NotHonoured("a record outside the requested range")
            shown = value if shown is None else shown
            if isinstance(record, Record) and segment is self._ranged:
                self._demand_in_window(record)
        total = answer.page.meta.total_row_count
        if total < len(answer.page.records):
            raise NotCounted(_CAPPED)
        return total, shown

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
                return self._list_parts([UNDATED])
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
        """Return which of the separate lists to ask for, and what the last proof found in the
        others.

        Asking for all of them would cost a quiet proof one more call each time.
        """
        last, all_of_them = self._last, self._apart_segments
        if self._lane is Lane.WALK or last is None or not last.shown or last.scan != self._scan.id:
            return all_of_them, []
        if self._apart or self._around:
            # A record of uncertain place may be in any of them.
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
        return [
            self._list_part(segment, span, None)[0]
            for segment in segments
            for span in without(WHOLE, self._around_spans)
        ]

    def _count_singly(self) -> list[PartCount]:
        """Return a part of one record for each record that no list delivers and that is asked for
        alone.
        """
        parts = []
        for id_ in sorted(self._singly):
            answer = self._client.get_record(id_, lane=self._lane)
            found = read_records(self._collection, answer) if answer is not None else []
            record = next((r for r in found if isinstance(r, Record) and r.id == id_), None)
            if found and record is None:
                raise NotCounted(
                    f"Asked for {self._collection.single} {id_}, which no list delivers, Current "
                    "RMS sends another."
                )
            parts += self._part_of_one(id_, record)
        return parts

    def _compare_by_id(self, segment: Segment, span: Span) -> None:
        """List `span` instead of counting it, because its count includes what has no row."""
        others = self._exact.get(segment.name, ())
        self._exact[segment.name] = [
            *(piece for other in others for piece in without(other, [span])),
            span,
        ]

    def _part_of_one(self, id_: int, record: Record | None) -> list[PartCount]:
        """Return the part that is only `record`. `record` is None if it is gone.

        Returns an empty list if no part with it was counted.
        """
        parts = []
        segments = [self._ranged]
        if self._apart_segments and UNDATED_UNCOUNTED not in self._rests_on:
            segments.append(UNDATED)
        for segment in segments:
            rows = SegmentRows(self._collection, segment.name, self._bounds)
            mirrored = rows.count(self._connection, (id_, id_))
            counted = int(record is not None and self._is_in(segment, record))
            if not counted and not mirrored:
                continue
            is_refused = counted == 1 and id_ in self._refused
            parts.append(
                PartCount(
                    segment.name,
                    (id_, id_),
                    counted,
                    0 if is_refused else mirrored,
                    unstorable=int(is_refused),
                    alike=is_refused
                    or (
                        counted == mirrored
                        and record is not None
                        and is_held(self._connection, self._collection, record)
                    ),
                    listed=True,
                )
            )
        return parts

    def _is_in(self, segment: Segment, record: Record) -> bool:
        if self.window is None:
            return True
        starts, ends = record.dates()
        is_undated = starts is None or ends is None
        return (
            is_undated
            if segment is UNDATED
            else (not is_undated and self.window.contains(starts, ends))
        )

    def _list_part(
        self, segment: Segment, span: Span, listed: set[int] | None
    ) -> tuple[PartCount, ListAnswer]:
        """Compare the first page of a list by ids, and the rest of it by number.

        `listed` are the separate ids that are known to be in the list. None means: find out.
        """
        answer = self._uncapped_page(segment, span)
        records, total = len(answer.page.records), answer.page.meta.total_row_count
        ids, rows = set(answer.ids), self._rows(segment)
        nameless, repeated = records - len(answer.ids), len(answer.ids) - len(ids)
        never_sent = self._never_sent(segment, span, answer)
        nameless += never_sent
        if never_sent:
            self._never_came.append((segment, span, never_sent))
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
        """Return how many records are counted in `span` but sent by no page of it.

        `answer` is its first page. That page has room for more, and nothing comes after it.
        """
        total, records = answer.page.meta.total_row_count, len(answer.page.records)
        is_short = total > records and records < self._sizes.expected
        if not is_short or not self._client.terms.knows_page_size or not ascending(answer.ids):
            return 0
        rest: Span = (max(answer.ids) + 1 if answer.ids else span[0], span[1])
        is_over = rest[0] is not None and rest[1] is not None and rest[0] > rest[1]
        if not is_over and self._page(segment, rest).page.records:
            return 0
        if answer.ids:
            self._demand_no_more_than_one(segment, answer.ids[0])
        return total - records

    def _demand_no_more_than_one(self, segment: Segment, id_: int) -> None:
        """Raise NotCounted if more records are counted than there are ids."""
        answer = self._page(segment, (id_, id_))
        if answer.page.meta.total_row_count > max(len(answer.page.records), 1):
            raise NotCounted(_OVERCOUNTED)

    def _uncapped_page(self, segment: Segment, span: Span) -> ListAnswer:
        """Return the first page of a list, with a count that is right. Raises NotCounted."""
        for _ in range(_TRIES):
            answer = self._page(segment, span)
            records, total = len(answer.page.records), answer.page.meta.total_row_count
            if total < records:
                raise NotCounted(_CAPPED)
            known = self._client.terms.knows_page_size
            may_go_on = records > 0 and (records >= self._sizes.expected or not known)
            if total > records or (may_go_on and not answer.ids):
                shown = answer.ids[0] if answer.ids else None
                if self._is_uncapped(segment, BY_ID, span, total, shown):
                    return answer
            elif not may_go_on or self._is_the_end(segment, span, answer):
                return answer
        raise NotCounted(_RESTLESS.format(_TRIES))

    def _is_the_end(self, segment: Segment, span: Span, answer: ListAnswer) -> bool:
        """Return whether the full page `answer` is the end of its list, as its count says.

        False if the count has changed since. Raises NotCounted if more comes with the same count.
        """
        total = answer.page.meta.total_row_count
        if total < self._greatest or not self._page(segment, (max(answer.ids) + 1, span[1])).ids:
            return True
        if self._count(segment, BY_ID, span) != total:
            return False
        raise NotCounted(_CAPPED)

    def _page(self, segment: Segment, span: Span) -> ListAnswer:
        """Return the first page of `segment` in `span`, in the order of id if the API obeys that.

        Raises NotHonoured if the answer shows that the question was ignored.
        """
        params = segment.params + (BY_ID.params(span) if span != WHOLE else ())
        try:
            answer = self._whole_page(params + ORDER)
        except Unprocessable:
            answer = self._whole_page(params)
        if not all(inside(i, span) for i in answer.ids):
            raise NotHonoured("records outside the requested range")
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
        """Raise NotHonoured for a record that does not belong in a list of the window."""
        if self.window is None:
            return
        starts, ends = record.dates()
        odd = record.id in self._odd or starts is None or ends is None
        around = self.window
        if WHOLE_DAYS in self._rests_on:
            around = Window(around.start - ROUNDED, around.end + ROUNDED)
        if not odd and not around.contains(starts, ends):
            raise NotHonoured("Current RMS lists and counts records outside the requested window")

    def _whole_page(self, params: Params) -> ListAnswer:
        return self._client.list_records(
            params, per_page=self._sizes.most or MOST_PER_PAGE, lane=self._lane
        )

    def _list_apart(self, segment: Segment, ids: set[int] | None = None) -> set[int]:
        """Return the separate ids that the API lists in `segment`."""
        wanted = sorted(self._apart if ids is None else ids)
        size = self._sizes.expected
        found: set[int] = set()
        for start in range(0, len(wanted), size):
            chunk = wanted[start : start + size]
            params = segment.params + tuple(("q[id_in][]", str(i)) for i in chunk)
            answer = self._whole_page(params)
            if not set(answer.ids) <= set(chunk):
                raise NotCounted(
                    "The API ignores the filter by id, so this program cannot find out in which "
                    f"range it counts some {self._collection.name} with uncertain dates."
                )
            found.update(answer.ids)
        self._listed.setdefault(segment.name, set()).update(found)
        return found

    def _sort_out_left(self) -> None:
        """Remove from `left` the ids about which the list and the mirror agree again.

        A row whose newest record was refused stays in `left` when no list shows it.
        """
        listed = set().union(*self._listed.values()) if self._listed else set()
        segments = [self._ranged]
        if self._apart_segments and UNDATED_UNCOUNTED not in self._rests_on:
            segments.append(UNDATED)
        mirrored: set[int] = set()
        for segment in segments:
            rows = SegmentRows(self._collection, segment.name, self._bounds)
            mirrored |= rows.among(
                self._connection, self._left.ids.keys() | self._lagging | self._refused
            )
        surplus = (self._refused & mirrored) - listed - self._around
        known = dict.fromkeys(surplus, False) | dict.fromkeys(self._lagging, True) | self._left.ids
        self._left.ids = {
            i: young
            for i, young in known.items()
            if (i in listed) != (i in mirrored) and i not in self._singly
        }


def _demand_refusal(error: Exception) -> None:
    """Return only if the API did not understand the question (422 or 400). Raises `error`
    otherwise.
    """
    if not isinstance(error, NotHonoured | Unprocessable) and type(error) is not RequestRefused:
        raise error
