"""Our subscriptions to the account's webhooks: create, correct, remove, and show their results.

Ours are recognised by their names, one for each event. Subscriptions of others are never touched.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from pydantic import SecretStr

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.errors import WebhooksNotKept
from rms_pipeline.current_rms.subscriptions import (
    Delivery,
    Webhook,
    change,
    create,
    delete,
    latest_deliveries,
    listed,
)
from rms_pipeline.settings import LOOPBACK_HOSTS, SettingsError


def events_of(collections: Iterable[Collection]) -> tuple[str, ...]:
    """Return all events that are about a record of `collections`."""
    return tuple(event for c in collections if c.webhooks for event in c.webhooks.events)


# Events of the collection that is always mirrored.
EVENTS = events_of(COLLECTIONS[:1])
RECEIVER_PATH = "/api/webhook"
# How often the result is checked. Two processes that register at the same time correct each other
# for some rounds. An API that changes what it is sent would be corrected for ever.
_ROUNDS, _MENDING_ROUNDS = 8, 3
_NAMES = {event: f"rms_pipeline: {event}" for event in events_of(COLLECTIONS)}
_EXAMPLE = "Example: rms-pipeline webhooks register https://rms.example.com"


@dataclass(frozen=True, slots=True)
class Registration:
    """What was done, as names of events. One event may be both corrected and freed from a
    duplicate.
    """

    created: tuple[str, ...] = ()
    mended: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        return bool(self.created or self.mended or self.removed)

    def __add__(self, other: "Registration") -> "Registration":
        return Registration(
            self.created + other.created, self.mended + other.mended, self.removed + other.removed
        )


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The state of one event. `target` is the URL without its secret, or None if nothing is
    subscribed.

    `active` and `is_ours` (the target holds our token) describe the first of `count` subscriptions.
    `last_delivery` is None if the log shows none, or cannot be read.
    """

    event: str
    count: int = 0
    active: bool = False
    is_ours: bool = False
    target: str | None = None
    last_delivery: Delivery | None = None

    @property
    def is_right(self) -> bool:
        """Return whether `register` would leave it unchanged, apart from its host."""
        return self.active and self.is_ours and self.count == 1


def target_url(base_url: str, token: SecretStr) -> SecretStr:
    """Return where Current RMS should post to, for a web service that is reached at `base_url`.

    Raises SettingsError for an address that is not `https` (plain http only on this machine), or
    that has more than scheme, host, port and path.
    """
    try:
        parts = urlsplit(base_url.strip())
        _ = parts.port
    except ValueError:
        raise SettingsError(f"The URL is not valid. {_EXAMPLE}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"The URL must begin with https:// and name a host. {_EXAMPLE}")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK_HOSTS:
        raise SettingsError(
            "The URL must begin with https, because webhooks contain a secret and customers' "
            f"names. Plain http is allowed only to this machine. {_EXAMPLE}"
        )
    if parts.query or parts.fragment or parts.username or RECEIVER_PATH in parts.path:
        raise SettingsError(
            f"Give only the address of the web service, without user, query or {RECEIVER_PATH}. "
            f"The command adds the path and the token. {_EXAMPLE}"
        )
    secret = token.get_secret_value()
    base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    return SecretStr(f"{base}{RECEIVER_PATH}/{secret}")


def register(
    client: CurrentRmsClient,
    base_url: str,
    token: SecretStr,
    events: Sequence[str] = EVENTS,
) -> Registration:
    """Make sure that each of `events` has exactly one active subscription of ours, aimed at
    `base_url`.

    Our subscriptions to other events, of collections that are no longer mirrored, are removed.
    Correct ones are left alone, so a second run changes nothing. Raises SettingsError,
    RequestRefused, ApiUnavailable, or WebhooksNotKept.
    """
    target = target_url(base_url, token)
    done = Registration()
    for number in range(1, _ROUNDS + 1):
        ours = _by_event(listed(client))
        made = Registration()
        for event, surplus in ours.items():
            if event not in events:
                for webhook in surplus:
                    delete(client, webhook)
                made += Registration(removed=(event,) * len(surplus))
        for event in events:
            made += _see_to(client, event, ours[event], target, token)
        done += made
        if not made.changed:
            return done
        if made.mended and number >= _MENDING_ROUNDS:
            break
    raise WebhooksNotKept(
        f"The webhooks of this mirror were corrected {number} times, but Current RMS still shows "
        f"other ones: {', '.join(sorted(set(made.created + made.mended + made.removed)))}. Make "
        "sure that no other program registers webhooks named rms_pipeline, then run this again. "
        "`rms-pipeline webhooks list` shows the current ones."
    )


def remove(client: CurrentRmsClient) -> tuple[str, ...]:
    """Remove all of our subscriptions. Returns their events. Raises RequestRefused,
    ApiUnavailable.
    """
    removed = []
    for event, webhooks in _by_event(listed(client)).items():
        for webhook in webhooks:
            delete(client, webhook)
            removed.append(event)
    return tuple(removed)


def overview(
    client: CurrentRmsClient, token: SecretStr | None, events: Sequence[str] = EVENTS
) -> list[Subscribed]:
    """Return the state of each of `events`, in their order. Without `token` none counts as ours.

    Raises RequestRefused, ApiUnavailable.
    """
    every = _by_event(listed(client))
    ours = {event: every[event] for event in events}
    latest = latest_deliveries(client, {w.id for webhooks in ours.values() for w in webhooks})
    found = []
    for event, webhooks in ours.items():
        stands = Subscribed(event, count=len(webhooks))
        if webhooks:
            first = webhooks[0]
            stands = replace(
                stands,
                active=first.active is not False and first.event == event,
                is_ours=_holds(first.target_url, token),
                target=without_secret(first.target_url),
                last_delivery=latest.get(first.id),
            )
        found.append(stands)
    return found


def without_secret(url: str | None) -> str:
    """Return the URL of a subscription with `***` for everything that may be a secret."""
    try:
        parts = urlsplit(url or "")
    except ValueError:
        return "***"
    place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    before, found, _ = parts.path.partition(RECEIVER_PATH)
    return f"{place}{before}{found}/***" if found else f"{place}/***"


def _see_to(
    client: CurrentRmsClient,
    event: str,
    there: list[Webhook],
    target: SecretStr,
    token: SecretStr,
) -> Registration:
    wanted = {
        "name": _NAMES[event],
        "event": event,
        "target_url": target.get_secret_value(),
        "active": True,
    }
    if not there:
        create(client, wanted, token)
        return Registration(created=(event,))
    # The oldest stays, so that two processes at the same time do not remove each other's.
    first, *surplus = there
    for webhook in surplus:
        delete(client, webhook)
    done = Registration(removed=(event,) * len(surplus))
    # If the API does not show `active`, the subscription counts as active.
    if (first.event, first.target_url) != (event, wanted["target_url"]) or first.active is False:
        change(client, first, wanted, token)
        return replace(done, mended=(event,))
    return done


def _by_event(webhooks: Iterable[Webhook]) -> dict[str, list[Webhook]]:
    """Return our subscriptions by the event in their name. Every event of any collection is a
    key.
    """
    ours: dict[str, list[Webhook]] = {name: [] for name in _NAMES.values()}
    for webhook in webhooks:
        if webhook.name in ours:
            ours[webhook.name].append(webhook)
    return {event: ours[name] for event, name in _NAMES.items()}


def _holds(url: str | None, token: SecretStr | None) -> bool:
    return token is not None and (url or "").endswith(f"{RECEIVER_PATH}/{token.get_secret_value()}")
