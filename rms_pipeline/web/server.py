"""uvicorn around the application, with no line in its logs that could hold a token."""

import logging
from contextlib import AbstractContextManager

import uvicorn
from dagster import DagsterInstance

from rms_pipeline.account import account_name, client_for
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.errors import RmsPipelineError
from rms_pipeline.mirror.embedded import open_database
from rms_pipeline.mirror.ownership import claim_mirror
from rms_pipeline.mirror.schema import migrate
from rms_pipeline.sandbox import SANDBOX_SUBDOMAIN
from rms_pipeline.settings import LOOPBACK_HOSTS, Settings
from rms_pipeline.tokens import api_token, webhook_token
from rms_pipeline.web.access import Access
from rms_pipeline.web.app import create_app
from rms_pipeline.web.fast_lane import PATIENCE, FastLane
from rms_pipeline.web.metrics import Metrics
from rms_pipeline.web.reporting import Reporter

logger = logging.getLogger(__name__)


class WebFailed(RmsPipelineError):
    """The web service could not be started."""


def serve(current: Settings, *, host: str, port: int) -> None:
    """Serves until SIGINT or SIGTERM. Raises WebFailed when the port cannot be had."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if host not in LOOPBACK_HOSTS:
        logger.warning(
            "Listening on %s without TLS: put a proxy with a certificate in front of it, or the "
            "tokens travel in clear.",
            host,
        )
    database = open_database(current)
    migrate(database)
    claim_mirror(database, account_name(current), sandbox=SANDBOX_SUBDOMAIN)
    metrics = Metrics()

    def client() -> AbstractContextManager[CurrentRmsClient]:
        return client_for(current, database, patience=PATIENCE)

    with DagsterInstance.get() as instance:
        reporter = Reporter(database, instance)
        app = create_app(
            database,
            account=account_name(current),
            webhook_token=webhook_token(current),
            access=Access(api_token(current)),
            metrics=metrics,
            services=[reporter, FastLane(database, client, metrics, reporter)],
        )
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            # The address of a webhook holds its secret.
            access_log=False,
            log_level="warning",
            server_header=False,
        )
        server = uvicorn.Server(config)
        logger.info("Webhooks are received at http://%s:%d/api/webhook/<token>", host, port)
        try:
            server.run()
        except SystemExit:
            raise WebFailed(
                f"Port {port} on {host} is in use or may not be used. Stop the other program, or "
                "choose another port with --port."
            ) from None
