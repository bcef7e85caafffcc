"""Edits, deletions, returns, late answers and kills in hundreds of orders: all are remembered."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from rms_pipeline.collections.base import Collection
from rms_pipeline_tests.kept_connections import kept_connections
from rms_pipeline_tests.mirror.test_any_history import REMEMBERED, STEPS, demand_that_it_remembers


@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("collection", REMEMBERED, ids=lambda c: c.name)
def test_many_sequences_are_remembered_without_a_gap(
    database: Any, collection: Collection, long: bool
) -> None:
    @settings(
        max_examples=400 if long else 20,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(steps=STEPS)
    def remembers(steps: Any) -> None:
        demand_that_it_remembers(database, collection, steps)

    with kept_connections():
        remembers()
