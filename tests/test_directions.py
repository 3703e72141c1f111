"""Imports point downward, and no modules import each other in a circle: docs/architecture.md, module by module."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {"jetlit": ROOT, "jetlit_kernels": ROOT / "kernels", "jetlit_data": ROOT / "data"}
BASE = {"errors", "files", "once", "progress", "registry", "results", "values"}  # below all packages
TOP = {"jetlit.__main__", "jetlit.registration"}  # above all packages; no module imports them
BELOW_DATA = {"jetlit.errors", "jetlit.files", "jetlit.registry", "jetlit.values"}


def module_name(file: Path, root: Path) -> str:
    return ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(file, root): file for name, root in SOURCES.items() for file in (root / name).rglob("*.py")}


def imported_modules(name: str) -> set[str]:
    """Return the modules of this project that a module imports anywhere: in functions and under TYPE_CHECKING too."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            # `from package import module` needs the module, `from package import name` the package's __init__.
            found |= {full if (full := f"{origin}.{alias.name}") in MODULES else origin for alias in node.names}
    return {module for module in found if module.split(".")[0] in SOURCES}


GRAPH = {name: imported_modules(name) for name in MODULES}


def part(module: str) -> str:
    """Return the part of jetlit that a module belongs to: `jetlit.models.cache` to `models`."""
    return module.split(".")[1] if "." in module else ""


def levels() -> dict[str, int]:
    """Each part's level, from the page's line "kernels ← blocks ← {objectives, generation} ← ... ← cli."."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    line = re.search(r"^kernels ← .*cli\.$", page, re.MULTILINE)
    assert line, "docs/architecture.md has lost its line of directions"
    order = [re.findall(r"\w+", group) for group in line[0].split("←")]
    found = {name: level for level, group in enumerate(order) for name in group}
    return found | {"datamodules": found["tasks"]}


LEVEL = levels()


def test_every_import_names_a_module_that_is_there():
    missing = {(name, other) for name, imports in GRAPH.items() for other in imports if other not in MODULES}
    assert not missing


def test_every_part_of_jetlit_has_its_place():
    parts = {part(name) for name in MODULES if name.startswith("jetlit.") and name not in TOP}
    assert parts <= set(LEVEL) | BASE


@pytest.mark.parametrize("name", sorted(LEVEL))
def test_imports_point_downward(name):
    for module in GRAPH:
        if module.startswith(f"jetlit.{name}.") or module == f"jetlit.{name}":
            others = {other for other in GRAPH[module] if other.startswith("jetlit.") and part(other) != name}
            upward = {other for other in others if part(other) not in BASE and LEVEL[part(other)] >= LEVEL[name]}
            assert not upward, f"{module} imports {sorted(upward)}"


def test_no_module_imports_itself_through_others():
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' <- '.join(error.args[1])}")


def test_what_stands_below_jetlit():
    for module, imports in GRAPH.items():
        ours = {other for other in imports if other.split(".")[0] != module.split(".")[0]}
        if module.startswith("jetlit_kernels"):
            assert not ours, module
        elif module.startswith("jetlit_data"):
            assert ours <= BELOW_DATA, module
        elif part(module) in BASE:
            assert {part(other) for other in imports} <= BASE, module


def test_the_facade_imports_lazily_and_nothing_imports_the_top():
    assert not GRAPH["jetlit"]
    assert not TOP & set().union(*GRAPH.values())
