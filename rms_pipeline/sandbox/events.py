"""What Current RMS tells subscribers when an opportunity, a member or an invoice changes."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from rms_pipeline.sandbox.world.members import nested_member
from rms_pipeline.sandbox.world.values import iso

ACTIONS = (
    "create", "update", "destroy", "convert_to_order", "convert_to_quotation",
    "revert_to_quotation", "mark_as_provisional", "mark_as_reserved", "mark_as_lost",
    "mark_as_dead", "cancel", "complete", "confirm", "allocate", "prepare", "book_out", "check_in",
    "create_item", "update_item", "destroy_item",
)  # fmt: skip
EVENTS = frozenset(f"opportunity_{action}" for action in ACTIONS)
# The API takes subscriptions to these too; some of them never happen here.
SUBSCRIBABLE = EVENTS | {
    *(f"opportunity_{action}" for action in ("discuss", "attach", "detach")),
    *(f"{subject}_{action}"
      for subject in ("member", "invoice", "project", "product")
      for action in ("create", "update", "destroy")),
}  # fmt: skip

_ORDER, _QUOTATION = 3, 2
_BY_STATUS = {
    1: "mark_as_provisional", 5: "mark_as_reserved", 40: "complete", 50: "cancel",
    60: "mark_as_lost", 70: "mark_as_dead",
}  # fmt: skip
_SOMEBODY = 10


@dataclass(frozen=True, slots=True)
class Event:
    """`action` was done to the `subject` (an opportunity, a member, an invoice) `subject_id`;
    `record` is how it was left, or was."""

    id: int
    action: str
    subject_id: int
    record: Mapping[str, Any]
    at: datetime
    subject: str = "opportunity"

    @property
    def name(self) -> str:
        """As subscriptions call it."""
        return f"{self.subject}_{self.action}"

    def body(self) -> bytes:
        """`{"action": {...}}` as it is posted; the member is the colleague who did it."""
        kind, record = self.subject.capitalize(), self.record
        owner = record.get("owned_by")
        who = owner if isinstance(owner, int) else _SOMEBODY
        moment = iso(round(self.at.timestamp() * 1000))
        action = {
            "id": self.id,
            "subject_id": self.subject_id,
            "subject_type": kind,
            "source_id": None,
            "source_type": None,
            "member_id": who,
            "name": record.get("subject") or record.get("name") or f"{kind} {self.subject_id}",
            "description": "",
            "action_type": self.action,
            "created_at": moment,
            "updated_at": moment,
            "member": {"id": who, "name": nested_member("User", who)["name"]},
        }
        return msgspec.json.encode({"action": action})


def actions_of_edit(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """`update`, and what a new state or status is called besides."""
    actions = ["update"]
    state = after.get("state")
    if state != before.get("state"):
        if state == _ORDER:
            actions.append("convert_to_order")
        elif state == _QUOTATION:
            reverted = before.get("state") == _ORDER
            actions.append("revert_to_quotation" if reverted else "convert_to_quotation")
    status = after.get("status")
    if status != before.get("status") and status in _BY_STATUS:
        actions.append(_BY_STATUS[status])
    return actions
