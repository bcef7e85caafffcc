"""PostgreSQL: schema, raw pages, merge, summaries, locks. Knows no HTTP and no Dagster."""
