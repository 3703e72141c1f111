"""The help of fits, which imports neither jsonargparse nor Lightning, against the real parser."""

import subprocess
import sys

import pytest
from lightning.pytorch.cli import LightningArgumentParser

import jetlit.recipes
from jetlit.cli import main
from jetlit.cli.fit_help import GROUPS, arguments_of, page, recipes_with_summaries
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
    groups = {option.partition(".")[0] for option in options if not option.endswith(".help")}
    assert groups == set(GROUPS)
    for group, (_, kind) in GROUPS.items():
        if kind is not None and group != "data":
            named = {argument.partition("=")[0] for argument in arguments_of(kind)}
            assert named == {option.partition(".")[2] for option in options if option.startswith(f"{group}.")}


def test_the_page_names_every_recipe_with_its_summary():
    classes = [getattr(jetlit.recipes, name) for name in jetlit.recipes.__all__]
    recipes = [kind for kind in classes if isinstance(kind, type) and issubclass(kind, Recipe) and kind is not Recipe]
    assert recipes_with_summaries() == {kind.__name__: kind.__doc__.partition("\n")[0] for kind in recipes}
    assert all(f"  {kind.__name__} " in page("fit") for kind in recipes)


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
