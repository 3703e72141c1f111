"""benchmarks/smollm2_hybrids.py: which fits its studies ask for and share, and what their rows say of them."""

import importlib
import json
from pathlib import Path

import pytest

from jetlit.pipeline.fit import resolved_config

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
BLOCK = 64 * 1024  # tokens of a step, by the configs


KNOWN = {}


def parsed(config):
    """Return the resolved config of a fit, read once."""
    key = json.dumps([config.configs, dict(config.overrides)])
    if key not in KNOWN:
        KNOWN[key] = resolved_config(config)
    return KNOWN[key]


class Fits:
    """Stands in for training: keeps each fit's resolved config and writes its result."""

    def __init__(self, lab):
        self.lab, self.configs = lab, {}

    def __call__(self, name, stage, **overrides):
        config = parsed(self.lab.fit_config(stage, f"studies/{name}", overrides))
        if name not in self.configs:
            self.write(f"studies/{name}", config["trainer"]["max_steps"], loss=len(self.configs))
        assert self.configs.setdefault(name, config) == config, "two fits of one name"
        return {}

    def write(self, folder, steps, loss):
        metrics = {"tokens_seen": {"value": float(steps * BLOCK)}, "val/loss": {"value": float(loss)}}
        file = self.lab.run / folder / "result.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        keys = "stage hash config decision versions hardware seed seconds date"
        empty = dict.fromkeys(keys.split())
        file.write_text(json.dumps({**empty, "metrics": metrics}))

    def recipe(self, name):
        """Return what a fit trains with: class, teacher and student relative to the run, rate, steps, seed."""
        config = self.configs[name]
        options = config["model"]["init_args"]
        models = [
            options.get(key) and str(Path(options[key]).relative_to(self.lab.run)) for key in ("teacher", "student")
        ]
        rate = options["optimizer"]["init_args"]["lr"]
        kind = config["model"]["class_path"].rpartition(".")[2]
        assert config["seed_everything"] == config["data"]["init_args"]["seed"]
        return kind, *models, rate, config["trainer"]["max_steps"], config["seed_everything"]


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """Return the lab after the study, with fits and measurements faked, its fits, and the module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        hybrids = importlib.import_module("smollm2_hybrids")
        patch.setattr(hybrids, "resolved_config", parsed)
        lab = hybrids.Lab.__new__(hybrids.Lab)
        lab.run = tmp_path_factory.mktemp("run")
        lab.out, lab.seeds, lab.steps, lab._fit_configs, lab._end = lab.run / "out", [0, 1], None, [], float("inf")
        lab.fit = fits = Fits(lab)
        for stage, steps in (("stage1", 62), ("stage2", 688)):
            fits.write(stage, steps, loss=-steps)
        lab.held_out = lambda name, model: float(len(str(model)))
        lab.score = lambda model: {"accuracy": str(model.relative_to(lab.run))}
        hybrids.further(lab)
        yield lab, fits, hybrids


def test_the_fits_of_the_further_study(studied):
    lab, fits, _ = studied
    continued = [f"studies/continued_seed{seed}/model" for seed in (0, 1)]
    starts = ["stage1/model", "studies/stage1_seed1/model"]
    expected = {
        "stage1_seed1": ("Distillation", "teacher/model", None, 2e-3, 62, 1),
        "stage2_seed1": ("FullTraining", None, starts[1], 2e-3, 688, 1),
    }
    for seed, (teacher, start) in enumerate(zip(continued, starts)):
        adapted = f"studies/adapted_stage1_seed{seed}/model"
        expected |= {
            f"continued_seed{seed}": ("FullTraining", None, "teacher/model", 1e-3, 750, seed),
            f"continued_2_times_seed{seed}": ("FullTraining", None, "teacher/model", 1e-3, 1500, seed),
            f"continued_again_seed{seed}": ("FullTraining", None, teacher, 1e-3, 750, seed + 1),
            f"taught_seed{seed}": ("FullTraining", teacher, start, 2e-3, 688, seed),
            f"adapted_stage1_seed{seed}": ("Distillation", teacher, None, 2e-3, 62, seed),
            f"adapted_seed{seed}": ("FullTraining", None, adapted, 2e-3, 688, seed),
            f"adapted_taught_seed{seed}": ("FullTraining", teacher, adapted, 2e-3, 688, seed),
            f"long_seed{seed}": ("FullTraining", None, start, 2e-3, 1438, seed),
        }
    assert {name: fits.recipe(name) for name in fits.configs} == expected
    taught = fits.configs["taught_seed0"]["model"]["init_args"]
    assert taught["kl_weight"] == 1.0 and taught["compile"]
    plain, adapted = (fits.configs[name]["model"]["init_args"] for name in ("stage1_seed1", "adapted_stage1_seed1"))
    assert plain["architecture"] == adapted["architecture"] == str(lab.run / "hardware/architecture.json")


def test_the_rows_of_the_further_study(studied):
    lab, _, _ = studied
    rows = json.loads((lab.out / "smollm2_further.json").read_text())["rows"]
    assert [row["seed"] for row in rows] == 8 * [0] + 8 * [1]
    tokens = [row["tokens"] / BLOCK for row in rows]
    assert tokens == 2 * [750, 750, 750, 750, 1500, 750, 1500, 1500]
    finals = [
        "stage2",
        "taught",
        "adapted",
        "adapted_taught",
        "long",
        "continued",
        "continued_2_times",
        "continued_again",
    ]
    models = [
        f"{name}/model" if (name, seed) == ("stage2", 0) else f"studies/{name}_seed{seed}/model"
        for seed in (0, 1)
        for name in finals
    ]
    assert [row["accuracy"] for row in rows] == models
    for row, model in zip(rows, models):
        result = json.loads((lab.run / model).parent.joinpath("result.json").read_text())
        assert row["mixture"] == result["metrics"]["val/loss"]["value"]
        assert row["held-out loss"] == len(str(lab.run / model))
    assert list(rows[0])[:5] == ["model", "seed", "tokens", "held-out loss", "mixture"]


def test_the_studies_final_and_further_share_their_fits(studied):
    lab, fits, hybrids = studied
    before = dict(fits.configs)
    hybrids.final(lab)
    assert fits.configs == before
    rows = json.loads((lab.out / "smollm2_final.json").read_text())["rows"]
    assert [row["seed"] for row in rows] == [0, 0, 0, 0, 1, 1, 1]
    assert [row["accuracy"] for row in rows] == [
        "teacher/model",
        *("stage1/model", "stage2/model", "studies/continued_seed0/model"),
        *(f"studies/{name}_seed1/model" for name in ("stage1", "stage2", "continued")),
    ]
