"""What the pages of one mirror share: its settings, its connections, who may come in, and how a
page, or its JSON twin, is answered."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import HTMLResponse, JSONResponse

from rms_pipeline.account import account_name
from rms_pipeline.insight.days import Day
from rms_pipeline.insight.health import Health, read_health, read_mirrored
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.statuses import read_colours
from rms_pipeline.settings import Settings
from rms_pipeline.status_chart import status_colour
from rms_pipeline.web.access import Access
from rms_pipeline.web.formatting import Clock
from rms_pipeline.web.reading import Reader
from rms_pipeline.web.templating import NAVIGATION, render


class Desk:
    """The pages of the mirror in `database`, for the people and programs that `access` lets in.

    `reader` has connections for reading, which are pooled and have a time limit. What a page writes
    goes through `database`. `clock` writes times in the company's time zone.
    """

    def __init__(self, database: Database, settings: Settings, access: Access) -> None:
        self.database = database
        self.settings = settings
        self.access = access
        self.reader = Reader(database)
        self.account = account_name(settings)
        self.time_zone = settings.time_zone
        self.clock = Clock(settings.time_zone)
        self._shared: dict[str, Any] = {
            "account": self.account,
            "sandbox": settings.uses_sandbox,
            "dagster_url": settings.dagster_url,
            "clock": self.clock,
            "currency": settings.currency,
            "navigation": NAVIGATION,
            "here": "",
            "notice": "",
        }

    def page_router(self, prefix: str = "") -> APIRouter:
        """A router of pages only: each of its routes is one of `for_people`."""
        return APIRouter(prefix=prefix, **self.for_people)

    @property
    def for_people(self) -> dict[str, Any]:
        """How a route is registered that a person opens: who is not signed in gets the form to log
        in. The description of the API leaves it out."""
        return {"dependencies": [Depends(self.access.page)], "include_in_schema": False}

    @property
    def for_programs(self) -> dict[str, Any]:
        """How a route is registered that is part of the described API: without the token it answers
        401 in JSON."""
        return {"dependencies": [Depends(self.access.required)]}

    def render(self, name: str, *, status: int = 200, **context: Any) -> HTMLResponse:
        """The template `name` with the values that all pages share and `context`."""
        # Only pages that show a status ask for its colour, and only those with a head for the
        # health. Each is read once a page, which then says one thing at its head and below.
        colours = cache(self._read_colours)

        def colour_of(of_status: str | None) -> str:
            return status_colour(of_status, colours())

        shared = self._shared | {"colour_of": colour_of, "read_health": cache(self.read_health)}
        return render(name, status=status, **(shared | context))

    def twin(self, found: Mapping[str, Any]) -> JSONResponse:
        """The JSON twin of a page. `mirrored` says of what the figures are: "all" opportunities
        after the first full sync, before it only a "part", or "nothing", whatever they count."""
        with self.reader.session() as connection:
            mirrored = read_mirrored(connection)
        return JSONResponse({"success": True, "mirrored": mirrored, **found})

    def today(self) -> Day:
        """The company's day now."""
        return Day.of(datetime.now(UTC), self.time_zone)

    def read_health(self) -> Health:
        """Whether people can rely on the mirror now."""
        with self.reader.session() as connection:
            return read_health(connection, self.settings.collections)

    @property
    def current_rms(self) -> str | None:
        """Where the account's own pages are, `https://acme.current-rms.com`. None for the
        sandbox."""
        if self.settings.uses_sandbox:
            return None
        return f"https://{self.settings.subdomain}.current-rms.com"

    def close(self) -> None:
        """Closes the connections for reading."""
        self.reader.close()

    def _read_colours(self) -> dict[str, str]:
        with self.reader.session() as connection:
            return read_colours(connection)
