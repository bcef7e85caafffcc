"""The greatest number that the API was seen to count: below it, its counts are not capped."""

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.execute("ALTER TABLE proofs ADD COLUMN greatest_count bigint NOT NULL DEFAULT 0")


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
