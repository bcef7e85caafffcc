"""Makes the tables of members, which stay empty unless RMS_COLLECTIONS names members."""

from alembic import op

from rms_pipeline.mirror.migrations.frozen import set_aside

revision = "0022"
down_revision = "0021"
makes = ("members", "deleted_members", "member_versions")

_COLUMNS = """
    id bigint PRIMARY KEY,
    name text NOT NULL,
    membership_type text,
    active boolean,
    bookable boolean,
    description text,
    title text,
    department text,
    owner_id bigint,
    street text,
    postcode text,
    city text,
    county text,
    country_name text,
    emails jsonb,
    phones jsonb,
    tags text[],
    custom_fields jsonb,
    created_at_rms timestamptz,
    updated_at_rms timestamptz,
    data jsonb,
    synced_at timestamptz,
    last_webhook_at timestamptz
"""


def upgrade() -> None:
    set_aside(op.get_bind(), ("members", "deleted_members", "member_versions"))
    op.execute(f"CREATE TABLE members ({_COLUMNS}) WITH (fillfactor = 80)")
    op.execute("ALTER TABLE members SET (toast_tuple_target = 512)")
    op.execute("CREATE INDEX ON members (membership_type)")
    op.execute("CREATE INDEX ON members (updated_at_rms DESC)")
    op.execute(
        f"CREATE TABLE deleted_members ({_COLUMNS},"
        " deleted_at timestamptz NOT NULL, deleted_because text NOT NULL)"
    )
    op.execute("CREATE INDEX ON deleted_members (deleted_at)")
    op.execute("""
        CREATE TABLE member_versions (
            id bigint PRIMARY KEY,
            asked_at timestamptz,
            answered_at timestamptz,
            updated_at_rms timestamptz,
            fingerprint bytea,
            deleted boolean NOT NULL DEFAULT false
        ) WITH (fillfactor = 80)
    """)
    op.execute("CREATE SEQUENCE content_of_members")
    for name, event in {
        "insert": "BEFORE INSERT ON members FOR EACH STATEMENT",
        "truncate": "BEFORE TRUNCATE ON members FOR EACH STATEMENT",
        "delete": "BEFORE DELETE ON members FOR EACH ROW",
        "update": "BEFORE UPDATE OF id, updated_at_rms, data ON members FOR EACH ROW",
    }.items():
        op.execute(
            f"CREATE TRIGGER rms_content_{name} {event}"
            " EXECUTE FUNCTION rms_note_content('members')"
        )


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
