"""Functions of jetlit_kernels are annotated; mypy skips files with device code, whose annotations Triton would read."""

import ast
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parents[2] / "kernels/jetlit_kernels").rglob("*.py"))


def is_device_code(function: ast.FunctionDef) -> bool:
    return any("triton" in ast.unparse(decorator) for decorator in function.decorator_list)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_host_functions_are_annotated(file: Path) -> None:
    for function in ast.walk(ast.parse(file.read_text())):
        if isinstance(function, ast.FunctionDef) and not is_device_code(function):
            parameters = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            bare = [p.arg for p in parameters if p.annotation is None and p.arg not in ("self", "cls")]
            assert not bare and function.returns is not None, f"{file.name}, {function.name}: {bare or 'the return'}"
