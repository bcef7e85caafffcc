"""One opportunity: what is known of it, everything that happened to it, and its state on a past
day."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import msgspec
from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic_core import to_jsonable_python

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.insight.changes import ECHOES
from rms_pipeline.insight.days import Day
from rms_pipeline.insight.health import read_mirrored
from rms_pipeline.insight.items import read_items
from rms_pipeline.insight.timeline import AsOf, Moment, read_as_of, read_timeline
from rms_pipeline.mirror.browse import Found, find_opportunity
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.web.allowed_parameters import only
from rms_pipeline.web.desk import Desk
from rms_pipeline.web.formatting import OPEN_ENDED, Clock, money
from rms_pipeline.web.refusals import WrongParameter
from rms_pipeline.web.values import Shown, line_title, own_value, shown_change
from rms_pipeline.web.visited import note_visit

_T = TypeVar("_T")
_LONGEST_RECORD = 100_000
_MOST_OWN_FIELDS = 200
# How many events the page shows at first.
_MOST_SHOWN = 50


@dataclass(frozen=True, slots=True)
class _Happened:
    """An event as the page shows it. `fields` are the rows as texts."""

    moment: Moment
    fields: list[tuple[str, str, Shown]]


def opportunity_routes(desk: Desk) -> APIRouter:
    """The routes of single opportunities. `as_of` is a day of the company (its end counts) or a
    time. A future one means now."""
    router = desk.page_router()

    def moment(as_of: Annotated[str, Query(max_length=40)] = "") -> datetime | None:
        return _moment(as_of, desk.time_zone)

    @router.get("/opportunities/{id_}/items.json", dependencies=[Depends(only())])
    def tell_items(id_: int) -> Response:
        _found(desk, id_)
        return JSONResponse({"success": True, **to_jsonable_python(_read(desk, read_items, id_))})

    @router.get("/opportunities/{id_}/timeline.json", dependencies=[Depends(only())])
    def tell(id_: int) -> Response:
        _found(desk, id_)
        return JSONResponse(
            {"success": True, **to_jsonable_python(_read(desk, read_timeline, id_))}
        )

    @router.get("/opportunities/{id_}.json", dependencies=[Depends(only("as_of"))])
    def show_record(id_: int, when: Annotated[datetime | None, Depends(moment)]) -> Response:
        record: str | None = _found(desk, id_).record
        if when is not None:
            then = _as_of(desk, id_, when)
            record = then.record
            if record is None:
                raise HTTPException(404, _why_not(then, desk.clock))
        return Response(record, media_type="application/json")

    @router.get("/opportunities/{id_}")
    def show_one(
        request: Request,
        id_: int,
        when: Annotated[datetime | None, Depends(moment)],
        events: Annotated[str, Query(max_length=10)] = "",
    ) -> Response:
        shown = _context(desk, _found(desk, id_), when, all_events=events == "all")
        answer = desk.render("opportunity.html", here="opportunities", **shown)
        note_visit(request, answer, id_)
        return answer

    return router


def _context(desk: Desk, one: Found, when: datetime | None, *, all_events: bool) -> dict[str, Any]:
    """What the template of the page is given: `one` as it is now, or as it was at `when`."""
    id_, clock = one.columns["id"], desk.clock
    then = _as_of(desk, id_, when) if when is not None else None
    columns, record = one.columns, one.record
    if then is not None and then.columns is not None:
        columns, record = columns | then.columns, then.record or "{}"
    text = record if len(record) <= _LONGEST_RECORD else None
    happened = _read(desk, read_timeline, id_)
    shown = happened.moments if all_events else happened.moments[:_MOST_SHOWN]
    return {
        "found": one,
        "o": columns,
        "then": then,
        "why_not": _why_not(then, clock) if then and then.columns is None else "",
        "fields": _fields(one, columns, clock, with_own_times=then is None),
        "schedule": _schedule(columns),
        "own_fields": _own_fields(record, clock),
        "items": _read(desk, read_items, id_),
        "days": _by_day(shown, clock),
        "timeline": happened,
        "left_out": len(happened.moments) - len(shown),
        "all_events": f"?{f'{_query(when)}&' if when else ''}events=all#timeline-title",
        "days_of": {m.version: _query(m.version) for m in happened.moments if m.version},
        "today": desk.today().date,
        "chosen": when and Day.of(when, desk.time_zone).date,
        "record_text": text and _indented(text),
        "record_query": f"?{_query(when)}" if when else "",
        "links": _links(columns, desk.current_rms, id_),
    }


def _read(desk: Desk, read: Callable[[Connection, int], _T], id_: int) -> _T:
    with desk.reader.session() as connection:
        return read(connection, id_)


def _as_of(desk: Desk, id_: int, when: datetime) -> AsOf:
    with desk.reader.session() as connection:
        return read_as_of(connection, id_, when)


def _found(desk: Desk, id_: int) -> Found:
    """The opportunity, live or deleted. Raises HTTPException (404) that says what to do if it is
    not mirrored."""
    with desk.reader.session() as connection:
        one = find_opportunity(connection, id_)
        if one is not None:
            return one
        is_all = read_mirrored(connection) == "all"
    refresh = f"`rms-pipeline refresh {id_}`"
    raise HTTPException(
        404,
        f"Opportunity {id_} is not in the mirror. "
        + (
            f"If it is new in Current RMS, run an incremental sync or {refresh}."
            if is_all
            else "Not all opportunities are mirrored yet. Start an initial sync if none is "
            f"running, or run {refresh}."
        ),
    )


def _moment(text: str, time_zone: str) -> datetime | None:
    if not (text := text.strip()):
        return None
    try:
        if len(text) <= 10:
            end = Day(date.fromisoformat(text), time_zone).ends - timedelta(microseconds=1)
            return min(end, datetime.now(UTC))
        found = datetime.fromisoformat(text)
        if found.tzinfo is None:
            found = found.replace(tzinfo=ZoneInfo(time_zone))
        # Raises ValueError for a time so far away that it cannot be shown in another zone.
        Day.of(found, "UTC")
        return min(found.astimezone(UTC), datetime.now(UTC))
    except (ValueError, OverflowError):
        raise WrongParameter(
            "as_of",
            "“As of the end of”",
            "is not a date like 2026-05-31 or a time like 2026-05-31T18:00:00Z.",
        ) from None


def _query(when: datetime) -> str:
    return urlencode({"as_of": when.astimezone(UTC).isoformat().replace("+00:00", "Z")})


def _why_not(then: AsOf, clock: Clock) -> str:
    if then.began is not None:
        return (
            f"The history of this mirror begins on {clock.minute(then.began)}. Earlier states "
            "are unknown."
        )
    return f"The mirror did not hold it at that time ({clock.minute(then.at)})."


def _by_day(moments: Sequence[Moment], clock: Clock) -> list[tuple[date, list[_Happened]]]:
    return [
        (day, [_happened(moment, clock) for moment in of_day])
        for day, of_day in groupby(moments, key=lambda moment: clock.day_of(moment.at))
    ]


def _happened(moment: Moment, clock: Clock) -> _Happened:
    kept = [x for x in moment.lines if x.field not in ECHOES] or list(moment.lines)
    return _Happened(
        moment,
        [
            (line_title(x), x.field, shown_change(x.field, x.old_value, x.new_value, clock))
            for x in kept
        ],
    )


def _links(columns: Mapping[str, Any], current_rms: str | None, id_: int) -> dict[str, str]:
    """Links to the opportunity, its customer, its venue and its owner. `current_rms` is where the
    account's own pages are."""
    found = {"Current RMS": f"{current_rms}/opportunities/{id_}"} if current_rms else {}
    for kind, place, name, id_of in (
        ("customer", "customers", "organisation_name", "organisation_id"),
        ("venue", "venues", "venue_name", "venue_id"),
        ("owner", "owners", "owner_name", "owner_id"),
    ):
        if columns.get(id_of) is not None:
            found[kind] = f"/{place}/{columns[id_of]}"
        elif columns.get(name):
            found[kind] = f"/opportunities?{urlencode({kind: columns[name]})}"
    for kind, name in (("customer", "organisation_id"), ("venue", "venue_id")):
        if current_rms and columns.get(name):
            found[f"{kind} in Current RMS"] = f"{current_rms}/members/{columns[name]}"
    return found


