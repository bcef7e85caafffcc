"""kill -9 at any moment of a walk: the next one goes on with what had landed, and ends right."""

import os
import random
import subprocess
import time
from collections.abc import Callable

import pytest

from rms_pipeline.mirror.database import Database
from rms_pipeline.sandbox import Store, Switches
from rms_pipeline_tests.forks import Child
from rms_pipeline_tests.sync.conftest import Mirror
from rms_pipeline_tests.sync.test_any_sequence import empty

LANES = 12
# First pages of three lists, what changed meanwhile (one page and what is edited), three counts.
BESIDES = 10


def walker(mirror: Mirror, run: str) -> Child:
    url = mirror.database.url.get_secret_value()
    return Child(
        *("rms_pipeline_tests.drills.walker", url, mirror.sandbox.url, run),
        env=dict(os.environ),
        stdout=subprocess.PIPE,
    )


def landed(database: Database) -> int:
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM raw_rms_pages")
        return int((cursor.fetchone() or (0,))[0])


@pytest.mark.timeout(3_600)
def test_a_walk_killed_at_twenty_random_moments_goes_on_with_the_pages_it_has(
    mirror_of: Callable[..., Mirror], long: bool
) -> None:
    times = 200 if long else 20
    pages, size = (240, 10) if long else (120, 5)
    # In the past, so that nothing counts as changed during the walk.
    mirror = mirror_of(Store(pages * size), switches=Switches(max_per_page=size), latency_ms=20)
    truth = len(mirror.store.ids())
    chance = random.Random(4)
    resumed = 0
    for number in range(times):
        empty(mirror.database)
        mirror.sandbox.requests.clear()
        moment = chance.randrange(1, pages + 20)
        with walker(mirror, f"killed {number}") as first:
            while len(mirror.sandbox.requests) < moment and first.poll() is None:
                time.sleep(0.002)
            first.kill()
        kept = landed(mirror.database)
        # What the killed one had asked for is still being answered.
        time.sleep(0.1)
        mirror.sandbox.requests.clear()
        with walker(mirror, f"next {number}") as second:
            said, _ = second.communicate(timeout=120)
        assert second.returncode == 0
        assert "complete as of" in said
        whole = -(-truth // size) + 3
        resumed += int(said.split()[0]) > 0
        asked = len(mirror.sandbox.requests)
        if 0 < kept < whole and int(said.split()[0]):
            assert asked <= whole - kept + 2 * LANES + BESIDES, (moment, kept, asked)
        assert mirror.differences() == {}
    assert resumed >= times // 2
