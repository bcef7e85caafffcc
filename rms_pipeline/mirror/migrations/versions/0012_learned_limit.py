"""Adds columns for the request limit that the account was found to have."""

from alembic import op

revision = "0012"
down_revision = "0011"
adds = {"api_budget": ("learned", "learned_at", "tries")}
touches = {"api_budget": ("altered",)}


def upgrade() -> None:
    op.execute("""
        ALTER TABLE api_budget
            ADD COLUMN learned double precision,
            ADD COLUMN learned_at timestamptz,
            ADD COLUMN tries integer NOT NULL DEFAULT 0
    """)


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
