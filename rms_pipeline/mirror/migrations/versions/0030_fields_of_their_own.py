"""Makes tables for the account's own fields: keys, labels, and typed columns for some.

What makes a typed value of one stands in functions here: each returns NULL for what it cannot read,
and never fails.
"""

from alembic import op

from rms_pipeline.mirror.migrations.frozen import schema, set_aside

revision = "0030"
down_revision = "0029"
makes = ("custom_field_keys", "custom_field_labels", "promoted_fields", "opportunity_fields")


def upgrade() -> None:
    set_aside(op.get_bind(), makes)
    op.execute("""
        CREATE TABLE custom_field_keys (
            collection text NOT NULL,
            key text NOT NULL,
            first_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            vanished_at timestamptz,
            PRIMARY KEY (collection, key)
        )
    """)
    op.execute("""
        CREATE TABLE custom_field_labels (
            collection text NOT NULL,
            key text NOT NULL,
            value text NOT NULL,
            label text NOT NULL,
            PRIMARY KEY (collection, key, value)
        )
    """)
    op.execute("""
        CREATE TABLE promoted_fields (
            collection text NOT NULL,
            key text NOT NULL,
            column_name text NOT NULL,
            kind text NOT NULL,
            promoted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            PRIMARY KEY (collection, key),
            UNIQUE (collection, column_name)
        )
    """)
    op.execute("CREATE TABLE opportunity_fields (opportunity_id bigint PRIMARY KEY)")
    place = f'"{schema()}"'
    sql = "LANGUAGE sql IMMUTABLE PARALLEL SAFE"
    # What a field holds, without blanks around it; NULL of what is blank, and of lists and objects.
    op.execute(f"""
        CREATE FUNCTION rms_field_text(value jsonb) RETURNS text {sql} AS $$
            SELECT CASE WHEN jsonb_typeof($1) IN ('string', 'number', 'boolean')
                THEN nullif(btrim($1 #>> '{{}}', E' \\t\\r\\n'), '') END
        $$
    """)
    op.execute(f"""
        CREATE FUNCTION rms_field_is_filled(value jsonb) RETURNS boolean {sql} AS $$
            SELECT coalesce(
                jsonb_typeof($1) IN ('array', 'object') AND $1 NOT IN ('[]', '{{}}')
                    OR {place}.rms_field_text($1) IS NOT NULL,
                false
            )
        $$
    """)
    op.execute(f"""
        CREATE FUNCTION rms_as_text(value jsonb) RETURNS text {sql} AS $$
            SELECT CASE WHEN {place}.rms_field_text($1) IS NOT NULL THEN $1 #>> '{{}}' END
        $$
    """)
    # Longer ones fit into no index.
    op.execute(f"""
        CREATE FUNCTION rms_as_numeric(value jsonb) RETURNS numeric {sql} AS $$
            SELECT CASE WHEN length({place}.rms_field_text($1)) <= 200
                AND {place}.rms_field_text($1)
                    ~ '^[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]{{1,3}})?$'
                THEN {place}.rms_field_text($1)::numeric END
        $$
    """)
    op.execute(f"""
        CREATE FUNCTION rms_as_bigint(value jsonb) RETURNS bigint {sql} AS $$
            SELECT CASE WHEN {place}.rms_as_numeric($1) = trunc({place}.rms_as_numeric($1))
                AND abs({place}.rms_as_numeric($1)) <= 9223372036854775807
                THEN {place}.rms_as_numeric($1)::bigint END
        $$
    """)
    op.execute(f"""
        CREATE FUNCTION rms_as_boolean(value jsonb) RETURNS boolean {sql} AS $$
            SELECT CASE lower({place}.rms_field_text($1))
                WHEN 'yes' THEN true WHEN 'true' THEN true WHEN '1' THEN true
                WHEN 'no' THEN false WHEN 'false' THEN false WHEN '0' THEN false END
        $$
    """)
    # PostgreSQL reads words such as 'today' as well, and those would mean another day each day.
    for kind, form, text in (
        ("date", "^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ].*)?$", "left(text_, 10)"),
        (
            "timestamptz",
            "^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]+)?)?"
            " ?(Z|[+-][0-9]{2}:?[0-9]{2})?)?$",
            "text_",
        ),
        ("time", "^[0-9]{1,2}:[0-9]{2}(:[0-9]{2}([.][0-9]+)?)?$", "text_"),
    ):
        op.execute(f"""
            CREATE FUNCTION rms_as_{kind}(value jsonb) RETURNS {kind}
            LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
            SET TimeZone = 'UTC' SET DateStyle = 'ISO, MDY' AS $$
            DECLARE
                text_ text := {place}.rms_field_text(value);
            BEGIN
                IF text_ !~ '{form}' THEN
                    RETURN NULL;
                END IF;
                RETURN {text}::{kind};
            EXCEPTION WHEN data_exception THEN
                RETURN NULL;
            END
            $$
        """)
    for kind in ("bigint", "text"):
        op.execute(f"""
            CREATE FUNCTION rms_as_{kind}s(value jsonb) RETURNS {kind}[] {sql} AS $$
                SELECT CASE WHEN bool_and({place}.rms_as_{kind}(e) IS NOT NULL)
                    THEN array_agg({place}.rms_as_{kind}(e)) END
                FROM jsonb_array_elements(
                    CASE jsonb_typeof($1) WHEN 'array' THEN $1 ELSE jsonb_build_array($1) END
                ) AS e
            $$
        """)


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
