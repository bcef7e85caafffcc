"""Whatever happens, in whatever order: forty sequences, or thousands."""

import sys
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from rms_pipeline.mirror.database import Database
from rms_pipeline_tests.sync.conftest import Mirror
from rms_pipeline_tests.sync.test_any_sequence import SHOWN, sequences_of


@pytest.mark.timeout(0)
def test_after_any_of_many_sequences_one_quiet_full_sync_makes_the_window_equal_to_the_api(
    mirror_of: Callable[..., Mirror], database: Database, long: bool
) -> None:
    run_state_machine_as_test(
        sequences_of(mirror_of, database),
        settings=settings(max_examples=3_000 if long else 40),
    )
    sys.stdout.write(f"{len(SHOWN):,} certificates compared with the API's lists.\n")
