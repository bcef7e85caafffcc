"""Makes the tables of the proof of completeness, and has every change of a row noted."""

from alembic import op

from rms_pipeline.mirror.migrations.frozen import set_aside

revision = "0010"
down_revision = "0009"
makes = ("proofs", "proof_counts", "held_deletions", "deletions_confirmed")
touches = {"opportunities": ("watched",), "deleted_opportunities": ("indexed",)}


def upgrade() -> None:
    set_aside(op.get_bind(), ("proofs", "proof_counts", "held_deletions", "deletions_confirmed"))
    op.execute("""
        CREATE TABLE proofs (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            collection text NOT NULL,
            run text NOT NULL,
            scan bigint NOT NULL,
            as_of timestamptz NOT NULL,
            content bigint NOT NULL,
            window_start timestamptz NOT NULL,
            window_end timestamptz NOT NULL,
            counted bigint NOT NULL DEFAULT 0,
            mirrored bigint NOT NULL DEFAULT 0,
            unstorable bigint NOT NULL DEFAULT 0,
            repeated bigint NOT NULL DEFAULT 0,
            unreadable bigint[] NOT NULL DEFAULT '{}',
            left_for_next bigint[] NOT NULL DEFAULT '{}',
            repaired bigint NOT NULL DEFAULT 0,
            deleted bigint NOT NULL DEFAULT 0,
            calls integer NOT NULL DEFAULT 0,
            rounds integer NOT NULL DEFAULT 0,
            shown boolean,
            reason text NOT NULL DEFAULT '',
            rests_on text[] NOT NULL DEFAULT '{}',
            closed_at timestamptz
        )
    """)
    op.execute("CREATE INDEX ON proofs (collection, id) WHERE closed_at IS NOT NULL")
    op.execute("""
        CREATE TABLE proof_counts (
            proof bigint NOT NULL REFERENCES proofs ON DELETE CASCADE,
            segment text NOT NULL,
            ids int8range NOT NULL,
            counted bigint NOT NULL,
            mirrored bigint NOT NULL,
            nameless bigint NOT NULL DEFAULT 0,
            repeated bigint NOT NULL DEFAULT 0,
            unstorable bigint NOT NULL DEFAULT 0,
            alike boolean NOT NULL,
            listed boolean NOT NULL
        )
    """)
    op.execute("CREATE INDEX ON proof_counts (proof)")
    op.execute("""
        CREATE TABLE held_deletions (
            collection text NOT NULL,
            id bigint NOT NULL,
            because text NOT NULL,
            asked_at timestamptz NOT NULL,
            answered_at timestamptz NOT NULL,
            held_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            PRIMARY KEY (collection, id)
        )
    """)
    op.execute("""
        CREATE TABLE deletions_confirmed (
            collection text PRIMARY KEY,
            confirmed_at timestamptz NOT NULL
        )
    """)
    op.execute("CREATE INDEX ON deleted_opportunities (deleted_at)")
    # Whoever changes what rows hold, by whatever program, says so: he holds the lock (shared) until
    # his transaction ends, and the number grows. So whoever takes the lock alone for an instant,
    # before and after counting, knows whether anything changed in between. Only learning when a
    # row was last asked for is no change.
    op.execute("CREATE SEQUENCE content_of_opportunities")
    op.execute("""
        CREATE OR REPLACE FUNCTION rms_note_content() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
        BEGIN
            PERFORM pg_advisory_xact_lock_shared(
                hashtextextended(
                    'rms_pipeline content of ' || TG_TABLE_SCHEMA || '.' || TG_ARGV[0], 0
                )
            );
            PERFORM nextval(format('%I.content_of_%s', TG_TABLE_SCHEMA, TG_ARGV[0])::regclass);
            IF TG_OP = 'DELETE' THEN
                RETURN OLD;
            END IF;
            RETURN NEW;
        END
        $$
    """)
    for name, event in {
        "insert": "BEFORE INSERT ON opportunities FOR EACH STATEMENT",
        "truncate": "BEFORE TRUNCATE ON opportunities FOR EACH STATEMENT",
        "delete": "BEFORE DELETE ON opportunities FOR EACH ROW",
        "update": "BEFORE UPDATE OF id, starts_at, ends_at, updated_at_rms, data ON opportunities"
        " FOR EACH ROW",
    }.items():
        op.execute(
            f"CREATE TRIGGER rms_content_{name} {event}"
            " EXECUTE FUNCTION rms_note_content('opportunities')"
        )


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
