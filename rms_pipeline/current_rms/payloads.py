"""From records of the API to typed opportunities, losing neither a row nor a reason."""

from datetime import datetime
from decimal import Decimal
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec import Raw

from rms_pipeline.current_rms.fields import NULL, Fault, Fields, Reader, excerpt, to_whole
from rms_pipeline.current_rms.lenient import mend_record, some_id, storable_json
from rms_pipeline.current_rms.links import without_signatures

# Raise it when the mapping changes, or which records have a fingerprint in the mirror: that, when
# next opened, decodes all its rows again from `data`. It is part of every fingerprint too, so no
# row from before passes for unchanged.
MAPPING_VERSION = b"2"


class _Keyed(msgspec.Struct, frozen=True, gc=False):
    id: Raw = NULL


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
    record as received, or the mapping, does, but not with links that differ at each read
    (`has_fleeting_links`). `mended` is what was wrong with the JSON itself.
    """

    id: int
    data: bytes
    fingerprint: bytes
    fields: Fields
    mended: tuple[Fault, ...] = ()
    has_fleeting_links: bool = False

    def dates(self) -> tuple[datetime | None, datetime | None]:
        """`starts_at` and `ends_at` (UTC), as in the whole opportunity."""
        reader = Reader(self.fields, [], self.id)
        return reader.moment("starts_at"), reader.moment("ends_at")

    def updated_at(self) -> datetime | None:
        """`updated_at` (UTC), as in the whole opportunity."""
        return Reader(self.fields, [], self.id).moment("updated_at")

    def decode(self) -> Opportunity:
        """All of it; what cannot be read is None, and a fault."""
        faults = list(self.mended)
        reader = Reader(self.fields, faults, self.id)
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


_fields_decoder = msgspec.json.Decoder(Fields)
_keyed_decoder = msgspec.json.Decoder(_Keyed)
_value_decoder = msgspec.json.Decoder(Any)


def record_id(record: Raw) -> int | None:
    """The id of a record, None when it has none that could be a key."""
    try:
        return to_whole(_value_decoder.decode(_keyed_decoder.decode(record).id))
    except (ValueError, RecursionError):
        found = read_record(record)
        return found.opportunity_id if isinstance(found, Fault) else found.id


def read_record(record: Raw) -> Record | Fault:
    """One record, still undecoded; a Fault only when there is no id to store it under.

    What strict JSON or PostgreSQL does not take in it is mended, and a fault of its field.
    """
    raw = bytes(record)
    data = raw
    mends: list[tuple[str, str, str]] = []
    if storable_json(raw) is not raw or (fields := _fields_of(raw)) is None:
        try:
            data, found = mend_record(raw)
        except ValueError as error:
            return Fault(some_id(raw), "(record)", f"is not a JSON object ({error})", excerpt(raw))
        mends = [(m.field, m.problem, excerpt(m.value)) for m in found]
        fields = _fields_of(data)
        if fields is None:
            problem = "is not JSON that can be read"
            return Fault(some_id(raw), "(record)", problem, excerpt(raw))
    faults: list[Fault] = []
    key = Reader(fields, faults).whole("id")
    if key is None:
        said = [f.problem for f in faults] + [p for field, p, _ in mends if field == "id"]
        problem = said[0] if said else "is absent, and without it nothing can be stored"
        return Fault(None, "id", problem, excerpt(raw))
    lasting = without_signatures(raw)
    return Record(
        id=key,
        data=data,
        fingerprint=blake2b(lasting, digest_size=16, key=MAPPING_VERSION).digest(),
        fields=fields,
        mended=tuple(Fault(key, *mend) for mend in mends),
        has_fleeting_links=lasting != raw,
    )


def same_but_for_links(one: bytes, other: bytes) -> bool:
    """Whether two records, as JSON, say the same but for links that differ at each read."""
    try:
        first, second = (_value_decoder.decode(without_signatures(r)) for r in (one, other))
    except (ValueError, RecursionError):
        return False
    return bool(first == second)


def _fields_of(record: bytes) -> Fields | None:
    try:
        return _fields_decoder.decode(record)
    except (msgspec.DecodeError, RecursionError):
        return None


def decode_record(record: Raw) -> Opportunity | Fault:
    """One record with all its mapped fields; a Fault only when there is no id to store it under."""
    found = read_record(record)
    return found if isinstance(found, Fault) else found.decode()
