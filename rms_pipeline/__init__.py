"""A complete, live copy of a Current RMS account's opportunities in PostgreSQL, kept by Dagster."""
