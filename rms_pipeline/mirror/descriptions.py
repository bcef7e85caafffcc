"""What our tables and their columns hold, in the words that psql's \\d+ and Dagster's UI show.

The database is told whenever `migrate` finds that it says something else. The view sync_metadata
brings its own.
"""

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.mirror.statements import Connection

TABLES: dict[str, str] = {
    "saved_views": "Lists that people saved: what is asked for, by its name.",
    "calendar_feeds": "Of rms_pipeline itself: calendars that programs read by their address.",
    "status_counts": "How many opportunities there are in each status, and what they are worth.",
    "week_counts": "The same for each week of starts_at, from its Monday on.",
    "daily_status_counts": "The same at the end of each day of the company's; of today, as it was"
    " counted last.",
    "statuses": "What each status means, and how it is shown. Edit it as you like; a status that is"
    " not in it is open.",
    "required_fields": "Which fields the company calls required; sense_checks names who lacks one."
    " Edit it as you like.",
    "custom_field_keys": "Which fields of the account's own there are, and since when.",
    "custom_field_labels": "What the ids of lists of values mean: `rms-pipeline fields label`.",
    "promoted_fields": "Of rms_pipeline itself: which of those fields have a column of their own.",
    "opportunity_fields": "A row for each opportunity, and a column for each field of the account's"
    " own that was given one: `rms-pipeline fields promote`. Without any it is empty.",
    "opportunity_changes": "Each change of a field that was seen: what, from, to, who, and when.",
    "sync_faults": "Values that could not be kept as they came.",
    "unreadable_records": "Records that Current RMS has and cannot deliver; each sync asks for them"
    " again.",
    "webhook_events": "Webhooks as received: settled ones have processed_at, dead letters dead_at,"
    " all others wait.",
    "webhook_absences": "Of rms_pipeline itself: opportunities that webhooks named and Current"
    " RMS did not have.",
    "raw_rms_pages": "Answers of the API as received; old ones are forgotten.",
    "raw_page_bodies": "What raw_rms_pages has received, each body once however often it came.",
    "walks": "Readings of the API's list, full ones and of changes, and what they proved.",
    "mirror_state": "Of rms_pipeline itself: which account this mirrors, and facts it remembers.",
    "proofs": "What was counted to show that the mirror is complete, and whether it was shown.",
    "part_lists": "Of which opportunities the items were listed whole, and which lists could not be"
    " read.",
    "proof_counts": "The parts of the window that a proof counted.",
    "mirrored_windows": "How far back each collection is mirrored.",
    "held_deletions": "Rows that are gone from Current RMS, but too many of them: they stay until a"
    " person confirms it.",
    "deletions_confirmed": "When a person last confirmed that many rows may go.",
    "sync_runs": "One row for each sync, as rms_pipeline itself keeps it; read sync_metadata, which"
    " knows more.",
    "sync_figures": "What each sync brought of each collection.",
    "sync_progress": "Of rms_pipeline itself: how far running syncs have come.",
    "run_workers": "Of rms_pipeline itself: the processes that execute runs; each holds a lock"
    " while it lives.",
    "opportunity_words": "Of rms_pipeline itself: the words by which each opportunity is found,"
    " folded, with the number of its block of ids.",
    "known_names": "Of rms_pipeline itself: names of customers, venues and owners, with their"
    " words.",
    "api_budget": "Of rms_pipeline itself: the calls to the API that all processes share.",
    "api_page_sizes": "Of rms_pipeline itself: how many records a page of the API was found to"
    " hold.",
    "api_troubles": "Requests that Current RMS does not answer just now, and how often they were"
    " made.",
    "api_refusals": "What Current RMS refuses or ignores in this account, as syncs found; each is"
    " tried again after a week.",
}

