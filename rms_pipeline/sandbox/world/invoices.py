"""What has been invoiced, and what of it was credited."""

from collections.abc import Iterator, Mapping
from typing import Any

from rms_pipeline.sandbox.world.values import DAY, iso, milliseconds

INVOICES_AN_OPPORTUNITY = 2
_STATUSES = {0: "Open", 10: "Issued", 20: "Paid", 30: "Posted", 40: "Voided"}


def invoices(record: Mapping[str, Any], now: int) -> Iterator[dict[str, Any]]:
    """Those of one opportunity, by id: an invoice, and the credit of one that was cancelled.

    `now` is in milliseconds since 1970.
    """
    if not record.get("invoiced"):
        return
    created = milliseconds(record.get("created_at"))
    # Not this moment: an invoice would differ at each look.
    today = now - now % DAY
    ended = milliseconds(record.get("ends_at")) or created or today
    updated = milliseconds(record.get("updated_at")) or created or today
    cancelled = record.get("status") == 50
    # The moment is the same whenever somebody asks, also of what was invoiced before it ended.
    first = updated if cancelled else created or today
    invoiced = _past(updated if cancelled else ended + 2 * DAY, now) or _past(first, now) or today
    paid = now - invoiced > 30 * DAY
    yield _invoice(record, 0, invoiced, 20 if paid else 10)
    if cancelled:
        yield _invoice(record, 1, _past(invoiced + DAY, now) or invoiced, 30)


def _past(moment: int, now: int) -> int | None:
    return moment if moment <= now else None


def _invoice(record: Mapping[str, Any], nth: int, at: int, status: int) -> dict[str, Any]:
    id_ = record["id"] * INVOICES_AN_OPPORTUNITY + nth
    amounts = ("charge_total", "charge_excluding_tax_total", "charge_including_tax_total",
               "tax_total")  # fmt: skip
    return {
        "id": id_, "number": f"{'CR' if nth else 'INV'}-{id_:07d}",
        "subject": record.get("subject"), "invoice_type": nth,
        "invoice_type_name": "Credit" if nth else "Invoice", "invoiced_at": iso(at),
        "due_at": iso(at + 30 * DAY), "status": status, "status_name": _STATUSES[status],
        "member_id": record.get("member_id"), "owned_by": record.get("owned_by"),
        **{name: record.get(name) for name in amounts}, "custom_fields": {},
        "invoice_items": [{
            "id": id_, "invoiceable_id": record["id"], "invoiceable_type": "Opportunity",
            "charge_total": record.get("charge_total"),
        }],
        "created_at": iso(at), "updated_at": iso(at + (10 * DAY if status == 20 else 0)),
    }  # fmt: skip
