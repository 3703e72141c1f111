"""Nothing imports upwards: docs/architecture.md's directions, read off the imports."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each may import from the groups before its own, from its own package, and from these.
BASE = {"errors", "files", "once", "progress", "registry", "results"}
GROUPS = [
    {"blocks"},
    {"models"},
    {"objectives", "generation", "datamodules"},
    {"tasks"},
    {"recipes"},
    {"callbacks"},
    {"search"},
    {"report"},
    {"pipeline"},
    {"cli"},
]
LEVEL = {name: level for level, group in enumerate(GROUPS) for name in group}


def imported(file: Path) -> set[str]:
    """Modules of this project that a file imports, `jetlit.models.cache` as `jetlit.models`."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "jetlit" else [f"jetlit.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {".".join(name.split(".")[:2]) for name in names if name.split(".")[0].startswith("jetlit")}
    return found


def package(file: Path) -> str:
    return file.relative_to(ROOT / "jetlit").parts[0].removesuffix(".py")


FILES = [file for file in sorted((ROOT / "jetlit").rglob("*.py")) if package(file) in LEVEL]


def test_every_part_of_jetlit_has_its_place():
    parts = {package(file) for file in (ROOT / "jetlit").rglob("*.py")} - {"__init__"}
    assert parts == set(LEVEL) | BASE


@pytest.mark.parametrize("name", sorted(LEVEL))
def test_imports_point_downwards(name):
    for file in FILES:
        if package(file) == name:
            ours = {module.removeprefix("jetlit.") for module in imported(file) if module.startswith("jetlit.")}
            upwards = {part for part in ours - BASE - {name} if LEVEL[part] >= LEVEL[name]}
            assert not upwards, f"{file.relative_to(ROOT)} imports {sorted(upwards)}"


def test_data_and_kernels_stand_below():
    for file in (ROOT / "kernels").rglob("*.py"):
        assert all(module.startswith("jetlit_kernels") for module in imported(file)), file
    allowed = {"jetlit.errors", "jetlit.files", "jetlit.progress"}
    for file in (ROOT / "data").rglob("*.py"):
        assert all(module in allowed or module.startswith("jetlit_data") for module in imported(file)), file