COLUMNS: dict[str, dict[str, str]] = {
    "status_counts": {
        "opportunity_status": "The status; (none) where it is absent.",
        "opportunities": "How many opportunities have it.",
        "charge_total": "Their charge before tax, added up.",
        "total_value": "Their charge with tax, added up.",
        "as_of": "When this was counted.",
    },
    "daily_status_counts": {
        "day": "The day, in the time zone that RMS_TIME_ZONE names.",
        "opportunity_status": "The status; (none) where it is absent.",
        "phase": "open, confirmed or lost, as the table statuses says.",
        "opportunities": "How many opportunities had it.",
        "charge_total": "Their charge before tax, added up.",
        "total_value": "Their charge with tax, added up.",
    },
    "statuses": {
        "name": "The status as Current RMS calls it.",
        "phase": "open, confirmed or lost.",
        "sort": "Its place among the others, the least first.",
        "colour": "#rrggbb.",
    },
    "required_fields": {
        "collection": "Of which collection, by the name of its table.",
        "field": "A column of its table, or custom_fields. and the key of a field of your own.",
        "phase": "From which phase on it is required: open (and then confirmed), or confirmed.",
    },
    "custom_field_keys": {
        "collection": "Of which collection, by the name of its table.",
        "key": "The field, as its key in custom_fields.",
        "first_seen_at": "When a sync first met it.",
        "vanished_at": "Since when no record has it; empty while one does.",
    },
    "custom_field_labels": {
        "collection": "Of which collection, by the name of its table.",
        "key": "The field, as its key in custom_fields.",
        "value": "The value as it is stored, mostly an id.",
        "label": "What people call it.",
    },
    "opportunity_fields": {"opportunity_id": "The opportunity's id in Current RMS."},
    "opportunity_changes": {
        "field": "The column that changed; of a custom field, custom_fields and its key.",
        "changed_at": "When Current RMS says it was changed.",
        "changed_by": "Who changed it: the one person of all webhooks since it was last asked for"
        " that can have; empty where there were several, or none.",
        "seen_at": "When the change was noticed here.",
        "seen_by": "The run that noticed it, as in sync_metadata.run_id, or the fast lane.",
    },
    "saved_views": {
        "collection": "A list of what, by the name of its table.",
        "name": "What people call it.",
        "query": "What follows the question mark in its address.",
        "is_default": "Whether the list shows it where nothing else is asked for.",
        "saved_at": "When it was saved last.",
    },
    "mirrored_windows": {
        "collection": "Whose window it is, by the name of its table.",
        "days_back": "How many days back full syncs read, where that is further than the setting"
        " RMS_SYNC_DAYS_BACK. Empty for no more than that.",
        "asked_at": "When somebody asked for it.",
        "asked_by": "From where: a page or the command.",
        "reaches_back_to": "Everything that ended at this time or later was read once, and what"
        " changed since.",
    },
    "calendar_feeds": {
        "name": "What people call it.",
        "query": "What follows the question mark in the address of the calendar.",
        "secret_hash": "The SHA-256 of the secret in its address, which is kept nowhere.",
        "made_at": "When it was made.",
        "read_at": "When it was last read, about a minute exact.",
    },
    "sync_runs": {
        "id": "Its number, as in sync_metadata.id.",
        "run_id": "The id of its run in Dagster.",
        "sync_type": "initial_sync, incremental_sync, reconciliation or webhook_refresh.",
        "status": "launched, running, completed or failed, as far as its own process told.",
        "launched_at": "When it was asked for.",
        "started_at": "When its first step began.",
        "ended_at": "When its last step ended; empty while it goes on.",
        "records_synced": "Of all its collections, added up.",
        "records_failed": "Of all its collections, added up.",
        "error": "Why it failed, and what to do.",
        "metadata": "Its figures, by name.",
    },
    "sync_figures": {
        "sync": "The sync, as in sync_metadata.id.",
        "records_synced": "How many of the records it read stand in the table.",
        "records_failed": "How many records it could not store; see sync_faults.",
    },
    "part_lists": {
        "collection": "Of which collection, by the name of its table.",
        "parent_id": "The opportunity.",
        "walk": "The reading that it was listed by, as in walks.id.",
        "asked_at": "When its list was last asked for, of those that came whole,",
        "answered_at": "and when the last page had arrived.",
        "ids": "What that list held.",
        "nameless": "How many of its records have no id that can be read.",
        "told": "Whether the opportunity had changed since the list before.",
        "again": "Whether it is to be listed again soon, for that list may have been too early.",
        "stored_at": "When the rows had been brought up to that list; empty until then.",
        "counted": "How many records the list held,",
        "mirrored": "how many rows there are for them,",
        "unstorable": "and how many could not be stored; see sync_faults.",
        "problem": "Why its list could not be read the last time.",
        "problem_at": "When that was.",
    },
    "walks": {"collection": "Of which collection, by the name of its table."},
    "unreadable_records": {
        "id": "The record's id in Current RMS.",
        "reason": "What Current RMS answers instead of it.",
        "first_seen_at": "Since when.",
        "last_seen_at": "When Current RMS last failed to deliver it.",
        "run": "The run that did, as in sync_metadata.run_id.",
    },
    "sync_faults": {
        "opportunity_id": "The record's id in Current RMS, whatever its collection.",
        "field": "The field of the record.",
        "collection": "Of which collection, by the name of its table.",
        "problem": "What was wrong with its value.",
        "raw_value": "The value as it came.",
        "run": "The run that met it, as in sync_metadata.run_id.",
    },
    "webhook_events": {
        "action_id": "The event's id in Current RMS.",
        "collection": "Of which collection, by the name of its table.",
        "record_id": "Which record of another collection than opportunities it tells of.",
        "action_type": "What happened: update, destroy, ...",
        "member_name": "Who did it.",
        "attempts": "How often the opportunity was asked for because of it.",
        "processed_at": "When its opportunity had been refreshed.",
        "dead_at": "When it was given up: `rms-pipeline webhooks replay` tries again.",
        "error": "What went wrong last, or what the event waits for.",
        "happened_at": "When it happened, by Current RMS's clock.",
        "content_digest": "SHA-256 of the body: an event that has another's action_id and digest is"
        " its repeat, and not kept.",
        "size_bytes": "How much of the body is kept; of a long one, its short fields.",
        "put_off": "It waits for Current RMS, or for a locked row; later ones wait with it.",
        "waits": ("How often it was postponed because Current RMS did not have the change yet."),
    },
    "raw_rms_pages": {
        "id": "The page, numbered as pages arrived.",
        "collection": "Of which collection, by the name of its table.",
        "run": "The run that fetched it, as in sync_metadata.run_id.",
        "walk": "The reading of the list it belongs to, as in walks.id.",
        "page": "Its number within the run.",
        "segment": "Which list: dated, no_start, no_end, changed, or parts of one record.",
        "request": "What was asked, without credentials.",
        "asked_at": "When it was asked for.",
        "fetched_at": "When it had arrived.",
        "api_date": "What Current RMS's own clock said.",
        "record_count": "How many opportunities are on it.",
        "record_ids": "Their ids.",
        "covers": "The range of ids that it covers completely.",
        "window_start": "The window asked for: from here",
        "window_end": "to here; empty when asked for changes.",
        "size_bytes": "The answer's size as it came.",
        "body": "The answer itself, compressed with zlib, of pages stored before schema 0035; that"
        " of all others is in raw_page_bodies.",
        "digest": "SHA-256 of the answer as it came, by which raw_page_bodies has it.",
    },
    "raw_page_bodies": {
        "collection": "Of which collection, by the name of its table.",
        "digest": "SHA-256 of the answer as it came.",
        "body": "The answer itself, compressed with zlib.",
    },
    "api_page_sizes": {"learned_at": "When an answer last showed another size."},
    "api_troubles": {
        "collection": "Of which collection, by the name of its table.",
        "attempt": "How often the request was made.",
        "attempts": "How often it is made at most; empty where time is what ends it.",
        "reason": "What came in place of an answer, last.",
        "since": "When the first of them failed.",
        "noted_at": "When the last of them failed.",
        "next_at": "When it is made again.",
    },
    "api_refusals": {
        "kind": "What it is: include, per_page or filter.",
        "name": "Which one.",
        "status": "The status it was refused with; empty when it was ignored.",
        "noted_at": "When that was last seen.",
    },
}

# What each collection says of its own tables.
VIEWS: dict[str, str] = {}
for _collection in COLLECTIONS:
    for _table, _says, _columns in _collection.descriptions():
        _kind = VIEWS if _collection.remembers and _table == _collection.history else TABLES
        _kind[_table], COLUMNS[_table] = _says, _columns
    TABLES[_collection.versions] = (
        f"Of rms_pipeline itself: when each {_collection.single} was last asked for and answered,"
        " which decides what replaces what."
    )


def undescribed(connection: Connection) -> list[tuple[str, str | None, str]]:
    """Tables (column None) and columns that are there but described otherwise, with the text each
    should have. Reads the first schema of the search path."""
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
    """Has the database show these as the comments of our tables and their columns."""
    with connection.cursor() as cursor:
        for table, column, text in undescribed(connection):
            kind = "VIEW" if table in VIEWS else "TABLE"
            what = f"{kind} {table}" if column is None else f"COLUMN {table}.{column}"
            cursor.execute(f"COMMENT ON {what} IS %s", (text,))
