"""How numbers, money and dates are written for this reader.

The browser sends the language. The locale data of a library (Unicode CLDR) give the rest. British
English, and requests without a language, get this program's own format.
"""

import re
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, lru_cache

from babel import Locale, UnknownLocaleError, localedata
from babel.core import get_global
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

_LONGEST, _MOST = 300, 10
_OURS = frozenset({"en", "en-gb"})
_RANGE = re.compile(r"\s*([A-Za-z0-9*-]{1,35})\s*(?:;\s*[qQ]\s*=\s*([01](?:\.[0-9]{0,3})?)\s*)?")


@dataclass(frozen=True, slots=True)
class Manner:
    """`locale` is None for our own format. `currency` is an ISO 4217 code, None if the account's
    currency is not set."""

    locale: Locale | None = None
    currency: str | None = None


_OWN = Manner()
_manner: ContextVar[Manner] = ContextVar("manner", default=_OWN)


def manner() -> Manner:
    """The format of the request that is being answered."""
    return _manner.get()


@lru_cache(maxsize=256)
def locale_of(accepted: str) -> Locale | None:
    """The locale of the first language in `accepted` (an Accept-Language header) for which there is
    data. None for our own format."""
    wanted: list[tuple[float, str]] = []
    for part in accepted[:_LONGEST].split(",")[:_MOST]:
        said = _RANGE.fullmatch(part)
        weight = float(said[2] or 1) if said else 0.0
        if said and weight > 0:
            wanted.append((weight, said[1]))
    # Of languages with the same weight, the first one counts.
    for _, name in sorted(wanted, key=lambda each: -each[0]):
        if name.lower() in _OURS or name == "*":
            return None
        for tag in (name, name.partition("-")[0]):
            try:
                found = Locale.parse(tag, sep="-")
            except (UnknownLocaleError, ValueError, TypeError):
                continue
            if found is not None:
                _set_apart(str(found))
                return found
    return None


def first_weekday() -> int:
    """The day with which a week begins for the reader, as `date.weekday` counts: 0 is Monday."""
    locale = _manner.get().locale
    return 0 if locale is None else _first_weekday(locale)


@lru_cache(maxsize=256)
def _first_weekday(locale: Locale) -> int:
    if locale.territory is None:
        # A language alone: the week is that of the country where most of its speakers live.
        likely = get_global("likely_subtags").get(str(locale))
        locale = Locale.parse(likely) if likely else locale
    return int(locale.first_week_day)


@cache
def british() -> Locale:
    """The locale of our own English, in which the pound sign is before the amount."""
    _set_apart("en_GB")
    return Locale("en", "GB")


@cache
def _set_apart(name: str) -> None:
    """Gives each locale its own data, before anything is looked up. Babel's locales share inherited
    data, and store in it what an alias means. Without this, a reader could get the month names of
    another reader's language."""
    data = localedata.load(name)
    data.update(deepcopy(data))


class Manners:
    """Answers each request of `app` in the format of its reader."""

    def __init__(self, app: ASGIApp, currency: str | None) -> None:
        self._app, self._currency = app, currency

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        accepted = Headers(scope=scope).get("accept-language", "")
        before = _manner.set(Manner(locale_of(accepted), self._currency))
        try:
            await self._app(scope, receive, send)
        finally:
            _manner.reset(before)
