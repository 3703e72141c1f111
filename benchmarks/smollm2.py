"""PostNAS on SmolLM2-135M: the questions of docs/smollm2.md, each by fits of equal tokens that differ in one thing.

    jetlit postnas --config configs/smollm2_135m/postnas.yaml       # the main run, seed 0
    python benchmarks/smollm2.py                                    # all studies, in order
    python benchmarks/smollm2.py --studies placement losses --seeds 0 1 2
    python benchmarks/smollm2.py --minutes 8                        # begins nothing new after that
    for gpu in 0 1 2 3; do CUDA_VISIBLE_DEVICES=$gpu python benchmarks/smollm2.py & done    # shared by four

Every fit is a folder under RUN/studies and is not done twice; tables are written anew after each of their rows, so that
a cut-off run goes on where it was. Processes that run this side by side on one machine take different fits and end with
the same tables. Weights are removed once they are scored.
"""

import argparse
import re
import shutil
from functools import partial
from pathlib import Path

import torch
from convolution_blocks import VariedConvolutions
from jetlit_data import load_tokenizer
from matplotlib.ticker import MaxNLocator
from reporting import RESULTS, report
from smollm2_hybrids import final, further
from smollm2_lab import Job, Lab, OutOfTime, Row

from jetlit.blocks import register_block
from jetlit.files import read_json
from jetlit.generation import find_largest_batch, measure_generation
from jetlit.models import Architecture, load_model, uniform_layers
from jetlit.models.loading import read_config
from jetlit.once import once
from jetlit.pipeline.blocks import BlocksConfig, search_blocks
from jetlit.pipeline.candidates import linear_block
from jetlit.pipeline.fit import fit, resolved_config
from jetlit.pipeline.placement import PlacementConfig, search_placement
from jetlit.pipeline.ranking import RankingConfig, rank_layers
from jetlit.pipeline.report.style import COLORS, new_figure, save
from jetlit.results import Result, read_result
from jetlit.search.beam import place
from jetlit.tasks import build_tasks

# The studies but those of the hybrid itself (smollm2_hybrids.py), in the order of their worth.


def windows(lab: Lab) -> None:
    """How many of the linear layers keep attention over a sliding window, evenly spread."""
    own = Architecture.load(lab.run / "hardware" / "architecture.json")
    bare = tuple("attn" if kind == "attn" else linear_block(own) for kind in own.layer_types)
    open_layers = [index for index, kind in enumerate(bare) if kind != "attn"]
    configs = own.block_configs | {"swa": {"window_size": WINDOW}}
    jobs: list[Job] = []
    for seed in lab.seeds:
        for share in WINDOW_SHARES:
            count = round(share * len(open_layers))
            kept = [open_layers[number] for number in uniform_layers(count, len(open_layers))]
            file = lab.run / "studies" / f"windows_{count}.json"
            Architecture(list(place(bare, kept, "swa")), configs).save(file)
            overrides = {"model.init_args.architecture": file, "seed_everything": seed}
            fit = partial(lab.passing_fit, f"windows_{count}_{seed}", "candidate", **overrides)
            jobs.append(({"windows": count, "linear blocks": len(open_layers) - count, "seed": seed}, fit))
    lab.tabled("windows", f"Sliding windows of {WINDOW} tokens in place of linear blocks", jobs)


WINDOW = 128
"""Tokens whose keys and values of 3 heads of 64 are 98 KB in bf16: what reading and writing a float32 state of 12,288
numbers moves."""
WINDOW_SHARES = [0.0, 0.25, 0.5, 0.75, 1.0]


def generation(lab: Lab) -> None:
    """Measure decoding of teacher and hybrid at their largest batches, on a device that nothing else uses."""
    models = {"teacher": lab.teacher(), "hybrid": lab.run / "stage2" / "model"}
    jobs: list[Job] = [({"model": name}, partial(_generation, lab, folder)) for name, folder in models.items()]
    lab.tabled("generation", "Generation of teacher and hybrid", jobs, "bf16, the largest batch that fits.")


def _generation(lab: Lab, folder: Path) -> Row:
    lab.check_time()
    model = load_model(folder, dtype="bfloat16", device="auto")
    # Thousands of sequences share a prefill: few tokens of each at once.
    found = find_largest_batch(model, lab.context, chunks=(32, 128, 512, 2048), limit=lab.largest)
    measured = measure_generation(
        model, found.batch, lab.context, prefill_chunk=found.prefill_chunk, prefill_batch=0, decode_tokens=16
    )
    return {
        "context": lab.context,
        "batch": found.batch,
        "decode tokens/s": measured["decode_tokens_per_s"],
        "cache MB": measured["cache_bytes"] / 1e6,
        "cache MB a sequence": measured["cache_bytes"] / 1e6 / found.batch,
    }


