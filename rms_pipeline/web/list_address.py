"""The address of a list: what it asks for, and links to other addresses.

What belongs here: parameters in, filters and links out, without empty parameters. What does not:
reading rows (`mirror.browse`), and how a list looks (templates).
"""

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode
from zoneinfo import ZoneInfo

from fastapi import HTTPException, Request

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.insight.list_search import searched
from rms_pipeline.insight.names import CUSTOMER, OWNER, VENUE, newest_names
from rms_pipeline.insight.periods import days_of, weekend_of, words_for
from rms_pipeline.mirror.browse import ORDERS, Place
from rms_pipeline.mirror.criteria import NOBODY, Criteria, Days, FieldFilter, without_nul
from rms_pipeline.mirror.promoted import Promoted, promoted_fields
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.mirror.statuses import OUTCOMES
from rms_pipeline.web.formatting import Clock, money
from rms_pipeline.web.forms import amount, linked_amount
from rms_pipeline.web.parameter_values import fits_bigint, record_id
from rms_pipeline.web.refusals import WrongParameter

DEFAULT_SORT = "-updated"
_MOST_PAGES = 1_000_000
_SHORT, _LONG = 200, 500
_PLACE = re.compile(r"([1-9][0-9]{0,6})(?:-([A-Za-z0-9_-]{1,2000}))?")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A filter of a list: the most characters of its text, its name for people, and for programs
    what it means."""

    longest: int
    title: str
    meaning: str


_DAYS = "A date like 2026-05-31, two like 2026-05-01..2026-05-31, or a word like weekend or next-7"
# In the order of the address.
PARAMETERS = {
    "q": Parameter(
        _SHORT,
        "Search",
        "Words of the opportunity, or a number. The first three letters of a word are enough.",
    ),
    "status": Parameter(
        _LONG, "Status", "The whole status, or is:confirmed, is:undecided, is:open or is:closed."
    ),
    "state": Parameter(_SHORT, "State", "Enquiry, Draft, Quotation or Order."),
    "customer": Parameter(_SHORT, "Customer", "Words of the customer's name."),
    "customer_id": Parameter(20, "Customer", "The customer's id in Current RMS."),
    "owner": Parameter(
        _LONG, "Owner", "The whole name of the owner, or is:none for opportunities without one."
    ),
    "owner_id": Parameter(20, "Owner", "The owner's id in Current RMS."),
    "venue": Parameter(
        _LONG, "Venue", "The whole name of the venue, or is:none for opportunities without one."
    ),
    "venue_id": Parameter(20, "Venue", "The venue's id in Current RMS."),
    "store": Parameter(20, "Store", "The id of the store from which the equipment leaves."),
    "tag": Parameter(
        _SHORT, "Tag", "A tag. Give it several times for opportunities that have all of them."
    ),
    "onhire": Parameter(30, "On hire on", f"Opportunities that are out on these days. {_DAYS}."),
    "out": Parameter(30, "Goes out", f"Opportunities that go out on these days. {_DAYS}."),
    "back": Parameter(30, "Comes back", f"Opportunities that come back on these days. {_DAYS}."),
    "starts": Parameter(30, "Starts", f"Opportunities that start on these days. {_DAYS}."),
    "from": Parameter(
        10, "Starts from", "Opportunities that start on this day or later, such as 2026-05-31."
    ),
    "to": Parameter(
        10, "Starts until", "Opportunities that start on this day or before, such as 2026-05-31."
    ),
    "confirmed": Parameter(
        30, "Confirmed", f"Opportunities that were confirmed on these days. {_DAYS}."
    ),
    "created": Parameter(30, "Created", f"Opportunities that were entered on these days. {_DAYS}."),
    "least": Parameter(
        62, "Value from", "The smallest value with tax, in the account's currency, such as 1500.50."
    ),
    "greatest": Parameter(
        62,
        "Value until",
        "The greatest value with tax, in the account's currency, such as 1500.50.",
    ),
}
# The other parameters, with their meaning for programs.
_SORT_AND_PAGE = {
    "sort": f"{', '.join(ORDERS)}. With a - before it, the largest comes first. Without: -updated.",
    "page": "A page by its number, or the page of `next` in the answer before. Default: the first.",
}
# Filters by an id, and the columns that hold it and the name.
PARTIES = {"customer_id": CUSTOMER, "owner_id": OWNER, "venue_id": VENUE}
# How the parameter of a custom field with a column begins. The field's key follows.
FIELD = "field."
# An address has at most this many of them, so a form offers no more.
MOST_FIELDS = 20
_LONGEST_KEY = 300
_MOST_PARAMETERS, _MOST_TAGS = 200, 20
PERIOD_FILTERS = {
    "onhire": "on_hire",
    "out": "goes_out",
    "back": "comes_back",
    "starts": "starts",
    "confirmed": "confirmed",
    "created": "created",
}
# What a form sends in place of a period: this word, and its two dates apart.
CUSTOM = "custom"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a list: its title, and the order that it sorts by, if any."""

    title: str
    sort: str | None = None


