"""What the demo finds with several seeds: its choices, their standard errors, and what they cannot be told from.

    python benchmarks/quickstart_seeds.py --folder /tmp/quickstart
    python benchmarks/quickstart_seeds.py --folder /tmp/quickstart --seeds 0 1 2

Each seed is a run of configs/quickstart in FOLDER/seedN, about 13 minutes of two cores; a finished one is read. The
environment should be that of `make demo` (OMP_NUM_THREADS=1).
"""

import argparse
from pathlib import Path
from typing import Any

from reporting import RESULTS, report

from jetlit.cli import main as jetlit
from jetlit.results import Result, read_result

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart" / "postnas.yaml"
STAGES = ("teacher", "placement", "blocks", "hardware", "stage2")


def row(folder: Path, seed: int) -> dict[str, Any]:
    """Return what a finished run found."""
    found = {}
    for stage in STAGES:
        stored = read_result(folder / stage)
        assert stored is not None
        found[stage] = Result.of(stored)
    placement, blocks, hardware = (found[stage].decision for stage in STAGES[1:4])
    return {
        "seed": seed,
        "full attention in": ", ".join(map(str, placement["full_attention"])),
        "objective": f"{found['placement'].metrics['value']:.3f} ± {placement['value_stderr']:.3f}",
        "or": _others(placement),
        "block": blocks["block"],
        "accuracy": _accuracy(found["blocks"], blocks["block"]),
        "held-out loss": found["blocks"].metrics[f"{blocks['block']}/held_out_loss"],
        "or block": _others(blocks),
        "shape": hardware["row"],
        "its accuracy": _accuracy(found["hardware"], hardware["row"]),
        "or shape": _others(hardware),
        "teacher guesses": ", ".join(blocks["teacher_at_chance"]) or "-",
        "teacher loss": found["teacher"].metrics["val/loss"],
        "hybrid loss": found["stage2"].metrics["val/loss"],
        "minutes": sum((read_result(path.parent) or {})["seconds"] for path in folder.glob("*/result.json")) / 60,
    }


def _others(decision: dict[str, Any]) -> str:
    return "; ".join(decision["not_distinguishable_from"]) or "-"


def _accuracy(found: Result, name: str) -> str:
    return f"{found.metrics[f'{name}/accuracy']:.4f} ± {found.metrics[f'{name}/accuracy_stderr']:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = []
    for seed in arguments.seeds:
        folder = arguments.folder / f"seed{seed}"
        status = jetlit(["postnas", "--config", str(CONFIG), "--run_dir", str(folder), "--seed", str(seed)])
        if status:
            raise SystemExit(status)
        rows.append(row(folder, seed))
    notes = '"or": not distinguishable from the choice, within one standard error. "±": standard error.'
    report("quickstart_seeds", "What the demo finds with several seeds", rows, notes, arguments.out)


if __name__ == "__main__":
    main()
