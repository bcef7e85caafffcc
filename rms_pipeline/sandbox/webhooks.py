"""The account's webhooks: subscriptions, and the log of what became of deliveries."""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from rms_pipeline.sandbox.api.answers import Refusal
from rms_pipeline.sandbox.events import SUBSCRIBABLE
from rms_pipeline.sandbox.world.values import iso

_LOGS_KEPT = 100_000
_FIELDS = ("name", "event", "target_url", "active")


class Webhooks:
    """Subscriptions by id, and what became of their deliveries. Thread-safe.

    `now` is the account's clock (UTC).
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._webhooks: dict[int, dict[str, Any]] = {}
        self._logs: deque[dict[str, Any]] = deque(maxlen=_LOGS_KEPT)
        self._next_id = 1
        self._next_log_id = 1

    def subscribers(self, event: str) -> list[int]:
        """Ids of the active subscriptions to `event`."""
        with self._lock:
            return [i for i, w in self._webhooks.items() if w["active"] and w["event"] == event]

    def target(self, id_: int) -> str | None:
        """Where its deliveries go now; None when it is gone or not active."""
        with self._lock:
            webhook = self._webhooks.get(id_)
            return str(webhook["target_url"]) if webhook and webhook["active"] else None

    def log(self, webhook_id: int, code: int | None, response: str) -> None:
        """Remembers one attempt; `code` is None when there was no answer."""
        with self._lock:
            self._logs.append(
                {
                    "id": self._next_log_id,
                    "webhook_id": webhook_id,
                    "response_code": code,
                    "response": response,
                    "created_at": self._moment(),
                }
            )
            self._next_log_id += 1

    def logs(self) -> list[dict[str, Any]]:
        """Every attempt that is remembered, the newest first."""
        with self._lock:
            return list(self._logs)[::-1]

    def all(self) -> list[dict[str, Any]]:
        """Every subscription, by id."""
        with self._lock:
            return [dict(webhook) for webhook in self._webhooks.values()]

    def get(self, id_: int) -> dict[str, Any] | None:
        with self._lock:
            return self._webhooks.get(id_)

    def create(self, fields: dict[str, Any]) -> dict[str, Any]:
        """A new subscription. Raises Refusal."""
        created = {"name": None, "event": None, "target_url": None, "active": True}
        created |= _taken(fields)
        _check(created)
        with self._lock:
            moment = self._moment()
            webhook = {"id": self._next_id, **created, "created_at": moment, "updated_at": moment}
            self._webhooks[self._next_id] = webhook
            self._next_id += 1
        return webhook

    def change(self, id_: int, fields: dict[str, Any]) -> dict[str, Any] | None:
        """The subscription with `fields`; None when there is none. Raises Refusal."""
        with self._lock:
            webhook = self._webhooks.get(id_)
            if webhook is None:
                return None
            changed = {**webhook, **_taken(fields), "updated_at": self._moment()}
            _check(changed)
            self._webhooks[id_] = changed
            return changed

    def remove(self, id_: int) -> bool:
        """False when there is none."""
        with self._lock:
            return self._webhooks.pop(id_, None) is not None

    def _moment(self) -> str | None:
        return iso(round(self._now().timestamp() * 1000))


def _taken(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: fields[name] for name in _FIELDS if name in fields}


def _check(webhook: Mapping[str, Any]) -> None:
    """Raises Refusal for a subscription that cannot be."""
    if not isinstance(webhook["name"], str) or not webhook["name"].strip():
        raise Refusal("Name can't be blank", field="name")
    if webhook["event"] not in SUBSCRIBABLE:
        raise Refusal(f"Event {webhook['event']} is not included in the list", field="event")
    if not isinstance(webhook["active"], bool):
        raise Refusal("Active must be true or false", field="active")
    if not _is_url(webhook["target_url"]):
        raise Refusal(f"Target url {webhook['target_url']} is not a valid URL", field="target_url")


def _is_url(target: object) -> bool:
    try:
        parts = urlsplit(target if isinstance(target, str) else "")
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