COLUMNS = {
    "name": Column("Opportunity", "name"),
    "status": Column("Status", "status"),
    "state": Column("State"),
    "customer": Column("Customer", "customer"),
    "venue": Column("Venue", "venue"),
    "owner": Column("Owner", "owner"),
    "starts": Column("Starts", "starts"),
    "ends": Column("Ends", "ends"),
    "out": Column("Goes out", "out"),
    "back": Column("Comes back", "back"),
    "confirmed": Column("Confirmed", "confirmed"),
    "created": Column("Created", "created"),
    "tags": Column("Tags"),
    "reference": Column("Reference"),
    "charge": Column("Without tax"),
    "profit": Column("Profit"),
    "value": Column("Value", "value"),
    "updated": Column("Updated", "updated"),
}
DEFAULT_COLUMNS = ("name", "status", "customer", "owner", "starts", "ends", "value", "updated")


@dataclass(frozen=True, slots=True)
class Chip:
    """An active filter: its name and value for people, and the address without it.

    `direction` is the direction of the value's text, for HTML.
    """

    name: str
    value: str
    without: str
    direction: Literal["auto", "ltr"] = "auto"


@dataclass(frozen=True, slots=True)
class Asked:
    """What an address asks for. `given` are its filters as texts, in order, without empty ones.
    `page` counts from 1. `place` is the position at which it begins, None if only its number is
    known."""

    criteria: Criteria
    given: Mapping[str, Sequence[str]] = field(default_factory=dict)
    columns: tuple[str, ...] = DEFAULT_COLUMNS
    page: int = 1
    place: Place | None = None

    @property
    def is_filtered(self) -> bool:
        return bool(self.given)

    @property
    def contradiction(self) -> str:
        """Why nothing can match, if two ends were given the wrong way round, or ''."""
        asked_for = self.criteria
        ends: list[tuple[str, Any, Any]] = [
            ("value", asked_for.least, asked_for.greatest),
            ("start", asked_for.starts_from, asked_for.starts_to),
        ]
        for name, attribute in PERIOD_FILTERS.items():
            days: Days = getattr(asked_for, attribute)
            ends.append((f"day of “{PARAMETERS[name].title}”", days.first, days.last))
        for what, first, last in ends:
            if first is not None and last is not None and first > last:
                return f"The first {what} is greater than the last, so nothing can match."
        return ""

    def text(self, name: str) -> str:
        """The one value of the filter `name`, '' if it is off."""
        return next(iter(self.given.get(name, ())), "")

    def query(self, **changes: str | int | Sequence[str] | None) -> str:
        """The address with these parameters changed, or left out (None). It is page 1 unless `page`
        is given."""
        values: dict[str, Any] = {**self.given}
        values["column"] = self.chosen_columns
        values["sort"] = self.criteria.sort
        values |= changes
        if values.get("sort") == DEFAULT_SORT:
            del values["sort"]
        fields = [name for name in values if name.startswith(FIELD)]
        order = [*PARAMETERS, *fields, "column", "sort", "page"]
        kept = {k: values[k] for k in order if values.get(k) not in (None, "", [], ())}
        return urlencode(kept, doseq=True)

    @property
    def chosen_columns(self) -> tuple[str, ...]:
        """The parameters that the address needs."""
        return () if self.columns == DEFAULT_COLUMNS else self.columns

    def toggled(self, name: str) -> list[str]:
        """The columns of the address with this one added or removed."""
        chosen = [c for c in COLUMNS if (c in self.columns) != (c == name)]
        return [] if tuple(chosen) == DEFAULT_COLUMNS else chosen

    def without(self, name: str, value: str) -> str:
        """The address without this one filter."""
        return self.query(**{name: [v for v in self.given[name] if v != value]})

    def also(self, name: str, value: str) -> str:
        """The address with this filter added. It replaces one with the same name, unless there can
        be several."""
        if name != "tag":
            return self.query(**{name: value})
        return self.query(tag=list(dict.fromkeys([*self.given.get("tag", ()), value])))

    def sorted_by(self, key: str) -> str:
        """The address in this order. The first click gives the usual direction, the next one
        reverses it."""
        first = f"-{key}" if ORDERS[key].falls else key
        other = key if ORDERS[key].falls else f"-{key}"
        return self.query(sort=other if self.criteria.sort == first else first)

    def chips(self, clock: Clock, names: Mapping[str, str]) -> Iterator[Chip]:
        """Each active filter. `names` are those that `party_names` found."""
        for name, values in self.given.items():
            for value in values:
                words = value
                if name == "status":
                    words = OUTCOMES[value].title if value in OUTCOMES else value
                elif name in PARTIES:
                    words = names.get(name, value)
                elif value == NOBODY and name in ("venue", "owner"):
                    words = "none"
                elif name in PERIOD_FILTERS:
                    words = words_for(value, clock.day)
                elif name in ("least", "greatest") and not re.search(r"\.[0-9]{3}", value):
                    words = money(amount(value))
                elif name in ("from", "to"):
                    words = clock.day(date.fromisoformat(value))
                title = PARAMETERS[name].title if name in PARAMETERS else name.removeprefix(FIELD)
                is_ours = name in PERIOD_FILTERS or name in ("from", "to")
                yield Chip(title, words, self.without(name, value), "ltr" if is_ours else "auto")


