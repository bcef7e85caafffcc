"""The opportunities that a browser showed last. The browser stores their ids in a cookie."""

import re

from fastapi import Request
from fastapi.responses import Response

from rms_pipeline.web.parameter_values import fits_bigint

_COOKIE, _PATH, _MOST = "rms_visited", "/opportunities", 10
_SECONDS = 90 * 24 * 3600


def visited_before(request: Request) -> list[int]:
    """Their ids, the last one first. The cookie may contain anything, so it is checked."""
    found = re.findall(r"-?[0-9]{1,19}", request.cookies.get(_COOKIE, "")[:300])
    return [id_ for id_ in map(int, found) if fits_bigint(id_)][:_MOST]


def note_visit(request: Request, answer: Response, id_: int) -> None:
    """Makes the browser store that it showed this opportunity."""
    others = (other for other in visited_before(request) if other != id_)
    answer.set_cookie(
        _COOKIE,
        ".".join(map(str, [id_, *others][:_MOST])),
        max_age=_SECONDS,
        path=_PATH,
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )


def forget_visits(answer: Response) -> None:
    """Makes the browser forget them: the next person at it sees only their own."""
    answer.delete_cookie(_COOKIE, path=_PATH, httponly=True, samesite="strict")
