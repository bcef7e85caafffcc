"""Dagster only, and thin: assets, checks, jobs, resources, and the instance they live in.

Logic is called from here, never written here.
"""