def asked(request: Request, time_zone: str, now: datetime | None = None) -> Asked:
    """What the address of `request` asks for. Periods are those at `now`. Raises HTTPException
    (422) that names the parameter and says what is valid."""
    today = (now or datetime.now(UTC)).astimezone(ZoneInfo(time_zone)).date()
    texts = _texts(request)
    given = {name: texts[name] for name in texts if texts[name]}
    for name in ("least", "greatest"):
        if name in given and _amount(given[name][0], name) is not None:
            given[name] = [linked_amount(given[name][0])]
    one = {name: values[0] for name, values in given.items()}
    periods: dict[str, Any] = {
        attribute: _period(one.get(name, ""), name, today, time_zone)
        for name, attribute in PERIOD_FILTERS.items()
    }
    criteria = Criteria(
        search=one.get("q", ""),
        status=one.get("status", ""),
        customer=one.get("customer", ""),
        owner=one.get("owner", ""),
        starts_from=_day(one.get("from", ""), "from"),
        starts_to=_day(one.get("to", ""), "to"),
        sort=_sort(request),
        time_zone=time_zone,
        state=one.get("state", ""),
        venue=one.get("venue", ""),
        customer_id=record_id(one.get("customer_id", ""), "customer_id", "customer"),
        venue_id=record_id(one.get("venue_id", ""), "venue_id", "venue"),
        owner_id=record_id(one.get("owner_id", ""), "owner_id", "owner"),
        store_id=record_id(one.get("store", ""), "store", "store"),
        tags=tuple(given.get("tag", ())),
        least=_amount(one.get("least", ""), "least"),
        greatest=_amount(one.get("greatest", ""), "greatest"),
        **periods,
    )
    return Asked(criteria, given, _columns(request), *_page(request))


def describe_parameters() -> list[dict[str, Any]]:
    """The parameters of a list, for the description of the API (OpenAPI)."""
    told = [
        _described(name, each.meaning, maxLength=each.longest) for name, each in PARAMETERS.items()
    ]
    return told + [_described(name, meaning) for name, meaning in _SORT_AND_PAGE.items()]


def _described(name: str, meaning: str, **limits: int) -> dict[str, Any]:
    schema = {"type": "string", **limits}
    return {"name": name, "in": "query", "description": meaning, "schema": schema}


