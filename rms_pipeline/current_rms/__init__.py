"""The remote API: requests, pages and payloads. Knows no database and no Dagster."""
