"""Mirror further back: what it costs, and the button that starts it."""

from dataclasses import dataclass
from datetime import date, timedelta
from time import monotonic
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic_core import to_jsonable_python

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.errors import CurrentRmsError
from rms_pipeline.current_rms.window import Window
from rms_pipeline.errors import RmsPipelineError
from rms_pipeline.mirror.budget import read_budget
from rms_pipeline.mirror.mirrored_windows import MOST_DAYS, Reach, ask_for_days_back, read_reach
from rms_pipeline.mirror.proofs import Standing, standing
from rms_pipeline.mirror.sync_metadata import Sync, running_sync
from rms_pipeline.mirror.sync_runs import INITIAL, RECONCILIATION
from rms_pipeline.sync.costs import Cost, count_cost
from rms_pipeline.web.allowed_parameters import only
from rms_pipeline.web.desk import Desk
from rms_pipeline.web.fast_lane import ClientFactory
from rms_pipeline.web.forms import read_form
from rms_pipeline.web.launching import DagsterUnavailable, Launcher, SyncUnderWay
from rms_pipeline.web.refusals import Refusal, WrongParameter

# A count is used again for this long, so that looking again costs no calls.
_COUNTED_FOR_SECONDS, _MOST_COUNTS = 600.0, 50
_BY = "page"


@dataclass(frozen=True, slots=True)
class Told:
    """What the page shows. `setting` and `days_back` are numbers of days. `since` is the requested
    day, with its `cost`. `trouble` says why the cost could not be counted. `running` is a full sync
    that is running."""

    setting: int
    days_back: int
    days_ahead: int
    reach: Reach
    standing: Standing
    running: Sync | None
    since: date | None
    days_asked: int | None
    cost: Cost | None
    trouble: str


class _Costs:
    """Counts what it costs to mirror further back, by calls of `client`. Costs that were counted a
    short time ago are kept, by the number of days back."""

    def __init__(self, desk: Desk, client: ClientFactory) -> None:
        self._desk, self._client = desk, client
        self._kept: dict[int, tuple[float, Cost]] = {}

    def count(self, days: int) -> Cost:
        """Raises CurrentRmsError or RmsPipelineError if it cannot be counted."""
        at, cost = self._kept.get(days, (0.0, None))
        if cost is not None and monotonic() - at < _COUNTED_FOR_SECONDS:
            return cost
        cost = self._ask(days)
        if len(self._kept) >= _MOST_COUNTS:
            self._kept.clear()
        self._kept[days] = monotonic(), cost
        return cost

    def _ask(self, days: int) -> Cost:
        settings, database = self._desk.settings, self._desk.database
        now = database.clock()()
        window = Window.around(now, days_back=days, days_ahead=settings.days_ahead)
        with self._client() as asking, database.session() as connection:
            use = read_budget(connection, self._desk.account)
            limit = use.allowance if use else settings.requests_per_minute
            return count_cost(connection, asking, window, limit)


