"""Gives proof_counts a key, so that a publication of all tables can send it."""

from alembic import op

revision = "0016"
down_revision = "0015"
adds = {"proof_counts": ("id",)}
touches = {"proof_counts": ("rewritten", "indexed"), "opportunities": ("altered",)}


def upgrade() -> None:
    # Without a replica identity a published table loses no row.
    op.execute(
        "ALTER TABLE proof_counts ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
    )
    # A trigger before a row is written counts also what a constraint then refuses, and that stays
    # counted: a proof could not be shown beside a record that cannot be stored.
    for name, event in {
        "delete": "DELETE",
        "update": "UPDATE OF id, starts_at, ends_at, updated_at_rms, data",
    }.items():
        op.execute(f"DROP TRIGGER rms_content_{name} ON opportunities")
        op.execute(
            f"CREATE TRIGGER rms_content_{name} AFTER {event} ON opportunities FOR EACH ROW"
            " EXECUTE FUNCTION rms_note_content('opportunities')"
        )


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
