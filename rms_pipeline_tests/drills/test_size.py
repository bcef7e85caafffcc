"""A mirror as large as any account's."""

import pytest

from rms_pipeline.current_rms.window import Window
from rms_pipeline.mirror.database import Database
from rms_pipeline_tests.test_sync import MakeClient, assert_exact_sync


@pytest.mark.timeout(3_600)
def test_a_mirror_as_large_as_any_accounts_is_equal_field_by_field_too(
    database: Database, client_for: MakeClient, window: Window, long: bool
) -> None:
    assert_exact_sync(database, client_for, window, 500_000 if long else 30_000)
