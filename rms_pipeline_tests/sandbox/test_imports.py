"""The sandbox shares nothing with what it is the test of."""

import ast
from pathlib import Path

import pytest

import rms_pipeline.sandbox

FOLDER = Path(rms_pipeline.sandbox.__file__).parent
OWN = "rms_pipeline.sandbox"


def module_name(path: Path) -> str:
    parts = path.relative_to(FOLDER).with_suffix("").parts
    return ".".join([OWN, *(part for part in parts if part != "__init__")])


def imported(path: Path) -> set[str]:
    """Whole names of modules, those for type checkers and those inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where they lead"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.fixture(scope="module")
def modules() -> dict[str, set[str]]:
    """What each module imports, by its whole name."""
    return {module_name(path): imported(path) for path in FOLDER.rglob("*.py")}


def test_it_imports_nothing_of_the_rest_of_the_package(modules: dict[str, set[str]]) -> None:
    assert len(modules) > 20
    for module, names in modules.items():
        ours = {name for name in names if name.split(".")[0] == "rms_pipeline"}
        foreign = {name for name in ours if name != OWN and not name.startswith(f"{OWN}.")}
        assert not foreign, module


def test_no_module_leads_back_to_itself(modules: dict[str, set[str]]) -> None:
    arrows = {module: names & modules.keys() - {module} for module, names in modules.items()}
    # The package itself only lists what is public.
    arrows.pop(OWN)
    while arrows:
        ends = {m for m, targets in arrows.items() if not targets & arrows.keys()}
        assert ends, f"a circle among {sorted(arrows)}"
        for module in ends:
            del arrows[module]
