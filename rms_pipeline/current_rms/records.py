"""Turns records of the API into rows of a collection. No row and no reason is lost.

This module slices a record into the fields that a collection maps, and reads each as its column's
kind. Repairing JSON is in `lenient`, links that differ at each read in `links`.

Each field stays a slice of its record until it is read. So a wrong field affects no other field,
and a record that nobody reads costs next to nothing.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import cache
from hashlib import blake2b
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

import msgspec
from msgspec import Raw

from rms_pipeline.collections.base import Collection, Column
from rms_pipeline.current_rms.lenient import (
    is_too_deep,
    members_of,
    mend_numbers,
    mend_record,
    some_id,
    storable_json,
)
from rms_pipeline.current_rms.links import without_signatures
from rms_pipeline.current_rms.usual_records import reader_of

NULL = Raw(b"null")
_BIGINT_MAX = 2**63 - 1
_MAX_EXPONENT = 1_000
# With such exponents, no more digits than PostgreSQL keeps behind the decimal point.
_LONGEST_NUMBER = 15_000
# From here on, a number with a decimal point or an exponent may stand for its neighbour.
EXACT_FLOAT = 2**53
# The exponent of the greatest number that every parser of JSON can read.
_LARGEST_FLOAT = 307
# An index of the column takes no longer texts (2,700 bytes).
_LONGEST_ELEMENT = 600
_WHOLE = re.compile(r"[+-]?\d{1,19}", re.ASCII)
# Correct JSON may hold a number that does not fit (1e999), or be nested too deeply.
_UNREADABLE = (ValueError, RecursionError)

Value = Any


@dataclass(frozen=True, slots=True)
class Fault:
    """A value that could not be kept as received: which value, why, and how it began."""

    record: int | None
    field: str
    problem: str
    raw_value: str


class _Keyed(msgspec.Struct, frozen=True, gc=False):
    id: Raw = NULL


class Fields(msgspec.Struct, frozen=True, gc=False):
    """Slices of a record under the API's names. A collection adds the fields that it maps."""

    id: Raw = NULL
    created_at: Raw = NULL
    updated_at: Raw = NULL


class Times(Fields, frozen=True, gc=False):
    """The fields that are read of every record, before the others are needed."""

    starts_at: Raw = NULL
    ends_at: Raw = NULL


class Row(msgspec.Struct, frozen=True, gc=False):
    """One record as the mirror maps it. A collection adds an attribute for each mapped column.

    `data` and `fingerprint` are those of its Record.
    """

    id: int
    data: bytes
    fingerprint: bytes
    faults: tuple[Fault, ...]

    if TYPE_CHECKING:
        # Every collection has these.
        @property
        def updated_at_rms(self) -> datetime | None: ...

        def __getattr__(self, column: str) -> Value: ...


class _Problem(Exception):
    """What is wrong with a value. `within` names the part that is wrong, and `part` is that
    part.
    """

    def __init__(self, text: str, within: str = "", part: Raw = NULL) -> None:
        super().__init__(text)
        self.within, self.part = within, part


@dataclass(frozen=True, eq=False, slots=True)
class Mapping:
    """How records of one collection become rows. It is made once from the declaration."""

    collection: Collection
    fields: "msgspec.json.Decoder[Fields]"
    row: Callable[..., Row]
    read: tuple[Callable[[Fields, list[Fault], int], Value], ...]
    # Reads all columns at once from a record of the usual form.
    read_usual: Callable[[bytes], list[Value] | None] | None
    # Part of every fingerprint, so that a row of another mapping never counts as unchanged.
    key: bytes