def placement(lab: Lab) -> None:
    """Compare searched, uniform and one-at-a-time placements, trained alike from one model without attention."""
    found = read_json(lab.run / "placement" / "placement.json")
    linear = linear_block(Architecture(found["layer_types"]))
    ranking = _ranking(lab, linear)
    spent = _search_tokens(lab, ranking)
    count = len(found["layer_types"])
    ranked = read_json(ranking / "ranking.json")["order"]
    jobs: list[Job] = []
    for seed in lab.seeds:
        for searched, uniform in zip(found["searched"], found["uniform"]):
            budget = searched["budget"]
            layers = {"searched": searched["layers"], "uniform": uniform["layers"], "ranking": sorted(ranked[:budget])}
            for method, chosen in layers.items():
                about = {"method": method, "full layers": budget, "seed": seed, "layers": str(chosen)}
                about["search tokens"] = spent[method]
                jobs.append((about, partial(_placed, lab, chosen, linear, count, seed)))
    for rows in lab.table("placement", "Placement of full attention", jobs):
        _curve(lab, rows)


def _ranking(lab: Lab, linear: str) -> Path:
    """Train the baseline, and the model without attention that all placements start from."""
    folder = lab.run / "ranking"
    options = {"linear": linear, "fit_configs": lab.candidates(), "out_dir": folder}
    lab.stage(rank_layers, lab.stage_config(RankingConfig, "ranking", **options))
    return folder


def _placed(lab: Lab, layers: list[int], linear: str, count: int, seed: int) -> Row:
    """Fits the model without attention anew with attention in these layers."""
    # Named by the layers: methods that agree share a fit.
    name = f"placement_{'_'.join(map(str, layers))}_seed{seed}"
    file = lab.run / "studies" / f"{name}.json"
    Architecture(["attn" if i in layers else linear for i in range(count)]).save(file)
    overrides = {
        "model.init_args.architecture": file,
        "model.init_args.student": _ranking(lab, linear) / "distilled" / "all_linear" / "model",
        "model.init_args.optimizer.init_args.lr": PLACED_RATE,
        "seed_everything": seed,
    } | lab.restoring
    return lab.passing_fit(name, "candidate", **overrides)


PLACED_RATE = 5e-4
"""Twice that, the candidates' own, spiked with one of two seeds."""


def _search_tokens(lab: Lab, ranking: Path) -> dict[str, int]:
    supernet, search = read_result(lab.run / "supernet"), read_result(lab.run / "placement")
    ranked = read_result(ranking)
    assert supernet is not None and search is not None and ranked is not None
    # A layer evaluation is a layer run on a batch of tasks; so many layers are one pass of the whole model.
    tasks = build_tasks(search["config"]["tasks"], load_tokenizer(str(lab.teacher())))
    batches = sum(len(task.batches) for task in tasks)
    layers = len(search["decision"]["choices"])
    passes = search["metrics"]["layer_evaluations/done"]["value"] / layers / batches
    scored = round(passes * sum(task.tokens for task in tasks))
    return {
        "searched": round(supernet["metrics"]["tokens_seen"]["value"]) + scored,
        "uniform": 0,
        "ranking": round(ranked["metrics"]["search_tokens"]["value"]),
    }


def _curve(lab: Lab, rows: list[Row]) -> None:
    figure, axes = new_figure(9, 3.4, columns=2)
    for axis, name in zip(axes, ("held-out KL", "accuracy")):
        for method, color in zip(("searched", "uniform", "ranking"), COLORS):
            own = [row for row in rows if row["method"] == method]
            budgets = sorted({row["full layers"] for row in own})
            means = [_mean([row[name] for row in own if row["full layers"] == budget]) for budget in budgets]
            axis.plot(budgets, means, marker="o", color=color, label=method)
            axis.scatter([row["full layers"] for row in own], [row[name] for row in own], s=8, color=color)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("full-attention layers")
        axis.set_ylabel(name)
    axes[0].legend(frameon=False)
    save(figure, lab.out / "smollm2_placement.png")


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def losses(lab: Lab) -> None:
    """Feature loss, KL and both; attention weights inherited or not; output projections fitted before or not."""
    architecture = lab.run / "hardware" / "architecture.json"
    variants: dict[str, Row] = {
        "both": {},
        "KL": {"feature_weight": 0.0},
        "features": {"kl_weight": 0.0},
        "both, not inherited": {"inherit": False},
        "both, not fitted": {"fit_tokens": 0},
    }
    _compare(lab, "losses", "Losses and initialization", dict.fromkeys(variants, architecture), variants)


