"""The columns of `opportunities`, described for Dagster's UI."""

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
