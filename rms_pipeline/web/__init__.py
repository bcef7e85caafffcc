"""The web service: webhook receiver, fast lane, sync API, metrics.

app        the FastAPI application put together
receiver   POST /api/webhook: kept before it is acknowledged
sync_api   /api/sync: starting syncs, and how they stand (sync_models: its shapes)
launching  a sync as a run of Dagster's, never two of a kind at once
access     who may: the API token, and the session made from it
origins    whose page is behind a request
throttle   guessing made slow
headers    what every answer carries
refusals   what is answered when something is not done
templating pages from templates/
fast_lane  refreshes what the receiver has kept, at once
reporting  tells Dagster what the fast lane did
metrics    what Prometheus reads
server     uvicorn, without a word in its logs that holds a token
"""