def convolution(lab: Lab) -> None:
    """Compare a dynamic, a static and no convolution on V, each with static ones on Q and K and without them.

    The variant stands in every layer without full attention, in place of sliding windows too, beside which few layers
    would be left to differ.
    """
    register_block(VARIED)(VariedConvolutions)
    placed = Architecture.load(lab.run / "placement" / "placement.json")
    files = {}
    for variant, (block, config) in CONVOLUTIONS.items():
        layers = ["attn" if kind == "attn" else block for kind in placed.layer_types]
        name = re.sub(r"\W+", "_", variant).strip("_")
        files[variant] = lab.run / "studies" / f"convolution_{name}.json"
        Architecture(layers, {block: config}).save(files[variant])
    notes = f"No sliding windows: the variant is in {len(layers) - layers.count('attn')} layers of {len(layers)}."
    _compare(lab, "convolution", "Convolutions", files, {variant: {} for variant in files}, notes)


VARIED = "varied_convolutions"
"""The study's own block, known by this name while it runs."""
CONVOLUTIONS: dict[str, tuple[str, Row]] = {
    "dynamic on V (JetBlock)": ("jet", {}),
    "static on V": (VARIED, {"static": "v"}),
    "dynamic on V, static on Q and K": (VARIED, {"static": "qk", "dynamic_v": True}),
    "static on Q and K": (VARIED, {"static": "qk"}),
    "static on Q, K and V (Gated DeltaNet)": ("gated_delta_net", {}),
    "none": (VARIED, {}),
}


def _compare(
    lab: Lab, study: str, title: str, architectures: dict[str, Path], variants: dict[str, Row], notes: str = ""
) -> None:
    """Fits of one stage that differ in recipe options or architecture, one after the other for each seed."""
    jobs: list[Job] = []
    for seed in lab.seeds:
        for number, (variant, options) in enumerate(variants.items()):
            overrides = {f"model.init_args.{key}": value for key, value in options.items()}
            overrides |= {"model.init_args.architecture": architectures[variant], "seed_everything": seed}
            fit = partial(lab.passing_fit, f"{study}_{number}_{seed}", "candidate", **overrides)
            jobs.append(({"variant": variant, "seed": seed}, fit))
    lab.tabled(study, title, jobs, notes)


def blocks(lab: Lab) -> None:
    """Repeat the block selection with the other seeds; the main run's is the first."""
    rows: list[Row] = []
    for seed in lab.seeds:
        folder = lab.run / ("blocks" if seed == 0 else f"studies/blocks_{seed}")
        options = {"seed": seed, "fit_configs": lab.candidates(), "out_dir": folder}
        lab.stage(search_blocks, lab.stage_config(BlocksConfig, "blocks", "tasks", **options))
        for weights in folder.glob("candidates/*/model/*.safetensors"):
            weights.unlink(missing_ok=True)
        found = read_result(folder)
        assert found is not None
        names = list(dict.fromkeys(name.partition("/")[0] for name in found["metrics"] if "/" in name))
        shown = ("held_out_kl", "held_out_loss", "accuracy", "training_tokens_per_s", "decode_tokens_per_s")
        for name in names:
            values = {key: found["metrics"].get(f"{name}/{key}", {}).get("value") for key in shown}
            rows.append({"block": name, "seed": seed} | values)
        report("smollm2_blocks", "Linear blocks", rows, folder=lab.out)


def speed(lab: Lab) -> None:
    """Training and generation of every block and shape on a device that nothing else uses, weights as they come."""
    files = {folder.name: folder / "architecture.json" for folder in sorted((lab.run / "blocks/candidates").iterdir())}
    files |= {folder.name: folder / "architecture.json" for folder in sorted((lab.run / "hardware/rows").iterdir())}
    jobs: list[Job] = [({"block or shape": name}, partial(_speed, lab, name, file)) for name, file in files.items()]
    notes = f"Generation: bf16, {lab.batch} sequences of {lab.short_context} tokens."
    lab.tabled("speed", "Speed of blocks and shapes", jobs, notes)


def _speed(lab: Lab, name: str, architecture: Path) -> Row:
    options = {"model.init_args.architecture": architecture, "trainer.max_steps": 32, "data.init_args.val_batches": 1}
    options |= {"throughput.batch": lab.batch, "throughput.context": lab.short_context}
    folder = lab.run / "studies" / "speed" / name
    config = lab.fit_config("candidate", f"studies/speed/{name}", options | {"ckpt_path": "none"})

    def work() -> Result:
        lab.check_time()
        result = fit(config)
        shutil.rmtree(folder / "model")
        return result

    with lab.claim(folder):
        found = once(folder, resolved_config(config), work)
    return {title: found.metrics[key] for key, title in SPEEDS.items()}


