"""Sequences of edits, deletions, returns and late answers by the hundred: all are remembered."""

from typing import Any

from hypothesis import HealthCheck, given, settings

from rms_pipeline_tests.mirror.test_record_history import STEPS, demand_that_it_remembers


def test_many_sequences_are_remembered_without_a_gap(database: Any, long: bool) -> None:
    @settings(
        max_examples=2_000 if long else 60,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(steps=STEPS)
    def remembers(steps: Any) -> None:
        demand_that_it_remembers(database, steps)

    remembers()
