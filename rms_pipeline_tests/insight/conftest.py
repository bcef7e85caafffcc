"""An empty mirror of a company in London."""

import pytest

from rms_pipeline.mirror.database import Database
from rms_pipeline_tests.rows import query


@pytest.fixture
def london(emptied: Database) -> Database:
    set_time_zone(emptied, "Europe/London")
    return emptied


def set_time_zone(database: Database, zone: str) -> None:
    """Set the time zone of the mirror, as each count of the statuses does."""
    query(
        database,
        "INSERT INTO mirror_state (name, value) VALUES ('time_zone', %s)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        zone,
    )
