"""Descriptions of our tables and columns. psql (\\d+) and Dagster's UI show them.

`migrate` writes those that differ into the database as comments. The view sync_metadata has its
own.
"""

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.mirror.statements import Connection

TABLES: dict[str, str] = {
    "saved_views": "Lists that people saved under a name: their filters and columns.",
    "calendar_feeds": "Internal: calendar feeds that programs read by their secret address.",
    "status_counts": "The number and the value of opportunities in each status.",
    "week_counts": "The same as status_counts, for each week (Monday to Sunday) of starts_at.",
    "daily_status_counts": (
        "The same as status_counts, at the end of each day in the company's "
        "time zone. The row of today holds the last count."
    ),
    "statuses": (
        "The phase and the order of each status. You can edit it. A status that is not "
        "in it counts as open."
    ),
    "required_fields": (
        "The fields that the company requires. The view sense_checks lists "
        "opportunities in which one is empty. You can edit it."
    ),
    "custom_field_keys": "The custom fields of the account, and when each was first seen.",
    "custom_field_labels": (
        "Labels for the values of custom fields, such as ids of list values: "
        "`rms-pipeline fields label`."
    ),
    "promoted_fields": "Internal: the custom fields that have a column.",
    "opportunity_fields": (
        "One row for each opportunity, and one column for each custom field "
        "that `rms-pipeline fields promote` gave a column. It is empty while "
        "no field has one."
    ),
    "opportunity_changes": (
        "One row for each change of a field: which field, from what, to what, by whom, and when."
    ),
    "sync_faults": "Values that could not be stored as received.",
    "unreadable_records": (
        "Records that Current RMS lists but cannot deliver. Each sync requests them again."
    ),
    "webhook_events": (
        "Webhook events as received. Processed events have processed_at, dead "
        "letters have dead_at, all others wait."
    ),
    "webhook_absences": (
        "Internal: opportunities that a webhook named but that Current RMS did not have."
    ),
    "raw_rms_pages": "Answers of the API as received. Housekeeping deletes old ones.",
    "raw_page_bodies": "The bodies of raw_rms_pages. Each body is stored once, however often it "
    "was received.",
    "walks": (
        "One row for each walk, which is one reading of the API's list, full or of changes only."
    ),
    "mirror_state": "Internal: the account of this mirror, and other single facts.",
    "proofs": "One row for each proof: what was counted, and whether the mirror was complete.",
    "part_lists": (
        "One row for each opportunity whose items were listed, with the reason if its "
        "list could not be read."
    ),
    "proof_counts": "The parts of the window that a proof counted.",
    "mirrored_windows": "How far back each collection is mirrored.",
    "held_deletions": (
        "Rows that Current RMS no longer has, but that are too many to delete "
        "without confirmation. They stay until a person confirms the deletion."
    ),
    "deletions_confirmed": "When a person last confirmed the deletion of many rows.",
    "sync_runs": (
        "Internal: one row for each sync. Use the view sync_metadata instead, which has "
        "more columns."
    ),
    "sync_figures": "The numbers of each sync, for each collection.",
    "sync_progress": "Internal: the progress of running syncs.",
    "run_workers": (
        "Internal: the processes that execute runs. Each holds an advisory lock while it is alive."
    ),
    "opportunity_words": (
        "Internal: the search index. The words of each opportunity, without "
        "case and accents, with the number of its block of ids."
    ),
    "known_names": "Internal: names of customers, venues and owners, with their search words.",
    "api_budget": "Internal: the request budget that all processes share.",
    "api_page_sizes": "Internal: the page size of the API, as learned from its answers.",
    "api_troubles": (
        "Requests that Current RMS does not answer at the moment, with the number of attempts."
    ),
    "api_refusals": (
        "Parameters that Current RMS refuses or ignores in this account. Each is "
        "tried again after a week."
    ),
}

