"""Dagster's UI as `up` starts it: Dagster's own webserver behind a guard.

guard decides on each request: Host, Origin, session or token, mutations by POST only __main__ the
process: Dagster's application, the guard around it, uvicorn around both

Dagster's webserver asks nobody who they are, answers to any Host, and takes mutations by GET: any
page that a browser on the machine opens could delete runs. Plain `dagster dev` is as Dagster is.
"""
