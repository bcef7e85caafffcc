"""What tables and columns hold, for whoever looks at them in psql or another tool.

As they were at this version: what came since is told by the migration that brought it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_OPPORTUNITY = {
    "id": "The opportunity's id in Current RMS.",
    "name": "Its subject, else its number.",
    "subject": "What it is about, as typed in Current RMS.",
    "description": "Longer text, as typed in Current RMS.",
    "starts_at": "When the hire starts.",
    "ends_at": "When the hire ends.",
    "opportunity_status": "Open, Provisional, Reserved, Lost, ...",
    "created_at_rms": "When it was entered in Current RMS.",
    "updated_at_rms": "When Current RMS last changed it.",
    "venue_name": "Where it takes place.",
    "organisation_id": "The customer's id in Current RMS.",
    "organisation_name": "The customer's name.",
    "owner_id": "The id of the colleague it belongs to.",
    "owner_name": "The colleague it belongs to.",
    "charge_total": "The charge before tax.",
    "total_value": "The charge with tax.",
    "data": "The whole record as the API gave it.",
    "synced_at": "When the API was last asked for it.",
    "last_webhook_at": "When a webhook last refreshed it.",
}

_TABLES: dict[str, str] = {
    "opportunities": "One row for each opportunity that Current RMS has; those it no longer has are"
    " in deleted_opportunities. Money is in the account's currency.",
    "deleted_opportunities": "Opportunities that Current RMS no longer has, as they last were.",
    "status_counts": "How many opportunities there are in each status, and what they are worth.",
    "week_counts": "The same for each week of starts_at, from its Monday on.",
    "opportunity_changes": "Each change of status or state that was seen: what, from, to, who, and"
    " when.",
    "sync_faults": "Values that could not be kept as they came.",
    "webhook_events": "Webhooks as received: settled ones have processed_at, dead letters dead_at,"
    " all others wait.",
    "raw_rms_pages": "Answers of the API as received; old ones are forgotten.",
    "walks": "Readings of the API's list, full ones and of changes, and what they proved.",
    "opportunity_versions": "Of rms_pipeline itself: when each opportunity was last asked for and"
    " answered, which decides what replaces what.",
    "mirror_state": "Of rms_pipeline itself: whose mirror this is, and facts it remembers.",
    "sync_progress": "Of rms_pipeline itself: how far running syncs have come.",
    "api_budget": "Of rms_pipeline itself: the calls to the API that all processes share.",
}

_COLUMNS: dict[str, dict[str, str]] = {
    "opportunities": _OPPORTUNITY,
    "deleted_opportunities": _OPPORTUNITY
    | {
        "deleted_at": "When it was noticed that Current RMS no longer has it.",
        "deleted_because": "How that is known.",
    },
    "status_counts": {
        "opportunity_status": "The status; (none) where it is absent.",
        "opportunities": "How many opportunities have it.",
        "charge_total": "Their charge before tax, added up.",
        "total_value": "Their charge with tax, added up.",
        "as_of": "When this was counted.",
    },
    "opportunity_changes": {
        "field": "The column that changed: opportunity_status, or state_name of the record.",
        "changed_at": "When Current RMS says it was changed.",
        "changed_by": "Who changed it, where a webhook told.",
        "seen_at": "When the change was noticed here.",
        "seen_by": "The run that noticed it, as in sync_metadata.id, or the fast lane.",
    },
    "sync_faults": {
        "field": "The field of the record.",
        "problem": "What was wrong with its value.",
        "raw_value": "The value as it came.",
        "run": "The run that met it, as in sync_metadata.id.",
    },
    "webhook_events": {
        "action_id": "The event's id in Current RMS; a repeat is kept once.",
        "action_type": "What happened: update, destroy, ...",
        "member_name": "Who did it.",
        "attempts": "How often the opportunity was asked for because of it.",
        "processed_at": "When its opportunity had been refreshed.",
        "dead_at": "When it was given up: `rms-pipeline webhooks replay` tries again.",
        "error": "What went wrong last.",
    },
    "raw_rms_pages": {
        "id": "The page, numbered as pages arrived.",
        "run": "The run that fetched it, as in sync_metadata.id.",
        "walk": "The reading of the list it belongs to, as in walks.id.",
        "page": "Its number within the run.",
        "segment": "Which list: dated, no_start, no_end or changed.",
        "request": "What was asked, without credentials.",
        "asked_at": "When it was asked for.",
        "fetched_at": "When it had arrived.",
        "api_date": "What Current RMS's own clock said.",
        "record_count": "How many opportunities are on it.",
        "record_ids": "Their ids.",
        "covers": "The ids about which it is the whole truth.",
        "window_start": "The window asked for: from here",
        "window_end": "to here; empty when asked for changes.",
        "size_bytes": "The answer's size as it came.",
        "body": "The answer itself, compressed with zlib.",
    },
}


def upgrade() -> None:
    for table, text in _TABLES.items():
        _comment(f"TABLE public.{table}", text)
    for table, columns in _COLUMNS.items():
        for column, text in columns.items():
            _comment(f"COLUMN public.{table}.{column}", text)


def _comment(what: str, text: str) -> None:
    # A comment takes no parameters.
    quoted = text.replace("'", "''").replace(":", "\\:")
    op.execute(sa.text(f"COMMENT ON {what} IS '{quoted}'"))


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
