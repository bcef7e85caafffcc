"""`/webhooks` and `/webhook_logs`."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from rms_pipeline.sandbox.account import InventedAccount
from rms_pipeline.sandbox.api.answers import Answer, Refusal, Request
from rms_pipeline.sandbox.api.paging import cut


def answer(account: InventedAccount, request: Request) -> Answer:
    """Raises Refusal."""
    webhooks, method = account.webhooks, request.method
    if not account.switches.webhooks_enabled:
        raise Refusal("Webhooks are not enabled for this account", 403)
    if (method, request.path) == ("GET", "/webhook_logs"):
        return _page(account, "webhook_logs", webhooks.logs(), request)
    if (method, request.path) == ("GET", "/webhooks"):
        return _page(account, "webhooks", webhooks.all(), request)
    if (method, request.path) == ("POST", "/webhooks"):
        return _webhook(webhooks.create(request.fields("webhook")), 201)
    tail = request.path.removeprefix("/webhooks/")
    id_ = int(tail) if tail.isdigit() else 0
    found = None
    if method == "GET":
        found = webhooks.get(id_)
    elif method in ("PUT", "PATCH") and webhooks.get(id_) is not None:
        found = webhooks.change(id_, request.fields("webhook"))
    elif method == "DELETE" and webhooks.remove(id_):
        return Answer(204)
    if found is None:
        raise Refusal("Webhook not found", 404)
    return _webhook(found)


def _webhook(webhook: Mapping[str, Any], status: int = 200) -> Answer:
    return Answer(status, msgspec.json.encode({"webhook": webhook}))


def _page(
    account: InventedAccount, name: str, rows: Sequence[Mapping[str, Any]], request: Request
) -> Answer:
    unknown = [key for key, _ in request.query if key.startswith("q[")]
    if unknown and account.switches.unknown_predicate != "ignored":
        raise Refusal(f"{unknown[0]} is not known", int(account.switches.unknown_predicate))
    page = cut(rows, request.query, account.switches)
    return Answer(200, page.body(name, [msgspec.json.encode(row) for row in page.rows]))
