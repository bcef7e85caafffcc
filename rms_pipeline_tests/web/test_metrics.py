"""What Prometheus reads."""

import math
from collections.abc import Callable
from contextlib import closing

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from rms_pipeline.current_rms.pacing import Lane
from rms_pipeline.mirror.budget import SharedBudget
from rms_pipeline.sandbox import SANDBOX_SUBDOMAIN, Store
from rms_pipeline_tests.processes import wait_until
from rms_pipeline_tests.rows import insert
from rms_pipeline_tests.web.conftest import BEARER, Web, delivery

Serve = Callable[..., Web]


def measured(web: Web) -> dict[str, float]:
    """Each sample's value, by its name and its labels' values."""
    answer = requests.get(f"{web.url}/metrics", headers=BEARER, timeout=30)
    assert answer.status_code == 200
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


@pytest.mark.parametrize(("limit", "left"), [(120, 117.0), (0, float("inf"))])
def test_every_figure_of_the_webhooks_the_queue_and_the_budget_is_there(
    serve: Serve, limit: int, left: float
) -> None:
    web = serve(Store(20))
    first, second = web.sandbox.store.ids()[:2]
    for action, id_ in ((1, first), (1, first), (2, second)):
        assert web.post(delivery(action, id_)).status_code == 200
    assert web.post(delivery(3, first), token="wrong").status_code == 401
    waiting = "SELECT count(*) FROM webhook_events WHERE processed_at IS NULL"
    wait_until(lambda: web.query(waiting) == [(0,)])
    with web.database.session() as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO webhook_events (subject_type, opportunity_id, received_at,"
            " next_attempt_at, dead_at) VALUES"
            " ('Opportunity', 1, now() - interval '1 h', now() + interval '5 min', NULL),"
            " ('Opportunity', 2, now(), now(), now())"
        )
    audit = {"changed": 8, "by_webhook": 6, "share": 0.75, "lag_seconds": 1.5}
    insert(web.database, "walks", [{"kind": "changes", "runs": ["run"], "audit": audit}])
    with closing(SharedBudget(web.database, SANDBOX_SUBDOMAIN, limit)) as budget:
        for lane in (Lane.LIVE, Lane.LIVE, Lane.WALK):
            budget.acquire(lane)
    found = measured(web)
    expected = {
        "rms_webhooks_received_total": 4,
        "rms_webhooks_stored_total": 2,
        "rms_webhooks_repeated_total": 1,
        "rms_webhooks_refused_total 401": 1,
        "rms_webhooks_settled_total": 2,
        "rms_opportunities_refreshed_total": 2,
        "rms_webhook_attempts_failed_total": 0,
        "rms_webhook_to_row_seconds_count": 2,
        "rms_webhook_acknowledgement_seconds_count": 3,
        "rms_webhook_queue_depth": 1,
        "rms_webhook_dead_letters": 1,
        "rms_webhook_share": 0.75,
        "rms_webhook_lag_seconds": 1.5,
        "rms_api_calls_last_minute live": 2,
        "rms_api_calls_last_minute walk": 1,
        "rms_api_budget_left": left,
        "rms_api_limit_per_minute": limit or float("inf"),
        "rms_records_refreshed_total opportunities": 2,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert 3_600 <= found["rms_webhook_oldest_pending_seconds"] < 4_000


def test_what_nobody_has_measured_yet_is_no_number(web: Web) -> None:
    found = measured(web)
    for name in ("rms_webhook_share", "rms_webhook_lag_seconds", "rms_api_budget_left"):
        assert math.isnan(found[name]), name
    assert math.isnan(found["rms_collection_last_sync_age_seconds opportunities"])
    # The alert is on 0, and has to fire also if the first sync never comes to its end.
    assert found["rms_collection_complete opportunities"] == 0
    assert found["rms_mirror_complete"] == 0
