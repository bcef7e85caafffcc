"""The dashboard: one page that updates itself, and its buttons."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic_core import to_jsonable_python

from rms_pipeline.collections import collection_named
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.pacing import SHARES, Lane
from rms_pipeline.current_rms.terms import PAGE_SIZE
from rms_pipeline.insight.compare import Figure, Memory, read_memory
from rms_pipeline.insight.days import Day
from rms_pipeline.insight.health import Mirrored, read_mirrored
from rms_pipeline.insight.totals import (
    compare_statuses,
    compare_totals,
    compare_webhooks,
    compare_weeks,
)
from rms_pipeline.mirror.api_terms import read_page_size
from rms_pipeline.mirror.collection_states import CollectionState, RowCounts
from rms_pipeline.mirror.overview import (
    ActiveOpportunity,
    Overview,
    RecentEdit,
    StatusCount,
    WebhookDay,
    WeekCount,
    read_overview,
    read_statuses,
)
from rms_pipeline.mirror.proofs import standing
from rms_pipeline.mirror.queue import replay
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.mirror.statuses import CONFIRMED, LOST, Phase
from rms_pipeline.mirror.sync_state import SyncState, read_sync_state
from rms_pipeline.web import charts
from rms_pipeline.web.allowed_parameters import only
from rms_pipeline.web.dagster_link import Starting
from rms_pipeline.web.desk import Desk
from rms_pipeline.web.formatting import Clock
from rms_pipeline.web.launching import (
    DagsterUnavailable,
    Kind,
    Launcher,
    NoFullSync,
    SyncUnderWay,
)
from rms_pipeline.web.refusals import REFUSALS
from rms_pipeline.web.templating import is_fragment

# How many statuses are shown at once, and how many after a click. An account that invents a status
# for each job has thousands.
_SHOWN_BARS, _MOST_BARS = 12, 100

# What the template of the syncs is given, read anew.
_Context = Callable[[], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class DashboardAnswer:
    """What the dashboard shows. `as_of` is when statuses and weeks were counted. `time_zone` is
    that of days and weeks. `phases` are those of the statuses: open, confirmed or lost. `colours`
    are those in the table `statuses`. `mirrored` says of what the figures are: "all" opportunities
    after the first full sync, before it only a "part", or "nothing". `compared` are earlier totals,
    and `compared_webhooks` are the webhooks of the last seven days and of the seven before, each
    with the SQL that counts them."""

    success: bool
    mirrored: Mirrored
    sandbox: bool
    total: int
    total_value: Decimal
    time_zone: str
    as_of: datetime | None
    statuses: list[StatusCount]
    weeks: list[WeekCount]
    recent: list[RecentEdit]
    webhook_days: list[WebhookDay]
    most_active: list[ActiveOpportunity]
    phases: dict[str, Phase]
    colours: dict[str, str]
    sync: SyncState
    compared: list[Figure]
    compared_webhooks: Figure


Shape = Literal["bars", "pie"]
SHAPES: tuple[Shape, ...] = ("bars", "pie")
_SHAPE_COOKIE, _SHAPE_SECONDS = "rms_statuses", 365 * 24 * 3600

_MOODS = {"green": "good", "amber": "doubtful", "red": "bad", "none": ""}


@dataclass(frozen=True, slots=True)
class _ShownCollection:
    """One collection on the dashboard. `words` say how complete it is. `mood` is the CSS class of
    that text."""

    state: CollectionState
    words: str
    mood: str


def dashboard_routes(desk: Desk, launcher: Launcher, starting: Starting | None = None) -> APIRouter:
    """The routes of the dashboard."""
    router = APIRouter()
    counts = RowCounts()
    sync_context = partial(_sync_context, desk, counts, starting)
    _add_pages(router, desk, sync_context)
    _add_buttons(router, desk, launcher, sync_context)
    _add_for_programs(router, desk, counts)
    return router


def _add_pages(router: APIRouter, desk: Desk, sync_context: _Context) -> None:
    @router.get("/", **desk.for_people)
    def show(request: Request, statuses: Shape | None = None) -> Response:
        context = _overview_context(desk, statuses or _shape(request)) | sync_context()
        page = desk.render("dashboard.html", here="dashboard", **context)
        return _remembering(request, page, statuses)

    @router.get("/compared", **desk.for_people)
    def show_compared(request: Request) -> Response:
        # Apart from the dashboard, which need not wait for the history.
        fragment = is_fragment(request)
        name = "dashboard_compared.html" if fragment else "dashboard_compared_page.html"
        figures, memory = _compared(desk)
        return desk.render(name, here="dashboard", figures=figures, memory=memory)

    @router.get("/compared.json", **desk.for_people)
    def tell_compared(_: Annotated[None, Depends(only())]) -> Response:
        today = desk.today()
        found = {"date": today.date, "time_zone": today.time_zone, "figures": _compared(desk)[0]}
        return desk.twin(to_jsonable_python(found))

    @router.get("/fragments/overview", **desk.for_people)
    def show_overview(request: Request, statuses: Shape | None = None) -> Response:
        # Nobody chose this chart now: the page renews itself. So the browser's choice is not
        # stored.
        return desk.render(
            "overview_answer.html", **_overview_context(desk, statuses or _shape(request))
        )

    @router.get("/fragments/sync", **desk.for_people)
    def show_sync() -> Response:
        return desk.render("sync.html", **sync_context())


def _add_buttons(router: APIRouter, desk: Desk, launcher: Launcher, sync_context: _Context) -> None:
    """What the buttons do: start a sync, and replay dead letters."""

    def answer(request: Request, notice: str, status: int = 200) -> Response:
        """The panel and the notice for a script. Without a script, the whole page."""
        if not is_fragment(request) and status < 400:
            return RedirectResponse("/", 303)
        context = sync_context()
        context |= {"notice": notice, "notice_is_bad": status >= 400, "notice_at": "/"}
        if is_fragment(request):
            return desk.render("sync_answer.html", status=status, **context)
        page = _overview_context(desk, _shape(request)) | context
        return desk.render("dashboard.html", status=status, here="dashboard", **page)

    @router.post("/sync/{kind}", **desk.for_people)
    async def start(request: Request, kind: Kind) -> Response:
        notice, status = "", 200
        try:
            await launcher.launch(kind, "dashboard")
        except (SyncUnderWay, NoFullSync, DagsterUnavailable) as error:
            notice, status = str(error), 503 if isinstance(error, DagsterUnavailable) else 409
        return await run_in_threadpool(answer, request, notice, status)

    @router.post("/dead-letters/replay", **desk.for_people)
    def replay_all(request: Request) -> Response:
        return replayed(request, None)

    @router.post("/dead-letters/{event}/replay", **desk.for_people)
    def replay_one(request: Request, event: int) -> Response:
        return replayed(request, [event])

    def replayed(request: Request, events: list[int] | None) -> Response:
        with desk.database.session() as connection:
            count = replay(connection, events)
        if not count:
            return answer(request, "There are no dead letters to replay.", 409)
        are = "dead letter is" if count == 1 else "dead letters are"
        return answer(request, f"{count:,} {are} back in the queue.")


def _add_for_programs(router: APIRouter, desk: Desk, counts: RowCounts) -> None:
    @router.get(
        "/api/dashboard",
        summary="What the dashboard shows",
        tags=["dashboard"],
        **desk.for_programs,
        responses={**REFUSALS, 200: {"model": DashboardAnswer}},
    )
    def read() -> JSONResponse:
        """Totals, counts by status, value by week, recent edits, webhooks of the last seven days,
        and the state of the syncs. Money is in the account's currency, as decimal strings."""
        with desk.reader.session() as connection:
            view, totals, arrived = _read_figures(connection, desk.time_zone)
            state = read_sync_state(
                connection, OPPORTUNITIES, on=desk.settings.collections, count=counts
            )
            mirrored = read_mirrored(connection)
        found = DashboardAnswer(
            success=True,
            mirrored=mirrored,
            sandbox=desk.settings.uses_sandbox,
            total=view.total,
            total_value=view.total_value,
            time_zone=desk.time_zone,
            **{each.name: getattr(view, each.name) for each in fields(view)},
            sync=state,
            compared=totals,
            compared_webhooks=arrived,
        )
        return JSONResponse(to_jsonable_python(asdict(found), fallback=str))


