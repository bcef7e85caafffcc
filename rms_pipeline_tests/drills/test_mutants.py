"""Every mutant still has its place in the code, and tests that kill it."""

from collections import Counter
from pathlib import Path

import pytest

from rms_pipeline_tests.drills.mutants import (
    MUTANTS,
    PACKAGE,
    PROJECT,
    Mutant,
    copy_of,
    passes,
    place_of,
    runner,
    survives,
    texts_in,
)
from rms_pipeline_tests.servers import Prepared

AREAS = (
    "scan",
    "merge",
    "deletions",
    "proof",
    "queue",
    "budget",
    "access",
    "migrations",
    "dagster_ui",
    "sockets",
    "intake",
    "databases",
)


def test_every_part_has_five_mutants() -> None:
    counted = Counter(mutant.area for mutant in MUTANTS)
    assert set(counted) == set(AREAS)
    assert min(counted.values()) >= 5


@pytest.fixture(scope="module")
def texts() -> dict[Path, str]:
    return texts_in(PROJECT)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.fault)
def test_what_a_mutant_replaces_is_there_once_and_so_are_its_tests(
    mutant: Mutant, texts: dict[Path, str]
) -> None:
    assert place_of(mutant, texts).is_file()
    assert mutant.old != mutant.new
    assert mutant.tests
    for test in mutant.tests:
        path, _, name = test.partition("::")
        text = (PROJECT / f"{PACKAGE}_tests" / path).read_text()
        assert f"def {name}(" in text or not name, test


@pytest.mark.timeout(7_200)
def test_every_mutant_is_killed(prepared: Prepared | None, long: bool) -> None:
    """All of them in the long form; else one of each part, with the fewest tests."""

    def whole_modules(mutant: Mutant) -> int:
        return sum("::" not in test for test in mutant.tests)

    chosen: dict[str, Mutant] = {}
    for mutant in sorted(MUTANTS, key=whole_modules):
        chosen.setdefault(mutant.area, mutant)
    with copy_of(PROJECT) as folder, runner() as pytests:
        # Tests also fail if their servers do.
        assert passes(chosen["merge"].tests, folder, pytests, prepared)
        survivors = [
            mutant.fault
            for mutant in (MUTANTS if long else chosen.values())
            if survives(mutant, folder, pytests, prepared)
        ]
    assert survivors == []
