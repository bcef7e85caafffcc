"""The shared request budget by the clock on the wall, for longer than its window of a minute."""

import time

import pytest

from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.mirror.database import Database
from rms_pipeline_tests.mirror.test_budget import Hammers, fullest, use_of


@pytest.mark.timeout(900)
def test_two_processes_use_the_limit_of_120_a_minute_and_never_more(
    database: Database, long: bool
) -> None:
    with Hammers(database, 120, [Lane.WALK] * 4 + [Lane.LIVE] * 2) as hammers:
        hammers.wait_for_both()
        time.sleep(375 if long else 75)
        use = use_of(database)
    grants = hammers.all
    start, end = grants[0].at, grants[-1].at
    assert end - start > (372 if long else 72)
    assert fullest(grants, 60) <= 120
    for offset in range(5, 315 if long else 15):
        window = [g for g in grants if start + offset <= g.at < start + offset + 60]
        assert len(window) >= 0.85 * 120
    assert 0.85 * 120 <= use.calls <= 120
