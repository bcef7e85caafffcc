"""The web service: webhook receiver, fast lane, metrics.

app        the FastAPI application put together
receiver   POST /api/webhook: kept before it is acknowledged
access     who may: tokens, compared in constant time
fast_lane  refreshes what the receiver has kept, at once
reporting  tells Dagster what the fast lane did
metrics    what Prometheus reads
server     uvicorn, without a word in its logs that holds a token
"""
