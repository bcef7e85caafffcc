"""The web service: webhook receiver, fast lane, sync API, dashboard, metrics.

app           the FastAPI application put together
server        uvicorn around it, without a word in its logs that holds a token

receiver      POST /api/webhook: kept before it is acknowledged
fast_lane     refreshes what the receiver has kept, at once
recounting    counts again soon after, so that the dashboard shows it
reporting     tells Dagster what the fast lane did

access access control: bearer, session, login; origins, throttle: from where, and how often headers
what every answer carries refusals how an answer says no, to programs and to people

launching     starts a sync as a run of Dagster's
sync_api      /api/sync for scripts and cron; sync_models: its answers
dashboard     the page that keeps itself up to date, and its buttons; charts: its drawings
opportunities lists, one opportunity, CSV
templating    templates and static files; formatting: numbers and times for people
reading       pooled, read-only connections for all of these
metrics       what Prometheus reads
"""
