"""Which opportunities a browser showed last. The browser keeps that itself, as ids alone."""

import re

from fastapi import Request
from fastapi.responses import Response

_COOKIE, _MOST = "rms_visited", 10
_SECONDS = 90 * 24 * 3600


def visited_before(request: Request) -> list[int]:
    """Their ids, the last one first; what the cookie says anybody may have written."""
    found = re.findall(r"-?[0-9]{1,19}", request.cookies.get(_COOKIE, "")[:300])
    return [id_ for id_ in map(int, found) if abs(id_) < 2**63][:_MOST]


def note_visit(request: Request, answer: Response, id_: int) -> None:
    """Has the browser remember that it showed this one."""
    others = (other for other in visited_before(request) if other != id_)
    answer.set_cookie(
        _COOKIE,
        ".".join(map(str, [id_, *others][:_MOST])),
        max_age=_SECONDS,
        path="/opportunities",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
