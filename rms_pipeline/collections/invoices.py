"""Invoices and credit notes."""

from rms_pipeline.collections.base import TIMES, Collection, Column, Webhooks


def _money(name: str, says: str) -> Column:
    return Column(name, "numeric", says, source=name)


INVOICES = Collection(
    name="invoices",
    single="invoice",
    says="One row for each invoice and credit note that Current RMS has; those it no longer has are"
    " in deleted_invoices.",
    says_of_deleted="Invoices that Current RMS no longer has, with their last known values.",
    columns=(
        Column("number", "text", "Its number.", source="number"),
        Column("subject", "text", "Its subject.", source="subject"),
        Column("invoice_type", "bigint", "0 Invoice, 1 Credit.", source="invoice_type"),
        Column(
            "status",
            "bigint",
            "0 Open, 10 Issued, 20 Paid, 30 Posted, 40 Voided.",
            source="status",
            index="ascending",
        ),
        Column("invoiced_at", "timestamptz", "When it was issued.", source="invoiced_at"),
        Column("due_at", "timestamptz", "When it is due.", source="due_at"),
        Column(
            "organisation_id",
            "bigint",
            "The customer's id in Current RMS.",
            source="member_id",
            index="ascending",
        ),
        Column("owner_id", "bigint", "The id of its owner, a colleague.", source="owned_by"),
        _money("charge_total", "The charge before tax."),
        _money("charge_excluding_tax_total", "The charge without tax."),
        _money("charge_including_tax_total", "The charge with tax."),
        _money("tax_total", "The tax."),
        Column("custom_fields", "jsonb", "The custom fields.", source="custom_fields"),
        *TIMES,
    ),
    webhooks=Webhooks(
        subjects=frozenset({"invoice", "invoices"}),
        events=("invoice_create", "invoice_update", "invoice_destroy"),
    ),
    remembers=True,
)