SPEEDS = {
    "training_tokens_per_s": "training tokens/s",
    "prefill_tokens_per_s": "prefill tokens/s",
    "decode_tokens_per_s": "decode tokens/s",
    "cache_bytes": "cache bytes",
}


def supernet(lab: Lab) -> None:
    """How the super network is trained, judged by the two layers that a search in it finds."""
    variants: dict[str, Row] = {
        "trained, even budgets": {},
        "frozen, even budgets": {"train_attention": False},
        "trained, layer by layer": {"even_budgets": False},
    }
    jobs: list[Job] = [
        ({"attention paths, sampling": name, "seed": seed}, partial(_searched_in, lab, name, options, seed))
        for name, options in variants.items()
        for seed in lab.seeds
    ]
    lab.tabled("supernet", "Super networks", jobs)


def _searched_in(lab: Lab, name: str, options: Row, seed: int) -> Row:
    """Trains a super network, searches two layers in it, and trains the placement."""
    network, trained = _network(lab, name.replace(", ", "_").replace(" ", "_"), options)
    folder = network.parent / f"{network.name}_placement"
    with lab.claim(folder):
        options = {"supernet": network / "model", "budget": 2, "curve_budgets": [2], "out_dir": folder}
        config = lab.stage_config(PlacementConfig, "placement", "placement_tasks", **options)
        lab.stage(search_placement, config)
    found = read_json(folder / "placement.json")
    layers = found["searched"][0]["layers"]
    linear = linear_block(Architecture(found["layer_types"]))
    row = {"layers": str(layers)}
    row |= {f"{task}, all linear": value for task, value in found["linear_scores"].items()}
    row |= _placed(lab, layers, linear, len(found["layer_types"]), seed)
    return row | {"super network's seconds": trained["seconds"]}


def _network(lab: Lab, name: str, options: Row) -> tuple[Path, Row]:
    """Trains a super network that differs from the run's in the recipe's options; none: the run's own."""
    folder = lab.run / "studies" / f"supernet_{name}" if options else lab.run / "supernet"
    with lab.claim(folder):
        if read_result(folder) is None:
            lab.check_time()
            overrides = {f"model.init_args.{key}": value for key, value in options.items()}
            config = lab.fit_config("supernet", str(folder.relative_to(lab.run)), overrides | {"ckpt_path": "last"})
            once(folder, resolved_config(config), lambda: fit(config))
        result = read_result(folder)
    assert result is not None
    return folder, result


def rates(lab: Lab) -> None:
    """Each block's learning rate as a candidate, on two full layers spread evenly."""
    count = read_config(lab.teacher()).num_hidden_layers
    blocks = lab.stage_config(BlocksConfig, "blocks", "tasks").blocks
    jobs: list[Job] = []
    for block, config in blocks.items():
        file = lab.run / "studies" / f"rates_{block}.json"
        Architecture.uniform(count, 2, block, {block: config} if config else {}).save(file)
        for rate in lab.rates:
            overrides = {"model.init_args.architecture": file, "model.init_args.optimizer.init_args.lr": rate}
            fit = partial(lab.passing_fit, f"rate_{block}_{rate:g}", "candidate", **overrides)
            jobs.append(({"block": block, "learning rate": rate}, fit))
    lab.tabled("rates", "Learning rates", jobs)


STUDIES = {
    "rates": rates,
    "final": final,
    "further": further,
    "windows": windows,
    "generation": generation,
    "placement": placement,
    "losses": losses,
    "convolution": convolution,
    "blocks": blocks,
    "supernet": supernet,
    "speed": speed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument(
        "--rates", nargs="+", type=float, default=[5e-4, 1e-3, 2e-3, 4e-3], help="of the study of that name"
    )
    parser.add_argument("--steps", type=int, help="of every fit, in place of its own number")
    parser.add_argument("--run_dir", default="runs/smollm2")
    parser.add_argument("--out", default=str(RESULTS))
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--largest_batch", type=int, default=8192)
    parser.add_argument("--fit_config", nargs="*", default=[], help="files that win over the stages' own, in every fit")
    parser.add_argument("--stage_config", nargs="*", default=[], help="files that win over a stage's of the same name")
    arguments = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    lab = Lab(arguments)
    try:
        for name in arguments.studies:
            STUDIES[name](lab)
    except OutOfTime:
        print("The minutes are over: the same command goes on from here.")


if __name__ == "__main__":
    main()
