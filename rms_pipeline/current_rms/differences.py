"""The way back from a record to the one that came before it, as little of it as says so.

What belongs here: comparing two records as JSON. What does not: storing what was found, and going
back by it, which PostgreSQL does (`rms_stepped_back` in its migration).

A way back is a list of steps. Each is a path and the value that stood there, or a path alone where
nothing did. A path is a list of keys, and places in arrays; the empty one is the record itself.
Numbers are told apart by what they are, to the last digit; texts of links only by what lasts.
"""

import json
from collections.abc import Collection as Names
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec

from rms_pipeline.current_rms.links import without_signatures

_encode = msgspec.json.Encoder(decimal_format="number").encode
_encode_sorted = msgspec.json.Encoder(decimal_format="number", order="sorted").encode
# Whole numbers stay whole, which is quicker; 1 and 1.0 are one number all the same (`_compare`).
_decode = msgspec.json.Decoder(float_hook=Decimal).decode
_CONTAINERS = (dict, list)
_decode_odd = json.JSONDecoder(parse_float=Decimal, parse_int=Decimal).decode


@dataclass(frozen=True, slots=True)
class Difference:
    """The steps as JSON; None where there was no record that they could lead to. `fields` are
    those of the record that they change; None where that may be any."""

    json: str | None
    fields: frozenset[str] | None = None


def way_back(newer: bytes | None, older: bytes | None, but_for: Names[str]) -> Difference | None:
    """From `newer` to `older`, both JSON of a record; None when they say the same.

    The fields in `but_for`, and whatever of links differs at each read, are not looked at.
    """
    if older is None:
        return None if newer is None else Difference(None)
    try:
        before, after = _read(older), _read(b"null" if newer is None else newer)
    except RecursionError:
        # Of a row that an earlier version stored.
        return Difference(f"[[[],{without_signatures(older).decode()}]]")
    if newer is None:
        return Difference(_written([[[], before]]))
    for record in (before, after):
        if isinstance(record, dict):
            for name in but_for:
                record.pop(name, None)
    steps: list[list[Any]] = []
    try:
        _compare(after, before, [], steps)
    except RecursionError:
        steps = [[[], before]]
    if not steps:
        return None
    found = _written(steps)
    if len(found) > len(older):
        found = min(found, _written([[[], before]]), key=len)
    fields = None if any(not step[0] for step in steps) else {str(step[0][0]) for step in steps}
    return Difference(found, None if fields is None else frozenset(fields))


def _read(record: bytes) -> Any:
    lasting = without_signatures(record)
    try:
        return _decode(lasting)
    except (ValueError, ArithmeticError):
        # What is no number to msgspec, such as a whole one of thousands of digits.
        return _decode_odd(lasting.decode())


def _written(steps: list[list[Any]]) -> str:
    return _encode(steps).decode()


def _compare(newer: Any, older: Any, path: list[str | int], steps: list[list[Any]]) -> None:
    if isinstance(newer, dict) and isinstance(older, dict):
        for key, value in older.items():
            if key in newer:
                one = newer[key]
                # Nearly all of a record, without a call and a path for each.
                if one == value and (type(one) is str or _are_strictly_same(one, value)):
                    continue
                _compare(one, value, [*path, key], steps)
            else:
                steps.append([[*path, key], value])
        steps += [[[*path, key]] for key in newer if key not in older]
    elif isinstance(newer, list) and isinstance(older, list) and len(newer) == len(older):
        for place, (one, other) in enumerate(zip(newer, older, strict=True)):
            _compare(one, other, [*path, place], steps)
    elif newer != older or (type(newer) is not type(older) and not _are_numbers(newer, older)):
        steps.append([path, older])


def _are_strictly_same(one: Any, other: Any) -> bool:
    """Whether what is equal to Python is so to JSON, as far as that is seen at a glance."""
    kind = type(one)
    if kind is not type(other):
        return False
    # Within these, True would pass for 1.
    return kind not in _CONTAINERS or _encode_sorted(one) == _encode_sorted(other)


def _are_numbers(one: Any, other: Any) -> bool:
    # True equals 1 in Python, and is none.
    return {type(one), type(other)} <= {int, Decimal}
