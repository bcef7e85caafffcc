"""Ranges of ids, or of another field that never changes: which are known, and what is left.

A span is `(lower, upper)`. Both ends are included, None means no bound. All functions are pure.
"""

import itertools
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from msgspec import Raw

from rms_pipeline.current_rms.records import Fault, bare_record, record_id
from rms_pipeline.current_rms.window import Params, iso

Span = tuple[int | None, int | None]

WHOLE: Span = (None, None)


def union(spans: Iterable[Span]) -> list[Span]:
    """Return the same ids in ascending spans that neither overlap nor touch."""
    joined: list[Span] = []
    for lower, upper in sorted(spans, key=lambda s: (s[0] is not None, s[0] or 0)):
        if joined:
            before, end = joined[-1]
            if end is None:
                return joined
            if lower is None or lower <= end + 1:
                joined[-1] = (before, None if upper is None else max(end, upper))
                continue
        joined.append((lower, upper))
    return joined


def gaps(covered: Iterable[Span]) -> list[Span]:
    """Return what `covered` leaves out, ascending. Empty if it covers every id."""
    left: list[Span] = []
    start: int | None = None
    for lower, upper in union(covered):
        if lower is not None:
            left.append((start, lower - 1))
        if upper is None:
            return left
        start = upper + 1
    left.append((start, None))
    return left


def inside(value: int, span: Span) -> bool:
    """Return whether `value` is in `span`."""
    lower, upper = span
    return (lower is None or value >= lower) and (upper is None or value <= upper)


def without(span: Span, left_out: Sequence[Span]) -> list[Span]:
    """Return the parts of `span` outside `left_out`, ascending."""
    lower, upper = span
    parts = []
    for start, end in gaps(left_out):
        low = start if lower is None else lower if start is None else max(start, lower)
        high = end if upper is None else upper if end is None else min(end, upper)
        if low is None or high is None or low <= high:
            parts.append((low, high))
    return parts


def ascending(ids: Sequence[int]) -> bool:
    """Return whether the ids are in order. The same id may stand twice in a row."""
    return all(a <= b for a, b in itertools.pairwise(ids))


# The field by which a list is cut into ranges when its order cannot be relied on


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Key(Protocol):
    """A field as whole numbers. `params` limits a list to a span of them.

    Hardly any record is below `floor`.
    """

    name: str
    floor: int

    def params(self, span: Span) -> Params: ...

    def value(self, record: Raw) -> int | None:
        """Return the value of the record, or None if it has none."""
        ...


class _ById:
    name = "id"
    floor = 1

    def params(self, span: Span) -> Params:
        lower, upper = span
        params: Params = ()
        if lower is not None:
            params += (("q[id_gt]", str(lower - 1)),)
        if upper is not None:
            params += (("q[id_lt]", str(upper + 1)),)
        return params

    def value(self, record: Raw) -> int | None:
        return record_id(record)


class _ByCreation:
    """Milliseconds since 1970 (UTC), the resolution of the API's times."""

    name = "created_at"
    floor = (datetime(2005, 1, 1, tzinfo=UTC) - _EPOCH) // _MILLISECOND

    def params(self, span: Span) -> Params:
        lower, upper = span
        params: Params = ()
        if lower is not None:
            params += (("q[created_at_gteq]", iso(_EPOCH + lower * _MILLISECOND)),)
        if upper is not None:
            params += (("q[created_at_lt]", iso(_EPOCH + (upper + 1) * _MILLISECOND)),)
        return params

    def value(self, record: Raw) -> int | None:
        found = bare_record(record)
        created_at = None if isinstance(found, Fault) else found.created_at()
        return None if created_at is None else (created_at - _EPOCH) // _MILLISECOND


BY_ID: Key = _ById()
BY_CREATION: Key = _ByCreation()
