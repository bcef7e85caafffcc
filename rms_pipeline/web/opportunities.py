"""Lists of opportunities, and the list as CSV."""

import csv
import io
import itertools
import re
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from datetime import date, datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Query
from fastapi.responses import Response, StreamingResponse
from psycopg2.extensions import connection as Connection  # noqa: N812
from starlette.types import Receive, Scope, Send

from rms_pipeline.mirror.browse import (
    SORTS,
    Criteria,
    Listed,
    count_listed,
    iterate_opportunities,
    list_opportunities,
    owners,
)
from rms_pipeline.mirror.outcomes import OUTCOMES
from rms_pipeline.settings import Settings
from rms_pipeline.web.access import Access
from rms_pipeline.web.reading import Reader
from rms_pipeline.web.templating import Pages

_PER_PAGE = 50
_OWNERS_SECONDS = 60.0
_MOST_PAGES = 1_000_000
_HEADINGS = (
    ("name", "Opportunity"),
    ("status", "Status"),
    ("customer", "Customer"),
    ("owner", "Owner"),
    ("starts", "Starts"),
    ("ends", "Ends"),
    ("value", "Value"),
    ("updated", "Updated"),
)
_SORT = "|".join(SORTS)
_Text = Annotated[str, Query(max_length=200)]
# As long as a status may be that is kept.
_Exact = Annotated[str, Query(max_length=500)]


