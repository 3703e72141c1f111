"""The baseline ranks the layers of the miniature run's teacher by real fits."""

import json
from pathlib import Path

from jetlit.cli import main
from jetlit.models import Architecture
from jetlit.results import read_result
from tests.pipeline.runs import TINY


def test_layers_are_ranked_by_restoring_one_at_a_time(undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("data", "teacher"):
        (run / name).symlink_to(undisturbed / name)
    files = [str(TINY.parent / name) for name in ("common.yaml", "candidate.yaml")]
    options = ["--budgets=[0,2]", f"--fit_configs={json.dumps(files)}", '--restore_overrides={"trainer.max_steps": 2}']
    assert main(["search", "ranking", "--run_dir", str(run), *options]) == 0
    ranking = json.loads((run / "ranking" / "ranking.json").read_text())
    assert sorted(ranking["order"]) == [0, 1, 2]
    assert [ranking["held_out_kl"][layer] for layer in ranking["order"]] == sorted(ranking["held_out_kl"])
    kept = Architecture.load(run / "ranking" / "full_2.json").layer_types
    assert {layer for layer, name in enumerate(kept) if name == "attn"} == set(ranking["order"][:2])
    result = read_result(run / "ranking")
    # Six steps without attention and two for each of three layers, of 4 blocks of 24 tokens.
    assert result is not None and result["metrics"]["search_tokens"]["value"] == (6 + 3 * 2) * 4 * 24
    restored = [read_result(run / "ranking" / "layers" / str(layer)) for layer in range(3)]
    assert all(one["config"]["model"]["init_args"]["student"].endswith("all_linear/model") for one in restored if one)
