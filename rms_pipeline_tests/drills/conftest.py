"""Fixtures of the drills, and the table of what they counted."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser

from rms_pipeline.mirror.database import Database
from rms_pipeline_tests.browser.conftest import (
    opened_browser,
    page,
    pytest_runtest_makereport,
    standing_tab,
)
from rms_pipeline_tests.conftest import database_at
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.sync.conftest import MakeClient, Mirror, mirrors_in

__all__ = ["page", "pytest_runtest_makereport", "standing_tab"]

Tell = Callable[[str], None]
_COUNTED = "counted"


# Not longer than a module: other drills run event loops.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with opened_browser() as browser:
        yield browser


@pytest.fixture
def mirror_of(database: Database, client_for: MakeClient) -> Iterator[Callable[..., Mirror]]:
    """Makes a mirror of a store in a database of its own, because processes in it may be killed."""
    with mirrors_in(database, client_for) as make:
        yield make


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    """Takes a line of counts. It is printed when all drills are over."""
    return lambda line: record_property(_COUNTED, line)


def leave(database: Database, schema: str, opportunity: int) -> None:
    """Put an event into the queue of a mirror, as a receiver does that dies right afterwards."""
    query(
        database,
        f"INSERT INTO {schema}.webhook_events (subject_type, opportunity_id)"
        " VALUES ('Opportunity', %s)",
        opportunity,
    )


def end_claims(url: str) -> None:
    """Let go of claimed events, as time does when a lease ends (`web/test_fast_lane.py`).

    A process that lives may hold one of them. Two that refresh the same record do no harm.
    """
    database = database_at(url)
    query(
        database,
        "UPDATE webhook_events SET claimed_until = now()"
        " WHERE claimed_until IS NOT NULL AND processed_at IS NULL",
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = [
        str(value)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, value in report.user_properties
        if name == _COUNTED
    ]
    if lines:
        terminalreporter.section("what the drills counted")
    for line in sorted(lines):
        terminalreporter.write_line(line)
