"""The queue of webhooks by itself, without an API."""

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.queue import ATTEMPTS, claim, give_back, replay
from rms_pipeline_tests.rows import insert, query


def test_a_replayed_dead_letter_has_all_its_attempts_again(emptied: Database) -> None:
    event = {"subject_type": "Opportunity", "opportunity_id": 7, "attempts": ATTEMPTS - 1}
    insert(emptied, "webhook_events", [event])
    dead = "SELECT dead_at IS NOT NULL FROM webhook_events"
    with emptied.session() as connection:
        assert (
            give_back(connection, claim(connection, OPPORTUNITIES, "a"), [7], "no", blameless=False)
            == 1
        )
        assert query(emptied, dead) == [(True,)]
        assert replay(connection) == 1
        for attempt in range(1, ATTEMPTS + 1):
            query(emptied, "UPDATE webhook_events SET next_attempt_at = now()")
            died = give_back(
                connection, claim(connection, OPPORTUNITIES, "a"), [7], "no", blameless=False
            )
            assert died == (attempt == ATTEMPTS)
