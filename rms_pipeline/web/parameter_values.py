"""Values in the addresses of several pages: a day, a year, the id of a record."""

import re
from datetime import date
from typing import Annotated

from fastapi import HTTPException, Query

from rms_pipeline.insight.days import FIRST, LAST, Day
from rms_pipeline.web.refusals import WrongParameter

# A page of a year also shows the year before it, and leads to the next one.
FIRST_YEAR, LAST_YEAR = FIRST.year + 1, LAST.year - 1
_BIGINT = 2**63

Year = Annotated[int | None, Query(ge=FIRST_YEAR, le=LAST_YEAR)]
Id = Annotated[int | None, Query(ge=-_BIGINT, lt=_BIGINT)]


def years_beside(year: int) -> list[int]:
    """The year before and the year after, if a page can show them."""
    return [other for other in (year - 1, year + 1) if FIRST_YEAR <= other <= LAST_YEAR]


def fits_bigint(number: int) -> bool:
    """Whether a column of ids can hold it. PostgreSQL refuses to look for any other."""
    return -_BIGINT <= number < _BIGINT


def record_id(text: str, name: str, what: str) -> int | None:
    """The id of a `what` in `text`, the parameter `name`. None if it is empty. Raises HTTPException
    (422)."""
    if not text:
        return None
    if not re.fullmatch(r"-?[0-9]{1,19}", text) or not fits_bigint(int(text)):
        raise HTTPException(422, f"{name} is not the id of a {what}.")
    return int(text)


def day_of(text: str, name: str, time_zone: str, label: str = "The day") -> Day | None:
    """The day in `text`, the parameter `name` of an address, for people `label`. None if it is
    empty."""
    if not text.strip():
        return None
    try:
        chosen = date.fromisoformat(text.strip())
    except ValueError:
        raise WrongParameter(name, label, "is not a date like 2026-05-31.") from None
    try:
        return Day(chosen, time_zone)
    except ValueError as error:
        raise WrongParameter(name, label, f"{error}.") from None
