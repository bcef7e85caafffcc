"""From the web service to Dagster's UI: a person who is signed in here is signed in there, and this
service knows whether Dagster has started."""

import time
from collections.abc import Callable
from typing import Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from fastapi.responses import Response

from rms_pipeline.web import dagster_api
from rms_pipeline.web.background import Background
from rms_pipeline.web.desk import Desk
from rms_pipeline.web.origins import local_address
from rms_pipeline.web.templating import render

_LOOK_SECONDS = 1.0
_STARTS_WITHIN = 180.0


def dagster_link_routes(desk: Desk) -> APIRouter:
    """The way to the guarded Dagster of the settings, and back from its log-in."""
    router = desk.page_router()

    @router.get("/dagster")
    def go(to: str = Query(default="/", max_length=8_000)) -> Response:
        way = urlencode({"ticket": desk.access.sessions.ticket(), "to": local_address(to)})
        # A page, not a redirect: the form to log in may only lead to this service itself.
        return render("to_dagster.html", address=f"{desk.settings.dagster_url}/signed-in?{way}")

    return router


class Starting(Background):
    """What is still starting beside the web service. `first_sync` says that an initial sync will
    start and has no row in the history yet."""

    ends_within = 0

    def __init__(
        self,
        dagster_url: str,
        *,
        first_sync: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("starting")
        self._url, self._first_sync, self._clock = dagster_url, first_sync, clock
        self._began = clock()
        self._answered = False

    @property
    def dagster(self) -> Literal["starting", "ready", "absent"]:
        if self._answered:
            return "ready"
        return "starting" if self._seconds < _STARTS_WITHIN else "absent"

    @property
    def first_sync(self) -> bool:
        return self._first_sync and self._seconds < _STARTS_WITHIN

    @property
    def _seconds(self) -> float:
        return self._clock() - self._began

    def _run(self) -> None:
        while not self._answered:
            self._answered = dagster_api.is_up(self._url)
            if self._stopped.wait(_LOOK_SECONDS):
                return