def has_leftovers(request: Request) -> bool:
    """Whether a form without a script sent parameters that a clean address leaves out."""
    items = request.query_params.multi_items()
    return len(items) > 2 and any(not value.strip() or value == CUSTOM for _, value in items)


def cleaned(query: str) -> str:
    """The parameters of a list in the query of an address, without empty ones and without the page.
    Raises HTTPException (422) if there are more than any list has."""
    known = {*PARAMETERS, "column", "sort"}
    try:
        pairs = parse_qsl(query, max_num_fields=_MOST_PARAMETERS)
    except ValueError:
        raise HTTPException(
            422, f"The list has more than {_MOST_PARAMETERS} filters: use fewer."
        ) from None
    return urlencode([(k, v) for k, v in pairs if k in known or k[: len(FIELD)] == FIELD])


def asked_by(query: str, time_zone: str, now: datetime | None = None) -> Asked:
    """What `query`, the query of a list's address, asks for. Otherwise like `asked`."""
    scope = {"type": "http", "query_string": query.encode(), "headers": []}
    return asked(Request(scope), time_zone, now)


def page_behind(page: int, place: Place) -> str:
    """The parameter `page` of the page that begins at `place`."""
    told = json.dumps([place.value, place.id, int(place.before)], separators=(",", ":"))
    mark = base64.urlsafe_b64encode(told.encode()).decode().rstrip("=")
    return f"{page}-{mark}"


def _texts(request: Request) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, parameter in PARAMETERS.items():
        values = [without_nul(v) for v in request.query_params.getlist(name)]
        if any(len(value) > parameter.longest for value in values):
            raise _wrong(name, f"is too long: at most {parameter.longest} letters.")
        # These values are chosen, and names may end in a space. What a person types is trimmed.
        if name not in ("status", "owner", "venue", "tag", "state"):
            values = [value.strip() for value in values]
        if name in PERIOD_FILTERS:
            values = [
                custom_period(request, name) if value == CUSTOM else value for value in values
            ]
        kept = [value for value in dict.fromkeys(values) if value]
        # If a parameter is given several times, the last one counts, as in a form.
        found[name] = kept if name == "tag" else kept[-1:]
    if len(found["tag"]) > _MOST_TAGS:
        # Each link of the page names them all.
        raise HTTPException(422, f"tag is there more than {_MOST_TAGS} times: use fewer.")
    fields = [name for name in dict.fromkeys(request.query_params) if name.startswith(FIELD)]
    if len(fields) > MOST_FIELDS or any(len(name) > _LONGEST_KEY for name in fields):
        raise HTTPException(
            422, f"There are more than {MOST_FIELDS} fields, or the name of a field is too long."
        )
    for name in fields:
        values = [without_nul(v).strip()[:_SHORT] for v in request.query_params.getlist(name)]
        found[without_nul(name)] = [value for value in values if value][-1:]
    return found


def _with_fields(asked_for: Asked, promoted: Sequence[Promoted]) -> Asked:
    """The same with the filters of fields. `promoted` are the fields with columns. Raises
    HTTPException (422) for another field."""
    known = {each.key: each for each in promoted}
    filters = []
    for name, values in asked_for.given.items():
        if name.startswith(FIELD):
            field = known.get(name.removeprefix(FIELD))
            if field is None:
                raise HTTPException(
                    422,
                    f"{name[:60]} is not a custom field with a column. `rms-pipeline fields` "
                    "lists the fields, and `rms-pipeline fields promote` gives one a column.",
                )
            filters += [FieldFilter(field.column, field.kind, value) for value in values]
    criteria = replace(asked_for.criteria, fields=tuple(filters))
    return replace(asked_for, criteria=criteria)


def looked_up(connection: Connection, asked_for: Asked) -> Asked:
    """The same with the filters of fields, and with what was typed found by its words. Commits.

    Raises HTTPException (422) for a field that has no column.
    """
    asked_for = with_known_fields(connection, asked_for)
    return replace(asked_for, criteria=searched(connection, asked_for.criteria))


