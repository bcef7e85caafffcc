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
    if they do not exist. Each role can then read its views in `schema`. Other rights that a role
    has there stay, and a warning names what it can read or write with them."""
    parts = [
        "-- Two roles that read the views of the mirror. Run this as an administrator of the\n"
        "-- database, and again after an upgrade that brings new views. It takes no rights away.\n"
        "-- A warning names what else a role can read, such as what you granted yourself.\n"
        "-- Then give each role a password: in psql, \\password and its name.\n"
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
    known = ", ".join(_literal(view) for view in views)
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
GRANT USAGE ON SCHEMA {place} TO {name};
GRANT SELECT ON
    {granted}
TO {name};
DO $$
DECLARE
    besides text;
BEGIN
    SELECT string_agg(c.oid::regclass::text, ', ' ORDER BY c.relname) INTO besides
    FROM pg_class c
    WHERE c.relnamespace = to_regnamespace({_literal(place)})
        AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
        AND (
            c.relname NOT IN ({known})
                AND (has_table_privilege({_literal(role)}, c.oid, 'SELECT')
                    OR has_any_column_privilege({_literal(role)}, c.oid, 'SELECT'))
            OR has_table_privilege({_literal(role)}, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
            OR has_any_column_privilege({_literal(role)}, c.oid, 'INSERT, UPDATE')
        );
    IF besides IS NOT NULL THEN
        RAISE WARNING 'The role % can also read or write: %.', {_literal(role)}, besides
            USING HINT = 'Other statements granted that, to this role, to a role that it is a'
                ' member of, or to PUBLIC. If it should not be so, REVOKE it there.';
    END IF;
END
$$;"""


def _identifier(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))


def _literal(text: str) -> str:
    return "'{}'".format(text.replace("'", "''"))


def _doubled(identifier: str) -> str:
    """Escapes text for a literal inside a format."""
    return identifier.replace("'", "''").replace("%", "%%")
