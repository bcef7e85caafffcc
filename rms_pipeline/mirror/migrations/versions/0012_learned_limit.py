"""The account's request limit as refusals showed it."""

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.execute("""
        ALTER TABLE api_budget
            ADD COLUMN learned double precision,
            ADD COLUMN learned_at timestamptz,
            ADD COLUMN tries integer NOT NULL DEFAULT 0
    """)


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