def with_known_fields(connection: Connection, asked_for: Asked) -> Asked:
    """The same with the filters of fields. Commits.

    Raises HTTPException (422) for a field that has no column.
    """
    if not any(name.startswith(FIELD) for name in asked_for.given):
        return asked_for
    with connection.cursor() as cursor:
        promoted = promoted_fields(cursor, OPPORTUNITIES)
    connection.commit()
    return _with_fields(asked_for, promoted)


def party_names(connection: Connection, asked_for: Asked) -> dict[str, str]:
    """The newest names of the customer, the venue and the owner whose ids are filters, by the name
    of the filter. Commits."""
    found: dict[str, str] = {}
    with connection.cursor() as cursor:
        for name, party in PARTIES.items():
            if (id_ := getattr(asked_for.criteria, name)) is not None:
                named = newest_names(cursor, party, [id_]).get(id_)
                found |= {name: named} if named else {}
    connection.commit()
    return found


def custom_period(request: Request, name: str) -> str:
    """The period of two dates that a form without a script sent as the filter `name`."""
    first, last = (request.query_params.get(f"{name}_{end}", "").strip() for end in ("from", "to"))
    return f"{without_nul(first)}..{without_nul(last)}" if first or last else ""


def _sort(request: Request) -> str:
    sort = request.query_params.get("sort", DEFAULT_SORT) or DEFAULT_SORT
    if sort.removeprefix("-") not in ORDERS or sort.startswith("--"):
        raise HTTPException(
            422, f"sort is not one of {', '.join(ORDERS)}, or one of these after a -."
        )
    return sort


def _columns(request: Request) -> tuple[str, ...]:
    chosen = [v for v in request.query_params.getlist("column") if v]
    if unknown := [name for name in chosen if name not in COLUMNS]:
        raise HTTPException(422, f"column {unknown[0][:50]!r} is none of {', '.join(COLUMNS)}.")
    # The name is always shown, because it is the link to the opportunity.
    kept = tuple(name for name in COLUMNS if name in chosen or name == "name")
    return kept if chosen else DEFAULT_COLUMNS


def _page(request: Request) -> tuple[int, Place | None]:
    text = request.query_params.get("page", "") or "1"
    found = _PLACE.fullmatch(text)
    if found is None or int(found[1]) > _MOST_PAGES:
        raise HTTPException(422, f"page is not a number from 1 to {_MOST_PAGES:,}.")
    number, mark = int(found[1]), found[2]
    if mark is None:
        return number, None
    try:
        told = json.loads(base64.urlsafe_b64decode(mark + "=" * (-len(mark) % 4)))
        value, id_, before = told
        if not (value is None or isinstance(value, str)) or not isinstance(id_, int):
            raise ValueError
        if not fits_bigint(id_) or (value is not None and "\x00" in value):
            raise ValueError
        place = Place(value, id_, bool(before))
    except (ValueError, TypeError):
        raise HTTPException(
            422, "page is not a link of this list. Start at the first page."
        ) from None
    _check_place(place, _sort(request))
    return number, place


def _check_place(place: Place, sort: str) -> None:
    """Raises HTTPException unless the list can be sorted by the value."""
    kind = ORDERS[sort.removeprefix("-")].kind
    try:
        if place.value is None or kind == "text":
            return
        if kind == "numeric":
            if not Decimal(place.value).is_finite() or len(place.value) > 1_200:
                raise ValueError
        elif not re.fullmatch(
            r"[0-9]{4,6}-[0-9-]{5} [0-9:.]{8,15}[+-][0-9:]{2,8}( BC)?", place.value
        ):
            raise ValueError
    except (ValueError, InvalidOperation):
        raise HTTPException(
            422, "page does not fit this sort order. Start at the first page."
        ) from None


def _wrong(name: str, why: str) -> WrongParameter:
    return WrongParameter(name, f"“{PARAMETERS[name].title}”", why)


def _period(text: str, name: str, today: date, time_zone: str) -> Days:
    if not text:
        return Days()
    try:
        return days_of(text, today, weekend_of(time_zone))
    except ValueError as error:
        raise _wrong(name, f"{error}.") from None


def _day(text: str, name: str) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise _wrong(name, "is not a date like 2026-05-31.") from None


def _amount(text: str, name: str) -> Decimal | None:
    if not text:
        return None
    try:
        return amount(text)
    except ValueError as error:
        raise _wrong(name, f"{error}.") from None
