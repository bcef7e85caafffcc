"""Whether a list holds what was asked for: records in every state, and only dates within the
window.

This module sees from the answers that `filtermode` or the dates are ignored. The other filters lead
to another way of reading (`scan`). For these two there is none. A list that holds too much costs
calls, and one that holds too little is reported.
"""

import contextlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

import msgspec
from msgspec import Raw

from rms_pipeline.collections.base import Modes
from rms_pipeline.current_rms.client import CurrentRmsClient, ListAnswer
from rms_pipeline.current_rms.errors import Unprocessable
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.current_rms.spans import BY_ID, WHOLE, without
from rms_pipeline.current_rms.terms import EVERY_STATE, TIME_OF_DAY, Terms
from rms_pipeline.current_rms.window import ENDS_AFTER, ROUNDED, STARTS_BEFORE, Segment, Window

# So many records are examined. After that, only the first and the last of each page.
_LOOKED_AT_WHOLE = 200


class _Placed(msgspec.Struct, frozen=True, gc=False):
    """The fields that say where a record belongs, as far as it has them."""

    starts_at: Any = None
    ends_at: Any = None


_decoder = msgspec.json.Decoder(_Placed)


@dataclass(slots=True)
class Scope:
    """What a reading showed. Threads may share it.

    It counts the examined records that were asked for by date. It knows the filters that were
    ignored, or of which the time of day was, and whether a record came that only one of `modes`
    reaches.
    """

    modes: Modes | None = None
    dated: int = 0
    ignored: set[str] = field(default_factory=set)
    has_hidden: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self, segment: Segment, answer: ListAnswer) -> None:
        """Learn from a page of `segment`."""
        records = answer.page.records
        if self.dated >= _LOOKED_AT_WHOLE and len(records) > 2:
            records = [records[0], records[-1]]
        placed = [found for raw in records if (found := _placed(raw)) is not None]
        modes = self.modes
        has_hidden = modes is not None and (
            self.has_hidden or any(_mark(raw, modes) in modes.values for raw in records)
        )
        ignored: set[str] = set()
        if segment.window is not None:
            for each in placed:
                ignored |= _outside(each, segment.window)
        with self._lock:
            self.has_hidden |= has_hidden
            self.ignored |= ignored
            self.dated += len(placed) if segment.window is not None else 0

    def add(self, other: "Scope") -> None:
        """Add what another reading showed."""
        self.dated += other.dated
        self.ignored |= other.ignored
        self.has_hidden |= other.has_hidden

    def note_dates(self, terms: Terms, now: datetime) -> None:
        """Note which dates were ignored, and which no longer are."""
        for name in (ENDS_AFTER, STARTS_BEFORE):
            if name in self.ignored:
                terms.note("filter", name, None, now)
            elif self.dated:
                terms.forget("filter", name)
        if TIME_OF_DAY in self.ignored:
            terms.note("filter", TIME_OF_DAY, None, now)
        elif self.dated and terms.is_to_be_asked("filter", TIME_OF_DAY, now):
            # Few records lie at the edges of the window, so one reading may not show it.
            terms.forget("filter", TIME_OF_DAY)


def note_refused_dates(terms: Terms, now: datetime, error: Unprocessable) -> None:
    """Note which dates are refused: those that the API names, or else both."""
    both = (ENDS_AFTER, STARTS_BEFORE)
    for name in [n for n in both if n in error.said] or both:
        terms.note("filter", name, error.status, now)


def hidden_ids(
    client: CurrentRmsClient, modes: Modes, segment: Segment, lane: Lane, around: Iterable[int]
) -> set[int] | None:
    """Return ids of some records of `segment` that only one of `modes` reaches.

    This asks for a list of only such records. It costs one call, and one more for each of `around`,
    the ids of records that make lists fail, until some records come. Returns None if that list also
    holds others, so that `filtermode` has no effect. Raises ApiUnavailable, or a RequestRefused
    that is not about the question.
    """
    for span in without(WHOLE, [(i, i) for i in around]):
        try:
            answer = client.list_records(
                segment.params + BY_ID.params(span), lane=lane, mode=modes.hidden
            )
        except Unprocessable:
            # An API that refuses this word understands `filtermode`. So it also knew `all`.
            return set()
        if any(_mark(raw, modes) in modes.others for raw in answer.page.records):
            return None
        if answer.ids:
            return set(answer.ids)
    return set()


def note_states(terms: Terms, now: datetime, *, honoured: bool) -> None:
    """Note whether `filtermode` brings records in every state."""
    if honoured:
        terms.forget("filter", EVERY_STATE)
    else:
        terms.note("filter", EVERY_STATE, None, now)


def _placed(record: Raw) -> _Placed | None:
    try:
        return _decoder.decode(record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


@cache
def _marked(field: str) -> "msgspec.json.Decoder[Any]":
    mark = msgspec.defstruct("mark", [("value", Any, None)], rename={"value": field}, frozen=True)
    return msgspec.json.Decoder(mark)


def _mark(record: Raw, modes: Modes) -> object:
    """Return what a record says about its mode, or None if it says nothing readable."""
    try:
        value = _marked(modes.field).decode(record).value
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if isinstance(value, bool):
        return value
    with contextlib.suppress(TypeError, ValueError):
        return int(value)
    return None


def _outside(placed: _Placed, window: Window) -> set[str]:
    """Return which of the two requested dates, or of their times, a record does not fit."""
    starts, ends = _moment(placed.starts_at), _moment(placed.ends_at)
    found = set()
    if ends is not None and ends < window.start:
        found.add(ENDS_AFTER if ends < window.start - ROUNDED else TIME_OF_DAY)
    if starts is not None and starts > window.end:
        found.add(STARTS_BEFORE if starts > window.end + ROUNDED else TIME_OF_DAY)
    return found


def _moment(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
