"""Runs a full sync in a process of its own, in order to be killed: -m ... DATABASE_URL API_URL
RUN.
"""

import sys
from datetime import UTC, datetime, timedelta

from pydantic import SecretStr

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.pacing import ProcessBudget
from rms_pipeline.current_rms.window import Window
from rms_pipeline.mirror.database import advisory_lock
from rms_pipeline.sandbox import SANDBOX_API_KEY, SANDBOX_SUBDOMAIN
from rms_pipeline_tests.conftest import database_at
from rms_pipeline_tests.core import full_sync


def main(database_url: str, api_url: str, run: str) -> None:
    database = database_at(database_url)
    client = CurrentRmsClient(
        collection=OPPORTUNITIES,
        base_url=api_url,
        subdomain=SANDBOX_SUBDOMAIN,
        api_key=SecretStr(SANDBOX_API_KEY),
        budget=ProcessBudget(0),
        now=database.clock(),
    )
    window = Window.around(datetime.now(UTC), days_back=30, days_ahead=365)
    with client, advisory_lock(database, "walk"):
        done = full_sync(database, client, window, run, fresh_for=timedelta(hours=1))
    sys.stdout.write(f"{done.landed.pages_kept} {done.settled.certificate.sentence}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