def opportunities(pages: Pages, reader: Reader, current: Settings, access: Access) -> APIRouter:
    """The routes of lists."""
    router = APIRouter(dependencies=[Depends(access.page)], include_in_schema=False)

    remembered: tuple[float, list[str]] = (0.0, [])

    def known_owners(connection: Connection) -> list[str]:
        nonlocal remembered
        if time.monotonic() > remembered[0]:
            # Finding them reads every row, and colleagues are few and stay.
            remembered = (time.monotonic() + _OWNERS_SECONDS, owners(connection))
        return remembered[1]

    def criteria(
        q: _Text = "",
        status: _Exact = "",
        customer: _Text = "",
        owner: _Exact = "",
        starts_from: Annotated[str, Query(alias="from", max_length=10)] = "",
        starts_to: Annotated[str, Query(alias="to", max_length=10)] = "",
        sort: Annotated[str, Query(pattern=f"^-?({_SORT})$")] = "-updated",
    ) -> Criteria:
        return Criteria(
            search=_plain(q).strip(),
            status=_plain(status),
            customer=_plain(customer).strip(),
            owner=_plain(owner),
            starts_from=_day(starts_from, "from"),
            starts_to=_day(starts_to, "to"),
            sort=sort,
            time_zone=current.time_zone,
        )

    @router.get("/opportunities")
    def show_list(
        wanted: Annotated[Criteria, Depends(criteria)],
        page: Annotated[int, Query(ge=1, le=_MOST_PAGES)] = 1,
    ) -> Response:
        with reader.session() as connection:
            count, value = count_listed(connection, wanted)
            rows = list_opportunities(
                connection, wanted, limit=_PER_PAGE, offset=(page - 1) * _PER_PAGE
            )
            with connection.cursor() as cursor:
                cursor.execute("SELECT opportunity_status FROM status_counts ORDER BY 1")
                statuses = [row[0] for row in cursor.fetchall()]
            names = known_owners(connection)
        return pages.render(
            "opportunities.html",
            here="opportunities",
            criteria=wanted,
            filtered=_filters(wanted) != _filters(Criteria()),
            count=count,
            value=value,
            outcomes=OUTCOMES,
            rows=rows,
            statuses=statuses if wanted.status in OUTCOMES else _with(statuses, wanted.status),
            owners=_with(names, wanted.owner),
            headings=_HEADINGS,
            page_number=page,
            pages=max(-(-count // _PER_PAGE), 1),
            next_sort=lambda key: f"-{key}" if wanted.sort == key else key,
            query=lambda **changes: _query(wanted, **changes),
        )

    @router.get("/opportunities.csv")
    def download(wanted: Annotated[Criteria, Depends(criteria)]) -> Response:
        lines = _csv(reader, wanted)
        # Before anything is sent, so that an outage can still be answered as one.
        return _Download(next(lines), lines)

    return router


def _plain(text: str) -> str:
    """PostgreSQL's text has no NUL, so nothing can be found that holds one."""
    return text.replace("\x00", "\ufffd")


def _day(text: str, name: str) -> date | None:
    if not text.strip():
        return None
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        raise HTTPException(422, f"{name} is not a date like 2026-05-31.") from None


def _with(names: list[str], chosen: str) -> list[str]:
    """What may be chosen holds what is, or the form would forget it."""
    return names if not chosen or chosen in names else [chosen, *names]


def _filters(wanted: Criteria) -> Criteria:
    return replace(wanted, sort="", time_zone="")


def _query(wanted: Criteria, **changes: Any) -> str:
    values: dict[str, Any] = {
        "q": wanted.search,
        "status": wanted.status,
        "customer": wanted.customer,
        "owner": wanted.owner,
        "from": wanted.starts_from,
        "to": wanted.starts_to,
        "sort": wanted.sort,
    } | changes
    defaults = {"sort": "-updated", "page": 1}
    return urlencode({k: v for k, v in values.items() if v and v != defaults.get(k)})


# The wide ones are of Chinese and Japanese keyboards, and spreadsheets there take them too.
_BEGINS_A_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
# Where semicolons part the cells (most of Europe), quotes around a cell of ours are not seen, and
# what stands behind a semicolon or on a new line is a cell of its own.
_FORMULA_WITHIN = re.compile(r"([;\r\n][\s\"]*)(?=[=+\-@＝＋－＠])")
_CSV_COLUMNS: dict[str, Callable[[Listed], Any]] = {
    "id": lambda o: o.id,
    "number": lambda o: _cell(o.number),
    "name": lambda o: _cell(o.name),
    "status": lambda o: _cell(o.status),
    "starts_at": lambda o: _utc(o.starts_at),
    "ends_at": lambda o: _utc(o.ends_at),
    "customer": lambda o: _cell(o.customer),
    "venue": lambda o: _cell(o.venue),
    "owner": lambda o: _cell(o.owner),
    "charge_total": lambda o: o.charge_total,
    "total_value": lambda o: o.total_value,
    "updated_at": lambda o: _utc(o.updated_at),
}


class _Download(StreamingResponse):
    """`first` and what `lines` still has. Closes `lines`, and so gives its connection back, also
    when the browser goes away in the middle."""

    def __init__(self, first: str, lines: Generator[str, None, None]) -> None:
        super().__init__(
            itertools.chain([first], lines),
            media_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="opportunities.csv"'},
        )
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._lines.close()


def _csv(reader: Reader, wanted: Criteria) -> Generator[str, None, None]:
    """Lines for a spreadsheet, in UTF-8 that says so; times are UTC."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    buffer.write("\ufeff")
    writer.writerow(_CSV_COLUMNS)
    with reader.session() as connection:
        for row in iterate_opportunities(connection, wanted):
            writer.writerow([read(row) for read in _CSV_COLUMNS.values()])
            if buffer.tell() > 64_000:
                yield buffer.getvalue()
                buffer.seek(0)
                buffer.truncate()
    yield buffer.getvalue()


def _cell(text: str | None) -> str:
    """A spreadsheet would run what begins like a formula."""
    if text is None:
        return ""
    harmless = _FORMULA_WITHIN.sub(r"\1'", text)
    return f"'{harmless}" if harmless.startswith(_BEGINS_A_FORMULA) else harmless


def _utc(moment: datetime | None) -> str:
    # Not strftime, which writes the year 1 as 1.
    return "" if moment is None else f"{moment.replace(tzinfo=None, microsecond=0).isoformat()}Z"
