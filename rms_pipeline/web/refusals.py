"""Answers to requests that are refused: JSON for programs, a page for browsers.

Each says what happened and what to do. No answer contains a traceback.
"""

import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import psycopg2
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from rms_pipeline.mirror.criteria import PROMOTED
from rms_pipeline.mirror.database import Database, DatabaseError
from rms_pipeline.mirror.postgres_errors import OutdatedError
from rms_pipeline.mirror.schema import current_version, refuse_newer
from rms_pipeline.web.templating import is_fragment, render

logger = logging.getLogger(__name__)

RETRY_SECONDS = 30
DATABASE_DOWN = (
    "The database does not answer at the moment. Try again in a minute. If it still "
    "does not answer, `rms-pipeline doctor` names the cause."
)
TABLES_LOCKED = (
    "The tables are locked at the moment, probably because an upgrade changes them. Try again in a "
    "minute. If it lasts, `rms-pipeline doctor` names the cause."
)
TOOK_TOO_LONG = (
    "This page took too long, so it was stopped. Ask for less: choose a filter or a shorter time. "
    "If simple pages are slow too, the database has too much to do: `rms-pipeline doctor` helps."
)
_FIELD_LOST = (
    "A custom field of this list lost its column while the list was read. Open the list again: it "
    "then says which field, if it still asks for it."
)
_UNEXPECTED = (
    "An unexpected error occurred. The log of the web service has the details. Try "
    "again. If the error stays, `rms-pipeline doctor` may name the cause."
)
_NOWHERE = (
    "There is nothing at this address. The link may be incomplete, or what it led to was deleted."
)
# Of the address of a button, to people: after logging in again, or from the list of a browser.
_NO_PAGE = "There is no page at this address. A button of another page sends to it."
# In JSON only: people have no use for it.
_HELP_NOWHERE = {"help": "/openapi.json describes all addresses."}
_OF_STARLETTE = {
    (404, "Not Found"): _NOWHERE,
    (
        405,
        "Method Not Allowed",
    ): (
        "This address does not accept this HTTP method. /openapi.json lists the methods of each "
        "address."
    ),
}


# Of an address, and nothing that people look for.
_PLACES = frozenset({"opportunities", "customers", "venues", "owners", "views", "api", "static"})
# The JSON of an opportunity, or of a part of it, and any other file: what stands before that is
# looked for.
_TWIN = re.compile(r"(/opportunities/[^/]+)/(?:items|timeline)(?:\.json)?|(.+)\.(?:json|csv|xlsx)")
# Of pages, for people.
_TITLES = {
    400: "This could not be read",
    403: "This came from somewhere else",
    404: "There is nothing here",
    405: "There is no page here",
    409: "This is not possible now",
    413: "This is too much at once",
    422: "This address is not valid",
    429: "Too many attempts",
    500: "Something went wrong",
    503: "Not available at the moment",
    504: "This took too long",
    507: "No room on the disk",
}


class Refused(BaseModel):
    """`error` says what happened and what to do."""

    success: bool = False
    error: str


# For the description of every route that takes the API token.
REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": Refused, "description": "No API token, or a wrong one."},
    403: {"model": Refused, "description": "A page of another site made the request."},
    429: {"model": Refused, "description": "Too many wrong tokens; Retry-After says how long."},
    503: {"model": Refused, "description": "The database is down; Retry-After says how long."},
}


