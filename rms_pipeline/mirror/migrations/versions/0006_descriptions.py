"""Changes nothing: descriptions of tables and columns are written after the migrations.

This step once wrote whatever `mirror/descriptions.py` held, columns of later steps included.
"""

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    pass


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
