"""Ranges of ids: which are known, and what is left between them. Pure.

A span is `(lower, upper)`, both ends included, None for no bound.
"""

from collections.abc import Iterable, Sequence

Span = tuple[int | None, int | None]

WHOLE: Span = (None, None)


def union(spans: Iterable[Span]) -> list[Span]:
    """The same ids in ascending spans that neither overlap nor touch."""
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
    """What `covered` leaves out, ascending; empty when it covers every id."""
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
    """Whether `span` holds `value`."""
    lower, upper = span
    return (lower is None or value >= lower) and (upper is None or value <= upper)


def without(span: Span, left_out: Sequence[Span]) -> list[Span]:
    """What `left_out` leaves of `span`, ascending."""
    lower, upper = span
    parts = []
    for start, end in gaps(left_out):
        low = start if lower is None else lower if start is None else max(start, lower)
        high = end if upper is None else upper if end is None else min(end, upper)
        if low is None or high is None or low <= high:
            parts.append((low, high))
    return parts
