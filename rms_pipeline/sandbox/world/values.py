"""How the API writes moments and amounts."""

from datetime import datetime, timedelta
from decimal import Decimal

HOUR = 3_600_000
DAY = 24 * HOUR
_EPOCH = datetime(1970, 1, 1)


def iso(milliseconds: int | None) -> str | None:
    """UTC, milliseconds, `Z`."""
    if milliseconds is None:
        return None
    moment = _EPOCH + timedelta(milliseconds=milliseconds)
    return moment.isoformat(timespec="milliseconds") + "Z"


def milliseconds(text: object) -> int | None:
    """What `iso` wrote; None for what is no moment."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return round(moment.timestamp() * 1000)


def money(cents: int) -> str:
    """A decimal string without needless zeros: "1250.5", "35.0"."""
    text = f"{cents // 100}.{cents % 100:02d}"
    return text[:-1] if text.endswith("0") else text


def total(amounts: list[str]) -> str:
    """Their sum, written as `money` does."""
    return money(int(sum((Decimal(amount) for amount in amounts), Decimal(0)) * 100))
