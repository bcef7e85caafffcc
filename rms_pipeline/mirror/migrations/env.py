"""Runs our migrations on the connection that `schema` hands over."""

from alembic import context

from rms_pipeline.mirror.schema import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    version_table_schema="public",
)
with context.begin_transaction():
    context.run_migrations()
