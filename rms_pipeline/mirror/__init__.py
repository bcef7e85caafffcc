"""The PostgreSQL side: schema, raw pages, merge, summaries, locks. It uses no HTTP and no
Dagster.
"""
