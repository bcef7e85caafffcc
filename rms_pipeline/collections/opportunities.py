"""Opportunities: enquiries, quotations and orders, the records that a hire company lives by.

Columns are those of the contract: none is ever renamed or narrowed.
"""

from rms_pipeline.collections.base import Collection, Column, Modes, Webhooks

# A B-tree entry of PostgreSQL holds about 2,700 bytes; no status comes near that.
_LONGEST_STATUS = 500

OPPORTUNITIES = Collection(
    name="opportunities",
    single="opportunity",
    says="One row for each opportunity that Current RMS has; those it no longer has are in"
    " deleted_opportunities. Money is in the account's currency.",
    says_of_deleted="Opportunities that Current RMS no longer has, as they last were.",
    columns=(
        Column(
            "name",
            "text",
            "Its subject; its number if it has none.",
            source=("subject", "number"),
            otherwise="Opportunity {id}",
        ),
        Column("subject", "text", "What it is about, as typed in Current RMS.", source="subject"),
        Column(
            "description", "text", "Longer text, as typed in Current RMS.", source="description"
        ),
        Column(
            "starts_at", "timestamptz", "When the hire starts.", source="starts_at", shown="Starts"
        ),
        Column("ends_at", "timestamptz", "When the hire ends.", source="ends_at", shown="Ends"),
        Column(
            "opportunity_status",
            "text",
            "Open, Provisional, Reserved, Lost, ...",
            source=("status_name", "state_name"),
            longest=_LONGEST_STATUS,
            index="ascending",
        ),
        Column(
            "created_at_rms",
            "timestamptz",
            "When it was entered in Current RMS.",
            source="created_at",
            shown="Created in Current RMS",
        ),
        Column(
            "updated_at_rms",
            "timestamptz",
            "When Current RMS last changed it.",
            source="updated_at",
            index="descending",
            shown="Updated in Current RMS",
        ),
        Column(
            "venue_name",
            "text",
            "Where it takes place.",
            source=("venue.name", "venue_name"),
            shown="Venue",
        ),
        Column(
            "organisation_id",
            "bigint",
            "The customer's id in Current RMS.",
            source=("member_id", "organisation_id"),
            index="ascending",
            shown="Customer",
        ),
        Column(
            "organisation_name",
            "text",
            "The customer's name.",
            source=("member.name", "organisation_name"),
            shown="Customer",
        ),
        Column(
            "owner_id",
            "bigint",
            "The id of the colleague it belongs to.",
            source=("owned_by", "owner_id"),
            shown="Owner",
        ),
        Column(
            "owner_name",
            "text",
            "The colleague it belongs to.",
            source=("owner.name", "owner_name"),
            shown="Owner",
        ),
        Column(
            "charge_total",
            "numeric",
            "The charge before tax.",
            source="charge_total",
            shown="Charge without tax",
        ),
        Column(
            "total_value",
            "numeric",
            "The charge with tax.",
            source=("charge_including_tax_total", "total_value"),
            shown="Total with tax",
        ),
    ),
    # Its mapping was number 2 when it had fifteen columns.
    corrections=2 - 15,
    # It was the only one.
    marked="",
    indexes=(
        "starts_at, ends_at",
        "\"left\"((data ->> 'number'::text), 100) text_pattern_ops",
    ),
    has_window=True,
    # The state (Enquiry, Quotation, Order) is what a conversion moves.
    noted=("opportunity_status", "state_name"),
    # Completed, Cancelled, Lost and Dead are what only `all` reaches; Open, Provisional, Reserved
    # and Active are in no list of inactive ones.
    modes=Modes(
        every="all",
        hidden="inactive",
        field="status",
        values=frozenset({40, 50, 60, 70}),
        others=frozenset({0, 1, 5, 20}),
    ),
    # Those that the list gives as well as the single record does: so a record reads the same
    # whichever way it came.
    includes=(
        *("member", "owner", "venue"),
        *("destination", "billing_address", "opportunity_surcharges"),
    ),
    webhooks=Webhooks(
        subjects=frozenset({"opportunity", "opportunities"}),
        parts=frozenset({"opportunityitem", "opportunityitems", "opportunityitemasset"}),
        names="opportunity_id",
        # Without `discuss`, `attach` and `detach`: comments and files are no part of the record, so
        # each of those would cost a call of the API and bring nothing.
        events=tuple(
            f"opportunity_{action}"
            for action in (
                *("create", "update", "destroy", "convert_to_order", "convert_to_quotation"),
                *("revert_to_quotation", "mark_as_provisional", "mark_as_reserved"),
                *("mark_as_lost", "mark_as_dead", "cancel", "complete", "confirm", "allocate"),
                *("prepare", "book_out", "check_in"),
                *("create_item", "update_item", "destroy_item"),
            )
        ),
    ),
)
