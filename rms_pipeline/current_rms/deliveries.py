"""What a webhook delivery of Current RMS tells: of which record, what was done to it, and when.

The vendor describes deliveries nowhere, and accounts differ in how they are spelled. So whatever
may be about a record of ours is taken to be.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.lenient import storable_json

BIGINT_MAX = 2**63 - 1
_SHORT, _MOST_FIELDS = 500, 50


class NotADelivery(ValueError):
    """The body is no webhook delivery; the text says why."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """A delivery. `record` of `collection` is None when it tells of none: `because` says so.

    `happened_at` (UTC) is Current RMS's own time of it. `payload` is the whole body as JSON that
    PostgreSQL can hold.
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
        """The payload without its long and nested fields, for one that is too long to be kept."""
        action = msgspec.json.decode(self.payload)["action"]
        short = {
            name: value
            for name, value in list(action.items())[:_MOST_FIELDS]
            if len(name) <= _SHORT
            and (not isinstance(value, str) or len(value) <= _SHORT)
            and not isinstance(value, dict | list)
        }
        size = len(self.payload)
        return msgspec.json.encode({"action": short, "shortened": f"It had {size} bytes."})


class _Shape(msgspec.Struct, frozen=True):
    action: dict[str, Any]


def read_delivery(body: bytes, collections: Sequence[Collection]) -> Delivered:
    """What `body` tells of a record of `collections`, of the first where it does not say of which.

    Raises NotADelivery when `body` is not JSON with a whole-number `action.subject_id`."""
    payload = storable_json(body)
    try:
        action = msgspec.json.decode(payload, type=_Shape).action
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise NotADelivery(
            f'The body is not JSON of the form {{"action": {{...}}}}: {error}'
        ) from None
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


def _record(
    action: dict[str, Any], subject: int, collections: Sequence[Collection]
) -> tuple[Collection | None, int | None, str | None]:
    """Of which collection which record it is about, else why that cannot be told."""
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
        # What belongs to a record names it somewhere, or nobody can tell which it is.
        for place in (action, named if isinstance(named, dict) else {}):
            if told.names and (found := _whole(place.get(told.names))) is not None:
                return collection, found, None
        source = _whole(action.get("source_id"))
        if source is not None and source_kind in told.subjects:
            return collection, source, None
        if kind in told.parts:
            because = f"an {said} that does not say of which {collection.single}"
    return None, None, because


def _kind(value: object) -> str:
    """`CurrentRMS::Opportunity`, `opportunities`, `opportunity_item`, as one word in lower case."""
    if not isinstance(value, str):
        return ""
    last = value.replace("/", "::").rpartition("::")[2]
    return "".join(c for c in last.lower() if c.isalnum())


def _action(value: object, collection: Collection) -> str | None:
    """What was done, as subscriptions call it: `Update`, `opportunity_update` are `update`."""
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
    if isinstance(value, float) and value.is_integer():
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
