"""From records of the API to typed opportunities, losing neither a row nor a reason.

Each mapped field stays a slice of its record until it is read, so that what is wrong with one field
touches nothing else.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec import Raw

# Raise it when the mapping changes: the mirror, when next opened, decodes all its rows again from
# `data`. It is part of every fingerprint too, so no row from before passes for unchanged.
MAPPING_VERSION = b"1"

_NULL = Raw(b"null")
_BIGINT_MAX = 2**63 - 1
# A B-tree entry of PostgreSQL holds about 2,700 bytes; no status, and no number, comes near these.
_MAX_STATUS_LENGTH = 500
_MAX_EXPONENT = 1_000


class _Fields(msgspec.Struct, frozen=True, gc=False):
    id: Raw = _NULL
    subject: Raw = _NULL
    number: Raw = _NULL
    description: Raw = _NULL
    starts_at: Raw = _NULL
    ends_at: Raw = _NULL
    status_name: Raw = _NULL
    state_name: Raw = _NULL
    created_at: Raw = _NULL
    updated_at: Raw = _NULL
    venue: Raw = _NULL
    venue_name: Raw = _NULL
    member_id: Raw = _NULL
    organisation_id: Raw = _NULL
    member: Raw = _NULL
    organisation_name: Raw = _NULL
    owned_by: Raw = _NULL
    owner_id: Raw = _NULL
    owner: Raw = _NULL
    owner_name: Raw = _NULL
    charge_total: Raw = _NULL
    charge_including_tax_total: Raw = _NULL
    total_value: Raw = _NULL


class _Keyed(msgspec.Struct, frozen=True, gc=False):
    id: Raw = _NULL


class _Named(msgspec.Struct, frozen=True, gc=False):
    name: Raw = _NULL


@dataclass(frozen=True, slots=True)
class Fault:
    """A value that could not be kept as it came: which, why, and its beginning as received."""

    opportunity_id: int | None
    field: str
    problem: str
    raw_value: str


class Opportunity(msgspec.Struct, frozen=True, gc=False):
    """One record as the mirror maps it; field names are those of the table `opportunities`.

    `data` and `fingerprint` are those of its Record.
    """

    id: int
    name: str
    subject: str | None
    description: str | None
    starts_at: datetime | None
    ends_at: datetime | None
    opportunity_status: str | None
    created_at_rms: datetime | None
    updated_at_rms: datetime | None
    venue_name: str | None
    organisation_id: int | None
    organisation_name: str | None
    owner_id: int | None
    owner_name: str | None
    charge_total: Decimal | None
    total_value: Decimal | None
    data: bytes
    fingerprint: bytes
    faults: tuple[Fault, ...]


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record whose mapped fields nobody has needed to read yet.

    `data` is the record as JSON that PostgreSQL can hold; `fingerprint` (16 bytes) changes when the
    record as received, or the mapping, does.
    """

    id: int
    data: bytes
    fingerprint: bytes
    fields: _Fields

    def dates(self) -> tuple[datetime | None, datetime | None]:
        """`starts_at` and `ends_at` (UTC), as in the whole opportunity."""
        reader = _Reader(self.fields, [], self.id)
        return reader.moment("starts_at"), reader.moment("ends_at")

    def decode(self) -> Opportunity:
        """All of it; what cannot be read is None, and a fault."""
        faults: list[Fault] = []
        reader = _Reader(self.fields, faults, self.id)
        subject = reader.text("subject")
        return Opportunity(
            id=self.id,
            name=subject or reader.text("number") or f"Opportunity {self.id}",
            subject=subject,
            description=reader.text("description"),
            starts_at=reader.moment("starts_at"),
            ends_at=reader.moment("ends_at"),
            opportunity_status=reader.status(),
            created_at_rms=reader.moment("created_at"),
            updated_at_rms=reader.moment("updated_at"),
            venue_name=reader.name_in("venue") or reader.text("venue_name"),
            organisation_id=reader.first_whole("member_id", "organisation_id"),
            organisation_name=reader.name_in("member") or reader.text("organisation_name"),
            owner_id=reader.first_whole("owned_by", "owner_id"),
            owner_name=reader.name_in("owner") or reader.text("owner_name"),
            charge_total=reader.decimal("charge_total"),
            total_value=reader.first_decimal("charge_including_tax_total", "total_value"),
            data=self.data,
            fingerprint=self.fingerprint,
            faults=tuple(faults),
        )