@cache
def mapping_of(collection: Collection) -> Mapping:
    """Return the mapping of `collection`, the same object each time."""
    mapped = [column for column in collection.columns if column.is_mapped]
    roots = dict.fromkeys(source.partition(".")[0] for c in mapped for source in c.sources)
    fields = msgspec.defstruct(
        f"{collection.single}_fields",
        [(root, Raw, NULL) for root in roots if root not in Fields.__struct_fields__],
        bases=(Fields,),
        frozen=True,
        gc=False,
    )
    row = msgspec.defstruct(
        f"{collection.single}_row",
        [(column.name, Any) for column in mapped],
        bases=(Row,),
        frozen=True,
        gc=False,
    )
    return Mapping(
        collection,
        msgspec.json.Decoder(fields),
        cast(Callable[..., Row], row),
        tuple(_reader(column) for column in mapped),
        reader_of(tuple(mapped)),
        str(collection.version).encode(),
    )


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record whose mapped fields were not read yet.

    `data` is the record as JSON that PostgreSQL can store. `fingerprint` (16 bytes) changes when
    the record as received or the mapping changes. It does not change with links that differ at each
    read (`has_fleeting_links`). `mended` lists what was wrong with the JSON itself.
    """

    id: int
    data: bytes
    fingerprint: bytes
    times: Times
    mapping: Mapping
    mended: tuple[Fault, ...] = ()
    has_fleeting_links: bool = False

    def moment(self, field: str) -> datetime | None:
        """Return the time (UTC) in one of the fields of `times`."""
        try:
            raw: Raw = getattr(self.times, field)
            return None if raw is NULL else _moment(raw)
        except _Problem:
            return None

    def dates(self) -> tuple[datetime | None, datetime | None]:
        """Return when the record starts and ends (UTC), as in its row. None for collections without
        dates.
        """
        if not self.mapping.collection.has_window:
            return None, None
        return self.moment("starts_at"), self.moment("ends_at")

    def updated_at(self) -> datetime | None:
        """Return `updated_at` (UTC), as in the row."""
        return self.moment("updated_at")

    def created_at(self) -> datetime | None:
        """Return `created_at` (UTC)."""
        return self.moment("created_at")

    def decode(self) -> Row:
        """Read all fields. A field that cannot be read becomes None, with a fault."""
        id_, mapping = self.id, self.mapping
        if not self.mended and mapping.read_usual is not None:
            usual = mapping.read_usual(self.data)
            if usual is not None:
                return mapping.row(id_, self.data, self.fingerprint, (), *usual)
        faults = list(self.mended)
        fields = mapping.fields.decode(self.data)
        values = [read(fields, faults, id_) for read in mapping.read]
        # A field that two columns read gives only one fault.
        found = tuple(dict.fromkeys(faults)) if faults else ()
        return mapping.row(id_, self.data, self.fingerprint, found, *values)


_keyed_decoder = msgspec.json.Decoder(_Keyed)
_times_decoder = msgspec.json.Decoder(Times)
_value_decoder = msgspec.json.Decoder(Any)
_BARE = Collection("records", "record", "", "", (Column("updated_at_rms", "timestamptz", ""),))


def record_id(record: Raw) -> int | None:
    """Return the id of a record, or None if it has none that can be a key."""
    try:
        return to_whole(_value_decoder.decode(_keyed_decoder.decode(record).id))
    except _UNREADABLE:
        found = bare_record(record)
        return found.record if isinstance(found, Fault) else found.id


def bare_record(record: Raw) -> Record | Fault:
    """Return `read_record` for a record of any collection, when only its id and times are
    needed.
    """
    return read_record(record, _BARE)


def read_record(record: Raw, collection: Collection) -> Record | Fault:
    """Return one record, still undecoded. Returns a Fault only if it has no id to store it under.

    What strict JSON or PostgreSQL does not accept is repaired. Each repair becomes a fault of its
    field.
    """
    mapping = mapping_of(collection)
    raw = bytes(record)
    data = raw
    mends: list[tuple[str, str, str]] = []
    if storable_json(raw) is not raw or is_too_deep(raw) or (times := _times_of(raw)) is None:
        try:
            data, found = mend_record(raw)
        except ValueError as error:
            return Fault(some_id(raw), "(record)", f"is not a JSON object ({error})", excerpt(raw))
        mends = [(m.field, m.problem, excerpt(m.value)) for m in found]
        times = _times_of(data)
        if times is None:
            problem = "is not valid JSON"
            return Fault(some_id(raw), "(record)", problem, excerpt(raw))
    try:
        key = _whole(times.id)
        said = [p for field, p, _ in mends if field == "id"]
    except _Problem as problem:
        key, said = None, [str(problem)]
    if key is None:
        why = said[0] if said else "is missing, and a record without it cannot be stored"
        return Fault(None, "id", why, excerpt(raw))
    lasting = without_signatures(raw)
    has_fleeting_links = lasting != raw
    if collection.volatile:
        lasting = _without(lasting, collection.volatile)
    return Record(
        id=key,
        data=data,
        fingerprint=blake2b(lasting, digest_size=16, key=mapping.key).digest(),
        times=times,
        mapping=mapping,
        mended=tuple(Fault(key, *mend) for mend in mends),
        has_fleeting_links=has_fleeting_links,
    )


def with_storable_numbers(record: Record) -> Record | None:
    """Return `record` without the numbers that PostgreSQL refuses in JSON, each noted as mended.

    Returns None if it has no such number. Call this only for a record that PostgreSQL has refused:
    looking at each number costs more than everything else.
    """
    data, mends = mend_numbers(record.data)
    if not mends:
        return None
    faults = tuple(Fault(record.id, m.field, m.problem, excerpt(m.value)) for m in mends)
    return msgspec.structs.replace(record, data=data, mended=record.mended + faults)


def decode_record(record: Raw, collection: Collection) -> Row | Fault:
    """Return one record with all mapped fields. Returns a Fault only if it has no id to store it
    under.
    """
    found = read_record(record, collection)
    return found if isinstance(found, Fault) else found.decode()


def same_but_for_links(one: bytes, other: bytes) -> bool:
    """Return whether two records (JSON) are equal, except for links that differ at each read."""
    try:
        first, second = (_value_decoder.decode(without_signatures(r)) for r in (one, other))
    except _UNREADABLE:
        return False
    return bool(first == second)


def to_whole(value: object) -> int | None:
    """Return a key of the API, or None if absent. Raises ValueError if it is no whole 64-bit
    number.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        value = int(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT_FLOAT:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("not a whole number")
    if not -_BIGINT_MAX <= value <= _BIGINT_MAX:
        raise ValueError("out of range")
    return value


def excerpt(raw: bytes) -> str:
    """Return the beginning of what came, as text that PostgreSQL can store."""
    return raw[:1_000].decode(errors="replace").replace("\x00", "\ufffd")


def _times_of(record: bytes) -> Times | None:
    try:
        return _times_decoder.decode(record)
    except (msgspec.DecodeError, RecursionError):
        return None


def _without(record: bytes, names: tuple[str, ...]) -> bytes:
    try:
        members = members_of(record)
    except ValueError:
        return record
    left = {name.encode() for name in names}
    return b",".join(b"%b:%b" % (k, v) for k, v in members.items() if k not in left)


# Reading one column


def _reader(column: Column) -> Callable[[Fields, list[Fault], int], Value]:
    """Return a function that reads `column` from the slices of a record: the first source with a
    value.
    """
    convert = _KINDS[column.kind]
    sources = []
    for source in column.sources:
        root, _, member = source.partition(".")
        sources.append((root, attrgetter(root), _member(member, convert) if member else convert))
    otherwise, longest = column.otherwise, column.longest

    def read(fields: Fields, faults: list[Fault], id_: int) -> Value:
        for name, slice_of, convert in sources:
            raw = slice_of(fields)
            if raw is NULL:
                continue
            try:
                value = convert(raw)
            except _Problem as problem:
                where, part = name, raw
                if problem.within:
                    where, part = f"{name}.{problem.within}", problem.part
                faults.append(Fault(id_, where, str(problem), excerpt(bytes(part))))
                continue
            if value is None:
                continue
            if longest is not None and len(value) > longest:
                told = f"is longer than {longest} characters"
                faults.append(Fault(id_, column.name, told, value[:1_000]))
                return None
            return value
        return None if otherwise is None else otherwise.format(id=id_)

    return read


def _member(name: str, convert: Callable[[Raw], Value]) -> Callable[[Raw], Value]:
    """Return a function that reads the member `name` of the object in a field."""
    member = msgspec.defstruct(name, [(name, Raw, NULL)], frozen=True, gc=False)
    decoder = msgspec.json.Decoder(member)
    slice_of = attrgetter(name)

    def read(raw: Raw) -> Value:
        if bytes(raw) in (b"null", b'""'):
            return None
        try:
            found = slice_of(decoder.decode(raw))
        except _UNREADABLE:
            raise _Problem(f"is not an object with a {name}") from None
        if found is NULL:
            return None
        try:
            return convert(found)
        except _Problem as problem:
            raise _Problem(str(problem), name, found) from None

    return read


def _decoded(raw: Raw, problem: str = "is not a valid value") -> object:
    try:
        return _value_decoder.decode(raw)
    except _UNREADABLE:
        raise _Problem(problem) from None


def _text(raw: Raw) -> str | None:
    try:
        value: object = _value_decoder.decode(raw)
    except _UNREADABLE:
        return _number_as_text(raw)
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return bytes(raw).decode()
    if isinstance(value, int | float):
        return _number_as_text(raw)
    raise _Problem("is not text")


def _number_as_text(raw: Raw) -> str:
    """Return a number as `jsonb` writes it, so that a rebuild reads the same from `data`."""
    try:
        number = Decimal(bytes(raw).decode())
    except InvalidOperation:
        raise _Problem("is not a valid value") from None
    if abs(number.adjusted()) > _LARGEST_FLOAT:
        raise _Problem("is not a valid value")
    return f"{number if number else abs(number):f}"


def _whole(raw: Raw) -> int | None:
    try:
        return to_whole(_value_decoder.decode(raw))
    except _UNREADABLE:
        raise _Problem("is not a whole number of 64 bits") from None


def _moment(raw: Raw) -> datetime | None:
    try:
        value: object = _value_decoder.decode(raw)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise TypeError
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is UTC:
            return moment
        # A time without an offset is UTC, because the API writes all its other times in UTC.
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (TypeError, OverflowError, *_UNREADABLE):
        raise _Problem("is not a date and time") from None


def _decimal(raw: Raw) -> Decimal | None:
    # Keep the digits as written. A float would change some of them.
    text = bytes(raw).decode().strip('"').strip()
    if text in ("", "null"):
        return None
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise _Problem("is not a number") from None
    if "_" in text:  # Python reads 1_250 as 1250. Nothing says that its writer meant that.
        raise _Problem("is not a number")
    if (
        not number.is_finite()
        or abs(number.adjusted()) > _MAX_EXPONENT
        or len(text) > _LONGEST_NUMBER
    ):
        raise _Problem("is not a finite number that PostgreSQL can store")
    return number


_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _flag(raw: Raw) -> bool | None:
    value = _decoded(raw)
    if value is None or value == "":
        return None
    found = _FLAGS.get(str(value).strip().lower()) if isinstance(value, str | int | bool) else None
    if found is None:
        raise _Problem("is neither true nor false")
    return found


def _texts(raw: Raw) -> list[str] | None:
    value = _decoded(raw)
    if value is None or value == "":
        return None
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise _Problem("is not a list of texts")
    if any(len(text) > _LONGEST_ELEMENT for text in value):
        raise _Problem(f"holds a text of more than {_LONGEST_ELEMENT} characters")
    return value


def _json(raw: Raw) -> bytes | None:
    found = bytes(raw)
    return None if found in (b"null", b'""') else found


_KINDS: dict[str, Callable[[Raw], Value]] = {
    "text": _text,
    "bigint": _whole,
    "timestamptz": _moment,
    "numeric": _decimal,
    "boolean": _flag,
    "text[]": _texts,
    "jsonb": _json,
}
