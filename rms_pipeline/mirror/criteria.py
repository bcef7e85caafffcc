"""The criteria of a list of opportunities, and their SQL condition. Every value is a parameter."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from rms_pipeline.mirror.blocks import BLOCK, BLOCKS, HELD_IN_BLOCK
from rms_pipeline.mirror.statuses import OUTCOMES
from rms_pipeline.mirror.summary import NO_STATUS
from rms_pipeline.mirror.words import BLOCK_BITS

_BIGINT_MAX = 2**63 - 1
# From this share of all ids on, words are frequent.
_FREQUENT = 0.3
_NUMBER = "left(data ->> 'number', 100)"
_WIDEST_NUMBER = 12
# Equipment leaves when the delivery starts, or else when the hire starts. It is back when the
# collection ends, or else when the hire ends.
GOES_OUT = "coalesce(deliver_starts_at, starts_at)"
COMES_BACK = "coalesce(collect_ends_at, ends_at)"
# The day of what has no hire: it has one date alone, or an end before its start. An index has it of
# exactly these.
ONE_DATE = "coalesce(deliver_starts_at, starts_at, collect_ends_at, ends_at)"
# In place of a venue or an owner: those without one.
NOBODY = "is:none"
# How much of a text an index holds. People type long texts, and PostgreSQL limits the size of index
# entries.
_INDEXED_LETTERS = 100
INDEXED = f"left({{column}}, {_INDEXED_LETTERS})"


@dataclass(frozen=True, slots=True)
class Days:
    """From the day `first` to the day `last`, both included. None means no limit on that side."""

    first: date | None = None
    last: date | None = None

    @property
    def is_empty(self) -> bool:
        return self.first is not None and self.last is not None and self.first > self.last


@dataclass(frozen=True, slots=True)
class FieldFilter:
    """A condition on a promoted field: the value in `column`, of type `kind`, is `text`.

    For numbers and dates, `text` may be a range with `..` between its ends. If `text` cannot be
    read as such a value, no row fits.
    """

    column: str
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Searched:
    """The result of a search: these `ids`. If it found more than these, which are some of the
    newest, `also` has the tsquery.

    In `also`, `BLOCK` stands for the block of a row.
    """

    ids: tuple[int, ...]
    also: str = ""

    @property
    def is_frequent(self) -> bool:
        """Return whether so many rows match that looking at rows finds some soon."""
        return len(self.ids) > _FREQUENT * (max(self.ids) - min(self.ids) + 1)


@dataclass(frozen=True, slots=True)
class Customers:
    """The customers that a text means: these `names`.

    If there are too many, all customers whose known name has the words of this tsquery. No row has
    one of the names without one of the `ids`, which are empty if they are not known.
    """

    names: tuple[str, ...]
    words: str = ""
    ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Criteria:
    """What to list. Days are those of `time_zone`.

    - `search` finds an id, the beginning of a number (digits may leave out leading zeros), or part
      of a name or customer. If it was looked up before, `searched` has the result.
    - `customer` is part of a customer's name. If it was looked up before, `customers` has the
      result.
    - `status`, `state`, `venue`, `owner` and the ids have to be equal. `NO_STATUS` is the absent
      status, and a key of `OUTCOMES` stands for several statuses. `NOBODY` in place of a venue or
      an owner finds those that have none.
    - `tags` all have to be there.
    - `on_hire` has to overlap the hire, or to hold the one date of what has no hire. The other days
      are when it starts, goes out, comes back, was confirmed and was created.
    - `least` and `greatest` limit the value with tax, both included.
    - `sort` is a key of `browse.SORTS`, with a leading `-` for descending.
    """

    search: str = ""
    status: str = ""
    customer: str = ""
    owner: str = ""
    starts_from: date | None = None
    starts_to: date | None = None
    sort: str = "-updated"
    time_zone: str = "UTC"
    state: str = ""
    venue: str = ""
    customer_id: int | None = None
    venue_id: int | None = None
    owner_id: int | None = None
    store_id: int | None = None
    tags: tuple[str, ...] = ()
    least: Decimal | None = None
    greatest: Decimal | None = None
    on_hire: Days = Days()
    goes_out: Days = Days()
    comes_back: Days = Days()
    starts: Days = Days()
    confirmed: Days = Days()
    created: Days = Days()
    fields: tuple[FieldFilter, ...] = ()
    searched: Searched | None = None
    customers: Customers | None = None


# The moment that each kind of day filter is about.
_MOMENTS = {
    "goes_out": GOES_OUT,
    "comes_back": COMES_BACK,
    "starts": "starts_at",
    "confirmed": "confirmed_at",
    "created": "created_at_rms",
}

_IDS = {
    "customer_id": "organisation_id",
    "venue_id": "venue_id",
    "owner_id": "owner_id",
    "store_id": "store_id",
}


def condition(criteria: Criteria, *, of_all: bool = False) -> tuple[str, dict[str, Any]]:
    """Return the condition and its parameters. Every value is a parameter.

    `of_all` is for a query that reads all rows that meet it. Words are then found by their index,
    unless they are frequent. Otherwise the words of each row are looked at.
    """
    parts, values = _parts(criteria, of_all)
    return " AND ".join(["true", *(text for _, text in parts)]), values


def limits_on(expression: str, criteria: Criteria, *, is_absent: bool = False) -> str:
    """Return what `condition` demands of `expression`, with the same parameters, or "true".

    A list in the order of `expression` begins and ends there. `is_absent` is for its rows that have
    no value of `expression`.
    """
    parts, _ = _parts(criteria, False)
    limits = [text for about, text in parts if about == expression]
    if expression == GOES_OUT and criteria.on_hire.last is not None and not is_absent:
        # What is out on a day went out before its end. What has an end alone has no such time.
        limits.append(f"{GOES_OUT} < %(hire_last)s::timestamptz")
    return " AND ".join(limits or ["true"])


# What a part of the condition is about, if it is one expression, and the part.
_Part = tuple[str | None, str]


def _parts(criteria: Criteria, of_all: bool) -> tuple[list[_Part], dict[str, Any]]:
    conditions: list[_Part] = []
    values: dict[str, Any] = {}
    if criteria.searched is not None:
        conditions.append((None, _held(criteria.searched, values, of_all)))
    elif criteria.search:
        parts, known = search_parts(criteria.search)
        conditions.append((None, f"({' OR '.join(parts)})"))
        values |= known
    if criteria.status == NO_STATUS:
        # A company may have a real status with this name.
        conditions.append((None, "(opportunity_status IS NULL OR opportunity_status = %(status)s)"))
        values["status"] = NO_STATUS
    elif outcome := OUTCOMES.get(criteria.status):
        conditions.append((None, outcome.condition))
    elif criteria.status:
        conditions.append(("opportunity_status", "opportunity_status = %(status)s"))
        values["status"] = criteria.status
    if criteria.customers is not None:
        conditions.append((None, _named(criteria.customers, values)))
    elif criteria.customer:
        conditions.append((None, "organisation_name ILIKE %(customer)s"))
        values["customer"] = f"%{literally(criteria.customer)}%"
    if criteria.state:
        conditions.append((None, "state_name = %(state)s"))
        values["state"] = criteria.state
    for name, column in _IDS.items():
        if (id_ := getattr(criteria, name)) is not None:
            conditions.append((None, f"{column} = %({name})s"))
            values[name] = id_
    for name, text in {"owner": criteria.owner, "venue": criteria.venue}.items():
        column = f"{name}_name"
        start = INDEXED.format(column=column)
        if text == NOBODY:
            conditions.append((start, f"{start} IS NULL"))
        elif text:
            conditions.append((start, f"{start} = left(%({name})s, {_INDEXED_LETTERS})"))
            if not _is_indexed_whole(text):
                conditions.append((None, f"{column} = %({name})s"))
            values[name] = text
    if criteria.tags:
        conditions.append((None, "tags @> %(tags)s::text[]"))
        values["tags"] = [without_nul(tag) for tag in criteria.tags]
    for name, sign in (("least", ">="), ("greatest", "<=")):
        if (limit := getattr(criteria, name)) is not None:
            conditions.append(("total_value", f"total_value {sign} %({name})s"))
            values[name] = limit
    _days(criteria, conditions, values)
    for number, field in enumerate(criteria.fields):
        conditions.append((None, _field(field, f"field_{number}", values)))
    texts = {k: without_nul(v) for k, v in values.items() if isinstance(v, str)}
    return conditions, values | texts


def _held(found: Searched, values: dict[str, Any], of_all: bool) -> str:
    if not found.also:
        # As one text, which PostgreSQL reads faster than ten thousand numbers.
        values["searched"] = "{" + ",".join(map(str, found.ids)) + "}"
        return "id = ANY(%(searched)s::bigint[])"
    if of_all and not found.is_frequent:
        values |= {"query": found.also, "before": None, "blocks": None}
        return (
            f"id IN (SELECT held.id FROM ({BLOCKS} SELECT w.id FROM blocks CROSS JOIN LATERAL"
            f" {HELD_IN_BLOCK} WHERE block IS NOT NULL) held)"
        )
    values["words"] = found.also
    # The words of a row are found by its id. A join might read the words of all rows instead.
    return (
        "(SELECT w.words @@ replace(%(words)s,"
        f" '{BLOCK}', (w.id >> {BLOCK_BITS})::text)::tsquery"
        f" FROM opportunity_words w WHERE w.id = opportunities.id)"
    )


def _named(found: Customers, values: dict[str, Any]) -> str:
    if found.words:
        values["customer_words"] = found.words
        # A subquery runs once. A join might not.
        return (
            "(organisation_name IN (SELECT k.name FROM known_names k"
            " WHERE k.collection = 'opportunities' AND k.kind = 'customer'"
            " AND k.words @@ %(customer_words)s::tsquery)) IS TRUE"
        )
    values["customers"] = list(found.names)
    values["customer_starts"] = [name[:100] for name in found.names]
    held = f"{INDEXED.format(column='organisation_name')} = ANY(%(customer_starts)s::text[])"
    if all(map(_is_indexed_whole, found.names)):
        return held
    return f"({held} AND organisation_name = ANY(%(customers)s::text[]))"


def _is_indexed_whole(text: str) -> bool:
    """Return whether comparing only the indexed part (`INDEXED`) is exact for `text`.

    Then no second condition is added. With two conditions of equal meaning, PostgreSQL expects too
    few rows, and chooses a plan that is slow for many.
    """
    # In bytes, for a database whose encoding has no notion of letters.
    return len(text.encode(errors="replace")) < _INDEXED_LETTERS


def search_parts(text: str) -> tuple[list[str], dict[str, Any]]:
    """Return conditions and parameters that find `text` other than by its words. One must hold."""
    text = without_nul(text)
    values: dict[str, Any] = {}
    found = ["name ILIKE %(part)s", "organisation_name ILIKE %(part)s"]
    # A separate subquery, because otherwise every record would be unpacked for its number.
    found.append(f"id IN (SELECT id FROM opportunities WHERE {_NUMBER} LIKE %(start)s)")
    if padded := _padded(text):
        found.append(f"id IN (SELECT id FROM opportunities WHERE {_NUMBER} = ANY(%(padded)s))")
        values["padded"] = padded
    if re.fullmatch(r"-?[0-9]{1,100}", text):
        number = int(text)
        if abs(number) <= _BIGINT_MAX:
            found.append("id = %(id)s")
            values["id"] = number
    literal = literally(text)
    return found, values | {"part": f"%{literal}%", "start": f"{literal}%"}


def _days(criteria: Criteria, conditions: list[_Part], values: dict[str, Any]) -> None:
    asked = {name: (moment, getattr(criteria, name)) for name, moment in _MOMENTS.items()}
    asked["from_to"] = ("starts_at", Days(criteria.starts_from, criteria.starts_to))
    for name, (moment, days) in asked.items():
        if days.first is not None:
            conditions.append((moment, f"{moment} >= %({name}_first)s::timestamptz"))
            values[f"{name}_first"] = _begin(days.first, criteria.time_zone)
        if days.last is not None:
            conditions.append((moment, f"{moment} < %({name}_last)s::timestamptz"))
            values[f"{name}_last"] = _end(days.last, criteria.time_zone)
        if name == "comes_back" and days != Days():
            # Its end is unknown.
            conditions.append((None, "open_ended_rental IS NOT TRUE"))
    on_hire = criteria.on_hire
    if on_hire.is_empty:
        conditions.append((None, "false"))
    elif on_hire != Days():
        first, last = on_hire.first, on_hire.last
        from_, to = "%(hire_first)s::timestamptz", "%(hire_last)s::timestamptz"
        # PostgreSQL raises an error for a range whose end is before its start.
        conditions.append(
            (None, is_out(from_, to, is_from=first is not None, is_to=last is not None))
        )
        values["hire_first"] = None if first is None else _begin(first, criteria.time_zone)
        values["hire_last"] = None if last is None else _end(last, criteria.time_zone)


def is_out(starts: str, ends: str, *, is_from: bool = True, is_to: bool = True) -> str:
    """Return the condition that equipment is out at any time from `starts` until before `ends`.

    Both are SQL. Without `is_from` or `is_to`, that one is null, and means no limit. What has one
    date alone is out then. Whoever asks for a day would miss it otherwise.
    """
    limits = ["hire IS NULL"]
    limits += [f"{ONE_DATE} >= {starts}"] if is_from else []
    limits += [f"{ONE_DATE} < {ends}"] if is_to else []
    return f"(hire && tstzrange({starts}, {ends}, '[)') OR ({' AND '.join(limits)}))"


# What the table of promoted fields is called in a condition. An error names it if a field lost its
# column after it was looked up.
PROMOTED = "promoted"
# Kinds whose values have an order.
_IN_ORDER = frozenset({"numeric", "bigint", "date", "timestamptz", "time"})


def _field(field: FieldFilter, name: str, values: dict[str, Any]) -> str:
    # The name was checked when the column was made. A name with a quote was refused.
    column = f'{PROMOTED}."{field.column}"'
    first, dots, last = field.text.partition("..")
    if field.kind.endswith("[]"):
        found = f"%({name})s = ANY({column}::text[])"
        values[name] = field.text
    elif dots and field.kind in _IN_ORDER:
        bounds = []
        for end, text, sign in (("first", first, ">="), ("last", last, "<=")):
            if text.strip():
                bounds.append(f"{column} {sign} {_read(field.kind, f'{name}_{end}')}")
                values[f"{name}_{end}"] = text
        found = " AND ".join(bounds) or f"{column} IS NOT NULL"
    else:
        found = f"{column} = {_read(field.kind, name)}"
        values[name] = field.text
    return (
        f"id IN (SELECT {PROMOTED}.opportunity_id FROM opportunity_fields {PROMOTED} WHERE {found})"
    )


def _read(kind: str, name: str) -> str:
    return f"rms_as_{kind}(to_jsonb(%({name})s::text))"


def _begin(day: date, time_zone: str) -> datetime | str:
    """Return the first moment of the day.

    Python computes it, because PostgreSQL's time zone data may be of another year. PostgreSQL also
    takes the second midnight if there are two. Pages and lists would then differ by an hour.
    """
    try:
        return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(time_zone)).astimezone(UTC)
    except OverflowError:
        return "-infinity"


def _end(day: date, time_zone: str) -> datetime | str:
    """Return the first moment of the next day."""
    return "infinity" if day == date.max else _begin(day + timedelta(days=1), time_zone)


def _padded(search: str) -> list[str]:
    """Return digits as numbers that Current RMS pads with zeros, in every usual width."""
    if not re.fullmatch(r"[0-9]+", search):
        return []
    return [search.zfill(width) for width in range(len(search) + 1, _WIDEST_NUMBER + 1)]


def literally(text: str) -> str:
    """Return `text` as part of a LIKE pattern that matches only itself."""
    for special in "\\%_":
        text = text.replace(special, f"\\{special}")
    return text


def without_nul(text: str) -> str:
    """Return `text` without NUL. No text in PostgreSQL has a NUL, so it could not be found."""
    return text.replace("\x00", "\ufffd")
