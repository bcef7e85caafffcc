"""Whether a list holds what was asked for: all records, and only dates within the window.

What belongs here: telling from what comes that `filtermode` or the dates are ignored. What does
not: the other filters, which lead to another way of reading (`scan`). For these there is
none: a list that holds too much costs calls, and one that holds too little is told of.
"""

import contextlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import msgspec
from msgspec import Raw

from rms_pipeline.collections.base import Modes
from rms_pipeline.current_rms.client import CurrentRmsClient, ListAnswer
from rms_pipeline.current_rms.errors import Unprocessable
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.current_rms.spans import BY_ID, WHOLE, without
from rms_pipeline.current_rms.terms import EVERY_STATE, Terms
from rms_pipeline.current_rms.window import ENDS_AFTER, STARTS_BEFORE, Segment, Window

# A filter may compare whole days, in whatever time zone.
_ROUNDED = timedelta(days=2)
# So many records are looked at; then the first and the last of each page.
_LOOKED_AT_WHOLE = 200


class _Placed(msgspec.Struct, frozen=True, gc=False):
    """Where a record belongs, as far as it tells."""

    starts_at: Any = None
    ends_at: Any = None


_decoder = msgspec.json.Decoder(_Placed)


@dataclass(slots=True)
class Scope:
    """What a reading showed: records looked at that were asked for by date, the filters that were
    ignored, and whether a record came that only one of `modes` reaches. Safe between threads."""

    modes: Modes | None = None
    dated: int = 0
    ignored: set[str] = field(default_factory=set)
    has_hidden: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self, segment: Segment, answer: ListAnswer) -> None:
        """Learns from a page of `segment`."""
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
        """Takes over what another reading showed."""
        self.dated += other.dated
        self.ignored |= other.ignored
        self.has_hidden |= other.has_hidden

    def note_dates(self, terms: Terms, now: datetime) -> None:
        """Notes which dates were ignored, and which no longer are."""
        for name in (ENDS_AFTER, STARTS_BEFORE):
            if name in self.ignored:
                terms.note("filter", name, None, now)
            elif self.dated:
                terms.forget("filter", name)


def note_refused_dates(terms: Terms, now: datetime, error: Unprocessable) -> None:
    """Notes which of the dates are refused: those that the API names, else both."""
    both = (ENDS_AFTER, STARTS_BEFORE)
    for name in [n for n in both if n in error.said] or both:
        terms.note("filter", name, error.status, now)


def hidden_ids(
    client: CurrentRmsClient, modes: Modes, segment: Segment, lane: Lane, around: Iterable[int]
) -> set[int] | None:
    """Ids of some records of `segment` that only one of `modes` reaches, by a list of nothing else;
    one call, and one more for each of `around`, which fail the lists that would hold them, until
    some come.

    None when that list holds others too, so that `filtermode` changes nothing. Raises
    ApiUnavailable, or a RequestRefused that is not about the question.
    """
    for span in without(WHOLE, [(i, i) for i in around]):
        try:
            answer = client.list_records(
                segment.params + BY_ID.params(span), lane=lane, mode=modes.hidden
            )
        except Unprocessable:
            # A word that is refused is understood as a filtermode; so `all` was one that it knows.
            return set()
        if any(_mark(raw, modes) in modes.others for raw in answer.page.records):
            return None
        if answer.ids:
            return set(answer.ids)
    return set()


def note_states(terms: Terms, now: datetime, *, honoured: bool) -> None:
    """Notes whether `filtermode` brings all records."""
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
    """What a record says of which mode it is in; None when it says nothing that can be read."""
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
    """Which of the two dates that were asked for a record does not fit."""
    starts, ends = _moment(placed.starts_at), _moment(placed.ends_at)
    found = set()
    if ends is not None and ends < window.start - _ROUNDED:
        found.add(ENDS_AFTER)
    if starts is not None and starts > window.end + _ROUNDED:
        found.add(STARTS_BEFORE)
    return found


def _moment(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
