"""Find: a search for opportunities, customers, pages and commands, on every page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic_core import to_jsonable_python

from rms_pipeline.insight.find import Matches, NameMatch, find, find_names
from rms_pipeline.mirror.words import words_in
from rms_pipeline.web.allowed_parameters import only
from rms_pipeline.web.desk import Desk
from rms_pipeline.web.parameter_values import Id
from rms_pipeline.web.templating import NAVIGATION, is_fragment

# How many results are shown while somebody types, and on the page of results.
_FEW, _MANY = 6, 50
# Seconds that a search may take: before the next letter, and after Enter.
WHILE_TYPING, _ON_THE_PAGE = 0.025, 1.0
_PLACES = {"customer": "customers", "venue": "venues", "owner": "owners"}
_Text = Annotated[str, Query(max_length=200)]
# Address, title, and other words by which people look for it.
_COMMANDS = (
    ("/today", "Print the day sheet", "today warehouse sheet"),
    ("/changes", "Who changed what", "history log edits"),
    ("/#sync", "Start a sync", "refresh update incremental initial"),
    ("/venues", "Venues", "places locations"),
    ("/owners", "Owners", "colleagues people sales"),
)


@dataclass(frozen=True, slots=True)
class Place:
    """A page or a command: its address and its title."""

    address: str
    title: str


def find_routes(desk: Desk) -> APIRouter:
    """The routes of the search. `q` is the typed text. `before` is the position of the next
    page."""
    router = desk.page_router()

    def look(
        q: str, most: int, before: int | None, patience: float = _ON_THE_PAGE
    ) -> tuple[Matches, list[NameMatch]]:
        with desk.reader.session() as connection:
            found = find(connection, q, most=most, before=before, patience=patience)
            names = find_names(connection, q) if before is None else []
        return found, names

    @router.get("/find")
    def show(request: Request, q: _Text = "", before: Id = None) -> Response:
        is_part = is_fragment(request)
        most, patience = (_FEW, WHILE_TYPING) if is_part else (_MANY, _ON_THE_PAGE)
        found, names = look(q, most, before, patience)
        return desk.render(
            "found.html" if is_part else "find.html",
            here="find",
            text=q.strip(),
            found=found,
            names=[(name, _address(name)) for name in names],
            places=places(q) if before is None else [],
            older=f"/find?{urlencode({'q': q, 'before': found.next})}" if found.next else None,
            whole=f"/find?{urlencode({'q': q})}",
        )

    @router.get("/find.json", dependencies=[Depends(only("q", "before"))])
    def tell(q: _Text = "", before: Id = None) -> Response:
        found, names = look(q, _MANY, before)
        older = f"/find.json?{urlencode({'q': q, 'before': found.next})}" if found.next else None
        answer: dict[str, Any] = to_jsonable_python(found)
        answer["next"] = older
        answer["names"] = [
            {**to_jsonable_python(name), "address": _address(name)} for name in names
        ]
        answer["pages"] = to_jsonable_python(places(q) if before is None else [])
        return desk.twin(answer)

    return router


def places(text: str) -> list[Place]:
    """Pages and commands that have all words of `text`, or words that begin with them. All of them
    if `text` is empty."""
    words = words_in(text)
    known = [(address, title, "") for _, address, title in NAVIGATION] + [*_COMMANDS]
    return [
        Place(address, title)
        for address, title, others in known
        if _holds(words_in(f"{title} {others}"), words)
    ]


def _holds(there: Sequence[str], words: Sequence[str]) -> bool:
    return all(any(each.startswith(word) for each in there) for word in words)


def _address(name: NameMatch) -> str:
    place = _PLACES.get(name.kind)
    if place is None or name.id is None:
        return f"/opportunities?{urlencode({name.kind: name.name})}"
    return f"/{place}/{name.id}"
