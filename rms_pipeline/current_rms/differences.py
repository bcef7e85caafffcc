"""Computes the difference that leads from a record back to the version before it.

This module compares two records as JSON. It does not store the difference. PostgreSQL applies it
(`rms_stepped_back` in its migration).

A difference is a list of steps. Each step is a path with the earlier value, or a path alone if
there was no earlier value. A path is a list of keys and positions in arrays. The empty path is the
record itself. Numbers are compared by value, to the last digit. In links, only the lasting part is
compared.
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
# Whole numbers stay int, because that is faster. `_compare` treats 1 and 1.0 as equal anyway.
_decode = msgspec.json.Decoder(float_hook=Decimal).decode
_CONTAINERS = (dict, list)


def _number(text: str) -> Decimal | str:
    """Return a number as written. PostgreSQL cannot hold those whose exponent Decimal refuses."""
    try:
        return Decimal(text)
    except ArithmeticError:
        return text


_decode_odd = json.JSONDecoder(parse_float=_number, parse_int=_number).decode


@dataclass(frozen=True, slots=True)
class Difference:
    """The steps as JSON, or None if there was no earlier record.

    `fields` are the fields of the record that the steps change. It is None if any field may change.
    """

    json: str | None
    fields: frozenset[str] | None = None


def way_back(newer: bytes | None, older: bytes | None, but_for: Names[str]) -> Difference | None:
    """Return the steps from `newer` to `older` (both JSON of a record), or None if they say the
    same.

    The fields in `but_for` are ignored, and so are parts of links that differ at each read.
    """
    if older is None:
        return None if newer is None else Difference(None)
    try:
        before, after = _read(older), _read(b"null" if newer is None else newer)
    except RecursionError:
        # An earlier version of this program stored this row.
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


def lasting(record: bytes, but_for: Names[str]) -> str:
    """Return `record` (JSON) without what `way_back` ignores."""
    try:
        found = _read(record)
    except RecursionError:
        return without_signatures(record).decode()
    if isinstance(found, dict):
        for name in but_for:
            found.pop(name, None)
    return _encode(found).decode()


def _read(record: bytes) -> Any:
    lasting = without_signatures(record)
    try:
        return _decode(lasting)
    except (ValueError, ArithmeticError):
        # msgspec cannot read some numbers, such as one of thousands of digits.
        return _decode_odd(lasting.decode())


def _written(steps: list[list[Any]]) -> str:
    return _encode(steps).decode()


def _compare(newer: Any, older: Any, path: list[str | int], steps: list[list[Any]]) -> None:
    if isinstance(newer, dict) and isinstance(older, dict):
        for key, value in older.items():
            if key in newer:
                one = newer[key]
                # Most fields of a record are decided here, without a call and a path for each.
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
    """Return whether two values that are equal in Python are also equal in JSON, if that is quick
    to tell.
    """
    kind = type(one)
    if kind is not type(other):
        return False
    # Inside a container, True would be equal to 1.
    return kind not in _CONTAINERS or _encode_sorted(one) == _encode_sorted(other)


def _are_numbers(one: Any, other: Any) -> bool:
    # In Python True equals 1. In JSON it does not.
    return {type(one), type(other)} <= {int, Decimal}
