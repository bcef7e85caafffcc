"""Counts how the package is laid out: modules, lines, names of opportunities, circles of imports.

python benchmarks/layout.py [FOLDER]

FOLDER is a checkout of any version, such as `git worktree add /tmp/before ca74079` makes. Without
it, this one is counted. Migrations do not count: they are frozen.
"""

import ast
import re
import sys
from pathlib import Path

CORE = ("current_rms", "mirror", "sync")


def modules(package: Path) -> dict[Path, ast.Module]:
    """Each module without its docstrings, by its path in `package`."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        if path.parent.name != "versions":
            tree = ast.parse(path.read_text())
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    is_described = ast.get_docstring(node) is not None
                    node.body = node.body[1:] if is_described else node.body
            found[path.relative_to(package)] = tree
    return found


def names_opportunities(tree: ast.Module) -> bool:
    """Whether a name or a text of the code does. Comments and docstrings do not count."""
    return re.search("opportunit", ast.unparse(tree), re.IGNORECASE) is not None


def part_of(path: Path) -> str:
    """The folder, or the module beside the folders."""
    return path.parts[0].removesuffix(".py")


def in_a_circle(found: dict[Path, ast.Module]) -> set[str]:
    """The parts that import themselves through other parts."""
    leads: dict[str, set[str]] = {}
    for path, tree in found.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rms_pipeline."):
                leads.setdefault(part_of(path), set()).add(str(node.module).split(".")[1])
    for part, others in leads.items():
        others.discard(part)
    reached = {part: set(others) for part, others in leads.items()}
    for _ in leads:
        for part, others in reached.items():
            reached[part] = others | {far for other in others for far in leads.get(other, ())}
    return {part for part, others in reached.items() if part in others}


def main() -> None:
    package = Path(sys.argv[1] if sys.argv[1:] else ".") / "rms_pipeline"
    found = modules(package)
    lengths = [len((package / path).read_text().splitlines()) for path in found]
    core = [tree for path, tree in found.items() if part_of(path) in CORE]
    print(f"modules                     {len(found):,}")
    print(f"lines                       {sum(lengths):,}")
    print(f"lines a module              {sum(lengths) / len(found):.0f}, at most {max(lengths):,}")
    print(f"loose beside the folders    {sum(len(path.parts) == 1 for path in found)}")
    print(f"core modules                {len(core)}")
    print(f"that name opportunities     {sum(map(names_opportunities, core))}")
    print(f"parts in a circle           {', '.join(sorted(in_a_circle(found))) or 'none'}")


if __name__ == "__main__":
    main()
