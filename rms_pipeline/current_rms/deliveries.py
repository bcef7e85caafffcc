"""Reads a webhook delivery of Current RMS: which record it is about, what happened to it, and when.

The vendor does not document deliveries, and accounts spell them differently. So a delivery that may
be about one of our records is treated as one. A wrong field costs only that field.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Raw

from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.lenient import members_of, mend_record, storable_json
from rms_pipeline.current_rms.records import EXACT_FLOAT

BIGINT_MAX = 2**63 - 1
_SHORT, _MOST_FIELDS = 500, 50


class NotADelivery(ValueError):
    """The body is not a webhook delivery. The text says why."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """A delivery. If it is about no record of ours, `record` is None and `because` says why.

    `collection` is the collection of `record`. `happened_at` (UTC) is Current RMS's own time of the
    event. `payload` is the whole body as JSON that PostgreSQL can store.
    """

    action_id: int | None
    action_type: str | None
    subject_type: str | None
    collection: Collection | None
    record: int | None
    member_id: int | None
    member_name: str | None
    happened_at: datetime | None
    payload: bytes
    because: str | None

    def shortened(self) -> bytes:
        """Return the payload without long and nested fields, and without numbers that PostgreSQL
        may refuse.

        It is stored in place of a payload that cannot be stored whole.
        """
        action = _decoder.decode(self.payload).action
        short = {
            name: value
            for name, value in list(action.items())[:_MOST_FIELDS]
            if len(name) <= _SHORT and _is_short(value)
        }
        size = len(self.payload)
        return msgspec.json.encode({"action": short, "shortened": f"It had {size} bytes."})


class _Shape(msgspec.Struct, frozen=True):
    action: dict[str, Raw]


_decoder = msgspec.json.Decoder(_Shape)
_value_decoder = msgspec.json.Decoder(Any)
# Recognised by its beginning: a text, true, false, null, or a number of ordinary length.
_PLAIN = re.compile(rb'"|[tfn]|-?\d{1,19}(?:\.\d{1,19})?\Z')


def read_delivery(body: bytes, collections: Sequence[Collection]) -> Delivered:
    """Read `body` as a delivery about a record of one of `collections`.

    If the delivery does not name its collection, the first one is assumed. Raises NotADelivery if
    `body` is not JSON with a whole number in `action.subject_id`.
    """
    payload, fields = _fields(body)
    action = {
        name: _value(raw) for name, raw in fields.items() if name in _READ | _names(collections)
    }
    subject = _whole(action.get("subject_id"))
    if subject is None:
        raise NotADelivery("action.subject_id is not a whole number.")
    collection, record, because = _record(action, subject, collections)
    member = action.get("member")
    return Delivered(
        action_id=_whole(action.get("id")),
        action_type=_action(action.get("action_type"), collection or collections[0]),
        subject_type=_text(action.get("subject_type")),
        collection=collection,
        record=record,
        member_id=_whole(action.get("member_id")),
        member_name=_text(member.get("name")) if isinstance(member, dict) else None,
        happened_at=_moment(action.get("created_at")) or _moment(action.get("updated_at")),
        payload=payload,
        because=because,
    )


_READ = frozenset(
    {"id", "subject_id", "subject_type", "subject", "source_id", "source_type", "action_type"}
    | {"member_id", "member", "created_at", "updated_at"}
)


def _names(collections: Sequence[Collection]) -> set[str]:
    return {c.webhooks.names for c in collections if c.webhooks is not None}


def _fields(body: bytes) -> tuple[bytes, dict[str, Raw]]:
    """Return `body` as JSON that PostgreSQL can store, and its `action`. Raises NotADelivery.

    Where a field holds what strict JSON does not allow (NaN, a control character, a thousand
    brackets), it is repaired or set to null.
    """
    payload = storable_json(body)
    try:
        return payload, _decoder.decode(payload).action
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        refused = error
    try:
        mended, _ = mend_record(members_of(body)[b"action"])
        payload = b'{"action":%b}' % mended
        return payload, _decoder.decode(payload).action
    except (ValueError, KeyError, RecursionError):
        raise NotADelivery(
            f'The body is not JSON of the form {{"action": {{...}}}}: {refused}'
        ) from None


def _value(raw: Raw) -> Any:
    """Decode `raw`. Returns None if it cannot be read."""
    try:
        return _value_decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None


def _is_short(value: Raw) -> bool:
    raw = bytes(value)
    return len(raw) <= _SHORT and _PLAIN.match(raw) is not None


def _record(
    action: dict[str, Any], subject: int, collections: Sequence[Collection]
) -> tuple[Collection | None, int | None, str | None]:
    """Return the collection and id of the record that the delivery is about, or the reason why they
    are unknown.
    """
    kind = _kind(action.get("subject_type"))
    if not kind:
        return collections[0], subject, None
    source_kind, named = _kind(action.get("source_type")), action.get("subject")
    said = str(action.get("subject_type"))[:100]
    because = f"not an opportunity: {said}"
    for collection in collections:
        told = collection.webhooks
        if told is None:
            continue
        if kind in told.subjects:
            return collection, subject, None
        # A part has to name its parent somewhere. Otherwise the parent is unknown.
        for place in (action, named if isinstance(named, dict) else {}):
            if told.names and (found := _whole(place.get(told.names))) is not None:
                return collection, found, None
        source = _whole(action.get("source_id"))
        if source is not None and source_kind in told.subjects:
            return collection, source, None
        if kind in told.parts:
            because = f"an {said} that does not name its {collection.single}"
    return None, None, because


def _kind(value: object) -> str:
    """Return `CurrentRMS::Opportunity`, `opportunities` or `opportunity_item` as one word in lower
    case.
    """
    if not isinstance(value, str):
        return ""
    last = value.replace("/", "::").rpartition("::")[2]
    return "".join(c for c in last.lower() if c.isalnum())


def _action(value: object, collection: Collection) -> str | None:
    """Return the event in the spelling of subscriptions: `Update` and `opportunity_update` become
    `update`.
    """
    text = _text(value)
    if text is None or len(text) > _SHORT:
        return text
    word = "_".join(text.strip().lower().replace("-", " ").replace(".", " ").split())
    return word.removeprefix(f"{collection.single}_") or text


def _whole(value: object) -> int | None:
    if isinstance(value, str):
        value = value.strip()
        if not (value.isascii() and value.isdigit() and len(value) <= 19):
            return None
        value = int(value)
    if isinstance(value, float) and value.is_integer() and value < EXACT_FLOAT:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= BIGINT_MAX:
        return None
    return value


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _moment(value: object) -> datetime | None:
    text = _text(value)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
