"""How much room each table takes."""

from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.sizes import OUR_TABLES, measure
from rms_pipeline_tests.rows import query


def test_every_table_that_migrations_make_is_measured(migrated: Database) -> None:
    made = query(migrated, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert sorted(OUR_TABLES) == sorted(name for (name,) in made)
    with migrated.session() as connection:
        sizes = measure(connection)
    assert sorted(sizes.tables) == sorted(OUR_TABLES)
    assert sum(sizes.tables.values()) < sizes.database
