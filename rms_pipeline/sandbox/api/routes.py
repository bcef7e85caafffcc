"""Which module answers which address."""

from rms_pipeline.sandbox.account import InventedAccount
from rms_pipeline.sandbox.api import collections, items, opportunities, webhooks
from rms_pipeline.sandbox.api.answers import Answer, Refusal, Request


def answer(account: InventedAccount, request: Request) -> Answer:
    """For any address below `/api/v1`. Raises Refusal."""
    first = request.path.split("/")[1]
    if first in account.switches.forbidden:
        raise Refusal("You are not permitted to do this", 403)
    match first:
        case "opportunities":
            return opportunities.answer(account, request)
        case "opportunity_items":
            return items.answer_for_all(account, request)
        case "members" | "products" | "stores":
            return collections.answer(account, first, request)
        case "invoices":
            return collections.answer_invoices(account, request)
        case "webhooks" | "webhook_logs":
            return webhooks.answer(account, request)
    raise Refusal("Not found", 404)
