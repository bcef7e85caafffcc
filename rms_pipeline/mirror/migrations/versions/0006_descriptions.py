"""What tables and columns hold, for whoever looks at them in psql or another tool."""

from alembic import op

from rms_pipeline.mirror.descriptions import describe

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    describe(op.get_bind())


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