def _read_figures(connection: Connection, time_zone: str) -> tuple[Overview, list[Figure], Figure]:
    """The overview, and the totals and the webhooks beside earlier ones."""
    now = datetime.now(UTC)
    today = Day.of(now, time_zone)
    return (
        read_overview(connection, time_zone),
        compare_totals(connection, today),
        compare_webhooks(connection, today, now),
    )


def _compared(desk: Desk) -> tuple[list[Figure], Memory]:
    """The figures of the dashboard beside earlier ones, and how far back the history reaches."""
    now = datetime.now(UTC)
    today = Day.of(now, desk.time_zone)
    with desk.reader.session() as connection:
        _, counts = read_statuses(connection)
        named = [count.status for count in counts[:_SHOWN_BARS]]
        figures = [
            *compare_totals(connection, today),
            *compare_statuses(connection, today, named),
            *compare_weeks(connection, today, now),
        ]
        return figures, read_memory(connection, today.time_zone)


def _shape(request: Request) -> Shape:
    """The chart that this browser chose last."""
    kept = request.cookies.get(_SHAPE_COOKIE)
    return next((shape for shape in SHAPES if shape == kept), "bars")


def _remembering(request: Request, page: Response, chosen: Shape | None) -> Response:
    if chosen is not None:
        page.set_cookie(
            _SHAPE_COOKIE,
            chosen,
            max_age=_SHAPE_SECONDS,
            path="/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
    return page


def _shown(connection: Connection, state: CollectionState, clock: Clock) -> _ShownCollection:
    if not state.is_on or not state.has_full_sync:
        return _ShownCollection(state, state.sentence, "" if state.is_on else "doubtful")
    known = standing(connection, collection_named(state.name))
    return _ShownCollection(state, known.words(clock.short), _MOODS[known.state])


def _overview_context(desk: Desk, shape: Shape) -> dict[str, Any]:
    """What the templates of the totals, the statuses and the weeks are given."""
    with desk.reader.session() as connection:
        view, totals, arrived = _read_figures(connection, desk.time_zone)
    today = desk.today().date
    monday = today - timedelta(days=today.weekday())
    bars = charts.status_bars(view.statuses, view.colours)
    return {
        "view": view,
        "bars": bars,
        "shape": shape,
        "shapes": SHAPES,
        "slices": charts.pie(bars) if shape == "pie" else [],
        "pie_width": charts.PIE_WIDTH,
        "pie_height": charts.PIE_HEIGHT,
        "shown_bars": _SHOWN_BARS,
        "most_bars": _MOST_BARS,
        "weeks": charts.week_columns(view.weeks, monday, desk.clock, view.phases),
        "webhooks": charts.webhook_columns(view.webhook_days),
        "confirmed": [name for name, phase in view.phases.items() if phase == CONFIRMED],
        "confirmed_value": view.worth(CONFIRMED),
        "closed_value": view.worth(LOST),
        "totals": totals,
        "arrived": arrived,
    }


def _sync_context(desk: Desk, counts: RowCounts, starting: Starting | None) -> dict[str, Any]:
    """What the template of the syncs is given."""
    clock = desk.clock
    with desk.reader.session() as connection:
        state = read_sync_state(
            connection, OPPORTUNITIES, on=desk.settings.collections, count=counts
        )
        known = standing(connection, OPPORTUNITIES)
        page_size = read_page_size(connection, desk.account, OPPORTUNITIES) or PAGE_SIZE
        # With one collection, the rest of the page already shows it.
        several = state.collections if len(state.collections) > 1 else []
        collections = [_shown(connection, each, clock) for each in several]
    running = state.running
    dagster = starting.dagster if starting else "ready"
    first_sync = starting is not None and starting.first_sync and not state.history
    under_way = _under_way(state, dagster, is_first=first_sync)
    certificate = known.proof.words(clock.short) if known.proof else ""
    per_minute = desk.settings.request_limit * SHARES[Lane.WALK] * page_size
    return {
        "state": state,
        # This machine's clock may be behind that of the database, which wrote the time.
        "elapsed": max((datetime.now(UTC) - running.started_at).total_seconds(), 0.0)
        if running
        else None,
        "known": known,
        "certificate": f"{certificate[:1].upper()}{certificate[1:]}",
        "doubt": known.doubt(clock.short),
        "dagster": dagster,
        "first_sync": first_sync,
        "why_no_initial": under_way,
        "why_no_incremental": under_way
        or (
            ""
            if state.has_full_sync
            else "You can start an incremental sync after an initial sync has completed."
        ),
        "days_back": desk.settings.days_back,
        "days_ahead": desk.settings.days_ahead,
        "records_per_minute": round(per_minute),
        "collections": collections,
    }


def _under_way(state: SyncState, dagster: str, *, is_first: bool) -> str:
    """Why no sync can be started now, '' if one can."""
    # A refresh reads a few records. It does not keep a sync from starting.
    syncs = [s for s in (state.running, *state.history) if s and s.sync_type != "webhook_refresh"]
    if any(s.status == "running" for s in syncs):
        return "A sync is running. You can start another when it has ended."
    if is_first:
        return "The initial sync starts by itself in a moment."
    if dagster == "starting":
        return "Dagster is starting. You can start a sync in a few seconds."
    return ""
