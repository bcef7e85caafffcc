"""When a part of the window was counted, for one that was not counted with the others."""

from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.execute("ALTER TABLE proof_counts ADD COLUMN as_of timestamptz")


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
