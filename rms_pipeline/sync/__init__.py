"""Syncs without Dagster: `current_rms` and `mirror` put together.

landing    walk the API into `raw_rms_pages`, going on with what an earlier run left
storing    merge landed pages into the table of their collection
by_id      ask for single records: are they still there?
doubts     what a list shows as it was before: does it lag?
refreshing ask for single records and store what became of them
queued     refresh what the queue of webhooks tells of
settling   after a full walk: deletions, and the certificate of completeness
counting   the window, as the API has it and as the mirror has it
prove      that the mirror holds what the API's lists hold: count, find and mend differences
rebuilding decode again what is stored, without the API
"""
