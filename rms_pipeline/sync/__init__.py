"""Syncs without Dagster. They combine `current_rms` and `mirror`.

landing    read the API into `raw_rms_pages`, continuing what an earlier run left
storing    merge landed pages into the table of their collection
by_id      ask for single records: do they still exist?
doubts     is a list late that shows an older state than the mirror?
refreshing ask for single records and store the result
queued     refresh the records that the webhook queue names
parts      read, store and merge the parts of records
settling   after a full walk: deletions, and the certificate of completeness
counting   count the window in the API and in the mirror
prove      show that the mirror holds what the API's lists hold; find and correct differences
costs      what a full sync would cost
rebuilding decode what is stored again, without the API
"""
