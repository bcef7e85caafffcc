"""Runs the application in uvicorn, without log lines that could contain a token."""

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING

import uvicorn
from starlette.types import ASGIApp

from rms_pipeline.account import account_name, client_for
from rms_pipeline.collections.base import Collection
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.console import out
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.errors import RmsPipelineError
from rms_pipeline.logs import start_logging
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.embedded import open_database
from rms_pipeline.mirror.ownership import claim_mirror
from rms_pipeline.mirror.schema import migrate_once
from rms_pipeline.ports import demand_free_port
from rms_pipeline.sandbox import SANDBOX_SUBDOMAIN
from rms_pipeline.settings import Settings
from rms_pipeline.sync.queued import WorkedOff
from rms_pipeline.web.access import Access
from rms_pipeline.web.addresses import UNENCRYPTED, is_exposed, print_dashboard, url_of
from rms_pipeline.web.app import create_app
from rms_pipeline.web.background import Background
from rms_pipeline.web.dagster_link import Starting
from rms_pipeline.web.fast_lane import PATIENCE, WORKER, FastLane
from rms_pipeline.web.launching import Launcher, LaunchWatch
from rms_pipeline.web.metrics import Metrics
from rms_pipeline.web.parts_lane import PartsLane
from rms_pipeline.web.recounting import Recounter
from rms_pipeline.web.reporting import Reporter
from rms_pipeline.web.sessions import Sessions
from rms_pipeline.web.sockets import Limits, within
from rms_pipeline.web.tokens import api_token, webhook_tokens

if TYPE_CHECKING:
    from dagster import DagsterInstance

logger = logging.getLogger(__name__)


class WebFailed(RmsPipelineError):
    """The web service could not be started."""


def serve(
    current: Settings,
    *,
    host: str,
    port: int,
    dagster_starts: bool = False,
    first_sync_starts: bool = False,
) -> None:
    """Serves until SIGINT or SIGTERM. Raises PortTaken or WebFailed if it cannot.

    `dagster_starts` and `first_sync_starts` say that Dagster and an initial sync are being started
    beside it. The dashboard then says so.
    """
    start_logging(current.log_format)
    demand_free_port(host, port, "--port")
    if is_exposed(host):
        logger.warning(UNENCRYPTED, host)
    database = open_database(current)
    migrate_once(database)
    claim_mirror(database, account_name(current), sandbox=SANDBOX_SUBDOMAIN)
    metrics = Metrics()
    token = api_token(current)
    starting = None
    if dagster_starts:
        starting = Starting(current.dagster_url, first_sync=first_sync_starts)
    launcher = Launcher(
        database,
        current.dagster_url,
        Sessions(token).dagster_token,
        location=current.dagster_location,
        name=current.in_dagster,
    )
    with _dagster_instance() as instance:
        server: uvicorn.Server
        app = create_app(
            database,
            current=current,
            webhook_tokens=webhook_tokens(current),
            access=Access(token, public_url=current.public_url),
            metrics=metrics,
            launcher=launcher,
            services=[
                *_refreshing(current, database, metrics, instance),
                LaunchWatch(database, launcher),
            ],
            starting=starting,
            stopping=lambda: server.should_exit,
        )
        server = uvicorn.Server(server_config(app, host, port, current.trusted_proxies))
        if current.log_format == "text":
            print_dashboard(current, url_of(host, port), token, out)
        logger.info("Webhooks are received at http://%s:%d/api/webhook/<token>", host, port)
        try:
            server.run()
        except SystemExit:
            raise WebFailed(
                f"The web service cannot listen on port {port} of {host} any more. Another program "
                "has taken it meanwhile: stop that, or choose another port with --port."
            ) from None


@contextmanager
def _dagster_instance() -> Iterator[Callable[[], "DagsterInstance"]]:
    """Opens Dagster's instance when it is first asked for, and closes it at the end: importing
    Dagster takes seconds, and the service should answer before that."""
    with ExitStack() as opened:

        @cache
        def instance() -> "DagsterInstance":
            from dagster import DagsterInstance

            return opened.enter_context(DagsterInstance.get())

        yield instance


def _refreshing(
    current: Settings,
    database: Database,
    metrics: Metrics,
    instance: Callable[[], "DagsterInstance"],
) -> list[Background]:
    """What refreshes the records that webhooks named, then their parts, and what follows from
    that: the counts of the statuses, and what Dagster is told."""

    def client(collection: Collection) -> AbstractContextManager[CurrentRmsClient]:
        return client_for(current, database, collection, patience=PATIENCE)

    reporter = Reporter(database, instance, current.time_zone, current.key_prefix)
    recounter = Recounter(database, current.time_zone)
    parts_lanes = [
        PartsLane(database, c, partial(client, c), reporter)
        for c in current.collections
        if c.parts is not None
    ]

    def tell(collection: Collection, done: WorkedOff) -> None:
        reporter(collection, done)
        for lane in parts_lanes:
            lane(collection, done)
        if collection is OPPORTUNITIES:
            recounter(done)

    clients = [partial(client, c) for c in current.collections if c.parts is None]
    return [reporter, recounter, FastLane(database, clients, metrics, tell), *parts_lanes]


def leave() -> None:
    """Ends this process if calls to Current RMS are still running, because Python would wait for
    their answers. Nothing is lost: the claims on their webhooks expire, and the next service
    refreshes them."""
    if not any(thread.name.startswith(WORKER) for thread in threading.enumerate()):
        return
    logger.warning(
        "The web service stopped while calls to Current RMS were running. Their webhooks wait "
        "for the next start"
    )
    # The embedded PostgreSQL is stopped here, where this process was the last to use it.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def server_config(
    app: ASGIApp,
    host: str,
    port: int,
    trusted_proxies: Sequence[str] = (),
    *,
    limits: Limits | None = None,
    websockets: bool = False,
) -> uvicorn.Config:
    """How uvicorn serves `app`. `X-Forwarded-For` and `-Proto` are trusted only from those
    proxies."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        # The address of a webhook holds its secret.
        access_log=False,
        # What uvicorn has to say goes where everything else does.
        log_config=None,
        log_level="warning",
        server_header=False,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=list(trusted_proxies),
        ws="auto" if websockets else "none",
        timeout_graceful_shutdown=10,
        **within(limits or Limits(many_behind=tuple(trusted_proxies))),
    )