COLUMNS: dict[str, dict[str, str]] = {
    "status_counts": {
        "opportunity_status": "The status, or (none) if the opportunity has none.",
        "opportunities": "How many opportunities have this status.",
        "charge_total": "The sum of their charges before tax.",
        "total_value": "The sum of their charges with tax.",
        "as_of": "When this was counted.",
    },
    "daily_status_counts": {
        "day": "The day, in the time zone that RMS_TIME_ZONE names.",
        "opportunity_status": "The status, or (none) if the opportunity has none.",
        "phase": "open, confirmed or lost, from the table statuses.",
        "opportunities": "How many opportunities had this status.",
        "charge_total": "The sum of their charges before tax.",
        "total_value": "The sum of their charges with tax.",
    },
    "statuses": {
        "name": "The status as Current RMS calls it.",
        "phase": "open, confirmed or lost.",
        "sort": "Its place in lists: the lowest number comes first.",
        "colour": "#rrggbb.",
    },
    "required_fields": {
        "collection": "The collection, by the name of its table.",
        "field": (
            "A column of the collection's table, or `custom_fields.` and the key of a custom field."
        ),
        "phase": (
            "The phase from which the field is required: open (so confirmed as well), or confirmed."
        ),
    },
    "custom_field_keys": {
        "collection": "The collection, by the name of its table.",
        "key": "The key of the field in custom_fields.",
        "first_seen_at": "When a sync first saw it.",
        "vanished_at": "When the last record with it disappeared. Empty while a record has it.",
    },
    "custom_field_labels": {
        "collection": "The collection, by the name of its table.",
        "key": "The key of the field in custom_fields.",
        "value": "The value as stored, usually an id.",
        "label": "Its name for people.",
    },
    "opportunity_fields": {"opportunity_id": "The opportunity's id in Current RMS."},
    "opportunity_changes": {
        "id": "The number of the change, in the order in which changes were noticed.",
        "opportunity_id": "The opportunity's id in Current RMS.",
        "old_value": "The value before, as text.",
        "new_value": "The value after, as text.",
        "field": "The column that changed, or `custom_fields.` and the key of a custom field.",
        "changed_at": (
            "When it was changed, by the clock of Current RMS. Empty if Current RMS gave the "
            "record no newer time."
        ),
        "changed_by": (
            "Who changed it, if the webhooks since the last fetch name exactly one "
            "person who can have done it. Otherwise empty."
        ),
        "seen_at": "When the mirror noticed the change.",
        "seen_by": "The run that noticed it (sync_metadata.run_id), or the fast lane.",
    },
    "saved_views": {
        "id": "The number of the view, as in its address /views/1.",
        "collection": "The collection of the list, by the name of its table.",
        "name": "Its name for people.",
        "query": "The query of its address, after the question mark.",
        "is_default": "Whether this view is shown when a list is opened without filters.",
        "saved_at": "When it was last saved.",
    },
    "mirrored_windows": {
        "collection": "The collection, by the name of its table.",
        "days_back": "How many days back full syncs read, if that is more than the setting"
        " RMS_SYNC_DAYS_BACK. Otherwise empty.",
        "asked_at": "When somebody asked for it.",
        "asked_by": "Where it was asked for: a page or the command.",
        "reaches_back_to": "The mirror has everything that ended at this time or later, and its "
        "changes since.",
    },
    "calendar_feeds": {
        "id": "The number of the feed.",
        "name": "Its name for people.",
        "query": "The query of the calendar's address, after the question mark.",
        "secret_hash": (
            "The SHA-256 hash of the secret in its address. The secret itself is not stored."
        ),
        "made_at": "When it was made.",
        "read_at": "When it was last read, to about a minute.",
    },
    "sync_runs": {
        "id": "Its number, as in sync_metadata.id.",
        "run_id": "The id of its run in Dagster.",
        "sync_type": "initial_sync, incremental_sync, reconciliation or webhook_refresh.",
        "status": "launched, running, completed or failed, as its own process recorded it.",
        "launched_at": "When it was requested.",
        "started_at": "When its first step began.",
        "ended_at": "When its last step ended. Empty while the sync runs.",
        "records_synced": "The sum over its collections.",
        "records_failed": "The sum over its collections.",
        "error": "Why it failed, and what to do.",
        "metadata": "Its figures, by name.",
    },
    "sync_figures": {
        "collection": "The collection, by the name of its table.",
        "sync": "The sync, as in sync_metadata.id.",
        "records_synced": "How many of the records that it read are in the table.",
        "records_failed": "How many records it could not store; see sync_faults.",
    },
    "part_lists": {
        "collection": "The collection, by the name of its table.",
        "parent_id": "The opportunity.",
        "walk": "The walk that last listed it (walks.id).",
        "asked_at": "When its last complete list was requested.",
        "answered_at": "When the last page of that list arrived.",
        "ids": "The content of that list.",
        "nameless": "How many records of the list have no valid id.",
        "told": "Whether the opportunity had changed since its previous list.",
        "again": (
            "Whether the next sync lists it again, because that list may not have shown the "
            "last change yet."
        ),
        "stored_at": "When the rows were updated from that list. Empty until then.",
        "counted": "How many records the list has.",
        "mirrored": "How many rows the mirror has for them.",
        "unstorable": "How many of them could not be stored; see sync_faults.",
        "problem": "Why its list could not be read at the last attempt.",
        "problem_at": "When that attempt was.",
    },
    "walks": {
        "id": "The number of the walk.",
        "kind": "What it reads: full, changes or refresh.",
        "runs": "The runs that worked on it (sync_metadata.run_id).",
        "started_at": "When it began, by the clock of the database.",
        "window_start": "The start of the window of a full walk.",
        "window_end": "The end of the window of a full walk.",
        "since": "The time from which it reads changes, by the clock of Current RMS.",
        "watermark": "The watermark that it sets when it succeeds, by the clock of Current RMS.",
        "completed_at": "When all of its pages were stored.",
        "settled_at": "When its pages were merged and deletions were decided.",
        "read_by": "How each list was read.",
        "nameless": "How many records without an id each list has.",
        "notes": "What was unusual while it read.",
        "certificate": "The result of its proof.",
        "deletions": "How many rows were deleted or kept.",
        "audit": "How many of its changes a webhook had announced.",
        "counts_believed": "Whether the counts of the API include everything that it received.",
        "listed_twice": "The ids of records that the lists show more than once.",
        "collection": "The collection, by the name of its table.",
    },
    "unreadable_records": {
        "collection": "The collection, by the name of its table.",
        "id": "The record's id in Current RMS.",
        "reason": "What Current RMS answers instead of the record.",
        "first_seen_at": "Since when.",
        "last_seen_at": "When Current RMS last failed to deliver it.",
        "run": "The run of that attempt (sync_metadata.run_id).",
    },
    "sync_faults": {
        "id": "The number of the fault.",
        "seen_at": "When it was found.",
        "opportunity_id": "The record's id in Current RMS, whatever its collection.",
        "field": "The field of the record.",
        "collection": "The collection, by the name of its table.",
        "problem": "What is wrong with its value.",
        "raw_value": "The value as received.",
        "run": "The run that received it (sync_metadata.run_id).",
    },
    "webhook_events": {
        "id": "The number of the event, in the order of arrival.",
        "received_at": "When it arrived.",
        "subject_type": "What kind of record it is about, as Current RMS calls it.",
        "opportunity_id": "The id of the opportunity, if it is about one.",
        "member_id": "The id of the person who did it.",
        "raw_payload": "The event as received, or its short fields.",
        "next_attempt_at": "When the next attempt is, at the earliest.",
        "claimed_by": "The process that is refreshing the record.",
        "claimed_until": (
            "When another process can take the event, if that process does not finish."
        ),
        "action_id": "The event's id in Current RMS.",
        "collection": "The collection, by the name of its table.",
        "record_id": "The id of the record, if it is not an opportunity.",
        "action_type": "What happened: update, destroy, ...",
        "member_name": "Who did it.",
        "attempts": "How often the record was requested because of this event.",
        "processed_at": "When its record had been refreshed.",
        "dead_at": "When it became a dead letter. `rms-pipeline webhooks replay` tries again.",
        "error": "The last error, or what the event waits for.",
        "happened_at": "When it happened, by the clock of Current RMS.",
        "content_digest": (
            "The SHA-256 hash of the body. An event with the action_id and the "
            "digest of another is a repeat, and is not stored."
        ),
        "size_bytes": (
            "How much of the body is stored: all of it, or only the short fields of a long one."
        ),
        "put_off": (
            "Whether it waits for Current RMS or for a locked row. Later events of the "
            "record wait with it."
        ),
        "waits": ("How often it was postponed because Current RMS did not show the change yet."),
    },
    "raw_rms_pages": {
        "id": "The number of the page, in order of arrival.",
        "collection": "The collection, by the name of its table.",
        "run": "The run that fetched it (sync_metadata.run_id).",
        "walk": "The walk that it belongs to (walks.id).",
        "page": "Its number within the run.",
        "segment": "Which list: dated, no_start, no_end, changed, or parts of one record.",
        "request": "The request, without credentials.",
        "asked_at": "When it was requested.",
        "fetched_at": "When the answer had arrived.",
        "api_date": "The time of the answer, by the clock of Current RMS.",
        "record_count": "How many records are on it.",
        "record_ids": "Their ids.",
        "covers": "The range of ids of which it has all records.",
        "window_start": "The start of the requested window.",
        "window_end": "The end of the requested window. Empty for changes.",
        "size_bytes": "The size of the answer as received, in bytes.",
        "body": "The answer itself, compressed with zlib, if the page was stored before schema"
        " 0035. For later pages it is in raw_page_bodies.",
        "digest": (
            "The SHA-256 hash of the answer as received, which is its key in raw_page_bodies."
        ),
    },
    "raw_page_bodies": {
        "collection": "The collection, by the name of its table.",
        "digest": "The SHA-256 hash of the answer as received.",
        "body": "The answer itself, compressed with zlib.",
    },
    "api_page_sizes": {
        "account": "The account, by its subdomain.",
        "collection": "The collection, by the name of its table.",
        "page_size": "How many records a page has.",
        "learned_at": "When an answer last showed a different size.",
    },
    "api_troubles": {
        "account": "The account, by its subdomain.",
        "collection": "The collection, by the name of its table.",
        "attempt": "How often the request was tried.",
        "attempts": "The greatest number of attempts. Empty if a time limit applies instead.",
        "reason": "What was received instead of a usable answer at the last attempt.",
        "since": "When the first attempt failed.",
        "noted_at": "When the last attempt failed.",
        "next_at": "When the next attempt is.",
    },
    "api_refusals": {
        "account": "The account, by its subdomain.",
        "collection": "The collection, by the name of its table.",
        "kind": "What it is: include, per_page or filter.",
        "name": "Which one.",
        "status": "The HTTP status of the refusal. Empty when the API ignored the parameter.",
        "noted_at": "When this was last seen.",
    },
    "deletions_confirmed": {
        "collection": "The collection, by the name of its table.",
        "confirmed_at": "When a person last confirmed the deletions.",
    },
    "held_deletions": {
        "collection": "The collection, by the name of its table.",
        "id": "The record's id in Current RMS.",
        "because": "How the mirror knows that it was deleted.",
        "asked_at": "When the record was requested.",
        "answered_at": "When the answer arrived that it does not exist.",
        "held_at": "When its row was kept.",
    },
    "proofs": {
        "id": "The number of the proof.",
        "collection": "The collection, by the name of its table.",
        "run": "The run that made it (sync_metadata.run_id).",
        "scan": "The full walk whose window it counted (walks.id).",
        "as_of": "The time that it is about, by the clock of the database.",
        "content": (
            "The number of the mirror's content while it counted. The number rises when "
            "rows change."
        ),
        "window_start": "The start of the counted window. Empty if all records were counted.",
        "window_end": "The end of the counted window. Empty if all records were counted.",
        "counted": "How many records Current RMS has in its lists.",
        "mirrored": "How many of them have a row.",
        "unstorable": "How many of them cannot be stored; see sync_faults.",
        "repeated": "How many more entries of the lists are repeats.",
        "unreadable": "The ids of records that Current RMS cannot deliver.",
        "left_for_next": "The ids of records for which the list and the single record differ.",
        "repaired": "How many records it fetched again.",
        "deleted": "How many rows it deleted.",
        "calls": "How many API calls it made.",
        "rounds": "How often it counted.",
        "shown": "Whether it showed the mirror to be complete. Empty while it runs.",
        "reason": "Why it did not show that.",
        "rests_on": "What could not be counted in the usual way.",
        "closed_at": "When it ended.",
        "greatest_count": (
            "The greatest count that the API had given before. Smaller counts are not cut "
            "off at a limit."
        ),
        "parents": "For items: how many opportunities had their lists compared.",
    },
    "proof_counts": {
        "proof": "The proof (proofs.id).",
        "segment": "Which list of the API was counted.",
        "ids": "The range of ids.",
        "counted": "How many records Current RMS has there.",
        "mirrored": "How many rows the mirror has there.",
        "nameless": "How many of the counted records have no id or never arrive.",
        "repeated": "How many entries of the list are repeats.",
        "unstorable": "How many records PostgreSQL refuses.",
        "alike": "Whether no row is missing or left over.",
        "listed": "Whether the records were listed, and not only counted.",
        "id": "The number of the count.",
        "as_of": "When it was counted, if an earlier proof counted it.",
    },
    "week_counts": {
        "week": "The Monday of the week, in the company's time zone.",
        "opportunity_status": "The status, or (none) if the opportunity has none.",
        "opportunities": "How many opportunities with this status start in the week.",
        "charge_total": "The sum of their charges before tax.",
        "total_value": "The sum of their charges with tax.",
    },
    "api_budget": {
        "account": "The account, by its subdomain.",
        "requests_per_minute": "The limit in the settings, in calls a minute; 0 means no limit.",
        "seen_at": "When this row was last used.",
        "sent": "How many calls were sent in each half second of the last minute.",
        "next_slots": "When the next call of each priority can be sent.",
        "paused_until": "Until when no call is sent.",
        "throttled_at": "When the API last answered 429.",
        "allowance": "The share of the limit that is used since then.",
        "learned": "The limit that refusals showed, in calls a minute.",
        "learned_at": "When they last showed it.",
        "tries": "How often a higher limit was tried since then without success.",
    },
    "known_names": {
        "id": "The number of the name.",
        "collection": "The collection, by the name of its table.",
        "kind": "customer, venue or owner.",
        "name": "The name as Current RMS has it.",
        "record_id": "The id of the customer, venue or owner, if it is known.",
        "words": "The words of the name, for the search.",
    },
    "mirror_state": {
        "name": "The name of the fact.",
        "value": "The fact, as text.",
    },
    "opportunity_words": {
        "id": "The opportunity's id in Current RMS.",
        "words": "Its words, for the search.",
    },
    "promoted_fields": {
        "collection": "The collection, by the name of its table.",
        "key": "The key of the field in custom_fields.",
        "column_name": "The name of its column.",
        "kind": "The type of its column.",
        "promoted_at": "When it was given the column.",
    },
    "run_workers": {
        "lock_key": "The key of the advisory lock that the process holds.",
        "run": "The run (sync_metadata.run_id).",
        "announced_at": "When the process began.",
        "ended_at": "When the process ended by itself.",
        "lost_at": "When it was first noticed that the process had died. Of a process that Dagster "
        "is starting to resume the run: by when it must have begun.",
    },
    "sync_progress": {
        "run": "The run (sync_metadata.run_id).",
        "stage": "fetching, storing or decoding.",
        "pages": "How many pages are done.",
        "pages_expected": "How many pages there are, as far as is known.",
        "records": "How many records are done.",
        "records_expected": "How many records there are, as far as is known.",
        "started_at": "When the sync began.",
        "updated_at": "When this was last written.",
        "stage_started_at": "When the stage began.",
        "stage_began_at": "How many pages were already there when the stage began.",
    },
    "webhook_absences": {
        "collection": "The collection, by the name of its table.",
        "id": "The record's id in the event.",
        "asked_at": "When it was last requested.",
        "settled": "Whether it is certain that there is no such record.",
    },
}

