"""Adds columns that people filter, sort and add up by, and the table of statuses."""

from alembic import op

from rms_pipeline.mirror.migrations.frozen import set_aside

revision = "0019"
down_revision = "0018"
makes = ("statuses",)

_SCHEDULE = (
    *("prep", "load", "deliver", "setup", "show"),
    *("takedown", "collect", "unload", "deprep"),
)
_COLUMNS = {
    "number": "text",
    "reference": "text",
    "state_name": "text",
    "store_id": "bigint",
    "project_id": "bigint",
    "venue_id": "bigint",
    "ordered_at": "timestamptz",
    "quote_invalid_at": "timestamptz",
    "invoiced": "boolean",
    "tags": "text[]",
    "charge_excluding_tax_total": "numeric",
    "charge_including_tax_total": "numeric",
    "tax_total": "numeric",
    "provisional_cost_total": "numeric",
    "predicted_cost_total": "numeric",
    "actual_cost_total": "numeric",
    "weight_total": "numeric",
    "revenue": "numeric",
    "rating": "bigint",
    "open_ended_rental": "boolean",
    **{f"{s}_{e}_at": "timestamptz" for s in _SCHEDULE for e in ("starts", "ends")},
    "custom_fields": "jsonb",
}
_STARTS, _ENDS = "coalesce(deliver_starts_at, starts_at)", "coalesce(collect_ends_at, ends_at)"
_MADE = {
    "profit": ("numeric", "charge_total - provisional_cost_total"),
    # tstzrange() refuses an end before the start, and takes an absent bound for an infinite one.
    "hire": (
        "tstzrange",
        f"CASE WHEN open_ended_rental AND {_STARTS} IS NOT NULL"
        f" THEN tstzrange({_STARTS}, NULL, '[)')"
        f" WHEN {_STARTS} <= {_ENDS} THEN tstzrange({_STARTS}, {_ENDS}, '[]') END",
    ),
}
adds = dict.fromkeys(("opportunities", "deleted_opportunities"), (*_COLUMNS, *_MADE))
touches = {
    "opportunities": ("rewritten", "indexed"),
    "deleted_opportunities": ("rewritten",),
}


def upgrade() -> None:
    set_aside(op.get_bind(), ("statuses",))
    for table in ("opportunities", "deleted_opportunities"):
        added = ", ".join(f"ADD COLUMN {name} {kind}" for name, kind in _COLUMNS.items())
        op.execute(f"ALTER TABLE {table} {added}")
        made = ", ".join(
            f"ADD COLUMN {name} {kind} GENERATED ALWAYS AS ({text}) STORED"
            for name, (kind, text) in _MADE.items()
        )
        op.execute(f"ALTER TABLE {table} {made}")
    op.execute("CREATE INDEX ON opportunities USING gin (custom_fields jsonb_path_ops)")
    op.execute("CREATE INDEX ON opportunities USING gist (hire)")
    op.execute("""
        CREATE TABLE statuses (
            name text PRIMARY KEY,
            phase text NOT NULL DEFAULT 'open' CHECK (phase IN ('open', 'confirmed', 'lost')),
            sort integer NOT NULL DEFAULT 100,
            colour text CHECK (colour ~ '^#[0-9A-Fa-f]{6}$')
        )
    """)
    op.execute("""
        INSERT INTO statuses (name, phase, sort, colour) VALUES
            ('Open', 'open', 10, '#0a57f9'),
            ('Provisional', 'open', 20, '#d1810e'),
            ('Postponed', 'open', 30, '#179ad4'),
            ('Reserved', 'confirmed', 40, '#9538c9'),
            ('Active', 'confirmed', 50, '#03a47f'),
            ('Completed', 'confirmed', 60, '#387321'),
            ('Cancelled', 'lost', 70, '#e36f50'),
            ('Lost', 'lost', 80, '#cb0217'),
            ('Dead', 'lost', 90, '#7f5e4c')
    """)


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
