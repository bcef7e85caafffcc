"""Proves that the mirror holds what the API's lists hold, and corrects differences.

First the API counts the window, by ranges of ids cut at random, and lists the records without
dates. Then everything that changed since the watermark is read and merged. The proof is complete if
nothing of that was new, and if nobody else changed the mirror from before the first count until
after that. For then the mirror held all of it already before the first count, and what was counted
is what it held. This needs no clock. Otherwise everything is counted again.

If counts differ although nothing changes, the list is halved down to single ids. Each of these is
asked for by itself. It is fetched, or deleted if the single record is gone.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from rms_pipeline.current_rms.client import CurrentRmsClient, ListAnswer
from rms_pipeline.current_rms.errors import (
    ApiUnavailable,
    CurrentRmsError,
    NotHonoured,
    Unprocessable,
)
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.current_rms.records import Fault, Record
from rms_pipeline.current_rms.scan import Walk
from rms_pipeline.current_rms.spans import BY_ID, Span, ascending, inside
from rms_pipeline.current_rms.terms import TIME_OF_DAY
from rms_pipeline.current_rms.window import (
    ROUNDED,
    Segment,
    Window,
    changed_since,
)
from rms_pipeline.mirror import walks
from rms_pipeline.mirror.completeness import (
    fetched_singly,
    ids_at_the_edges,
    refused_ids,
    some_other_row,
)
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.deletions import HELD_BACK, Deletions, held_lately
from rms_pipeline.mirror.merge import MergeResult, note_faults
from rms_pipeline.mirror.no_longer_sent import what_was_not_sent
from rms_pipeline.mirror.proofs import (
    ASSOCIATIONS_KEPT,
    FIELDS_LOST,
    NO_RANGES,
    REPEATS_BEGAN,
    WHOLE_DAYS,
    PartCount,
    Proof,
    WriterHangs,
    content_number,
    keep_proof,
    newest_proof,
    open_proof,
    was_ever_shown,
)
from rms_pipeline.mirror.statements import Connection, one_row
from rms_pipeline.mirror.unreadable import unreadable
from rms_pipeline.sync.by_id import ask_by_id
from rms_pipeline.sync.counting import LAG, RANGES, UNDATED, Counting, NotCounted
from rms_pipeline.sync.doubts import merge_list, what_is_held
from rms_pipeline.sync.landing import OVERLAP
from rms_pipeline.sync.storing import name_unreadable, read_records, store_answer

# Pages that were requested because a list and the mirror differ. A refresh is something else: it
# knows of something new.
SUSPECT = "suspect"
ROUNDS, MOST_CALLS = 4, 200
_MOVING = (
    "Records changed in Current RMS or in the mirror during each of {rounds} counts. The "
    "next sync tries again."
)
_CONTRADICTORY = (
    "The counts of Current RMS contradict one another, so they prove nothing. The "
    "mirror holds what the lists show."
)

_BLIND = (
    "The counts agree. But since the last full sync no proof has shown that such counts are right, "
    "and Current RMS ignores the filters that would show it now. The next full sync tries again."
)


def begin_proof(
    database: Database,
    client: CurrentRmsClient,
    run: str,
    *,
    every: timedelta = timedelta(0),
    dice: random.Random | None = None,
) -> Proof | None:
    """Count before an incremental sync reads what changed. `finish_proof` completes the proof.

    Returns None before any full sync, and if the last proof is younger than `every`. If counting
    fails, the reason is kept in the proof.
    """
    with database.session() as connection:
        scan = walks.newest_walk(connection, client.collection, kind=walks.FULL, settled=True)
        last = newest_proof(connection, client.collection)
        if scan is None:
            return None
        # One of a clock that was ahead is far from now as well.
        if last is not None and last.shown and abs(client.now() - last.as_of) < every:
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
    """Complete `proof` after the changes that `walk` read since its beginning led to `merged`.

    If those changes brought something new, or if the counts differ, it goes on until the mirror is
    shown to be complete, or until it is clear that this cannot be shown now. Returns the proof, and
    what was merged on the way.
    """
    with database.session() as connection:
        scan = walks.find_walk(connection, proof.scan)
        since = walk.watermark or walk.since
        if scan is None or since is None:
            raise ValueError(f"proof {proof.id} has no full walk, or walk {walk.id} has no start")
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


class Prover(Counting):
    """Makes one proof for `run`, of the window that `scan` (a full walk) read.

    `remove` deletes the rows that are gone. It is None if nothing may be deleted now. What is
    merged on the way is added to `result`. `ranges` is how many ranges are counted separately.
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
        super().__init__(connection, client, scan, lane=lane, ranges=ranges, dice=dice)
        self.result = MergeResult()
        self.repaired = self.deleted = 0
        self._run, self._remove = run, remove
        self._calls = client.counts.calls
        self._calls_before = 0
        self._asked: set[int] = set()
        self._found = False
        # The spans that must be compared by id from now on, as they were listed.
        self._located: dict[Span, PartCount] = {}
        self._known_repeated, self._newly_repeated = set(scan.listed_twice), set[int]()
        self._has_looked_through = False

    # The sequence

    def begin(self) -> Proof:
        """Make and keep the first counts. What changed since must be read and merged after them."""
        try:
            content, as_of, parts = self._count_all()
        except (CurrentRmsError, WriterHangs, NotCounted) as error:
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
        """Complete `proof`, which counted before the changes that led to `merged` were read.

        If those changes brought something new, counting goes on. Changes since `since` (the API's
        clock) are then read again as part of `walk`. Outside `window`, only records with a row
        count.
        """
        self._calls_before = proof.calls
        self._rests_on.update(dict.fromkeys(proof.rests_on))
        if proof.reason:
            return self._closed(proof, shown=False)
        self._prepare()
        # Records that could not be stored since the count. The count took them for stored.
        refused = set() if merged.failed else self._refused
        self._counted_around = set(proof.unreadable), refused
        young = fetched_singly(self._connection, self._collection, proof.left, LAG.total_seconds())
        self._left.ids = {i: self._left.ids.get(i, i in young) for i in proof.left}
        return self._rounds(proof, merged, walk, since, window)

    def prove(self, walk: int, since: datetime, window: Window | None) -> Proof:
        """Make the whole proof at once, for what is mirrored now."""
        # The full walk has just compared all ids.
        self._has_looked_through = True
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
                    if alike and self._counts_blindly():
                        reason = _BLIND
                        break
                    must_look = alike and self._must_look_through()
                    if alike and not unlisted and not must_look:
                        return self._concluded(proof)
                    reason = "" if alike else self._mend(proof.parts, walk)
                    reason = reason or self._settle(unlisted, walk)
                    if must_look and not reason:
                        reason = self._compare_all(proof.parts, walk)
                    if reason:
                        break
                if proof.rounds >= ROUNDS or self._spent() > MOST_CALLS:
                    reason = _MOVING.format(rounds=proof.rounds)
                    break
                content, as_of, parts = self._count_all()
                proof = self._summed(replace(proof, content=content, as_of=as_of), parts)
                proof = replace(proof, rounds=proof.rounds + 1)
                merged, since = self._read_changes(walk, since, window)
        except (CurrentRmsError, WriterHangs, NotCounted) as error:
            reason = _sentence(error)
        return self._closed(replace(proof, reason=reason), shown=False)

    def _unlisted(self) -> set[int]:
        """Return rows that no list shows and whose newest record was refused, unless already asked
        for.

        The mirror's counts leave them out, so they would never be noticed.
        """
        if self._remove is None:
            return set()
        found = self._refused.intersection(self._left.old()) - self._asked
        self._asked |= found
        return found

    def _was_still(self, content: int, merged: MergeResult) -> bool:
        """Return whether the mirror is unchanged since before the first count, and the API brought
        no news.

        A record that was fetched again and equals the stored one changes nothing, so no second
        comparison is needed. A `stale` record differed, and the mirror's version won. If lists are
        late, the count is repeated with those ids apart.
        """
        if merged.stale or merged.created or merged.updated:
            return False
        if not set(merged.lagging) <= self._lagging:
            self._lagging |= set(merged.lagging)
            return False
        if self._cannot_be_had() != self._counted_around:
            # It was counted as mirrored before it turned out that it cannot be.
            return False
        return content_number(self._connection, self._collection) == content

    def _cannot_be_had(self) -> tuple[set[int], set[int]]:
        """Return the ids that the API cannot deliver, and the ids that PostgreSQL refused."""
        return set(unreadable(self._connection, self._collection)), refused_ids(
            self._connection, self._collection
        )

    def _concluded(self, proof: Proof) -> Proof:
        old = self._left.old()
        if old:
            self._note_whole_days(set(old))
            shown = ", ".join(map(str, old[:10]))
            reason = (
                f"The list of Current RMS differs from its single records: {shown}. It may show "
                "less than there is (to this key's user, or without some states)."
            )
            return self._closed(replace(proof, reason=reason), shown=False)
        if self._left.ids and not proof.counted:
            reason = "No list of Current RMS shows anything, although single records exist."
            return self._closed(replace(proof, reason=reason), shown=False)
        for part in self._never_came:
            self._name_never_sent(*part)
        return self._closed(proof, shown=True)

    def _note_whole_days(self, unlisted: set[int]) -> None:
        """Note that the API compares whole days, if that explains why no list shows `unlisted`."""
        if self._bounds is None or WHOLE_DAYS in self._rests_on:
            return
        edges = ids_at_the_edges(self._connection, self._collection, self._bounds, ROUNDED)
        if unlisted <= edges:
            self._client.terms.note("filter", TIME_OF_DAY, None, self._client.now())

    def _closed(self, proof: Proof, *, shown: bool) -> Proof:
        kept, lost = what_was_not_sent(self._connection, self._collection, self._scan.id)
        if kept:
            self._rests_on[ASSOCIATIONS_KEPT] = None
        if lost:
            self._rests_on[FIELDS_LOST] = None
        known = {(part.segment, part.ids) for part in proof.parts}
        # The next proof begins with what this one located, and could not count again.
        located = [p for p in self._located.values() if (p.segment, p.ids) not in known]
        return keep_proof(
            self._connection,
            replace(
                proof,
                parts=(*proof.parts, *([] if shown else located)),
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
        """Merge what changed since `since`. Returns the result, and the start for the next such
        request.
        """
        changes = changed_since(since, whole_days=self._client.terms.compares_whole_days)
        reading = Walk(self._client, [changes], suspects=self._around, lane=self._lane)
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
        # If much has changed, only what changed after this request need be asked for again.
        return merged, max(since, asked_at - OVERLAP) if pages > 1 else since

    # Correcting differences

    def _mend(self, parts: Sequence[PartCount], walk: int) -> str:
        """Find out where the counts differ and what happened to those ids. Returns why that failed,
        or ''.
        """
        if self._remove is None:
            return HELD_BACK
        suspects: set[int] = set()
        self._found, self._newly_repeated = False, set()
        exact = dict(self._exact)
        for part in parts:
            if part.alike:
                continue
            if part.ids[0] is not None and part.ids[0] in self._singly:
                suspects.add(part.ids[0])
                continue
            segment = self._segment(part.segment)
            cannot_narrow = self._key is not BY_ID or NO_RANGES in self._rests_on
            if segment is self._ranged and cannot_narrow and part.counted > self._sizes.expected:
                return (
                    f"Current RMS counts {part.counted:,} but the mirror has {part.mirrored:,}, "
                    "and Current RMS ignores the filters that would locate the difference. The "
                    "next full sync tries again."
                )
            try:
                self._locate(segment, part, walk, suspects)
            except (NotHonoured, Unprocessable) as error:
                # What was found so far need not be found again by the next proof.
                unlocated = f"The difference in {segment.name} could not be located: {error}."
                return self._settle(suspects, walk) or unlocated
        if self._newly_repeated and self._can_look and not self._has_looked_through:
            # Where counts agree, such repeats may be counted in place of rows that are gone.
            unfound = self._look_through(parts, walk, suspects, exact)
            if unfound:
                return self._settle(suspects, walk) or unfound
        reason = self._settle(suspects, walk)
        if not reason and not suspects and not self._found:
            # Each part of the list agrees with the mirror.
            return _CONTRADICTORY
        return reason

    @property
    def _can_look(self) -> bool:
        return self._key is BY_ID and NO_RANGES not in self._rests_on

    def _must_look_through(self) -> bool:
        """Return whether all ids have to be compared, although the counts agree.

        A record that is counted and never sent may be counted in place of a row that is gone. The
        proof of a full walk finds such records. If it could not, this proof has to.
        """
        if self._has_looked_through or self._remove is None or not self._can_look:
            return False
        return not was_ever_shown(self._connection, self._scan.id)

    def _counts_blindly(self) -> bool:
        """Return whether counts that agree prove nothing, because the ids cannot be compared.

        A counter that is always wrong by one agrees as soon as one record is gone. The proof of a
        full walk notices such a counter, if it counts in the same way.
        """
        if self._has_looked_through or self._can_look:
            return False
        return not was_ever_shown(
            self._connection, self._scan.id, without_ranges=NO_RANGES in self._rests_on
        )

    def _compare_all(self, parts: Sequence[PartCount], walk: int) -> str:
        """Compare all ids and correct what differs. Returns why that failed, or ''."""
        suspects: set[int] = set()
        unfound = self._look_through(parts, walk, suspects, dict(self._exact))
        return self._settle(suspects, walk) or unfound

    def _look_through(
        self,
        parts: Sequence[PartCount],
        walk: int,
        suspects: set[int],
        exact: dict[str, list[Span]],
    ) -> str:
        """Compare the ids of all `parts` that were only counted, if that takes few enough calls.

        Adds the ids of surplus rows to `suspects`. `exact` are the spans that were compared by id
        from the start. Returns why that failed, or ''.
        """
        self._has_looked_through = True
        uncertain = [p for p in parts if not (p.listed and p.alike)]
        if self._calls_to_list(uncertain) > MOST_CALLS - self._spent():
            self._rests_on[REPEATS_BEGAN] = None
            return ""
        self._exact = exact
        try:
            for part in uncertain:
                self._look(self._segment(part.segment), part.ids, walk, suspects)
        except (NotHonoured, Unprocessable) as error:
            return (
                f"What is listed more than once could not be found: {error}. The next full sync "
                "compares all ids."
            )
        return ""

    def _calls_to_list(self, parts: Sequence[PartCount]) -> int:
        """Return how many pages the lists of `parts` have."""
        return sum(-(-(p.counted + p.repeated) // self._sizes.expected) for p in parts)

    def _segment(self, name: str) -> Segment:
        known = {s.name: s for s in (self._ranged, UNDATED, *self._apart_segments)}
        return known[name]

    def _locate(self, segment: Segment, part: PartCount, walk: int, suspects: set[int]) -> None:
        """Fetch what is missing in `part`. Adds the ids of rows that are not in the API's list to
        `suspects`, those found before an error too.
        """
        rows = self._rows(segment)
        listed = self._listed.get(segment.name, set())
        size = self._sizes.expected
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
                self._look(segment, span, walk, suspects)
                continue
            left: Span = (lower, middle)
            in_left = self._count(segment, BY_ID, left)
            spans += [(left, in_left), ((middle + 1, upper), counted - in_left)]

    def _look(self, segment: Segment, span: Span, walk: int, suspects: set[int]) -> None:
        """Compare `span` id by id. Fetches what is missing, and adds the ids of surplus rows to
        `suspects`.
        """
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
                # A late list shows an older state for a while. It must not bring that state back.
                self._lagging |= set(stored.lagging)
                self.repaired += len(missing - self._lagging)
                self._found = True
            suspects |= mirrored - ids
            never_sent = part.counted + part.repeated - len(answer.page.records)
            if part.listed and never_sent > 0:
                self._name_never_sent(segment, (lower, end), never_sent)
            if len(answer.ids) > len(ids):
                repeated = {i for i, count in Counter(answer.ids).items() if count > 1}
                exact = self._exact.get(segment.name, ())
                self._newly_repeated |= {
                    i
                    for i in repeated - self._known_repeated
                    if not any(inside(i, s) for s in exact)
                }
            if part.nameless or part.repeated:
                self._compare_by_id(segment, (lower, end))
                self._located[lower, end] = replace(part, ids=(lower, end), listed=True)
                self._found = True
            if part.listed or not ascending(answer.ids) or not ids:
                return
            if self._spent() > MOST_CALLS:
                raise NotHonoured(f"it takes more than {MOST_CALLS} calls")
            lower = max(ids) + 1
            if upper is not None and lower > upper:
                # More are counted than can be there. Counts of other ranges will tell.
                return

    def _name_never_sent(self, segment: Segment, span: Span, count: int) -> None:
        lower, upper = (str(end) if end is not None else "either end" for end in span)
        told = f"Current RMS counts {count:,} more in its list ({segment.name}) than it sends"
        fault = Fault(None, "(record)", f"{told}, between {lower} and {upper}", "")
        with self._connection.cursor() as cursor:
            # Where the list was cut decides between which ids it lies, so it is named only once.
            cursor.execute(
                "SELECT EXISTS (SELECT FROM sync_faults WHERE collection = %s"
                " AND opportunity_id IS NULL AND starts_with(problem, %s))",
                (self._collection.name, told),
            )
            if not one_row(cursor)[0]:
                note_faults(cursor, self._collection, self._run, [fault])
        self._connection.commit()

    def _settle(self, suspects: set[int], walk: int) -> str:
        """Ask by id for each of `suspects`, which no list shows. Each is fetched or deleted."""
        assert self._remove is not None
        young = fetched_singly(self._connection, self._collection, suspects, LAG.total_seconds())
        self._left.ids |= dict.fromkeys(young, True)
        gone: dict[int, tuple[datetime, datetime]] = {}
        failed: dict[int, CurrentRmsError] = {}
        shown_none = False
        waiting = set[int]()
        if self._lane is Lane.INCREMENTAL and not self._remove.confirmed:
            # Every quarter of an hour would cost a call for each of them, until a person confirms.
            waiting = suspects & held_lately(self._connection, self._collection)
            if len(waiting) > self._remove.most:
                # Whichever of the others are gone, they have to wait too.
                return HELD_BACK
        ids = sorted(suspects - young - waiting)
        calls = self._remove.calls_for(len(ids), self._sizes.expected)
        asked = ask_by_id(
            self._client,
            ids,
            lane=self._lane,
            expected=False,
            wanted=replace(what_is_held(self._connection, self._collection, ids), missing=ids),
            calls=calls,
            witnesses=some_other_row(self._connection, self._collection, suspects),
        )
        for verdict in asked:
            gone |= verdict.gone
            failed |= verdict.failed
            shown_none |= verdict.shown_none
            for answer in verdict.answers:
                outdone = verdict.outdone(answer, self._collection)
                self._store_suspects(answer, walk, outdone)
        unknown = ""
        if failed:
            shown = ", ".join(map(str, sorted(failed)[:10]))
            unknown = (
                f"No list of Current RMS shows {shown}, and Current RMS did not answer "
                f"whether they still exist: {next(iter(failed.values()))}"
            )
        waits = HELD_BACK if waiting else ""
        if not gone:
            return waits or unknown
        before = self._remove.deleted
        reason = self._remove.remove_gone(gone, shown_none=shown_none)
        self.deleted += self._remove.deleted - before
        return reason or waits or unknown

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


def _sentence(error: Exception) -> str:
    said = str(error).strip()
    if isinstance(error, ApiUnavailable):
        said = f"Current RMS did not answer every request: {said}"
    return said if said.endswith(".") else f"{said}."
