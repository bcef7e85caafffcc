"""Whether a list holds what was asked for: every state, and only dates within the window.

What belongs here: telling from what comes that `filtermode` or the dates are ignored. What does
not: the other filters, which lead to another way of reading (`walk`, `changes`). For these there is
none: a list that holds too much costs calls, and one that holds too little is told of.
"""

import contextlib
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec import Raw

from rms_pipeline.current_rms.client import CurrentRmsClient, ListAnswer
from rms_pipeline.current_rms.errors import Unprocessable
from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.current_rms.terms import EVERY_STATE, Terms
from rms_pipeline.current_rms.window import ENDS_AFTER, STARTS_BEFORE, Segment, Window

# Completed, Cancelled, Lost and Dead: what only `filtermode=all` reaches, and what it is asked for.
CLOSED = frozenset({40, 50, 60, 70})
# Open, Provisional, Reserved and Active: what no list of inactive ones holds.
_LIVE = frozenset({0, 1, 5, 20})
# A filter may compare whole days, in whatever time zone.
_ROUNDED = timedelta(days=2)
# So many records are looked at; then the first and the last of each page.
_LOOKED_AT_WHOLE = 200


class _Placed(msgspec.Struct, frozen=True, gc=False):
    """Where a record belongs, as far as it tells."""

    status: Any = None
    starts_at: Any = None
    ends_at: Any = None


_decoder = msgspec.json.Decoder(_Placed)


@dataclass(slots=True)
class Scope:
    """What a reading showed: records looked at that were asked for by date, the filters that were
    ignored, and whether a closed opportunity came. Safe between threads."""

    dated: int = 0
    ignored: set[str] = field(default_factory=set)
    has_closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self, segment: Segment, answer: ListAnswer) -> None:
        """Learns from a page of `segment`."""
        records = answer.page.opportunities
        if self.dated >= _LOOKED_AT_WHOLE and len(records) > 2:
            records = [records[0], records[-1]]
        placed = [found for raw in records if (found := _placed(raw)) is not None]
        has_closed = any(_status(p) in CLOSED for p in placed)
        ignored: set[str] = set()
        if segment.window is not None:
            for each in placed:
                ignored |= _outside(each, segment.window)
        with self._lock:
            self.has_closed |= has_closed
            self.ignored |= ignored
            self.dated += len(placed) if segment.window is not None else 0

    def add(self, other: "Scope") -> None:
        """Takes over what another reading showed."""
        self.dated += other.dated
        self.ignored |= other.ignored
        self.has_closed |= other.has_closed

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


def inactive_ids(client: CurrentRmsClient, segment: Segment, lane: Lane) -> set[int] | None:
    """Ids of some closed opportunities of `segment`, by a list of nothing else; one call.

    None when that list holds live ones too, so that `filtermode` changes nothing. Raises
    ApiUnavailable, or a RequestRefused that is not about the question.
    """
    try:
        answer = client.list_opportunities(segment.params, lane=lane, mode="inactive")
    except Unprocessable:
        # A word that is refused is understood as a filtermode; so `all` was one that it knows.
        return set()
    placed = [_placed(raw) for raw in answer.page.opportunities]
    if any(p is not None and _status(p) in _LIVE for p in placed):
        return None
    return set(answer.ids)


def note_states(terms: Terms, now: datetime, *, honoured: bool) -> None:
    """Notes whether `filtermode=all` brings every state."""
    if honoured:
        terms.forget("filter", EVERY_STATE)
    else:
        terms.note("filter", EVERY_STATE, None, now)


def _placed(record: Raw) -> _Placed | None:
    try:
        return _decoder.decode(record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _status(placed: _Placed) -> int | None:
    with contextlib.suppress(TypeError, ValueError):
        return int(placed.status)
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
