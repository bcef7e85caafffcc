"""Decides which cases of a property run with every change, and which in the drills.

If a property is tried in dozens of cases, every change runs the cases that differ most.
`drills/test_cases.py` and `drills/test_cases_of_pages.py` run the others. Those that differ least
run in the long form of the drills only (`--long`).
"""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

IN_DRILLS = pytest.mark.drill
_IN_LONG_DRILLS = pytest.mark.long


def some_in_drills(
    cases: Iterable[Any],
    kept: Callable[[Any], bool],
    ids: Iterable[str] | None = None,
    *,
    long: Callable[[Any], bool] = lambda _: False,
) -> list[Any]:
    """Return the cases for `parametrize`. Those that are not `kept` run in the drills; of these,
    the `long` ones run in their long form only.
    """
    every = list(cases)
    names = list(ids) if ids is not None else [None] * len(every)
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            id=name,
            marks=() if kept(case) else (IN_DRILLS, _IN_LONG_DRILLS) if long(case) else IN_DRILLS,
        )
        for case, name in zip(every, names, strict=True)
    ]
