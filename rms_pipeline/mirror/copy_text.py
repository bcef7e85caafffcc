"""PostgreSQL's text COPY format, for rows of opportunities."""

import io
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

from psycopg2.extensions import cursor as Cursor  # noqa: N812

Value = str | int | Decimal | datetime | bytes | None


def encode_value(value: Value) -> str:
    """One field. `bytes` are JSON and stay as they are but for the escapes of COPY itself."""
    if value is None:
        return "\\N"
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, str):
        if "\\" in value:
            value = value.replace("\\", "\\\\")
        if "\n" in value or "\r" in value or "\t" in value:
            value = value.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


def copy_rows(
    cursor: Cursor, table: str, columns: Iterable[str], rows: Iterable[Iterable[Value]]
) -> None:
    """Loads `rows` into `table` in one COPY."""
    lines = "".join("\t".join(map(encode_value, row)) + "\n" for row in rows)
    cursor.copy_expert(
        f"COPY {table} ({', '.join(columns)}) FROM STDIN", io.BytesIO(lines.encode())
    )