_record_decoder = msgspec.json.Decoder(_Fields)
_keyed_decoder = msgspec.json.Decoder(_Keyed)
_named_decoder = msgspec.json.Decoder(_Named)
_value_decoder = msgspec.json.Decoder(Any)

_WHOLE = re.compile(r"[+-]?\d{1,19}", re.ASCII)


def record_id(record: Raw) -> int | None:
    """The id of a record, None when it has none that could be a key."""
    try:
        return _to_whole(_value_decoder.decode(_keyed_decoder.decode(record).id))
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
        return None


def read_record(record: Raw) -> Record | Fault:
    """One record, still undecoded; a Fault only when there is no id to store it under."""
    raw = bytes(record)
    try:
        fields = _record_decoder.decode(raw)
    except msgspec.DecodeError:
        return Fault(None, "(record)", "is not a JSON object", _excerpt(raw))
    faults: list[Fault] = []
    key = _Reader(fields, faults).whole("id")
    if key is None:
        problem = faults[0].problem if faults else "is absent, and without it nothing can be stored"
        return Fault(None, "id", problem, _excerpt(raw))
    return Record(key, raw, blake2b(raw, digest_size=16, key=MAPPING_VERSION).digest(), fields)


def decode_record(record: Raw) -> Opportunity | Fault:
    """One record per the mapping table; a Fault only when there is no id to store it under."""
    found = read_record(record)
    return found if isinstance(found, Fault) else found.decode()


class _Reader:
    """Reads typed fields of one record; what cannot be read is None and a fault."""

    __slots__ = ("_faults", "_fields", "_key")

    def __init__(self, fields: _Fields, faults: list[Fault], key: int | None = None) -> None:
        self._fields = fields
        self._faults = faults
        self._key = key

    def text(self, field: str) -> str | None:
        raw = getattr(self._fields, field)
        return None if raw is _NULL else self._text_of(field, raw)

    def _text_of(self, field: str, raw: Raw) -> str | None:
        value: object = _value_decoder.decode(raw)
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
        if raw is _NULL or bytes(raw) in (b"null", b'""'):
            return None
        try:
            named = _named_decoder.decode(raw)
        except msgspec.DecodeError:
            self._fault(field, "is not an object with a name", raw)
            return None
        return None if named.name is _NULL else self._text_of(f"{field}.name", named.name)

    def whole(self, field: str) -> int | None:
        raw = getattr(self._fields, field)
        if raw is _NULL:
            return None
        try:
            return _to_whole(_value_decoder.decode(raw))
        except ValueError:
            self._fault(field, "is not a whole number of 64 bits", raw)
            return None

    def first_whole(self, *fields: str) -> int | None:
        return next((v for f in fields if (v := self.whole(f)) is not None), None)

    def moment(self, field: str) -> datetime | None:
        raw = getattr(self._fields, field)
        if raw is _NULL:
            return None
        value: object = _value_decoder.decode(raw)
        if value is None or value == "":
            return None
        try:
            if not isinstance(value, str):
                raise TypeError
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is UTC:
                return moment
            # A time without an offset is UTC: that is how the API writes all others.
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        except (TypeError, ValueError, OverflowError):
            self._fault(field, "is not a date and time", raw)
            return None

    def decimal(self, field: str) -> Decimal | None:
        raw = getattr(self._fields, field)
        if raw is _NULL:
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
        self._faults.append(Fault(self._key, field, problem, _excerpt(bytes(raw))))


def _to_whole(value: object) -> int | None:
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


def _excerpt(raw: bytes) -> str:
    return raw[:1_000].decode(errors="replace").replace("\x00", "\ufffd")
