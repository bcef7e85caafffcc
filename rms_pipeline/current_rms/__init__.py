"""The client of the Current RMS API: requests, pages and records. It uses no database and no
Dagster.
"""
