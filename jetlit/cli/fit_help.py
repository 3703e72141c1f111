"""`jetlit fit --help`, written from the source files: importing Lightning takes longer than anyone waits for help."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# Groups of options -> what they set, and the class whose arguments they are.
GROUPS = {
    "run_dir": ("folder of the whole run (runs/quickstart)", None),
    "stage": ("folder of this fit inside run_dir (fit)", None),
    "ckpt_path": ('a checkpoint to resume from or to evaluate; "last"; "none" to start over', None),
    "seed_everything": ("seed of all that is drawn (0)", None),
    "model": ("the recipe, by class name, and its arguments: --model Distillation --model.teacher FOLDER", None),
    "data": ("the data module, by class name, and its arguments", "TokenDataModule"),
    "trainer": ("Lightning's Trainer: max_steps, devices, precision, strategy, logger, callbacks, ...", None),
    "nan_guard": ("what happens to a loss that is not a number", "NanGuard"),
    "tasks": ("tasks that the model is scored on at every validation", "TaskScores"),
    "throughput": ("what is measured of speed", "Throughput"),
    "checkpoint": ("when checkpoints are written", "StageCheckpoint"),
    "export": ("where the trained model is written", "ExportModel"),
    "manifest": ("where result.json is written", "RunManifest"),
}
_PAGE = """\
usage: jetlit {subcommand} [--config FILE ...] [--GROUP.ARGUMENT VALUE ...]

{purpose}
Options come from YAML files (later ones win) and from the command line, which wins over both.
`${{key}}` in a value refers to any other key, e.g. ${{run_dir}}/teacher/model.

Examples:
  jetlit fit --config configs/quickstart/common.yaml --config configs/quickstart/teacher.yaml
  jetlit fit --config common.yaml --config stage1.yaml --trainer.max_steps 200 --model.optimizer.lr 3e-4

Groups:
{groups}

Recipes (--model NAME):
{recipes}

More:
  jetlit fit --model.help Distillation   the arguments of one recipe; so with every class
  jetlit fit --config FILE --print_config   all values as YAML
  jetlit fit --help_all                  every option of every group (takes as long as importing Lightning)"""
_PURPOSES = {
    "fit": "Train a recipe on token data. The fit writes RUN_DIR/STAGE: checkpoints, curves, model and result.json.",
    "validate": "Print the held-out losses of a fit's checkpoint, by default its newest.",
    "test": "Print the held-out losses of a fit's checkpoint, through the test loop.",
}


def page(subcommand: str) -> str:
    """Return the help of `fit`, `validate` or `test`."""
    groups = [_entry(f"--{name}", text + _arguments(name, kind)) for name, (text, kind) in GROUPS.items()]
    recipes = [_entry(name, text) for name, text in recipes_with_summaries().items()]
    return _PAGE.format(
        subcommand=subcommand, purpose=_PURPOSES[subcommand], groups="\n".join(groups), recipes="\n".join(recipes)
    )


def recipes_with_summaries() -> dict[str, str]:
    """Return each public recipe with the first line of its docstring."""
    classes = _classes("recipes")
    public = (PACKAGE / "recipes/__init__.py").read_text(encoding="utf-8")
    names = [name for name in classes if f'"{name}"' in public and "Recipe" in _bases(name, classes)]
    return {name: (ast.get_docstring(classes[name]) or "").partition("\n")[0] for name in sorted(names)}


def arguments_of(kind: str) -> list[str]:
    """Return the arguments of a class's constructor, each with its default."""
    classes = _classes("callbacks") | _classes("datamodules")
    init = next(item for item in classes[kind].body if isinstance(item, ast.FunctionDef) and item.name == "__init__")
    names = [argument.arg for argument in init.args.args[1:]]
    defaults = [None] * (len(names) - len(init.args.defaults)) + [f"={ast.unparse(d)}" for d in init.args.defaults]
    return [name + (default or "") for name, default in zip(names, defaults, strict=True)]


def _arguments(group: str, kind: str | None) -> str:
    return "" if kind is None else f" ({kind}: {', '.join(arguments_of(kind))})"


def _entry(name: str, text: str) -> str:
    return textwrap.fill(f"  {name:22} {text}", 110, subsequent_indent=" " * 25, break_on_hyphens=False)


def _classes(folder: str) -> dict[str, ast.ClassDef]:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted((PACKAGE / folder).glob("*.py"))]
    return {item.name: item for tree in trees for item in tree.body if isinstance(item, ast.ClassDef)}


def _bases(name: str, classes: dict[str, ast.ClassDef]) -> set[str]:
    direct = {base.id for base in classes[name].bases if isinstance(base, ast.Name)}
    return direct.union(*(_bases(base, classes) for base in direct if base in classes))
