"""Takes the person away from changes in which a customer, venue or owner was only renamed.

Whoever next edited an opportunity was said to have made them. Such a line is known by what is
missing: the same merge has no line for the id beside the name. Only lines that a merge wrote are
changed, and only where the opportunity has such an id and always had one while its changes were
noted. Without an id, another name may be another party.
"""

from alembic import op

revision = "0045"
down_revision = "0044"


def upgrade() -> None:
    for kind in ("organisation", "venue", "owner"):
        op.execute(
            f"""
            UPDATE opportunity_changes c SET changed_by = NULL
            FROM opportunities o
            WHERE c.field = '{kind}_name' AND c.changed_by IS NOT NULL AND c.seen_by IS NOT NULL
                AND c.old_value <> '' AND c.new_value <> ''
                AND o.id = c.opportunity_id AND o.{kind}_id IS NOT NULL
                AND NOT EXISTS (
                    SELECT FROM opportunity_changes i
                    WHERE i.opportunity_id = c.opportunity_id AND i.field = '{kind}_id'
                        AND (i.seen_at = c.seen_at OR coalesce(i.old_value, '') = ''
                            OR coalesce(i.new_value, '') = '')
                )
            """
        )


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
