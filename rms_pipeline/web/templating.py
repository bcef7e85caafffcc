"""Renders templates, and serves static files at addresses that change with their content, so that
browsers can keep them."""

import re
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from rms_pipeline.insight.sense import FOUND_TITLES
from rms_pipeline.web import formatting
from rms_pipeline.web.values import in_words

STATIC = Path(__file__).with_name("static")

_SYNC_NAMES = {
    "initial_sync": "Initial sync",
    "incremental_sync": "Incremental sync",
    "reconciliation": "Reconciliation",
    "webhook_refresh": "Webhook refresh",
}
# The pages of the desk in their order: the name that `here` has on it, its address, its title.
NAVIGATION = (
    ("today", "/today", "Today"),
    ("opportunities", "/opportunities", "Opportunities"),
    ("changes", "/changes", "Changes"),
    ("calendar", "/calendar", "Calendar"),
    ("customers", "/customers", "Customers"),
    ("dashboard", "/", "Syncs"),
)
_STAGE_NAMES = {
    "fetching": "Fetching from Current RMS",
    "storing": "Storing in PostgreSQL",
    "decoding": "Decoding again",
}


@lru_cache(maxsize=64)
def static_address(name: str) -> str:
    """The address of the file `name` in `web/static`, with a mark of its content."""
    mark = blake2b((STATIC / name).read_bytes(), digest_size=6).hexdigest()
    return f"/static/{name}?v={mark}"


def _first_line(text: str, most: int = 120) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"


def _first_sentences(text: str, most: int) -> str:
    """As many whole sentences of `text` as `most` letters hold, and of the first one a part."""
    kept = ""
    for sentence in re.split(r"(?<=[.?!]) ", text.strip()):
        longer = f"{kept} {sentence}".strip()
        if len(longer) > most:
            return kept or _first_line(sentence, most)
        kept = longer
    return kept


def _with_code(text: str | None) -> Markup:
    """`text`, with parts between backquotes marked as code."""
    return Markup(re.sub(r"`([^`\n]+)`", r"<code>\1</code>", str(escape(text or ""))))


def _dialled(phone: str) -> str:
    """What a telephone dials for `phone`, as people typed it: +442079460000 for +44 (0)20 7946
    0000, ext. 12. Nothing if it does not begin with a number."""
    typed = re.match(r"[+(]*[0-9][0-9\s().\-/]*", phone.strip())
    if typed is None:
        return ""
    # With the country's code, the nought is not dialled.
    shown = typed[0].replace("(0)", "") if typed[0].startswith("+") else typed[0]
    return re.sub(r"[^0-9+]", "", shown)


# An amount of more characters may go over several lines. Others stay on one line in every column.
_LONGEST_ON_ONE_LINE = 16


def _with_room(write: Callable[[Any], str]) -> Callable[[Any], str]:
    """Return `write`, whose text has room in every column. It is markup, and no value of an
    attribute."""

    def written(value: Any) -> str:
        text = write(value)
        if len(text) <= _LONGEST_ON_ONE_LINE:
            return text
        return Markup('<span class="long-amount">{}</span>').format(text)

    return written


templates = Environment(
    loader=PackageLoader("rms_pipeline.web"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
templates.globals["static"] = static_address
templates.filters |= {
    "number": formatting.number,
    "share": formatting.share,
    "month_name": lambda day: formatting.long_month(day, with_year=False),
    "long_month": formatting.long_month,
    "weekday": formatting.weekday,
    "month_and_year": formatting.long_month,
    "money": _with_room(formatting.money),
    "signed_money": _with_room(formatting.signed_money),
    "some": formatting.some,
    "whole_money": _with_room(formatting.whole_money),
    "duration": formatting.duration,
    "time_left": formatting.time_left,
    "sync_name": lambda name: _SYNC_NAMES.get(name, name),
    "in_words": in_words,
    "check_name": lambda name: FOUND_TITLES.get(name, name.replace("_", " ").capitalize()),
    "stage_name": lambda name: _STAGE_NAMES.get(name, name),
    "field_name": lambda name: (
        name.removeprefix("opportunity_").removesuffix("_name").replace("_", " ")
    ),
    "capitalize_first": lambda text: text[:1].upper() + text[1:],
    "first_line": _first_line,
    "first_sentences": _first_sentences,
    "dialled": _dialled,
    "with_code": _with_code,
}


def render(
    name: str, *, status: int = 200, headers: dict[str, str] | None = None, **context: Any
) -> HTMLResponse:
    """The template `name` as an answer. A name that `context` lacks is an error."""
    text = templates.get_template(name).render(**context)
    return HTMLResponse(text, status_code=status, headers=headers)


def is_fragment(request: Request) -> bool:
    """Whether a script asks for a part of a page, and not a person for the whole page."""
    return request.headers.get("HX-Request") == "true"
