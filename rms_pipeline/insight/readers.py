"""Two PostgreSQL roles that can only read views: one sees money, one does not.

Grants on views survive migrations (`mirror.views`). A new column of a table is in no view until
somebody adds it there.
"""

# Views with amounts, with free text, or with whole records.
_OF_MONEY = (
    *("opportunities_with_money", "members_with_money", "invoices_with_money"),
    *("opportunity_items_with_money", "opportunity_changes_with_money"),
    "opportunity_fields_with_money",
    *("opportunity_history", "member_history", "invoice_history", "opportunity_item_history"),
    *("daily_status_counts_with_money", "sense_checks", "month_value", "conversions"),
    *("decisions", "customer_value", "sync_metadata"),
    *("customer_names", "venue_names", "owner_names"),
)
WITHOUT_MONEY = (
    *("opportunities_without_money", "members_without_money", "invoices_without_money"),
    *("opportunity_items_without_money", "sense_checks_without_money"),
    *("opportunity_changes_without_money", "daily_status_counts_without_money"),
    *("hire_days", "funnel", "venue_overlaps", "status_phases"),
)
WITH_MONEY = (*WITHOUT_MONEY, *_OF_MONEY)


def names_of_roles(schema: str) -> tuple[str, str]:
    """The names of the role with money and the role without. Roles are shared by all databases of a
    server, so another schema has other names."""
    prefix = "rms" if schema == "public" else schema
    return f"{prefix}_reader_with_money", f"{prefix}_reader_without_money"


def statements(schema: str, with_money: str, without_money: str) -> str:
    """SQL for an administrator of the database, who can run it repeatedly. It creates the two roles
    if they do not exist. Each role can then read its views in `schema`, and nothing else there."""
    parts = [
        "-- Two roles that read the views of the mirror and nothing else of it. Run this as an\n"
        "-- administrator of the database, and again after an upgrade that brings new views.\n"
        "-- Then give each a password: in psql, \\password and its name.\n"
        "BEGIN;",
        *(
            _role(schema, role, views)
            for role, views in ((with_money, WITH_MONEY), (without_money, WITHOUT_MONEY))
        ),
        "COMMIT;\n",
    ]
    return "\n\n".join(parts)


def _role(schema: str, role: str, views: tuple[str, ...]) -> str:
    name, place = _identifier(role), _identifier(schema)
    granted = ",\n    ".join(f"{place}.{view}" for view in views)
    return f"""DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {_literal(role)}) THEN
        CREATE ROLE {name} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;
    END IF;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO {_doubled(name)}', current_database());
    EXECUTE format(
        'ALTER ROLE {_doubled(name)} IN DATABASE %I SET search_path = {_doubled(place)}',
        current_database()
    );
END
$$;
REVOKE ALL ON ALL TABLES IN SCHEMA {place} FROM {name};
REVOKE CREATE ON SCHEMA {place} FROM {name};
GRANT USAGE ON SCHEMA {place} TO {name};
GRANT SELECT ON
    {granted}
TO {name};"""


def _identifier(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))


def _literal(text: str) -> str:
    return "'{}'".format(text.replace("'", "''"))


def _doubled(identifier: str) -> str:
    """Escapes text for a literal inside a format."""
    return identifier.replace("'", "''").replace("%", "%%")
