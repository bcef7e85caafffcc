"""Lets rows of opportunities be wide enough that names and days of a hire stay within them.

Since they have sixty columns, 512 bytes held none of their texts. Each name was read, and written,
as a row of its own beside them. Rows that are there become so as they are written again.
"""

from alembic import op

revision = "0041"
down_revision = "0040"


def upgrade() -> None:
    op.execute("ALTER TABLE opportunities SET (toast_tuple_target = 768)")


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
