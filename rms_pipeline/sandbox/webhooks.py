"""The account's webhooks: subscriptions and the log of deliveries, as the API serves them."""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec

from rms_pipeline.sandbox.data import iso
from rms_pipeline.sandbox.events import EVENTS
from rms_pipeline.sandbox.paging import cut
from rms_pipeline.sandbox.ransack import Unprocessable
from rms_pipeline.sandbox.switches import Switches

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

    def answer(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]],
        sent: bytes,
        switches: Switches,
    ) -> tuple[int, bytes]:
        """Status and body for a request of `/webhooks...` or `/webhook_logs`.

        Raises Unprocessable.
        """
        if path == "/webhook_logs" and method == "GET":
            with self._lock:
                logs = list(self._logs)[::-1]
            return 200, _page("webhook_logs", logs, query, switches)
        if path == "/webhooks" and method == "GET":
            with self._lock:
                webhooks = [dict(w) for w in self._webhooks.values()]
            return 200, _page("webhooks", webhooks, query, switches)
        if path == "/webhooks" and method == "POST":
            return 201, self._create(_fields(sent))
        _, slash, tail = path.partition("/webhooks/")
        if not slash or not tail.isdigit():
            return _not_found()
        return self._single(method, int(tail), sent)

    def _create(self, fields: dict[str, Any]) -> bytes:
        created = {"name": None, "event": None, "target_url": None, "active": True, **fields}
        _check(created)
        with self._lock:
            moment = self._moment()
            webhook = {"id": self._next_id, **created, "created_at": moment, "updated_at": moment}
            self._webhooks[self._next_id] = webhook
            self._next_id += 1
            return _body(webhook)

    def _single(self, method: str, id_: int, sent: bytes) -> tuple[int, bytes]:
        with self._lock:
            webhook = self._webhooks.get(id_)
            if webhook is None:
                return _not_found()
            if method == "GET":
                return 200, _body(webhook)
            if method == "DELETE":
                del self._webhooks[id_]
                return 204, b""
            if method == "PUT":
                changed = {**webhook, **_fields(sent), "updated_at": self._moment()}
                _check(changed)
                self._webhooks[id_] = changed
                return 200, _body(changed)
        return _not_found()

    def _moment(self) -> str | None:
        return iso(round(self._now().timestamp() * 1000))


def _page(
    name: str, rows: Sequence[Mapping[str, Any]], query: list[tuple[str, str]], switches: Switches
) -> bytes:
    unknown = [key for key, _ in query if key.startswith("q[")]
    if unknown and switches.unknown_predicate == "422":
        raise Unprocessable(f"{unknown[0]} is not known")
    page = cut(rows, query, switches)
    return page.body(name, [msgspec.json.encode(row) for row in page.rows])


def _fields(sent: bytes) -> dict[str, Any]:
    try:
        fields = msgspec.json.decode(sent)["webhook"]
    except (msgspec.DecodeError, KeyError, TypeError):
        raise Unprocessable('the body must be {"webhook": {...}}') from None
    if not isinstance(fields, dict):
        raise Unprocessable("webhook must be an object")
    return {name: fields[name] for name in _FIELDS if name in fields}


def _check(webhook: Mapping[str, Any]) -> None:
    """Raises Unprocessable for a subscription that cannot be."""
    if not isinstance(webhook["name"], str) or not webhook["name"].strip():
        raise Unprocessable("Name can't be blank")
    if webhook["event"] not in EVENTS:
        raise Unprocessable(f"Event {webhook['event']} is not included in the list")
    if not isinstance(webhook["active"], bool):
        raise Unprocessable("Active must be true or false")
    if not _is_url(webhook["target_url"]):
        raise Unprocessable(f"Target url {webhook['target_url']} is not a valid URL")


def _is_url(target: object) -> bool:
    try:
        parts = urlsplit(target if isinstance(target, str) else "")
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _body(webhook: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode({"webhook": webhook})


def _not_found() -> tuple[int, bytes]:
    return 404, b'{"errors":["Webhook not found"]}'
