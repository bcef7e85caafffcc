"""The remote API: requests, pages and records. Knows no database and no Dagster."""
