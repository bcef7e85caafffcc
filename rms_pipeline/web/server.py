"""uvicorn around the application, with no line in its logs that could hold a token."""

import logging
from contextlib import AbstractContextManager

import uvicorn
from dagster import DagsterInstance
from starlette.types import ASGIApp

from rms_pipeline.account import account_name, client_for
from rms_pipeline.addresses import UNENCRYPTED, is_exposed, print_dashboard, url_of
from rms_pipeline.console import out
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.errors import RmsPipelineError
from rms_pipeline.mirror.embedded import open_database
from rms_pipeline.mirror.ownership import claim_mirror
from rms_pipeline.mirror.schema import migrate
from rms_pipeline.sandbox import SANDBOX_SUBDOMAIN
from rms_pipeline.settings import Settings
from rms_pipeline.sync.queued import WorkedOff
from rms_pipeline.tokens import api_token, webhook_token
from rms_pipeline.web.access import Access
from rms_pipeline.web.app import create_app
from rms_pipeline.web.fast_lane import PATIENCE, FastLane
from rms_pipeline.web.launching import Launcher
from rms_pipeline.web.metrics import Metrics
from rms_pipeline.web.recounting import Recounter
from rms_pipeline.web.reporting import Reporter

logger = logging.getLogger(__name__)


class WebFailed(RmsPipelineError):
    """The web service could not be started."""


def serve(current: Settings, *, host: str, port: int) -> None:
    """Serves until SIGINT or SIGTERM. Raises WebFailed when the port cannot be had."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if is_exposed(host):
        logger.warning(UNENCRYPTED, host)
    database = open_database(current)
    migrate(database)
    claim_mirror(database, account_name(current), sandbox=SANDBOX_SUBDOMAIN)
    metrics = Metrics()

    def client() -> AbstractContextManager[CurrentRmsClient]:
        return client_for(current, database, patience=PATIENCE)

    with DagsterInstance.get() as instance:
        reporter = Reporter(database, instance, current.time_zone)
        recounter = Recounter(database, current.time_zone)

        def tell(done: WorkedOff) -> None:
            reporter(done)
            recounter(done)

        server: uvicorn.Server
        app = create_app(
            database,
            current=current,
            webhook_token=webhook_token(current),
            access=Access(api_token(current)),
            metrics=metrics,
            launcher=Launcher(database, current.dagster_url),
            services=[reporter, recounter, FastLane(database, client, metrics, tell)],
            stopping=lambda: server.should_exit,
        )
        server = uvicorn.Server(server_config(app, host, port))
        print_dashboard(current, url_of(host, port), api_token(current), out)
        logger.info("Webhooks are received at http://%s:%d/api/webhook/<token>", host, port)
        try:
            server.run()
        except SystemExit:
            raise WebFailed(
                f"Port {port} on {host} is in use or may not be used. Stop the other program, or "
                "choose another port with --port."
            ) from None


def server_config(app: ASGIApp, host: str, port: int) -> uvicorn.Config:
    """How uvicorn serves `app`."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        # The address of a webhook holds its secret.
        access_log=False,
        log_level="warning",
        server_header=False,
        # Who asks, and whether by https, is taken from a proxy on this machine only.
        proxy_headers=True,
        forwarded_allow_ips="127.0.0.1,::1",
        timeout_graceful_shutdown=10,
    )
