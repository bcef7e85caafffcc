"""What the API was found to grant: page sizes, and what an account refuses or ignores."""

from alembic import op

from rms_pipeline.mirror.predecessor import set_aside

revision = "0007"
down_revision = "0006"

_DESCRIPTIONS = {
    "TABLE public.api_page_sizes": "Of rms_pipeline itself: how many records a page of the API was"
    " found to hold.",
    "TABLE public.api_refusals": "What Current RMS refuses or ignores in this account, as syncs"
    " found; each is tried again after a week.",
    "COLUMN public.api_page_sizes.learned_at": "When an answer last showed another size.",
    "COLUMN public.api_refusals.kind": "What it is: include, per_page or filter.",
    "COLUMN public.api_refusals.name": "Which one.",
    "COLUMN public.api_refusals.status": "The status it was refused with; empty when it was"
    " ignored.",
    "COLUMN public.api_refusals.noted_at": "When that was last seen.",
}


def upgrade() -> None:
    set_aside(op.get_bind(), ("api_page_sizes", "api_refusals"))
    op.execute("""
        CREATE TABLE api_page_sizes (
            account text,
            collection text,
            page_size integer NOT NULL CHECK (page_size > 0),
            learned_at timestamptz NOT NULL,
            PRIMARY KEY (account, collection)
        )
    """)
    op.execute("""
        CREATE TABLE api_refusals (
            account text,
            collection text,
            kind text,
            name text,
            status integer,
            noted_at timestamptz NOT NULL,
            PRIMARY KEY (account, collection, kind, name)
        )
    """)
    for what, text in _DESCRIPTIONS.items():
        op.execute(f"COMMENT ON {what} IS '{text}'")


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
