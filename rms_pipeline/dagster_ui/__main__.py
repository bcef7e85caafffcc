"""`python -m rms_pipeline.dagster_ui`: Dagster's webserver in this process, guarded."""

import argparse
from urllib.parse import urlsplit

import uvicorn
from dagster import DagsterInstance
from dagster_webserver.app import create_app_from_workspace_process_context
from dagster_webserver.cli import (
    DEFAULT_DB_STATEMENT_TIMEOUT,
    DEFAULT_POOL_MAX_OVERFLOW,
    DEFAULT_POOL_RECYCLE,
)
from dagster_webserver.version import __version__

from rms_pipeline.console import prepare
from rms_pipeline.dagster_ui.guard import Guard
from rms_pipeline.defs.compat import WorkspaceFileTarget, WorkspaceProcessContext
from rms_pipeline.logs import start_logging
from rms_pipeline.settings import Settings
from rms_pipeline.web.server import server_config
from rms_pipeline.web.sessions import Sessions
from rms_pipeline.web.tokens import api_token

_POLL_MILLISECONDS = 2000


def serve(current: Settings, *, host: str, port: int, sign_in: str) -> None:
    """Serves until SIGINT or SIGTERM. `sign_in` is the web service's address for people."""
    start_logging(current.log_format)
    names = [urlsplit(address).hostname or "" for address in (current.dagster_url, sign_in)]
    with DagsterInstance.get() as instance:
        # As Dagster's own command does.
        instance.optimize_for_webserver(
            DEFAULT_DB_STATEMENT_TIMEOUT, DEFAULT_POOL_RECYCLE, DEFAULT_POOL_MAX_OVERFLOW
        )
        target = WorkspaceFileTarget(paths=[str(current.project_folder / "workspace.yaml")])
        with WorkspaceProcessContext(
            instance, version=__version__, read_only=False, workspace_load_target=target
        ) as workspace:
            dagster = create_app_from_workspace_process_context(
                workspace, live_data_poll_rate=_POLL_MILLISECONDS
            )
            guard = Guard(dagster, Sessions(api_token(current)), hosts=names, sign_in=sign_in)
            config = server_config(guard, host, port, current.trusted_proxies, websockets=True)
            uvicorn.Server(config).run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m rms_pipeline.dagster_ui", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--sign-in", required=True, help="The web service's address for people.")
    given = parser.parse_args()
    serve(prepare(), host=given.host, port=given.port, sign_in=given.sign_in)
