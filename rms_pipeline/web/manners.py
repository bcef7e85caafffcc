"""How this reader writes numbers, money and dates: the browser says the language, a library's
locale data (Unicode CLDR) the rest.

British English, and whoever names no language, reads as this program writes by itself.
"""

import re
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, lru_cache

from babel import Locale, UnknownLocaleError, localedata
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

_LONGEST, _MOST = 300, 10
_OURS = frozenset({"en", "en-gb"})
_RANGE = re.compile(r"\s*([A-Za-z0-9*-]{1,35})\s*(?:;\s*[qQ]\s*=\s*([01](?:\.[0-9]{0,3})?)\s*)?")


@dataclass(frozen=True, slots=True)
class Manner:
    """`locale` is None for the one that needs no library; `currency` an ISO 4217 code, None where
    nobody said which one the account's is."""

    locale: Locale | None = None
    currency: str | None = None


_OWN = Manner()
_manner: ContextVar[Manner] = ContextVar("manner", default=_OWN)


def manner() -> Manner:
    """That of whoever is being answered."""
    return _manner.get()


@lru_cache(maxsize=256)
def locale_of(accepted: str) -> Locale | None:
    """The locale of the first language in `accepted` (an Accept-Language header) that there is data
    for; None for our own."""
    wanted: list[tuple[float, str]] = []
    for part in accepted[:_LONGEST].split(",")[:_MOST]:
        said = _RANGE.fullmatch(part)
        weight = float(said[2] or 1) if said else 0.0
        if said and weight > 0:
            wanted.append((weight, said[1]))
    # Of the same weight the first.
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


@cache
def british() -> Locale:
    """The locale of our own English: pounds stand before the amount."""
    _set_apart("en_GB")
    return Locale("en", "GB")


@cache
def _set_apart(name: str) -> None:
    """Gives the locale data of its own, before anything is looked up in them.

    Babel's locales share what they inherit, and note there what an alias stands for, so that a
    Polish month would bear the name that a Hebrew reader before it was shown.
    """
    data = localedata.load(name)
    data.update(deepcopy(data))


class Manners:
    """Answers each request of `app` in the manner of who asks."""

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
