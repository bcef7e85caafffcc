"""Which cases of a property are tried with every change, and which by the drills.

A property that is tried in dozens of ways is shown, with every change, in those that differ most;
`drills/test_cases.py` tries the others.
"""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

IN_DRILLS = pytest.mark.drill


def some_in_drills(
    cases: Iterable[Any], kept: Callable[[Any], bool], ids: Iterable[str] | None = None
) -> list[Any]:
    """For `parametrize`: those of the cases that are not `kept` are for the drills."""
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
