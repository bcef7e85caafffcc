"""What all tests of collections share."""

from collections.abc import Iterator

import pytest

from rms_pipeline_tests.kept_connections import kept_connections


@pytest.fixture(scope="module", autouse=True)
def connections() -> Iterator[None]:
    """Used again: what these tests look at is rows."""
    with kept_connections():
        yield
