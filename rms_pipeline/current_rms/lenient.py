"""Reads bodies that are not strict JSON, so that one wrong value costs its field and no other
record.

This module splits a body into records and repairs a record that the strict parser refuses (NaN, raw
control characters, bytes that are not UTF-8, values nested a thousand deep). Correct bodies never
come here (`pages`, `records`). What a field means is in `fields`. Nothing here is recursive,
because the sender chooses the depth.
"""

import re
from collections.abc import Iterator
from decimal import Decimal

import msgspec
from msgspec import Raw

# PostgreSQL and programs that read it have limits of their own, above this one.
MOST_NESTED = 500
# The most digits of PostgreSQL's `numeric` before and behind the decimal point.
_DIGITS_BEFORE, _DIGITS_BEHIND = 131_072, 16_383

Span = tuple[int, int]
# Where a value lies in a body, with its key. The key is None in an array.
Member = tuple[Span | None, Span]

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_STRUCTURE = re.compile(_STRING + rb'|[\[\]{},:"]', re.DOTALL)
_TOKEN = re.compile(_STRING + rb'|[\[\]{},:"]|[^\s\[\]{},:"]+', re.DOTALL)
_LITERAL = re.compile(rb"true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_CLOSES = {b"]": b"[", b"}": b"{"}

_RAW_CONTROL = re.compile(rb"[\x00-\x1f]")
_ANY_ESCAPE = re.compile(rb'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}|(?P<odd>.))', re.DOTALL)
_SUSPECT = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_ESCAPE = re.compile(
    rb"\\(?:u(?:[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(?P<bad>0000|[dD][89a-fA-F][0-9a-fA-F]{2}))|.)",
    re.DOTALL,
)
_SOME_ID = re.compile(rb'"id"\s*:\s*"?(\d{1,18})\b')
_BOM = b"\xef\xbb\xbf"

_raw_decoder = msgspec.json.Decoder(Raw)


class Mend(msgspec.Struct, frozen=True):
    """What was wrong with the value of `field`, and the value as received."""

    field: str
    problem: str
    value: bytes


def storable_json(body: bytes) -> bytes:
    """Return the same JSON with U+FFFD for everything that PostgreSQL's `text` and `jsonb` cannot
    store.

    That is NUL, halves of surrogate pairs, and bytes that are not UTF-8. A body without any of
    these is returned unchanged.
    """
    if body.startswith(_BOM):
        body = body[len(_BOM) :]
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            body = body.decode(errors="replace").encode()
    # Looking for two letters first is far quicker than the pattern.
    if b"\\u" in body and _SUSPECT.search(body):
        body = _ESCAPE.sub(lambda m: b"\\ufffd" if m["bad"] else m[0], body)
    return body


def members_of(body: bytes) -> dict[bytes, bytes]:
    """Return the values of the object `body` by key (without quotes), each as received.

    If a key occurs twice, the last value counts. Raises ValueError if `body` is not an object, or
    is cut off.
    """
    body = body.removeprefix(_BOM).strip()
    if not body.startswith(b"{"):
        raise ValueError("not an object")
    found, end = _members(body, 0)
    if body[end:].strip(b" \t\r\n\x00"):
        raise ValueError("has more text after its end")
    return {body[slice(*key)][1:-1]: body[slice(*value)] for key, value in found if key is not None}


def elements_of(array: bytes) -> list[bytes]:
    """Return the elements of `array`, each as received. Raises ValueError if it is not an array."""
    array = array.strip()
    if not array.startswith(b"["):
        raise ValueError("not an array")
    found, end = _members(array, 0)
    if end != len(array):
        raise ValueError("has more text after the end of the array")
    return [array[start:stop] for _, (start, stop) in found]


def mend_record(record: bytes) -> tuple[bytes, list[Mend]]:
    """Return `record` as JSON that every parser accepts, and what was repaired.

    A value that cannot be read at all becomes null. Raises ValueError if `record` is not an object.
    """
    record = record.strip()
    if not record.startswith(b"{"):
        raise ValueError("not an object")
    found, _ = _members(record, 0)
    mends: list[Mend] = []
    parts: list[bytes] = []
    for key, (start, stop) in found:
        value = record[start:stop]
        if key is None:
            mends.append(Mend("(record)", "has something in it that is not a field", value))
            continue
        name, odd_name = _mended_string(record[slice(*key)])
        mended, problem = _mended(value)
        parts.append(b"%b:%b" % (name, mended))
        if problem or odd_name:
            field = name[1:-1].decode(errors="replace").replace("\x00", "\ufffd")[:200]
            mends.append(Mend(field, problem or f"has a name that {odd_name}", value))
    return b"{%b}" % b",".join(parts), mends


def mend_numbers(record: bytes) -> tuple[bytes, list[Mend]]:
    """Return `record`, a strict JSON object, with null for each number that `jsonb` cannot hold,
    and what was replaced.
    """
    found, _ = _members(record, 0)
    mends: list[Mend] = []
    parts: list[bytes] = []
    for key, (start, stop) in found:
        assert key is not None
        name, value = record[slice(*key)], record[start:stop]
        mended = _TOKEN.sub(lambda m: m[0] if _fits(m[0]) else b"null", value)
        parts.append(b"%b:%b" % (name, mended))
        if mended != value:
            field = name[1:-1].decode(errors="replace")[:200]
            mends.append(Mend(field, "is or holds a number that PostgreSQL cannot store", value))
    return b"{%b}" % b",".join(parts), mends


def _fits(token: bytes) -> bool:
    """Return whether `token` is no number, or one that PostgreSQL's `numeric` can hold."""
    if not token[:1].isdigit() and token[:1] != b"-":
        return True
    try:
        _, _, exponent = number = Decimal(token.decode()).as_tuple()
    except ArithmeticError:
        return False
    assert isinstance(exponent, int)
    before_the_point = len(number.digits) + exponent
    return exponent >= -_DIGITS_BEHIND and before_the_point <= _DIGITS_BEFORE


def some_id(record: bytes) -> int | None:
    """Return the probable id of a record that cannot be read."""
    found = _SOME_ID.search(record)
    return int(found[1]) if found else None


def _members(body: bytes, start: int) -> tuple[list[Member], int]:
    """Return the members of the array or object that begins at `start`, and where it ends.

    Empty members, such as one from a comma before the end, are left out. Raises ValueError if it is
    incomplete, or if brackets do not match.
    """
    found: list[Member] = []
    open_: list[bytes] = []
    key: Span | None = None
    begin = start + 1
    for token in _STRUCTURE.finditer(body, start):
        kind, at = token[0], token.start()
        if kind == b'"':
            raise ValueError(f"a text without a closing quote (byte {at})")
        if kind in (b"[", b"{"):
            open_.append(kind)
        elif kind in _CLOSES:
            if open_.pop() != _CLOSES[kind]:
                raise ValueError(f"a bracket that does not match (byte {at})")
            if not open_:
                _add(found, body, key, begin, at)
                return found, at + 1
        elif len(open_) == 1 and kind == b",":
            _add(found, body, key, begin, at)
            key, begin = None, at + 1
        elif len(open_) == 1 and kind == b":" and key is None and open_ == [b"{"]:
            left, right = _stripped(body, begin, at)
            if body[left : left + 1] == b'"':
                key, begin = (left, right), at + 1
    raise ValueError("it is incomplete")


def _add(found: list[Member], body: bytes, key: Span | None, begin: int, end: int) -> None:
    span = _stripped(body, begin, end)
    if key is not None or span[0] < span[1]:
        found.append((key, span))


def _stripped(body: bytes, begin: int, end: int) -> Span:
    part = body[begin:end]
    begin = end - len(part.lstrip())
    return begin, begin + len(part.strip())


def _mended(value: bytes) -> tuple[bytes, str]:
    """Return `value` as strict JSON, and what was wrong with it ('' for nothing)."""
    if _depth(value) > MOST_NESTED:
        return b"null", f"is nested more than {MOST_NESTED} deep"
    if _is_strict(value) and storable_json(value) == value:
        return value, ""
    problems: list[str] = []
    mended = b"".join(_mended_tokens(value, problems))
    if not problems or not _is_strict(mended):
        return b"null", "is not JSON that can be read"
    return mended, "; ".join(dict.fromkeys(problems))


def is_too_deep(record: bytes) -> bool:
    """Return whether a value of a record is nested deeper than `MOST_NESTED`.

    The strict parser's own limit depends on the depth of its caller's stack. So a record that one
    process can read would end the sync of another.
    """
    return _depth(record) > MOST_NESTED + 1


def _depth(value: bytes) -> int:
    """Return the depth of `value`, or 0 if it cannot be deeper than is allowed."""
    depth = deepest = 0
    if value.count(b"[") + value.count(b"{") <= MOST_NESTED:
        return 0
    for token in _STRUCTURE.finditer(value):
        if token[0] in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
        elif token[0] in _CLOSES:
            depth -= 1
    return deepest


def _is_strict(value: bytes) -> bool:
    try:
        _raw_decoder.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _mended_tokens(value: bytes, problems: list[str]) -> Iterator[bytes]:
    comma = b""
    for match in _TOKEN.finditer(value):
        token = match[0]
        if token == b",":
            comma = token
            continue
        if comma and token in _CLOSES:
            problems.append("has a comma before its closing bracket")
        elif comma:
            yield comma
        comma = b""
        if token.startswith(b'"') and len(token) > 1:
            token, problem = _mended_string(token)
            problems += [problem] if problem else []
        elif token not in _CLOSES and token not in (b"[", b"{", b":") and not _literal(token):
            problems.append(f"is or holds {token[:40].decode(errors='replace')}, which is not JSON")
            token = b"null"
        yield token


def _literal(token: bytes) -> bool:
    return _LITERAL.fullmatch(token) is not None


def _mended_string(text: bytes) -> tuple[bytes, str]:
    """Return a JSON text with its quotes, and what was wrong with it ('' for nothing)."""
    problems = []
    mended = _RAW_CONTROL.sub(lambda m: b"\\u%04x" % m[0][0], text)
    if mended != text:
        problems.append("has control characters that are not escaped")
    escaped = _ANY_ESCAPE.sub(
        lambda m: m[0] if m["odd"] is None else b"'" if m["odd"] == b"'" else b"\\" + m[0], mended
    )
    if escaped != mended:
        problems.append("has escapes that JSON does not allow")
    storable = storable_json(escaped)
    if storable != escaped:
        problems.append("has bytes that are not UTF-8, or characters that PostgreSQL cannot store")
    return storable, "; ".join(problems)
