"""A mirror of a company in London, in whose tables nothing is."""

import pytest

from rms_pipeline.mirror.database import Database
from rms_pipeline_tests.rows import query


@pytest.fixture
def london(emptied: Database) -> Database:
    set_time_zone(emptied, "Europe/London")
    return emptied


def set_time_zone(database: Database, zone: str) -> None:
    """As each count of the statuses notes it."""
    query(
        database,
        "INSERT INTO mirror_state (name, value) VALUES ('time_zone', %s)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        zone,
    )
