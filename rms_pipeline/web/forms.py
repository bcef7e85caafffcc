"""The fields of a form that a page sends."""

import contextlib
import re
from decimal import Decimal
from urllib.parse import parse_qsl

from babel.numbers import get_decimal_symbol, get_group_symbol
from fastapi import Request

from rms_pipeline.web.locales import manner
from rms_pipeline.web.refusals import Refusal

_MOST_BYTES, _MOST_FIELDS = 16_384, 10
# PostgreSQL's numeric has room for more; nobody's money does.
_MONEY = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,20})?")


async def read_form(request: Request, advice: str) -> dict[str, str]:
    """The fields. Raises Refusal (413, 400) with `advice` for a request that is not from our
    forms."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise Refusal(413, f"The form is too big: {advice}")
    try:
        return dict(parse_qsl(body.decode("utf-8", "replace"), max_num_fields=_MOST_FIELDS))
    except ValueError:
        raise Refusal(400, f"The form has too many fields: {advice}") from None


def with_chosen(names: list[str], chosen: str, *special: str) -> list[str]:
    """The choices of a field, with the current one, so that the form keeps it. `special` are extra
    choices."""
    known = not chosen or chosen in special or chosen in names
    return names if known else [chosen, *names]


def amount(text: str) -> Decimal:
    """The amount that somebody typed as their pages write it: 1,500.50, or 1.500,50 for a German
    reader. 1500.50 and 1,500 mean the same to everybody. Raises ValueError."""
    locale = manner().locale
    if locale is not None and not re.search(r",[0-9]{3}(?![0-9])", text):
        with contextlib.suppress(ValueError):
            return _amount(text, get_group_symbol(locale), get_decimal_symbol(locale))
    return _amount(text, ",", ".")


def linked_amount(text: str) -> str:
    """`text`, which `amount` has read, as an address holds it, so that readers of another language
    see the same list."""
    value = amount(text)
    written = f"{value:f}"
    with contextlib.suppress(ValueError):
        if _amount(text, ",", ".") == value:
            written = text
    # Three digits behind a point are thousands to some.
    return f"{written}0" if re.search(r"[.][0-9]{3}$", written) else written


def _amount(text: str, group: str, point: str) -> Decimal:
    plain = re.sub(r"[\s'\u2019]", "", text)
    if re.fullmatch(_number(group, point), plain):
        plain = plain.replace(group, "").replace(point, ".")
        if _MONEY.fullmatch(plain):
            return Decimal(plain)
    raise ValueError("is not an amount like 1500 or 1500.50")


def _number(group: str, point: str) -> str:
    """The pattern of digits in groups of three (in India of two, but for the last)."""
    grouped = rf"[1-9][0-9]{{0,2}}(?:{re.escape(group)}[0-9]{{2,3}})*{re.escape(group)}[0-9]{{3}}"
    return rf"-?(?:[0-9]+|{grouped})(?:{re.escape(point)}[0-9]+)?"
