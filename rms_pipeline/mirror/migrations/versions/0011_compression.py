"""Lets the server choose how it compresses records, so that a backup restores on any server.

A dump that names lz4 loses the table where it is loaded into a server without lz4. Our connections
choose lz4 where the server has it.
"""

from alembic import op

revision = "0011"
down_revision = "0010"
touches = {"opportunities": ("altered",), "deleted_opportunities": ("altered",)}


def upgrade() -> None:
    for table in ("opportunities", "deleted_opportunities"):
        op.execute(f"ALTER TABLE {table} ALTER COLUMN data SET COMPRESSION default")


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
