"""The columns of our tables, described for Dagster's UI."""

import dagster as dg

OPPORTUNITY_COLUMNS = dg.TableSchema(
    columns=[
        dg.TableColumn("id", "bigint", "The opportunity's id in Current RMS."),
        dg.TableColumn("name", "text", "Its subject, else its number."),
        dg.TableColumn("subject", "text", "What it is about, as typed in Current RMS."),
        dg.TableColumn("description", "text", "Longer text, as typed in Current RMS."),
        dg.TableColumn("starts_at", "timestamptz", "When the hire starts."),
        dg.TableColumn("ends_at", "timestamptz", "When the hire ends."),
        dg.TableColumn("opportunity_status", "text", "Open, Provisional, Reserved, Lost, ..."),
        dg.TableColumn("created_at_rms", "timestamptz", "When it was entered in Current RMS."),
        dg.TableColumn("updated_at_rms", "timestamptz", "When Current RMS last changed it."),
        dg.TableColumn("venue_name", "text", "Where it takes place."),
        dg.TableColumn("organisation_id", "bigint", "The customer's id in Current RMS."),
        dg.TableColumn("organisation_name", "text", "The customer's name."),
        dg.TableColumn("owner_id", "bigint", "The id of the colleague it belongs to."),
        dg.TableColumn("owner_name", "text", "The colleague it belongs to."),
        dg.TableColumn("charge_total", "numeric", "The charge before tax."),
        dg.TableColumn("total_value", "numeric", "The charge with tax."),
        dg.TableColumn("data", "jsonb", "The whole record as the API gave it."),
        dg.TableColumn("synced_at", "timestamptz", "When the API was last asked for it."),
        dg.TableColumn("last_webhook_at", "timestamptz", "When a webhook last refreshed it."),
    ]
)

RAW_PAGE_COLUMNS = dg.TableSchema(
    columns=[
        dg.TableColumn("id", "bigint", "The page, numbered as pages arrived."),
        dg.TableColumn("run", "text", "The run that fetched it, as in sync_metadata.id."),
        dg.TableColumn("walk", "bigint", "The reading of the list it belongs to, as in walks.id."),
        dg.TableColumn("page", "integer", "Its number within the run."),
        dg.TableColumn("segment", "text", "Which list: dated, no_start, no_end or changed."),
        dg.TableColumn("request", "text", "What was asked, without credentials."),
        dg.TableColumn("asked_at", "timestamptz", "When it was asked for."),
        dg.TableColumn("fetched_at", "timestamptz", "When it had arrived."),
        dg.TableColumn("api_date", "timestamptz", "What Current RMS's own clock said."),
        dg.TableColumn("record_count", "integer", "How many opportunities are on it."),
        dg.TableColumn("record_ids", "bigint[]", "Their ids."),
        dg.TableColumn("covers", "int8range", "The ids about which it is the whole truth."),
        dg.TableColumn("window_start", "timestamptz", "The window asked for: from here"),
        dg.TableColumn("window_end", "timestamptz", "to here; empty when asked for changes."),
        dg.TableColumn("size_bytes", "bigint", "The answer's size as it came."),
        dg.TableColumn("body", "bytea", "The answer itself, compressed with zlib."),
    ]
)

STATUS_COLUMNS = dg.TableSchema(
    columns=[
        dg.TableColumn("opportunity_status", "text", "The status; (none) where it is absent."),
        dg.TableColumn("opportunities", "bigint", "How many opportunities have it."),
        dg.TableColumn("charge_total", "numeric", "Their charge before tax, added up."),
        dg.TableColumn("total_value", "numeric", "Their charge with tax, added up."),
        dg.TableColumn("as_of", "timestamptz", "When this was counted."),
    ]
)
