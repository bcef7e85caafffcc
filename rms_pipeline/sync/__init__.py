"""Syncs without Dagster: `current_rms` and `mirror` put together.

landing    walk the API into `raw_rms_pages`, going on with what an earlier run left
storing    merge landed pages into `opportunities`
by_id      ask for single opportunities: are they still there?
refreshing ask for single opportunities and store what became of them
queued     refresh what the queue of webhooks tells of
settling   after a full walk: deletions, and the certificate of completeness
counting   the window, as the API has it and as the mirror has it
prove      that the mirror holds what the API's lists hold: count, find and mend differences
rebuilding decode again what is stored, without the API
"""
