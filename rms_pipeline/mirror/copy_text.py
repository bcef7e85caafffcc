"""PostgreSQL's text COPY format, for rows of opportunities."""

import io
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

from psycopg2.extensions import cursor as Cursor  # noqa: N812

Value = str | int | Decimal | datetime | bytes | None


def encode_value(value: Value) -> bytes:
    """One field. `bytes` are JSON and stay as they are but for the escapes of COPY itself."""
    if value is None:
        return b"\\N"
    if isinstance(value, str):
        value = value.encode()
    elif isinstance(value, datetime):
        return value.isoformat().encode()
    elif not isinstance(value, bytes):
        return str(value).encode()
    if b"\\" in value:
        value = value.replace(b"\\", b"\\\\")
    if b"\n" in value or b"\r" in value or b"\t" in value:
        value = value.replace(b"\n", b"\\n").replace(b"\r", b"\\r").replace(b"\t", b"\\t")
    return value


def copy_rows(
    cursor: Cursor, table: str, columns: Iterable[str], rows: Iterable[Iterable[Value]]
) -> None:
    """Loads `rows` into `table` in one COPY."""
    lines = [b"\t".join(map(encode_value, row)) for row in rows]
    lines.append(b"")
    cursor.copy_expert(
        f"COPY {table} ({', '.join(columns)}) FROM STDIN", io.BytesIO(b"\n".join(lines)), 1 << 17
    )
