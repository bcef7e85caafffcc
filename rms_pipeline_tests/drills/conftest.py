"""What the drills share, and what they counted."""

from collections.abc import Callable

import pytest

from rms_pipeline.mirror.database import Database
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.sync.conftest import mirror_of as mirror_of

Tell = Callable[[str], None]
_COUNTED = "counted"


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    """Takes a line of counts, which is printed when all drills are over."""
    return lambda line: record_property(_COUNTED, line)


def leave(database: Database, schema: str, opportunity: int) -> None:
    """Puts an event into the queue of a mirror, as a receiver does that dies right after."""
    query(
        database,
        f"INSERT INTO {schema}.webhook_events (subject_type, opportunity_id)"
        " VALUES ('Opportunity', %s)",
        opportunity,
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
