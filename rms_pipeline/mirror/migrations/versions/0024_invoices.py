"""Makes the tables of invoices, which stay empty unless RMS_COLLECTIONS names invoices."""

from alembic import op

from rms_pipeline.mirror.migrations.frozen import set_aside

revision = "0024"
down_revision = "0023"
makes = ("invoices", "deleted_invoices", "invoice_versions")

_COLUMNS = """
    id bigint PRIMARY KEY,
    number text,
    subject text,
    invoice_type bigint,
    status bigint,
    invoiced_at timestamptz,
    due_at timestamptz,
    organisation_id bigint,
    owner_id bigint,
    charge_total numeric,
    charge_excluding_tax_total numeric,
    charge_including_tax_total numeric,
    tax_total numeric,
    custom_fields jsonb,
    created_at_rms timestamptz,
    updated_at_rms timestamptz,
    data jsonb,
    synced_at timestamptz,
    last_webhook_at timestamptz
"""


def upgrade() -> None:
    set_aside(op.get_bind(), ("invoices", "deleted_invoices", "invoice_versions"))
    op.execute(f"CREATE TABLE invoices ({_COLUMNS}) WITH (fillfactor = 80)")
    op.execute("ALTER TABLE invoices SET (toast_tuple_target = 512)")
    op.execute("CREATE INDEX ON invoices (status)")
    op.execute("CREATE INDEX ON invoices (organisation_id)")
    op.execute("CREATE INDEX ON invoices (updated_at_rms DESC)")
    op.execute(
        f"CREATE TABLE deleted_invoices ({_COLUMNS},"
        " deleted_at timestamptz NOT NULL, deleted_because text NOT NULL)"
    )
    op.execute("CREATE INDEX ON deleted_invoices (deleted_at)")
    op.execute("""
        CREATE TABLE invoice_versions (
            id bigint PRIMARY KEY,
            asked_at timestamptz,
            answered_at timestamptz,
            updated_at_rms timestamptz,
            fingerprint bytea,
            deleted boolean NOT NULL DEFAULT false
        ) WITH (fillfactor = 80)
    """)
    op.execute("CREATE SEQUENCE content_of_invoices")
    for name, event in {
        "insert": "BEFORE INSERT ON invoices FOR EACH STATEMENT",
        "truncate": "BEFORE TRUNCATE ON invoices FOR EACH STATEMENT",
        "delete": "BEFORE DELETE ON invoices FOR EACH ROW",
        "update": "BEFORE UPDATE OF id, updated_at_rms, data ON invoices FOR EACH ROW",
    }.items():
        op.execute(
            f"CREATE TRIGGER rms_content_{name} {event}"
            " EXECUTE FUNCTION rms_note_content('invoices')"
        )


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