# Descriptions of each collection's own tables.
VIEWS: dict[str, str] = {}
for _collection in COLLECTIONS:
    for _table, _says, _columns in _collection.descriptions():
        _kind = VIEWS if _collection.remembers and _table == _collection.history else TABLES
        _kind[_table], COLUMNS[_table] = _says, _columns
    TABLES[_collection.versions] = (
        f"Internal: when each {_collection.single} was last requested and answered. A merge"
        " compares these times to decide which record replaces which."
    )
    COLUMNS[_collection.versions] = {
        "id": f"The {_collection.single}'s id in Current RMS.",
        "asked_at": "When it was last requested.",
        "answered_at": "When the answer arrived.",
        "updated_at_rms": "When Current RMS had last changed it.",
        "fingerprint": "A hash of the record, to notice when it has not changed.",
        "deleted": "Whether Current RMS no longer has it.",
    }
    if _collection.remembers:
        COLUMNS[_collection.versions]["valid_from"] = "When the mirror stored the current version."


def undescribed(connection: Connection) -> list[tuple[str, str | None, str]]:
    """Return tables (column None) and columns whose description differs, with the text each should
    have.

    Reads the first schema of the search path.
    """
    wanted: dict[tuple[str, str | None], str] = {
        (t, None): text for t, text in (TABLES | VIEWS).items()
    }
    wanted |= {(t, c): text for t, texts in COLUMNS.items() for c, text in texts.items()}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname, a.attname, d.description FROM pg_class c"
            " LEFT JOIN LATERAL (SELECT attname, attnum FROM pg_attribute WHERE attrelid = c.oid"
            " AND attnum > 0 AND NOT attisdropped UNION ALL SELECT NULL, 0) a ON true"
            " LEFT JOIN pg_description d ON d.classoid = 'pg_class'::regclass AND d.objoid = c.oid"
            " AND d.objsubid = a.attnum"
            " WHERE c.relnamespace = to_regnamespace(quote_ident(current_schema()))"
            " AND c.relname = ANY(%s)",
            (list({*TABLES, *VIEWS, *COLUMNS}),),
        )
        found = {(table, column): text for table, column, text in cursor.fetchall()}
    return [(*key, text) for key, text in wanted.items() if key in found and found[key] != text]


def describe(connection: Connection) -> None:
    """Write these texts into the database as the comments of our tables and columns."""
    with connection.cursor() as cursor:
        for table, column, text in undescribed(connection):
            kind = "VIEW" if table in VIEWS else "TABLE"
            what = f"{kind} {table}" if column is None else f"COLUMN {table}.{column}"
            cursor.execute(f"COMMENT ON {what} IS %s", (text,))
