"""Makes the tables of opportunity items, which stay empty unless RMS_COLLECTIONS names them."""

from alembic import op

from rms_pipeline.mirror.migrations.frozen import set_aside

revision = "0028"
down_revision = "0027"
makes = (
    "opportunity_items",
    "deleted_opportunity_items",
    "opportunity_item_versions",
    "opportunity_item_past",
    "opportunity_item_history",
    "part_lists",
)
adds = {"proofs": ("parents",)}
touches = {"proofs": ("altered",)}

_MAPPED = """
    opportunity_id bigint,
    parent_opportunity_item_id bigint,
    item_id bigint,
    item_type text,
    opportunity_item_type bigint,
    name text,
    description text,
    transaction_type bigint,
    quantity numeric,
    price numeric,
    discount_percent numeric,
    starts_at timestamptz,
    ends_at timestamptz,
    chargeable_days numeric,
    sub_rent boolean,
    has_shortage boolean,
    weight numeric,
    replacement_charge numeric,
    status bigint,
    status_name text,
    path text,
    rental_charge_total numeric,
    sale_charge_total numeric,
    service_charge_total numeric,
    surcharge_total numeric,
    tax_total numeric,
    charge_total numeric,
    custom_fields jsonb,
    created_at_rms timestamptz,
    updated_at_rms timestamptz
"""
_COLUMNS = f"""
    id bigint PRIMARY KEY,
    {_MAPPED},
    data jsonb,
    synced_at timestamptz,
    last_webhook_at timestamptz
"""


def upgrade() -> None:
    set_aside(
        op.get_bind(),
        (
            "opportunity_items",
            "deleted_opportunity_items",
            "opportunity_item_versions",
            "opportunity_item_past",
            "opportunity_item_history",
            "part_lists",
        ),
    )
    op.execute(f"CREATE TABLE opportunity_items ({_COLUMNS}) WITH (fillfactor = 80)")
    op.execute("ALTER TABLE opportunity_items SET (toast_tuple_target = 512)")
    op.execute("CREATE INDEX ON opportunity_items (opportunity_id)")
    op.execute("CREATE INDEX ON opportunity_items (item_id)")
    op.execute("CREATE INDEX ON opportunity_items (updated_at_rms DESC)")
    op.execute(
        f"CREATE TABLE deleted_opportunity_items ({_COLUMNS},"
        " deleted_at timestamptz NOT NULL, deleted_because text NOT NULL)"
    )
    op.execute("CREATE INDEX ON deleted_opportunity_items (deleted_at)")
    op.execute("""
        CREATE TABLE opportunity_item_versions (
            id bigint PRIMARY KEY,
            asked_at timestamptz,
            answered_at timestamptz,
            updated_at_rms timestamptz,
            fingerprint bytea,
            deleted boolean NOT NULL DEFAULT false,
            valid_from timestamptz NOT NULL DEFAULT clock_timestamp()
        ) WITH (fillfactor = 80)
    """)
    op.execute(f"""
        CREATE TABLE opportunity_item_past (
            opportunity_item_id bigint NOT NULL,
            valid_from timestamptz NOT NULL,
            valid_to timestamptz NOT NULL CHECK (valid_from < valid_to),
            deleted boolean NOT NULL,
            {_MAPPED},
            difference jsonb,
            PRIMARY KEY (opportunity_item_id, valid_from)
        )
    """)
    op.execute("CREATE INDEX ON opportunity_item_past (valid_to)")
    op.execute(
        "INSERT INTO mirror_state (name, value) VALUES ('history_began_of_opportunity_items',"
        " to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US+00'))"
    )
    op.execute("CREATE SEQUENCE content_of_opportunity_items")
    for name, event in {
        "insert": "BEFORE INSERT ON opportunity_items FOR EACH STATEMENT",
        "truncate": "BEFORE TRUNCATE ON opportunity_items FOR EACH STATEMENT",
        "delete": "BEFORE DELETE ON opportunity_items FOR EACH ROW",
        "update": "BEFORE UPDATE OF id, updated_at_rms, data ON opportunity_items FOR EACH ROW",
    }.items():
        op.execute(
            f"CREATE TRIGGER rms_content_{name} {event}"
            " EXECUTE FUNCTION rms_note_content('opportunity_items')"
        )
    op.execute("""
        CREATE TABLE part_lists (
            collection text NOT NULL,
            parent_id bigint NOT NULL,
            walk bigint,
            asked_at timestamptz,
            answered_at timestamptz,
            ids bigint[],
            nameless integer NOT NULL DEFAULT 0,
            told boolean NOT NULL DEFAULT false,
            again boolean NOT NULL DEFAULT false,
            stored_at timestamptz,
            counted integer,
            mirrored integer,
            unstorable integer,
            problem text,
            problem_at timestamptz,
            PRIMARY KEY (collection, parent_id)
        )
    """)
    # Of how many parents a proof speaks.
    op.execute("ALTER TABLE proofs ADD COLUMN parents integer")


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
