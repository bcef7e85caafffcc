"""kill -9 at any moment of a proof: the next one is right."""

import os
import random
import time
from collections.abc import Callable

import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.proofs import newest_proof
from rms_pipeline.sandbox import Store, Switches
from rms_pipeline_tests.forks import Child
from rms_pipeline_tests.sync.conftest import Mirror
from rms_pipeline_tests.test_sync import ids_in

# What a proof asks for when something is gone, something new, and something edited.
MOST_REQUESTS = 22


@pytest.mark.timeout(3_600)
def test_after_a_proof_killed_at_twenty_random_moments_the_next_one_is_right(
    mirror_of: Callable[..., Mirror], long: bool
) -> None:
    mirror = mirror_of(Store(200), switches=Switches(max_per_page=10), latency_ms=15)
    mirror.full_sync()
    chance = random.Random(7)
    died = 0
    for number in range(200 if long else 20):
        ids = ids_in(mirror.store, mirror.window)
        gone, edited, model = chance.sample(ids, 3)
        mirror.store.edit(edited, {"subject": f"Edited {number}"})
        # Not both: the one that has no updated_at may stand in for the other, as the text says.
        if number % 2:
            mirror.store.delete(gone)
        else:
            dates = {k: mirror.store.value(model, k) for k in ("starts_at", "ends_at")}
            mirror.store.create({"subject": f"Silent {number}", **dates, "updated_at": None})
        with mirror.database.session() as connection:
            before = newest_proof(connection, OPPORTUNITIES)
        mirror.sandbox.requests.clear()
        moment = chance.randrange(1, MOST_REQUESTS)
        url = mirror.database.url.get_secret_value()
        since = mirror.watermarks[0].isoformat()
        arguments = (url, mirror.sandbox.url, f"killed {number}", since)
        with Child(
            *("rms_pipeline_tests.drills.prover", *arguments), env=dict(os.environ)
        ) as process:
            while len(mirror.sandbox.requests) < moment and process.poll() is None:
                time.sleep(0.001)
            time.sleep(chance.random() * 0.02)
            process.kill()
        with mirror.database.session() as connection:
            after = newest_proof(connection, OPPORTUNITIES)
        if after == before:
            died += 1
        else:
            # It had come to its end before it was killed, and said what was so.
            assert after is not None
            assert not after.shown or mirror.differences() == {}, after.sentence
        proof = mirror.proved_sync()
        assert proof is not None
        assert proof.shown, proof.sentence
        assert mirror.differences() == {}
    assert died >= 10
