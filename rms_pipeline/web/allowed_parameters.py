"""Programs that misspell a parameter are told so.

A filter that is not read would leave the list as long as it is, and a program would take what comes
for what it asked for. Pages for people leave such parameters out: other sites append theirs to
links, and the filters that are on stand on the page.
"""

from collections.abc import Callable, Collection
from difflib import get_close_matches

from fastapi import HTTPException, Request

from rms_pipeline.web.list_address import FIELD, PARAMETERS, PERIOD_FILTERS

# With it a browser begins a session, at any address.
_ALWAYS = "token"
# What the address of a list may have. Two of them are what a form without a script sends.
OF_A_LIST = (
    *PARAMETERS,
    *(f"{name}_{end}" for name in PERIOD_FILTERS for end in ("from", "to")),
    *("column", "sort", "page"),
)
_SEVERAL = ("tag", "column")


def only(*names: str, fields: bool = False) -> Callable[[Request], None]:
    """A dependency that allows the parameters `names`, with `fields` also custom fields.

    It raises HTTPException (422) for another one, and for one that is there twice with two values,
    of which one would count.
    """

    def check(request: Request) -> None:
        given = request.query_params
        for name in dict.fromkeys(given):
            short = name[:60]
            is_field = fields and name.startswith(FIELD)
            if name not in names and name != _ALWAYS and not is_field:
                raise HTTPException(422, f"{short} is not a parameter here.{_hint(short, names)}")
            if name not in _SEVERAL and len({*given.getlist(name)}) > 1:
                raise HTTPException(422, f"{short} is there more than once. Give it one value.")

    return check


def _hint(name: str, names: Collection[str]) -> str:
    if close := get_close_matches(name, names, n=1):
        return f" Did you mean {close[0]}?"
    return f" The parameters are {', '.join(names)}." if names else " There are none."
