"""What the API can do with webhooks: list, create, change, delete, and show its log.

Every function that takes a client may raise RequestRefused (final) or ApiUnavailable.
"""

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec
from pydantic import SecretStr

from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.errors import CurrentRmsError, NotFound, WalkIncomplete
from rms_pipeline.current_rms.pacing import Lane

# How often to read a list again if it changed while it was read.
_READINGS = 3
_LOG_PAGES = 5
# The number asked for. The API decides how many come.
_PER_PAGE = 100

T = TypeVar("T")


class Webhook(msgspec.Struct, frozen=True):
    """A subscription as the API shows it. Subscriptions of others may lack everything but the
    id.
    """

    id: int
    name: str | None = None
    event: str | None = None
    target_url: str | None = None
    active: bool | None = None

    def __repr__(self) -> str:
        return f"Webhook({self.id}, {self.name!r})"


class Delivery(msgspec.Struct, frozen=True):
    """One attempt to deliver, from the log. `response_code` is None if there was no answer."""

    webhook_id: int | None = None
    response_code: Any = None
    created_at: str | None = None

    @property
    def at(self) -> datetime | None:
        """Return the time in UTC, or None if the log does not have it."""
        try:
            moment = datetime.fromisoformat(self.created_at or "")
        except ValueError:
            return None
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


class _Meta(msgspec.Struct, frozen=True):
    total_row_count: int | None = None


class _Webhooks(msgspec.Struct, frozen=True):
    webhooks: list[Webhook]
    meta: _Meta = _Meta()


class _Single(msgspec.Struct, frozen=True):
    webhook: Webhook


class _Logs(msgspec.Struct, frozen=True):
    webhook_logs: list[Delivery]


def listed(client: CurrentRmsClient) -> list[Webhook]:
    """Return all subscriptions of the account by id, from all pages. May raise WalkIncomplete."""
    for _ in range(_READINGS):
        found: dict[int, Webhook] = {}
        total: int | None = None
        page, grown = 1, True
        while grown and (total is None or len(found) < total):
            query = urlencode({"page": page, "per_page": _PER_PAGE})
            decoded = client.read(f"/webhooks?{query}", _decoder(_Webhooks), Lane.LIVE).decoded
            before = len(found)
            found |= {webhook.id: webhook for webhook in decoded.webhooks}
            total = decoded.meta.total_row_count
            if total is not None and total < len(found):
                # More came than are counted. Then only a page without news is the end.
                total = None
            page, grown = page + 1, len(found) > before
        if total is None or len(found) >= total:
            return [found[id_] for id_ in sorted(found)]
    raise WalkIncomplete(
        f"Current RMS counts {total} webhooks but lists {len(found)}, so it is unknown which are "
        "missing. Run this again when nobody changes webhooks."
    )


def create(client: CurrentRmsClient, wanted: dict[str, Any], token: SecretStr) -> None:
    """Subscribe once. If an answer was lost, look for a subscription of this name before
    repeating.
    """

    def made_already() -> Webhook | None:
        return next((w for w in listed(client) if w.name == wanted["name"]), None)

    client.write(
        "POST",
        "/webhooks",
        {"webhook": wanted},
        lambda body: _decoder(_Single)(body).webhook,
        done_already=made_already,
        hidden=token,
    )


def change(
    client: CurrentRmsClient, webhook: Webhook, wanted: dict[str, Any], token: SecretStr
) -> None:
    """Change the subscription to `wanted`. If it is gone, nothing happens."""
    path = f"/webhooks/{webhook.id}"
    with contextlib.suppress(NotFound):
        client.write("PUT", path, {"webhook": wanted}, _anything, hidden=token)


def delete(client: CurrentRmsClient, webhook: Webhook) -> None:
    """Remove the subscription. It is no error if it is gone already."""
    with contextlib.suppress(NotFound):
        client.write("DELETE", f"/webhooks/{webhook.id}", None, _anything)


def latest_deliveries(client: CurrentRmsClient, ids: set[int]) -> dict[int, Delivery]:
    """Return the last attempt for each subscription of `ids`, if it is on the log's first pages."""
    latest: dict[int, Delivery] = {}
    for page in range(1, _LOG_PAGES + 1):
        if not ids - latest.keys():
            break
        query = urlencode({"page": page, "per_page": _PER_PAGE})
        try:
            answer = client.read(f"/webhook_logs?{query}", _decoder(_Logs), Lane.LIVE)
        except CurrentRmsError:
            # The list of subscriptions is complete without the account's log.
            break
        if not answer.decoded.webhook_logs:
            break
        for delivery in answer.decoded.webhook_logs:
            id_ = delivery.webhook_id
            if id_ is None or id_ not in ids:
                continue
            if id_ not in latest or _moment(delivery) > _moment(latest[id_]):
                latest[id_] = delivery
    return latest


def _moment(delivery: Delivery) -> datetime:
    return delivery.at or datetime.min.replace(tzinfo=UTC)


def _decoder(kind: type[T]) -> Callable[[bytes], T]:
    def decode(body: bytes) -> T:
        # Lax, because numbers and flags may come as text.
        try:
            return msgspec.json.decode(body, type=kind, strict=False)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(str(error)) from error

    return decode


def _anything(_: bytes) -> None:
    """Accept any body: only the status of the answer matters."""
