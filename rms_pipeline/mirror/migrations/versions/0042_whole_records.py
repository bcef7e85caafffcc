"""Lets some versions hold their record whole, so that any of many versions is read as quickly.

Records of versions that ended before are found as before, by their differences.
"""

from alembic import op

revision = "0042"
down_revision = "0041"
_SINGLES = ("opportunity", "opportunity_item", "member", "invoice")
adds = {f"{single}_past": ("record",) for single in _SINGLES}
touches = {f"{single}_past": ("altered", "indexed") for single in _SINGLES}


def upgrade() -> None:
    for single in _SINGLES:
        op.execute(f"ALTER TABLE {single}_past ADD COLUMN record jsonb")
        op.execute(
            f"CREATE INDEX ON {single}_past ({single}_id, valid_from) WHERE record IS NOT NULL"
        )


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
