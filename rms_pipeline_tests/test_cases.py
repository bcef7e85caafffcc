"""No case is left to drills that do not try it."""

import ast
from collections.abc import Iterator
from pathlib import Path

from rms_pipeline_tests import cases, conftest
from rms_pipeline_tests.drills.mutants import MUTANTS, PROJECT, place_of, texts_in

HERE = Path(__file__).parent


def left_to_drills() -> Iterator[str]:
    """Tests and fixtures with cases that are for the drills."""
    words = (cases.some_in_drills.__name__, "IN_DRILLS")
    for path in HERE.rglob("test_*.py"):
        text = path.read_text()
        # To parse all of them takes long.
        if not any(word in text for word in words):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                said = " ".join(ast.unparse(decorator) for decorator in node.decorator_list)
                if any(word in said for word in words):
                    yield node.name


def test_each_case_that_is_left_to_the_drills_is_tried_by_them() -> None:
    left = set(left_to_drills())
    tried = [ast.parse(path.read_text()) for path in conftest.DRILLED_CASES]
    names = {
        alias.name
        for module in tried
        for node in module.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert len(left) > 10
    assert left <= names


def test_each_mutant_still_fits_the_code() -> None:
    """The drills, which put them into it, run last of all."""
    texts = texts_in(PROJECT)
    for mutant in MUTANTS:
        assert place_of(mutant, texts).is_file()


def test_every_module_that_is_listed_by_name_exists() -> None:
    """A module that is renamed would begin late, or make new connections, and nobody would see."""
    assert [name for name in conftest.LONGEST if not (HERE / name).exists()] == []
    modules = [path for path in HERE.rglob("*") if path.name.startswith("test_")]
    paths = {path.name for path in modules} | {f"{p.parent.name}/{p.name}" for p in modules}
    folders = {path.name for path in HERE.iterdir() if path.is_dir()}
    assert set(conftest.LOOK_AT_ROWS) <= paths | folders
