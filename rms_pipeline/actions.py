"""The place for what should happen when an opportunity's status or state changes.

Write a function that takes a `Change`, decorate it, and switch on the sensor `business_events` in
Dagster's UI:

    @when(STATE, to="Order")
    def tell_the_warehouse(change: Change) -> None:
        requests.post("https://chat.example.com/hook", json={
            "text": f"{change.opportunity_id} was converted to an order by {change.changed_by}"
        }, timeout=10)

A change is handed over at least once. When a function fails, its change comes again, seven times
within twenty minutes, and the later ones of the same run wait for it. After that the run counts as
failed; executing it again in Dagster's UI goes on with the change that failed.
"""

from collections.abc import Callable

from rms_pipeline.mirror.changes import STATE, STATUS, Change

__all__ = ["STATE", "STATUS", "Change", "act", "when"]

Action = Callable[[Change], None]
_actions: list[tuple[str, str | None, Action]] = []


def when(field: str, *, to: str | None = None) -> Callable[[Action], Action]:
    """Calls the decorated function for each change of `field` (to the value `to`)."""

    def register(action: Action) -> Action:
        _actions.append((field, to, action))
        return action

    return register


def act(change: Change) -> list[str]:
    """Calls whatever waits for `change`; the names of what was called."""
    called = []
    for field, to, action in _actions:
        if field == change.field and to in (None, change.new_value):
            action(change)
            called.append(action.__name__)
    return called
