"""Real deliveries of the sandbox to the real service, which dies now and then."""

from collections.abc import Callable

import requests

from rms_pipeline.sandbox import SANDBOX_API_KEY, SANDBOX_SUBDOMAIN, SandboxServer, Store
from rms_pipeline.sandbox.deliveries import WebhookSwitches
from rms_pipeline.sandbox.events import EVENTS
from rms_pipeline_tests.processes import (
    wait_until,
)
from rms_pipeline_tests.test_sync import rows
from rms_pipeline_tests.web.conftest import WEBHOOK_TOKEN, Web

QUICK = WebhookSwitches(backoff=0.05, longest_wait=0.5, attempts=400, duplicated=0.1)


def subscribe(sandbox: SandboxServer, url: str, key: str = SANDBOX_API_KEY) -> None:
    headers = {"X-SUBDOMAIN": SANDBOX_SUBDOMAIN, "X-AUTH-TOKEN": key}
    for event in sorted(EVENTS):
        webhook = {"name": event, "event": event, "active": True}
        webhook["target_url"] = f"{url}/api/webhook/{WEBHOOK_TOKEN}"
        requests.post(
            f"{sandbox.url}/webhooks", json={"webhook": webhook}, headers=headers, timeout=10
        ).raise_for_status()


def test_an_edit_in_the_account_is_in_the_row_by_itself(serve: Callable[..., Web]) -> None:
    web = serve(Store(30))
    subscribe(web.sandbox, web.url)
    edited, destroyed = web.sandbox.store.ids()[:2]
    web.sandbox.store.edit(edited, {"subject": "By itself", "status": 5})
    web.sandbox.store.delete(destroyed)
    created = web.sandbox.store.create({"subject": "Newborn"})
    assert web.sandbox.deliveries.wait_until_idle(10)
    done = "SELECT count(*) FILTER (WHERE processed_at IS NULL), count(*) FROM webhook_events"
    # Two for the edit: it was an update, and a reservation.
    wait_until(lambda: web.query(done) == [(0, 4)], timeout=10)
    names = {id_: row["name"] for id_, row in rows(web.database).items()}
    assert names == {edited: "By itself", created: "Newborn"}
