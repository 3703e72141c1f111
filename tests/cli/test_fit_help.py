"""The help of fits, which imports neither jsonargparse nor Lightning, against the real parser."""

import inspect
import re
import subprocess
import sys

import pytest
from lightning.pytorch.cli import LightningArgumentParser

import jetlit.callbacks
import jetlit.recipes
from jetlit.cli import main
from jetlit.cli.fit_help import page
from jetlit.datamodules import TokenDataModule
from jetlit.pipeline.fit import FitCLI, FitConfig
from jetlit.recipes import Recipe


class ParserOnly(FitCLI):
    def __init__(self):
        super().__init__(FitConfig([]), build=False)

    def parse_arguments(self, parser: LightningArgumentParser, args):
        self.config = {}


def test_the_page_names_the_parsers_groups_and_their_arguments():
    options = {action.dest for action in ParserOnly().parser._actions} - {
        "help",
        "config",
        "print_config",
        "==SUPPRESS==",
    }
    entries = dict(re.findall(r"^  --(\w+) +(.+(?:\n {25}.+)*)", page("fit"), re.MULTILINE))
    assert {option.partition(".")[0] for option in options if not option.endswith(".help")} == set(entries)
    for group, text in entries.items():
        named = re.search(r"\((\w+): (.*)\)", " ".join(text.split()))
        if named:
            kind = getattr(jetlit.callbacks, named[1], TokenDataModule)
            parameters = inspect.signature(kind).parameters.values()
            assert named[2].split(", ") == [str(p.replace(annotation=p.empty)).replace(" ", "") for p in parameters]
            assert group == "data" or {p.name for p in parameters} == {
                option.partition(".")[2] for option in options if option.startswith(f"{group}.")
            }


def test_the_page_names_every_recipe():
    classes = [getattr(jetlit.recipes, name) for name in jetlit.recipes.__all__]
    recipes = {kind.__name__ for kind in classes if isinstance(kind, type) and issubclass(kind, Recipe)} - {"Recipe"}
    assert set(re.findall(r"^  ([A-Z]\w+) ", page("fit"), re.MULTILINE)) == recipes


def test_help_imports_no_training_stack():
    code = "import sys; from jetlit.cli import main; main(['fit', '--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "usage: jetlit fit" in done.stdout
    assert not {"lightning", "jsonargparse", "omegaconf"} & set(done.stderr.split())


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--help_all", "--trainer.max_steps"),
        ("--model.help=Distillation", "--model.init_args.feature_weight"),
        ("--data.help=TokenDataModule", "--data.init_args.block_size"),
    ],
)
def test_lightnings_own_help(option, text, capsys):
    with pytest.raises(SystemExit) as left:
        main(["fit", option])
    assert left.value.code == 0
    assert text.replace("init_args.", "") in capsys.readouterr().out.replace("init_args.", "")


def test_print_config_and_version(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(
        "model: {class_path: FullTraining, init_args: {student: x}}\n"
        "data: {class_path: TokenDataModule, init_args: {corpora: x, block_size: 8, batch_size: 2}}\n"
    )
    with pytest.raises(SystemExit) as left:
        main(["fit", "--config", str(tmp_path / "a.yaml"), "--trainer.max_steps", "7", "--print_config"])
    printed = capsys.readouterr().out
    assert left.value.code == 0 and "max_steps: 7" in printed and "student: x" in printed
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("jetlit ")
