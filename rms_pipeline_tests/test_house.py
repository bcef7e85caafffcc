"""Rules of the house that a reader relies on."""

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rms_pipeline"


# Arrows go down only: what stands further down imports what stands above it, and its own.
LAYERS = (
    {"errors"},
    {"collections", "postgres_urls"},
    # Names, defaults and checks of the environment; which of them counts now is for the last two
    # layers to ask.
    {"settings"},
    {"current_rms"},
    {"mirror"},
    # What people ask of the mirror; a sync asks nothing of it.
    {"sync", "insight"},
    {"account", "actions", "console", "logs", "ports", "project_files", "status_chart", "sandbox"},
    {"defs", "web", "cli", "doctor", "dagster_ui", "definitions"},
)
PARTS = {part: level for level, parts in enumerate(LAYERS) for part in parts}
# Without Dagster, and handed whatever they need of the environment.
CORE = ("collections", "current_rms", "mirror", "sync", "insight", "sandbox")


def imports_of(path: Path) -> set[str]:
    """Whole names of what is imported, for type checkers and inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where they lead"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@cache
def modules() -> dict[Path, set[str]]:
    """What each of our modules imports. Not read on import: each process of pytest imports this."""
    return {path: imports_of(path) for path in PACKAGE.rglob("*.py")}


def part_of(path: Path) -> str:
    """The folder, or the module beside the folders, that a module belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def ours(names: set[str]) -> set[str]:
    """The parts of ours that these lead to."""
    return {name.split(".")[1] for name in names if name.startswith("rms_pipeline.")}


def test_every_part_has_its_layer() -> None:
    assert {part_of(path) for path in modules()} == {*PARTS, "__init__"}


@pytest.mark.parametrize("part", sorted(PARTS))
def test_a_part_imports_only_what_lies_in_layers_above_it_and_in_its_own(part: str) -> None:
    mine = {path: names for path, names in modules().items() if part_of(path) == part}
    assert mine
    for path, names in mine.items():
        wrong = {other for other in ours(names) if PARTS[other] > PARTS[part]}
        assert not wrong, f"{path} imports {sorted(wrong)}"


def test_the_sandbox_imports_nothing_of_the_rest() -> None:
    for path, names in modules().items():
        if part_of(path) == "sandbox":
            assert ours(names) <= {"sandbox"}, path


@pytest.mark.parametrize("core", CORE)
def test_a_core_package_never_imports_dagster(core: str) -> None:
    for path, names in modules().items():
        if part_of(path) == core:
            assert not {n for n in names if n.startswith("dagster")}, path


@pytest.mark.parametrize("core", CORE)
def test_a_core_package_is_handed_what_it_needs_of_the_environment(core: str) -> None:
    for path, names in modules().items():
        if part_of(path) == core:
            assert "rms_pipeline.settings.settings" not in names, path
            assert "rms_pipeline.settings" not in names, path


def test_a_migration_calls_nothing_that_lives() -> None:
    for path, names in modules().items():
        if path.parent.name == "versions":
            allowed = "rms_pipeline.mirror.migrations.frozen."
            found = {n for n in names if n.startswith("rms_pipeline.")}
            assert all(n.startswith(allowed) for n in found), path


def test_private_parts_of_dagster_are_used_in_one_module_and_each_has_a_test() -> None:
    for path, names in modules().items():
        private = {n for n in names if n.startswith(("dagster._", "dagster_shared."))}
        assert not private or path.match("defs/compat.py"), f"{path}: {sorted(private)}"
    tests = (PACKAGE.parent / "rms_pipeline_tests/defs/test_compat.py").read_text()
    from rms_pipeline.defs import compat

    assert [name for name in compat.__all__ if f"compat.{name}" not in tests] == []


def test_no_collection_is_named_where_any_can_be_meant() -> None:
    """The core is handed its collection. What is about opportunities alone names them."""
    about_opportunities = {"browse.py", "overview.py", "statuses.py", "summary.py"}
    for path, names in modules().items():
        if part_of(path) in ("current_rms", "mirror", "sync") and path.parent.name != "versions":
            found = {n for n in names if n.startswith("rms_pipeline.collections.")}
            any_of_them = ("base", "COLLECTIONS", "collection_named")
            allowed = {f"rms_pipeline.collections.{name}" for name in any_of_them}
            named = {n for n in found if not n.startswith(tuple(allowed))}
            assert not named or path.name in about_opportunities, f"{path}: {sorted(named)}"


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


def test_a_connection_and_a_cursor_are_named_in_one_place() -> None:
    """psycopg2 calls its classes in small letters; and the next name may be another's."""
    for path, names in modules().items():
        theirs = {"psycopg2.extensions.connection", "psycopg2.extensions.cursor"} & names
        is_frozen = path.parent.name in ("versions", "migrations")
        assert not theirs or is_frozen or path.match("mirror/statements.py"), path


def test_type_checkers_of_other_projects_use_our_types() -> None:
    assert (PACKAGE / "py.typed").is_file()
