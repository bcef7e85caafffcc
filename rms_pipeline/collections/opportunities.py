"""Opportunities: enquiries, quotations and orders.

Their columns are part of the contract: no column is renamed, and no type is narrowed.
"""

from dataclasses import replace

from rms_pipeline.collections.base import TIMES, Collection, Column, Modes, Reach, Webhooks

# A B-tree entry of PostgreSQL holds about 2,700 bytes; no status comes near that.
_LONGEST_STATUS = 500
# What is planned for the equipment, in this order.
_SCHEDULE = (
    ("prep", "preparing it"),
    ("load", "loading it"),
    ("deliver", "delivering it"),
    ("setup", "setting it up"),
    ("show", "the show"),
    ("takedown", "taking it down"),
    ("collect", "collecting it"),
    ("unload", "unloading it"),
    ("deprep", "putting it back"),
)


def _times_of(stage: str, what: str) -> tuple[Column, Column]:
    starts, ends = f"{stage}_starts_at", f"{stage}_ends_at"
    return (
        Column(starts, "timestamptz", f"When {what} starts.", source=starts),
        Column(ends, "timestamptz", f"When {what} ends.", source=ends),
    )


def _money(name: str, says: str) -> Column:
    return Column(name, "numeric", says, source=name)


OPPORTUNITIES = Collection(
    name="opportunities",
    single="opportunity",
    says="One row for each opportunity that Current RMS has; those it no longer has are in"
    " deleted_opportunities. Money is in the account's currency.",
    says_of_deleted="Opportunities that Current RMS no longer has, with their last known values.",
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
            "description", "text", "The description, as typed in Current RMS.", source="description"
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
        ),
        # The index on the last change holds the id and the customer too: see `indexes`.
        *(replace(each, index=None) for each in TIMES),
        Column(
            "venue_name",
            "text",
            "The name of its venue.",
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
            "The id of its owner, a colleague.",
            source=("owned_by", "owner_id"),
            shown="Owner",
        ),
        Column(
            "owner_name",
            "text",
            "The name of its owner.",
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
            shown="Charge with tax",
        ),
        Column("number", "text", "Its number.", source="number"),
        Column("reference", "text", "The customer's own reference.", source="reference"),
        Column("state_name", "text", "Enquiry, Draft, Quotation or Order.", source="state_name"),
        Column(
            "store_id",
            "bigint",
            "The id of the store from which the equipment leaves.",
            source="store_id",
        ),
        Column("project_id", "bigint", "The id of its project.", source="project_id"),
        Column("venue_id", "bigint", "The venue's id in Current RMS.", source="venue_id"),
        Column("ordered_at", "timestamptz", "When it became an order.", source="ordered_at"),
        Column(
            "quote_invalid_at",
            "timestamptz",
            "How long the quotation is valid.",
            source="quote_invalid_at",
        ),
        Column("invoiced", "boolean", "Whether it has been invoiced.", source="invoiced"),
        Column("tags", "text[]", "Its tags.", source="tag_list"),
        _money("charge_excluding_tax_total", "The charge without tax."),
        _money("charge_including_tax_total", "The charge with tax."),
        _money("tax_total", "The tax."),
        _money("provisional_cost_total", "The planned cost."),
        _money("predicted_cost_total", "The predicted cost."),
        _money("actual_cost_total", "The actual cost."),
        Column("weight_total", "numeric", "The weight of all its items.", source="weight_total"),
        _money("revenue", "The revenue that Current RMS expects of it."),
        Column(
            "rating", "bigint", "How likely the order is, as rated by colleagues.", source="rating"
        ),
        Column(
            "open_ended_rental",
            "boolean",
            "Whether the hire has no end date.",
            source="open_ended_rental",
        ),
        *(column for stage in _SCHEDULE for column in _times_of(*stage)),
        Column(
            "custom_fields",
            "jsonb",
            "The custom fields. The operator @> finds a value through an index.",
            source="custom_fields",
        ),
        Column("profit", "numeric", "charge_total minus provisional_cost_total."),
        Column(
            "hire",
            "tstzrange",
            "From deliver_starts_at, else starts_at, to collect_ends_at, else ends_at, both "
            "included. It has no end when the hire is open-ended. Empty when the dates are not a "
            "valid period.",
        ),
        Column(
            "confirmed_at",
            "timestamptz",
            "When it was first stored in a status that the table statuses calls confirmed. Empty "
            "if that was before the history began.",
            kept=True,
        ),
    ),
    # Its mapping was number 2 when it had fifteen columns. Words were added later, which are found
    # as rows are decoded.
    corrections=2 - 15 + 1,
    searched=(
        *("number", "name", "subject", "organisation_name", "venue_name", "owner_name"),
        *("reference", "tags", "description"),
    ),
    numbers=("number",),
    names={
        "customer": ("organisation_name", "organisation_id"),
        "venue": ("venue_name", "venue_id"),
        "owner": ("owner_name", "owner_id"),
    },
    # It was the only one.
    marked="",
    event_column="opportunity_id",
    indexes=(
        "starts_at, ends_at",
        "\"left\"((data ->> 'number'::text), 100) text_pattern_ops",
        "custom_fields jsonb_path_ops",
        "hire",
        "COALESCE(deliver_starts_at, starts_at)",
        "(COALESCE(deliver_starts_at, starts_at, collect_ends_at, ends_at)) WHERE (hire IS NULL)",
        "opportunity_status, COALESCE(collect_ends_at, ends_at)",
        "confirmed_at",
        # What lists are sorted by. Of a text as much as an entry of an index holds.
        "(updated_at_rms DESC, id DESC) INCLUDE (organisation_id)",
        "opportunity_status, id DESC",
        '"left"(name, 100), id DESC',
        '"left"(organisation_name, 100), id DESC',
        '"left"(owner_name, 100), id DESC',
        '"left"(venue_name, 100), id DESC',
        "(total_value, id) INCLUDE (updated_at_rms)",
        "ends_at, id",
        "created_at_rms, id",
        "COALESCE(collect_ends_at, ends_at), id",
        "tags",
        # What the pages of venues, owners and decisions read.
        "(venue_id) WHERE (venue_id IS NOT NULL)",
        "(owner_id) WHERE (owner_id IS NOT NULL)",
        "(ordered_at) WHERE (ordered_at IS NOT NULL)",
        "(opportunity_status, state_name) INCLUDE (id, owner_id, charge_total)"
        " WHERE ((ordered_at IS NULL) AND (confirmed_at IS NULL))",
    ),
    has_window=True,
    remembers=True,
    promotes=True,
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
    associations={
        "member": "member_id",
        "owner": "owned_by",
        "venue": "venue_id",
        "billing_address": "billing_address_id",
    },
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
        reaches=(
            # Nothing else moves a status, and these move nothing else of what people type.
            Reach(
                frozenset(
                    {
                        *("convert_to_order", "convert_to_quotation", "revert_to_quotation"),
                        *("mark_as_provisional", "mark_as_reserved", "mark_as_lost"),
                        *("mark_as_dead", "cancel", "complete", "confirm"),
                    }
                ),
                frozenset({"opportunity_status", "state_name", "ordered_at", "quote_invalid_at"}),
                is_sure=True,
            ),
            # Equipment that leaves or comes back.
            Reach(
                frozenset({"allocate", "prepare", "book_out", "check_in"}),
                frozenset({"opportunity_status", "actual_cost_total"}),
            ),
            Reach(
                frozenset({"create_item", "update_item", "destroy_item"}),
                frozenset(
                    {
                        *("charge_total", "total_value", "tax_total", "revenue", "weight_total"),
                        *("charge_excluding_tax_total", "charge_including_tax_total"),
                        *("provisional_cost_total", "predicted_cost_total", "actual_cost_total"),
                    }
                ),
            ),
            Reach(frozenset({"discuss", "attach", "detach", "destroy"}), frozenset()),
        ),
        of_part="update_item",
    ),
)
