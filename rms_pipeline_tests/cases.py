"""Decides which cases of a property run with every change, and which in the drills.

If a property is tried in dozens of cases, every change runs the cases that differ most.
`drills/test_cases.py` and `drills/test_cases_of_pages.py` run the others.
"""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

IN_DRILLS = pytest.mark.drill


def some_in_drills(
    cases: Iterable[Any], kept: Callable[[Any], bool], ids: Iterable[str] | None = None
) -> list[Any]:
    """Return the cases for `parametrize`. Those that are not `kept` run in the drills."""
    every = list(cases)
    names = list(ids) if ids is not None else [None] * len(every)
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            id=name,
            marks=() if kept(case) else IN_DRILLS,
        )
        for case, name in zip(every, names, strict=True)
    ]
