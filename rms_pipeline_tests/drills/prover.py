"""Runs an incremental sync with its proof, in order to be killed: -m ... URL API_URL RUN SINCE."""

import sys
from datetime import datetime

from pydantic import SecretStr

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.pacing import ProcessBudget
from rms_pipeline.sandbox import SANDBOX_API_KEY, SANDBOX_SUBDOMAIN
from rms_pipeline_tests.conftest import database_at
from rms_pipeline_tests.core import proved_sync


def main(database_url: str, api_url: str, run: str, since: str) -> None:
    database = database_at(database_url)
    client = CurrentRmsClient(
        collection=OPPORTUNITIES,
        base_url=api_url,
        subdomain=SANDBOX_SUBDOMAIN,
        api_key=SecretStr(SANDBOX_API_KEY),
        budget=ProcessBudget(0),
        now=database.clock(),
    )
    with client:
        proved_sync(database, client, [datetime.fromisoformat(since)], run)


if __name__ == "__main__":
    main(*sys.argv[1:])
