"""Members: the organisations, contacts, venues, users and vehicles of the account."""

from rms_pipeline.collections.base import TIMES, Collection, Column, Modes, Webhooks

MEMBERS = Collection(
    name="members",
    single="member",
    says="One row for each member that Current RMS has: organisations, contacts, venues, users and"
    " vehicles. Those it no longer has are in deleted_members.",
    says_of_deleted="Members that Current RMS no longer has, with their last known values.",
    columns=(
        Column("name", "text", "Its name.", source="name", otherwise="Member {id}"),
        Column(
            "membership_type",
            "text",
            "Organisation, Contact, Venue, User or Vehicle.",
            source="membership_type",
            longest=500,
            index="ascending",
        ),
        Column("active", "boolean", "Whether it is in use.", source="active"),
        Column("bookable", "boolean", "Whether it can be booked.", source="bookable"),
        Column(
            "description", "text", "The description, as typed in Current RMS.", source="description"
        ),
        Column("title", "text", "A contact's title.", source="membership.title"),
        Column("department", "text", "A contact's department.", source="membership.department"),
        Column(
            "owner_id",
            "bigint",
            "The id of its owner, who is a member too.",
            source="membership.owned_by",
        ),
        Column("street", "text", "Its primary address.", source="primary_address.street"),
        Column(
            "postcode", "text", "A part of the primary address.", source="primary_address.postcode"
        ),
        Column("city", "text", "A part of the primary address.", source="primary_address.city"),
        Column("county", "text", "A part of the primary address.", source="primary_address.county"),
        Column(
            "country_name",
            "text",
            "A part of the primary address.",
            source="primary_address.country_name",
        ),
        Column("emails", "jsonb", "Its e-mail addresses, each with its type.", source="emails"),
        Column("phones", "jsonb", "Its telephone numbers, each with its type.", source="phones"),
        Column("tags", "text[]", "Its tags.", source="tag_list"),
        Column("custom_fields", "jsonb", "The custom fields.", source="custom_fields"),
        *TIMES,
    ),
    # Those that are in use no longer are in no list of active ones.
    modes=Modes(
        every="all",
        hidden="inactive",
        field="active",
        values=frozenset({False}),
        others=frozenset({True}),
    ),
    webhooks=Webhooks(
        subjects=frozenset({"member", "members", "organisation", "contact", "venue", "user"}),
        events=("member_create", "member_update", "member_destroy"),
    ),
    remembers=True,
)
