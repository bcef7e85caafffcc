"""Rules of the house that a reader relies on."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rms_pipeline"


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("core", ["current_rms", "mirror", "sandbox"])
def test_a_core_package_never_imports_dagster(core: str) -> None:
    modules = list((PACKAGE / core).rglob("*.py"))
    assert modules
    for module in modules:
        assert not {n for n in imported(module) if n.startswith("dagster")}, module


def test_only_settings_reads_the_environment() -> None:
    for module in PACKAGE.rglob("*.py"):
        text = module.read_text()
        if module.name != "settings.py":
            assert "environ[" not in text, module
            assert "os.environ" not in text, module
            assert "getenv" not in text, module


def test_no_module_has_grown_into_a_heap() -> None:
    """A module is an idea, not a length; but an idea of a thousand lines is several."""
    for module in PACKAGE.rglob("*.py"):
        assert len(module.read_text().splitlines()) < 900, module
