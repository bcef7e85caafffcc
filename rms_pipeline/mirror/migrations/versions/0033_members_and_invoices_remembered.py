"""Makes room for earlier versions of members and invoices, from now on.

The views of all versions, and the functions that ask as of a moment, are made of the declarations,
not here, for they follow their columns.
"""

import sqlalchemy as sa
from alembic import op

from rms_pipeline.mirror.migrations.frozen import schema, set_aside

revision = "0033"
down_revision = "0032"
makes = ("member_past", "member_history", "invoice_past", "invoice_history")
adds = {"member_versions": ("valid_from",), "invoice_versions": ("valid_from",)}
touches = {
    "member_versions": ("altered", "updated"),
    "invoice_versions": ("altered", "updated"),
}

_MEMBER = {
    "name": "text",
    "membership_type": "text",
    "active": "boolean",
    "bookable": "boolean",
    "description": "text",
    "title": "text",
    "department": "text",
    "owner_id": "bigint",
    "street": "text",
    "postcode": "text",
    "city": "text",
    "county": "text",
    "country_name": "text",
    "emails": "jsonb",
    "phones": "jsonb",
    "tags": "text[]",
    "custom_fields": "jsonb",
    "created_at_rms": "timestamptz",
    "updated_at_rms": "timestamptz",
}
_INVOICE = {
    "number": "text",
    "subject": "text",
    "invoice_type": "bigint",
    "status": "bigint",
    "invoiced_at": "timestamptz",
    "due_at": "timestamptz",
    "organisation_id": "bigint",
    "owner_id": "bigint",
    "charge_total": "numeric",
    "charge_excluding_tax_total": "numeric",
    "charge_including_tax_total": "numeric",
    "tax_total": "numeric",
    "custom_fields": "jsonb",
    "created_at_rms": "timestamptz",
    "updated_at_rms": "timestamptz",
}


def upgrade() -> None:
    set_aside(op.get_bind(), ("member_past", "member_history", "invoice_past", "invoice_history"))
    for table, single, columns in (
        ("members", "member", _MEMBER),
        ("invoices", "invoice", _INVOICE),
    ):
        _remember(table, single, columns)
        # Each sync notes of each row when it was asked for, on the row's own page where it can.
        op.execute(f"ALTER TABLE {table} SET (fillfactor = 50)")
    # So does that of items, which have been remembered from their first one on.
    op.execute(
        "DELETE FROM mirror_state WHERE name = 'history_began_of_opportunity_items'"
        " AND NOT EXISTS (SELECT FROM opportunity_item_versions)"
    )
    _demand_a_beginning()


def _remember(table: str, single: str, columns: dict[str, str]) -> None:
    versions = f"{single}_versions"
    # Whoever has no version yet would begin his history whenever he is locked first.
    for rows in (table, f"deleted_{table}"):
        op.execute(
            f"INSERT INTO {versions} (id, deleted) SELECT id, {rows != table} FROM {rows}"
            " ON CONFLICT DO NOTHING"
        )
    began = (
        op.get_bind()
        .execute(
            sa.text(
                "INSERT INTO mirror_state (name, value) SELECT :name,"
                " to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US+00')"
                # Of what was never mirrored, the history begins with the first that is.
                f" WHERE EXISTS (SELECT FROM {versions}) RETURNING value"
            ),
            {"name": f"history_began_of_{table}"},
        )
        .scalar()
    )
    op.execute(f"ALTER TABLE {versions} ADD COLUMN valid_from timestamptz")
    if began is not None:
        op.execute(f"UPDATE {versions} SET valid_from = '{began}'")
    op.execute(
        f"ALTER TABLE {versions} ALTER COLUMN valid_from SET DEFAULT clock_timestamp(),"
        " ALTER COLUMN valid_from SET NOT NULL"
    )
    op.execute(f"""
        CREATE TABLE {single}_past (
            {single}_id bigint NOT NULL,
            valid_from timestamptz NOT NULL,
            valid_to timestamptz NOT NULL CHECK (valid_from < valid_to),
            deleted boolean NOT NULL,
            {", ".join(f"{name} {kind}" for name, kind in columns.items())},
            difference jsonb,
            PRIMARY KEY ({single}_id, valid_from)
        )
    """)
    op.execute(f"CREATE INDEX ON {single}_past (valid_to)")


def _demand_a_beginning() -> None:
    place = f'"{schema()}"'
    op.execute(f"""
        CREATE OR REPLACE FUNCTION rms_demand_history(marked text, at timestamptz) RETURNS boolean
        LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
        DECLARE
            began timestamptz;
        BEGIN
            SELECT value::timestamptz INTO began FROM {place}.mirror_state
            WHERE name = 'history_began' || marked;
            IF began IS NULL THEN
                RAISE EXCEPTION 'This mirror holds none of these yet, so that they have no history.'
                    USING ERRCODE = 'invalid_parameter_value';
            ELSIF at < began THEN
                RAISE EXCEPTION
                    'The history of this mirror begins on %, so what was before is unknown.', began
                     USING ERRCODE = 'invalid_parameter_value';
            END IF;
            RETURN at IS NOT NULL;
        END
        $$
    """)


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