def _schedule(columns: Mapping[str, Any]) -> list[tuple[str, datetime | None, datetime | None]]:
    """The planned stages in their order: name, from, to (UTC)."""
    stages = ("prep", "load", "deliver", "setup", "show", "takedown", "collect", "unload", "deprep")
    pairs = ((s, columns.get(f"{s}_starts_at"), columns.get(f"{s}_ends_at")) for s in stages)
    return [(stage.capitalize(), starts, ends) for stage, starts, ends in pairs if starts or ends]


def _own_fields(record: str, clock: Clock) -> list[tuple[str, str]]:
    """The custom fields that have a value, each with its value for people."""
    try:
        found = json.loads(record, parse_float=str, parse_int=str).get("custom_fields")
    except (ValueError, RecursionError, AttributeError):
        return []
    if not isinstance(found, dict):
        return []
    values = ((key, own_value(_as_text(value), clock)) for key, value in found.items())
    return [(key, value[:300]) for key, value in values if value][:_MOST_OWN_FIELDS]


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_as_text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _indented(record: str) -> str:
    """The record as formatted JSON, with every digit of its numbers."""
    try:
        return msgspec.json.format(record, indent=2)
    except RecursionError:
        return record


def _fields(
    one: Found, columns: Mapping[str, Any], clock: Clock, *, with_own_times: bool
) -> list[tuple[str, str, str]]:
    """Title, value, and the kind of link for this field, if any."""
    written: dict[str, Callable[[Any], str]] = {"timestamptz": clock.on_its_day, "numeric": money}
    declared: dict[str, Any] = {}
    for column in OPPORTUNITIES.columns:
        if column.shown and (value := columns[column.name]) is not None:
            # Two columns may have the same title, such as an id and its name. The later one is
            # shown.
            declared[column.shown] = written.get(column.kind, str)(value)
        if column.name == "ends_at" and columns.get("open_ended_rental"):
            declared["Ends"] = ", ".join(filter(None, (declared.get("Ends"), OPEN_ENDED)))
    profit, ordered = columns.get("profit"), columns.get("ordered_at")
    texts: list[tuple[str, Any]] = [
        ("Number", columns.get("number") or one.number),
        ("Id", columns["id"]),
        ("Reference", columns.get("reference") or one.reference),
        ("Tags", ", ".join(columns.get("tags") or ())),
        *declared.items(),
        ("Profit, as planned", None if profit is None else money(profit)),
        ("Ordered", None if ordered is None else clock.on_its_day(ordered)),
    ]
    if with_own_times:
        texts += [
            ("Last checked", clock.on_its_day(columns["synced_at"])),
            ("Last webhook", clock.on_its_day(columns["last_webhook_at"])),
        ]
    links = {"Customer": "customer", "Venue": "venue", "Owner": "owner"}
    return [
        (name, str(value)[:300], links.get(name, ""))
        for name, value in texts
        if value not in (None, "", "–")
    ]