class Refusal(HTTPException):
    """An answer with an error status. `extra` are additional fields of its JSON."""

    def __init__(
        self,
        status: int,
        text: str,
        *,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(status, text, headers)
        self.extra = dict(extra or {})


class WrongParameter(HTTPException):
    """A parameter `name` of an address, of which `wrong` says what is wrong and what is valid.

    People read `label`, what its field is called on the page. Programs read its name.
    """

    def __init__(self, name: str, label: str, wrong: str) -> None:
        super().__init__(422, f"{name} {wrong}")
        self.for_people = f"{label} {wrong}"


class Answered(Exception):
    """Raised by a dependency that already has the answer."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


def is_outage(error: Exception) -> bool:
    """Whether `error` means that PostgreSQL cannot be reached, or that the connection was lost."""
    lost = (
        psycopg2.OperationalError,
        psycopg2.InterfaceError,
        # While `rms-pipeline migrate` has the view of the history out of the way.
        psycopg2.errors.UndefinedTable,
        DatabaseError,
        PoolTimeout,
    )
    # psycopg2 itself raises the bare base class when a connection breaks in mid-answer.
    return isinstance(error, lost) or type(error) is psycopg2.DatabaseError


def _is_field_lost(error: Exception) -> bool:
    """Whether a field was demoted between the time it was looked up and the time it was used, and
    perhaps promoted again as another kind."""
    if isinstance(error, psycopg2.errors.UndefinedFunction):
        # A comparison that the other kind does not have.
        asked = getattr(error.cursor, "query", None) or b""
        return f" FROM opportunity_fields {PROMOTED} ".encode() in asked
    said = str(getattr(getattr(error, "diag", None), "message_primary", ""))
    return isinstance(error, psycopg2.errors.UndefinedColumn) and f" {PROMOTED}." in said


def wants_page(request: Request) -> bool:
    """Whether a browser shows the answer to a person. Routes for programs always get JSON. Our own
    scripts get it too, and show the error in their own place on the page."""
    if request.url.path.startswith("/api/") or getattr(request.state, "for_programs", False):
        return False
    if is_fragment(request):
        return False
    return "text/html" in request.headers.get("Accept", "")


def refuse(
    request: Request,
    status: int,
    text: str,
    *,
    headers: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Response:
    """The answer with the text `text`."""
    kept = dict(headers or {})
    if wants_page(request):
        title = _TITLES.get(status) or HTTPStatus(status).phrase.capitalize()
        if status == 404 and (page := _missing(request, title, text)):
            return page
        return render(
            "error.html",
            status=status,
            headers=kept,
            title=title,
            text=text,
            again=_without_parameters(request) if status == 422 else None,
        )
    body = {"success": False, "error": text, **(extra or {})}
    return JSONResponse(body, status_code=status, headers=kept)


def _without_parameters(request: Request) -> str | None:
    """The address of the page that was asked for with parameters that it does not take."""
    path = getattr(request.scope.get("route"), "path", "")
    is_page = request.method == "GET" and path and "{" not in path
    # A list may show a saved view where nothing is asked for.
    return f"{path}{'?sort=-updated' if path == '/opportunities' else ''}" if is_page else None


def _missing(request: Request, title: str, text: str) -> Response | None:
    """The page with links to everything else, for a person who is signed in. None for others, so
    that they learn nothing of this mirror, and None if the page itself cannot be made."""
    show_missing = getattr(request.app.state, "show_missing", None)
    if show_missing is None:
        return None
    try:
        found: Response | None = show_missing(request, title, text, _looked_for(request, text))
    except Exception as error:
        if not is_outage(error):
            raise
        return None
    return found


def _looked_for(request: Request, text: str) -> str:
    """What the person may have looked for: the last meaningful word of the address, such as a
    number. Nothing where a page says in `text` that it has no such customer, month or feed."""
    path = request.url.path
    if text != _NOWHERE and not path.startswith("/opportunities/"):
        return ""
    if twin := _TWIN.fullmatch(path):
        path = twin[1] or twin[2]
    words = [word for word in re.split(r"[/\s]+", unquote(path)) if re.search(r"\w", word)]
    last = words[-1] if words else ""
    return last[:200] if last.isprintable() and last not in _PLACES else ""


def refuse_for_outage(request: Request, error: Exception | None = None) -> Response:
    """Answers that the database is down, or, by `error`, that only a table or a query fails."""
    text = DATABASE_DOWN
    if isinstance(error, psycopg2.errors.LockNotAvailable):
        text = TABLES_LOCKED
    elif isinstance(error, psycopg2.errors.QueryCanceled):
        text = TOOK_TOO_LONG
    return refuse(request, 503, text, headers={"Retry-After": str(RETRY_SECONDS)})


def refuse_outdated(request: Request, text: str) -> Response:
    return refuse(request, 503, text, headers={"Retry-After": str(RETRY_SECONDS)})


def newer_version_in(database: Database) -> str | None:
    """The text to show if a newer version of this program has upgraded the tables, because anything
    can then fail. None if not, or if the database does not answer."""
    try:
        with database.session() as connection:
            refuse_newer(current_version(connection))
    except OutdatedError as error:
        return str(error)
    except (psycopg2.Error, DatabaseError):
        return None
    return None


def refuse_unexpected(request: Request, error: Exception) -> Response:
    """Logs `error`. The answer does not show it."""
    # The pattern, not the path: a webhook's path holds its token.
    route = getattr(request.scope.get("route"), "path", "an unknown route")
    logger.error("%s %s failed", request.method, route, exc_info=error)
    return refuse(request, 500, _UNEXPECTED)


def _in_words(error: Mapping[str, Any]) -> str:
    """What is wrong with a parameter: page is not a whole number from 1 to 10000."""
    # An underscore keeps the name from being one of Python's.
    name = str(error["loc"][-1]).rstrip("_")
    limits = error.get("ctx") or {}
    match error["type"]:
        case "int_parsing" | "int_parsing_size" | "int_type":
            return f"{name} is not a whole number"
        case "greater_than_equal":
            return f"{name} is less than {limits['ge']}"
        case "less_than_equal":
            return f"{name} is more than {limits['le']}"
        case "less_than":
            return f"{name} is {limits['lt']} or more"
        case "string_too_long":
            return f"{name} is longer than {limits['max_length']} letters"
        case "literal_error":
            return f"{name} is not {limits['expected']}"
        case "missing":
            return f"{name} is missing"
    return f"{name}: {error['msg']}"


def handle_errors(app: FastAPI, database: Database) -> None:
    """Makes `app` answer every error in these ways."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        text = _OF_STARLETTE.get((error.status_code, str(error.detail)), str(error.detail))
        extra = error.extra if isinstance(error, Refusal) else None
        if isinstance(error, WrongParameter) and (wants_page(request) or is_fragment(request)):
            text = error.for_people
        if error.status_code == 405 and wants_page(request):
            text = _NO_PAGE
        if text is _NOWHERE:
            extra = _HELP_NOWHERE
        return refuse(request, error.status_code, text, headers=error.headers, extra=extra)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        said = [_in_words(e) for e in error.errors()]
        more = "" if wants_page(request) else " /openapi.json describes all parameters."
        return refuse(request, 422, f"{'; '.join(said)}.{more}")

    async def answered(_: Request, error: Exception) -> Response:
        assert isinstance(error, Answered)
        return error.response

    async def failed(request: Request, error: Exception) -> Response:
        if isinstance(error, OutdatedError):
            return refuse_outdated(request, str(error))
        # A table or a column is not as this version knows it.
        if isinstance(error, psycopg2.ProgrammingError) and (
            newer := await run_in_threadpool(newer_version_in, database)
        ):
            return refuse_outdated(request, newer)
        if _is_field_lost(error):
            return refuse(request, 503, _FIELD_LOST, headers={"Retry-After": "1"})
        if is_outage(error):
            return refuse_for_outage(request, error)
        return refuse_unexpected(request, error)

    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Answered, answered)
    for kind in (psycopg2.Error, DatabaseError, PoolTimeout):
        app.add_exception_handler(kind, failed)