def further_back_routes(desk: Desk, launcher: Launcher, client: ClientFactory) -> APIRouter:
    """The routes below `/further-back`."""
    router = desk.page_router()
    costs = _Costs(desk, client)

    def page(told: Told, refusal: str = "", status: int = 200) -> Response:
        today = desk.today().date
        return desk.render(
            "further_back.html",
            status=status,
            here="dashboard",
            told=told,
            refusal=refusal,
            today=today,
            choices=_choices(today, told.days_back),
            first=today - timedelta(days=MOST_DAYS - 1),
            last=today - timedelta(days=1),
        )

    def wanted(since: Annotated[str, Query(max_length=10)] = "") -> date | None:
        return _day(since)

    @router.get("/further-back")
    def show(since: Annotated[date | None, Depends(wanted)]) -> Response:
        return page(_read(desk, since, costs))

    @router.get("/further-back.json", dependencies=[Depends(only("since"))])
    def tell(since: Annotated[date | None, Depends(wanted)]) -> Response:
        told = _read(desk, since, costs)
        return JSONResponse(_as_json(told), status_code=503 if told.trouble else 200)

    @router.post("/further-back")
    async def run(request: Request) -> Response:
        form = await read_form(request, "send only a day.")
        since = _day(form.get("since", ""))
        if since is None:
            raise _wrong("has to be a day, like 2025-01-01.")
        today = desk.today().date
        days = _days_back(since, today)
        if days <= desk.settings.days_back:
            raise _wrong(
                f"changes nothing: {desk.settings.days_back:,} days back are mirrored anyway "
                "(RMS_SYNC_DAYS_BACK). Choose an earlier day."
            )
        try:
            await launcher.launch("initial", _BY, days_back=days)
        except (SyncUnderWay, DagsterUnavailable) as error:
            status = 503 if isinstance(error, DagsterUnavailable) else 409
            words = f"{error} How far back the mirror reaches has not been changed."
            return await run_in_threadpool(_refuse, request, since, words, status)
        return RedirectResponse("/", 303)

    def _refuse(request: Request, since: date, words: str, status: int) -> Response:
        if "text/html" not in request.headers.get("Accept", ""):
            raise Refusal(status, words)
        return page(_read(desk, since, None), words, status)

    @router.post("/further-back/as-set")
    def reset() -> Response:
        with desk.database.session() as connection:
            ask_for_days_back(connection, OPPORTUNITIES, None, _BY)
        return RedirectResponse("/further-back", 303)

    return router


def _read(desk: Desk, since: date | None, costs: _Costs | None) -> Told:
    """What there is to say of `since`. Without `costs`, its cost is not counted."""
    today = desk.today().date
    days = None if since is None else _days_back(since, today)
    cost, trouble = None, ""
    if days is not None and costs is not None:
        try:
            cost = costs.count(days)
        except (CurrentRmsError, RmsPipelineError) as error:
            trouble = str(error).strip().rstrip(".")
    with desk.reader.session() as connection:
        reach = read_reach(connection, OPPORTUNITIES)
        return Told(
            setting=desk.settings.days_back,
            days_back=reach.days(desk.settings.days_back),
            days_ahead=desk.settings.days_ahead,
            reach=reach,
            standing=standing(connection, OPPORTUNITIES),
            running=running_sync(connection, [INITIAL, RECONCILIATION]),
            since=since,
            days_asked=days,
            cost=cost,
            trouble=trouble,
        )


def _as_json(told: Told) -> dict[str, Any]:
    cost = told.cost
    return {
        "success": not told.trouble,
        "setting": told.setting,
        "days_back": told.days_back,
        "days_ahead": told.days_ahead,
        "reach": to_jsonable_python(told.reach),
        "certificate": told.standing.as_json(),
        "running": told.running.id if told.running else None,
        "since": told.since.isoformat() if told.since else None,
        "days_asked": told.days_asked,
        "cost": None if cost is None else to_jsonable_python(cost) | {"more": cost.more},
        "error": told.trouble or None,
    }


def _choices(today: date, days_back: int) -> list[tuple[str, date]]:
    """Days that people often choose, with their names, except those that are already mirrored."""
    first = today.replace(month=1, day=1)
    found: list[tuple[str, date]] = [
        (f"All of {today.year}", first),
        (
            f"All of {today.year - 1}, to compare months",
            first.replace(year=today.year - 1),
        ),
        (f"All of {today.year - 2}", first.replace(year=today.year - 2)),
        (f"All of {today.year - 5}", first.replace(year=today.year - 5)),
    ]
    return [(name, day) for name, day in found if _days_between(day, today) > days_back]


def _days_between(since: date, today: date) -> int:
    # All hours of the first day count, so it is one day more.
    return (today - since).days + 1


def _wrong(why: str) -> WrongParameter:
    return WrongParameter("since", "“Back to”", why)


def _days_back(since: date, today: date) -> int:
    days = _days_between(since, today)
    if not 1 < days <= MOST_DAYS:
        raise _wrong(
            f"has to be a day before today, and no more than {MOST_DAYS:,} days ago, like "
            f"{today.year - 1}-01-01."
        )
    return days


def _day(text: str) -> date | None:
    if not text.strip():
        return None
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        raise _wrong("is not a date like 2025-01-01.") from None
