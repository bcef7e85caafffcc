"""Reading typed values out of a record, one field at a time.

Each mapped field stays a slice of its record until it is read, so that what is wrong with one field
touches nothing else.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec
from msgspec import Raw

NULL = Raw(b"null")
_BIGINT_MAX = 2**63 - 1
# A B-tree entry of PostgreSQL holds about 2,700 bytes; no status, and no number, comes near these.
_MAX_STATUS_LENGTH = 500
_MAX_EXPONENT = 1_000


class Fields(msgspec.Struct, frozen=True, gc=False):
    """What is read of a record, in its own names; all else is skipped over."""

    id: Raw = NULL
    subject: Raw = NULL
    number: Raw = NULL
    description: Raw = NULL
    starts_at: Raw = NULL
    ends_at: Raw = NULL
    status_name: Raw = NULL
    state_name: Raw = NULL
    created_at: Raw = NULL
    updated_at: Raw = NULL
    venue: Raw = NULL
    venue_name: Raw = NULL
    member_id: Raw = NULL
    organisation_id: Raw = NULL
    member: Raw = NULL
    organisation_name: Raw = NULL
    owned_by: Raw = NULL
    owner_id: Raw = NULL
    owner: Raw = NULL
    owner_name: Raw = NULL
    charge_total: Raw = NULL
    charge_including_tax_total: Raw = NULL
    total_value: Raw = NULL


class _Named(msgspec.Struct, frozen=True, gc=False):
    name: Raw = NULL


@dataclass(frozen=True, slots=True)
class Fault:
    """A value that could not be kept as it came: which, why, and its beginning as received."""

    opportunity_id: int | None
    field: str
    problem: str
    raw_value: str


_named_decoder = msgspec.json.Decoder(_Named)
_value_decoder = msgspec.json.Decoder(Any)
# JSON may be right, and still hold what no number here can (1e999), or be nested too deeply.
_UNREADABLE = (ValueError, RecursionError)

_WHOLE = re.compile(r"[+-]?\d{1,19}", re.ASCII)


class Reader:
    """Reads typed fields of one record; what cannot be read is None and a fault."""

    __slots__ = ("_faults", "_fields", "_key")

    def __init__(self, fields: Fields, faults: list[Fault], key: int | None = None) -> None:
        self._fields = fields
        self._faults = faults
        self._key = key

    def text(self, field: str) -> str | None:
        raw = getattr(self._fields, field)
        return None if raw is NULL else self._text_of(field, raw)

    def _text_of(self, field: str, raw: Raw) -> str | None:
        try:
            value: object = _value_decoder.decode(raw)
        except _UNREADABLE:
            self._fault(field, "is not a value that can be read", raw)
            return None
        if value is None or value == "":
            return None
        if isinstance(value, str):
            return value
        if isinstance(value, bool | int | float):
            return bytes(raw).decode()
        self._fault(field, "is not text", raw)
        return None

    def status(self) -> str | None:
        value = self.text("status_name") or self.text("state_name")
        if value is not None and len(value) > _MAX_STATUS_LENGTH:
            self._faults.append(
                Fault(
                    self._key,
                    "opportunity_status",
                    f"is longer than {_MAX_STATUS_LENGTH} characters",
                    value[:1_000],
                )
            )
            return None
        return value

    def name_in(self, field: str) -> str | None:
        raw = getattr(self._fields, field)
        if raw is NULL or bytes(raw) in (b"null", b'""'):
            return None
        try:
            named = _named_decoder.decode(raw)
        except _UNREADABLE:
            self._fault(field, "is not an object with a name", raw)
            return None
        return None if named.name is NULL else self._text_of(f"{field}.name", named.name)

    def whole(self, field: str) -> int | None:
        raw = getattr(self._fields, field)
        if raw is NULL:
            return None
        try:
            return to_whole(_value_decoder.decode(raw))
        except _UNREADABLE:
            self._fault(field, "is not a whole number of 64 bits", raw)
            return None

    def first_whole(self, *fields: str) -> int | None:
        return next((v for f in fields if (v := self.whole(f)) is not None), None)

    def moment(self, field: str) -> datetime | None:
        raw = getattr(self._fields, field)
        if raw is NULL:
            return None
        try:
            value: object = _value_decoder.decode(raw)
            if value is None or value == "":
                return None
            if not isinstance(value, str):
                raise TypeError
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is UTC:
                return moment
            # A time without an offset is UTC: that is how the API writes all others.
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        except (TypeError, OverflowError, *_UNREADABLE):
            self._fault(field, "is not a date and time", raw)
            return None

    def decimal(self, field: str) -> Decimal | None:
        raw = getattr(self._fields, field)
        if raw is NULL:
            return None
        # The digits as written, never through a float.
        text = bytes(raw).decode().strip('"').strip()
        if text in ("", "null"):
            return None
        try:
            number = Decimal(text)
        except InvalidOperation:
            self._fault(field, "is not a number", raw)
            return None
        if not number.is_finite() or abs(number.adjusted()) > _MAX_EXPONENT:
            self._fault(field, "is not a finite number PostgreSQL can hold", raw)
            return None
        return number

    def first_decimal(self, *fields: str) -> Decimal | None:
        return next((v for f in fields if (v := self.decimal(f)) is not None), None)

    def _fault(self, field: str, problem: str, raw: Raw) -> None:
        self._faults.append(Fault(self._key, field, problem, excerpt(bytes(raw))))


def to_whole(value: object) -> int | None:
    """A key of the API, None when absent. Raises ValueError unless it is a whole 64-bit number."""
    if value is None or value == "":
        return None
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("not a whole number")
    if not -_BIGINT_MAX <= value <= _BIGINT_MAX:
        raise ValueError("out of range")
    return value


def excerpt(raw: bytes) -> str:
    """The beginning of what came, as text that PostgreSQL can hold."""
    return raw[:1_000].decode(errors="replace").replace("\x00", "\ufffd")
