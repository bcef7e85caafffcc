"""Builds the FastAPI application."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles
from pydantic import SecretStr
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import Receive, Scope, Send

from rms_pipeline.account import client_for
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.database import Database
from rms_pipeline.settings import Settings
from rms_pipeline.web.access import Access
from rms_pipeline.web.background import Background
from rms_pipeline.web.calendar import calendar_routes
from rms_pipeline.web.changes import changes_routes
from rms_pipeline.web.dagster_link import Starting, dagster_link_routes
from rms_pipeline.web.dashboard import dashboard_routes
from rms_pipeline.web.decisions import decisions_routes
from rms_pipeline.web.desk import Desk
from rms_pipeline.web.fast_lane import PATIENCE, ClientFactory
from rms_pipeline.web.feeds import calendar_feed_routes
from rms_pipeline.web.find import find_routes
from rms_pipeline.web.further_back import further_back_routes
from rms_pipeline.web.headers import Headers
from rms_pipeline.web.health import health_routes
from rms_pipeline.web.launching import Launcher
from rms_pipeline.web.locales import Manners
from rms_pipeline.web.metrics import Metrics
from rms_pipeline.web.monitoring import monitoring_routes
from rms_pipeline.web.opportunities import opportunities_routes
from rms_pipeline.web.opportunity import opportunity_routes
from rms_pipeline.web.parties import parties_routes
from rms_pipeline.web.rankings import rankings_routes
from rms_pipeline.web.receiver import receiver
from rms_pipeline.web.refusals import handle_errors
from rms_pipeline.web.saved_views import saved_view_routes
from rms_pipeline.web.sync_api import sync_api_routes
from rms_pipeline.web.templating import STATIC
from rms_pipeline.web.today import today_routes


class _Compressed(GZipMiddleware):
    """Compresses answers, but for workbooks: these are zip files."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].endswith(".xlsx"):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(
    database: Database,
    *,
    current: Settings,
    webhook_tokens: Sequence[SecretStr],
    access: Access,
    metrics: Metrics,
    launcher: Launcher,
    services: Sequence[Background] = (),
    client: ClientFactory | None = None,
    starting: Starting | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> FastAPI:
    """The web service for `database`.

    `services` start and stop with it, the last one first. `client` reads opportunities from Current
    RMS; without it, the settings are used. `starting` knows what is still starting, and the
    dashboard shows that. `stopping` says that the service is about to end. The server waits for
    open requests before it stops, so code that waits long has to check it.
    """

    desk = Desk(database, current, access)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        beside = [*services, *([starting] if starting else [])]
        for service in beside:
            service.start()
        yield
        for service in reversed(beside):
            service.stop()
        desk.close()

    app = FastAPI(
        title="rms_pipeline",
        description="Keeps a copy of a Current RMS account's opportunities fresh. Everything "
        "except the webhook, /healthz and calendar feeds needs the API token: "
        "`Authorization: Bearer <RMS_API_TOKEN>`.",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(_Compressed, minimum_size=1_000)
    app.add_middleware(Manners, currency=current.currency)
    app.add_middleware(Headers, database=database)
    handle_errors(app, database)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    asking = client or partial(client_for, current, database, OPPORTUNITIES, patience=PATIENCE)
    for router in (
        access.login(),
        receiver(database, webhook_tokens, metrics, current.collections),
        sync_api_routes(desk, launcher, stopping),
        health_routes(desk),
        dashboard_routes(desk, launcher, starting),
        further_back_routes(desk, launcher, asking),
        dagster_link_routes(desk),
        today_routes(desk),
        find_routes(desk),
        changes_routes(desk),
        saved_view_routes(desk),
        opportunities_routes(desk),
        opportunity_routes(desk),
        calendar_feed_routes(desk),
        calendar_routes(desk),
        decisions_routes(desk),
        rankings_routes(desk),
        parties_routes(desk),
        monitoring_routes(desk, metrics),
    ):
        # `include_router` would build each route a second time: 60 ms of the first request.
        app.router.routes.extend(router.routes)

    def show_missing(request: Request, title: str, text: str, hint: str) -> Response | None:
        if not access.is_signed_in(request):
            return None
        return desk.render("missing.html", status=404, title=title, text=text, hint=hint)

    app.state.show_missing = show_missing
    return app
