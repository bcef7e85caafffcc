"""Values of fields as people read them, and their changes."""

import contextlib
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.insight.changes import ChangeLine
from rms_pipeline.web.formatting import ABSENT, Clock, money, signed_money

_LONGEST = 200
_OWN = "custom_fields."
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:?\d\d)")
_KINDS = {column.name: column.kind for column in OPPORTUNITIES.columns}
_TITLES = {
    "opportunity_status": "Status",
    "state_name": "State",
    "organisation_name": "Customer",
    "organisation_id": "Customer's id",
    "venue_name": "Venue",
    "venue_id": "Venue's id",
    "owner_name": "Owner",
    "owner_id": "Owner's id",
    "charge_total": "Charge without tax",
    "charge_excluding_tax_total": "Charge excluding tax",
    "charge_including_tax_total": "Charge including tax",
    "total_value": "Charge with tax",
    "tax_total": "Tax",
    "weight_total": "Weight",
    "tags": "Tags",
    "quote_invalid_at": "Quotation holds until",
    "starts_at": "Hire starts",
    "ends_at": "Hire ends",
}


def field_title(field: str) -> str:
    """Charge without tax, Deliver starts, or the key of a custom field."""
    if field in _TITLES:
        return _TITLES[field]
    if field.startswith(_OWN):
        return field.removeprefix(_OWN)
    return field.removesuffix("_at").removesuffix("_rms").replace("_", " ").capitalize()


def in_words(sentence: str) -> str:
    """`sentence` with the titles of fields in place of their columns: hire starts, po_received."""

    def title(found: re.Match[str]) -> str:
        column = found[0]
        is_known = column in _KINDS or column.startswith(_OWN)
        words = field_title(column) if is_known else column
        return words if column.startswith(_OWN) else words[:1].lower() + words[1:]

    # A column of one word reads well as it is, and may be a word of anybody's.
    return re.sub(rf"\b(?:{re.escape(_OWN)}|[a-z]+(?:_[a-z]+)+\b)", title, sentence)


def line_title(line: ChangeLine) -> str:
    """The title of the field, and whether somebody was renamed."""
    title = field_title(line.field)
    return f"{title} renamed" if line.is_rename else title


@dataclass(frozen=True, slots=True)
class Shown:
    """`before` and `after` as texts, and the difference between them if it is meaningful."""

    before: str
    after: str
    difference: str = ""


def shown_change(field: str, before: str | None, after: str | None, clock: Clock) -> Shown:
    """A row of opportunity_changes as text."""
    kind = _KINDS.get(field)
    # What people put into the table by hand need not be of its kind.
    with contextlib.suppress(ValueError, InvalidOperation):
        if kind == "numeric":
            old, new = (None if v is None else Decimal(v) for v in (before, after))
            return Shown(money(old), money(new), signed_money((new or 0) - (old or Decimal())))
        if kind == "timestamptz":
            was, is_ = (None if v is None else datetime.fromisoformat(v) for v in (before, after))
            moved = _moved(is_ - was) if was and is_ else ""
            return Shown(clock.minute(was), clock.minute(is_), moved)
    if field.startswith(_OWN):
        before, after = (None if v is None else own_value(v, clock) for v in (before, after))
    return Shown(_text(kind, before), _text(kind, after))


def own_value(text: str, clock: Clock) -> str:
    """The value `text` of a custom field. Days and times are written as everywhere. A time at
    midnight UTC is a day, as in the columns of promoted fields."""
    with contextlib.suppress(ValueError, OverflowError):
        if _DAY.fullmatch(text):
            return clock.day(date.fromisoformat(text))
        if _MOMENT.fullmatch(text):
            moment = datetime.fromisoformat(text).astimezone(UTC)
            is_day = moment.time() == time()
            return clock.day(moment.date()) if is_day else clock.minute(moment)
    return text


def _text(kind: str | None, value: str | None) -> str:
    if value is None or value == "":
        return ABSENT
    if kind == "boolean":
        return "yes" if value == "true" else "no"
    if kind == "text[]":
        value = value.strip("{}").replace('"', "").replace(",", ", ") or ABSENT
    return value if len(value) <= _LONGEST else f"{value[:_LONGEST].rstrip()}…"


def _moved(by: timedelta) -> str:
    """+3 d, −2 h 30 min"""
    minutes = round(abs(by.total_seconds()) / 60)
    days, rest = divmod(minutes, 24 * 60)
    hours, minutes = divmod(rest, 60)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"))
    told = " ".join(f"{count:,} {unit}" for count, unit in parts if count)
    return f"{'+' if by > timedelta() else '−'}{told}" if told else ""
