"""Makes the tables of words by which opportunities, customers, venues and owners are found.

Those of rows that are there follow as the rows are decoded again, for which the number of their
mapping has risen.
"""

from alembic import op

from rms_pipeline.mirror.migrations.frozen import set_aside

revision = "0031"
down_revision = "0030"
makes = ("opportunity_words", "known_names")


def upgrade() -> None:
    set_aside(op.get_bind(), ("opportunity_words", "known_names"))
    op.execute("CREATE TABLE opportunity_words (id bigint PRIMARY KEY, words tsvector NOT NULL)")
    # What waits to be put in order costs each search a little: no more than some hundred rows.
    op.execute(
        "CREATE INDEX ON opportunity_words USING gin (words) WITH (gin_pending_list_limit = 64)"
    )
    op.execute("""
        CREATE TABLE known_names (
            collection text NOT NULL,
            kind text NOT NULL,
            name text NOT NULL,
            record_id bigint,
            words tsvector NOT NULL
        )
    """)
    # A name may be longer than an entry of an index.
    op.execute(
        "CREATE UNIQUE INDEX ON known_names (collection, kind, md5(name), (coalesce(record_id, 0)))"
    )
    op.execute("CREATE INDEX ON known_names USING gin (words)")


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
