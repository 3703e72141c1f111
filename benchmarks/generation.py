"""Prefill and decode throughput of Jet-Nemotron and of full-attention models in the same engine, on one GPU.

    python benchmarks/generation.py                      # all of the following
    python benchmarks/generation.py table                # the figures at 64K, and one sequence of the 2B at 4K
    python benchmarks/generation.py table --models 2B --contexts 4096    # of them the one sequence alone
    python benchmarks/generation.py table --models Qwen2.5-1.5B Qwen3-1.7B    # full attention, of these shapes
    python benchmarks/generation.py curve --contexts 4096 65536    # the speed-up by context (fig. 6)
    python benchmarks/generation.py largest              # the largest batch at 64K, found by running it

Rows that are measured again take the place of the old ones in the report in `--out`; the others stay.
Random weights in bf16. In table and curve batches are the largest powers of two whose cache and weights fit
`--memory-gib`, by default what an 80 GB card leaves for them, so that a larger card does not change the comparison.
"""

import argparse
import gc
from pathlib import Path
from typing import Any

import torch
from reporting import RESULTS, report, with_earlier
from timing import ceilings

from jetlit.files import read_json
from jetlit.generation import find_largest_batch, measure_generation
from jetlit.generation.cache import computed_cache_bytes
from jetlit.models import JetNemotronConfig, JetNemotronForCausalLM
from jetlit.pipeline.report.style import new_figure, save

CONFIGS = Path(__file__).parent.parent / "configs"
CONTEXTS = [2**power * 1024 for power in range(2, 9)]
# Paper, fig. 6: speed-up of the 2B over Qwen3-1.7B from 4K to 256K.
PAPER_PREFILL = dict(zip(CONTEXTS, [1.14, 1.15, 1.37, 1.74, 2.54, 4.03, 6.14]))
PAPER_DECODE = dict(zip(CONTEXTS, [15.6, 23.3, 39.6, 44.1, 47.5, 51.6, 53.6]))
# The same, tokens/s at 64K of context and the largest batch.
PAPER_DECODE_RATE = {"2B": 2885, "4B": 1271, "Qwen2.5-1.5B": 241, "Qwen3-1.7B": 61}
# Context, batch (None: the largest that fits), the paper's tokens/s, tokens/s to reach.
TABLE = {
    "2B": [(65536, 128, PAPER_DECODE_RATE["2B"], 10_000), (4096, 1, None, 400)],
    "4B": [(65536, None, PAPER_DECODE_RATE["4B"], 4500)],
    "Qwen2.5-1.5B": [(65536, None, PAPER_DECODE_RATE["Qwen2.5-1.5B"], None)],
    "Qwen3-1.7B": [(65536, None, PAPER_DECODE_RATE["Qwen3-1.7B"], None)],
}
CURVE_NOTES = (
    "Each side with the largest power of two of sequences that fits an 80 GB card, 1,024 at most. Prefill at 4K: the "
    "2B has more to multiply, 1.73 G weights outside the embedding against 1.41 G, and to be 1.5 times faster it would "
    "have to take less than its products alone do (prefill.md). Prefills above 16K are timed once, after two chunks. "
    "Decoding at short contexts: the bytes that a step of these batches moves allow no more (`bytes allow`: the ratio "
    "of both sides' bandwidth bounds)."
)

# Of the prompts of a batch; more only takes memory.
TOKENS_AT_ONCE = 16384


def prefill_chunk(prompts: int) -> int:
    """Tokens of each of so many prompts to take at once."""
    return max(1024, min(8192, TOKENS_AT_ONCE // prompts))


def qwen2_1b5() -> JetNemotronConfig:
    """Qwen2.5-1.5B's shape: full attention, 2 KV heads."""
    return JetNemotronConfig(max_position_embeddings=2**19)


def qwen3_1b7() -> JetNemotronConfig:
    """Qwen3-1.7B-Base's shape: full attention, 8 KV heads."""
    return JetNemotronConfig(
        hidden_size=2048,
        intermediate_size=6144,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        attention_bias=False,
        qk_norm=True,
        max_position_embeddings=2**19,
        tie_word_embeddings=True,
    )


def build(config: JetNemotronConfig) -> JetNemotronForCausalLM:
    """Random weights in bf16 on the GPU."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        return JetNemotronForCausalLM(config).bfloat16().eval().requires_grad_(False)


def released_config(scale: str) -> JetNemotronConfig:
    """Return a released configuration."""
    return JetNemotronConfig.from_pretrained(str(CONFIGS / scale))


def released(scale: str) -> JetNemotronForCausalLM:
    """Return a released configuration with random weights."""
    return build(released_config(scale))


MODELS = {
    "2B": lambda: released("jet_nemotron_2b"),
    "4B": lambda: released("jet_nemotron_4b"),
    "Qwen2.5-1.5B": lambda: build(qwen2_1b5()),
    "Qwen3-1.7B": lambda: build(qwen3_1b7()),
}


def step_bytes(model: JetNemotronForCausalLM, batch: int, context: int) -> int:
    """Bytes a decode step must move: weights once, keys and values read, recurrent states read and written."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    cache = computed_cache_bytes(model, batch, context)
    written_back = sum(
        layer.self_attn.state_bytes(batch, context, torch.bfloat16)
        for layer in model.model.layers
        if layer.self_attn.mask_kind == "padding"
    )
    return weights + cache + written_back


def largest_power_of_two(model: JetNemotronForCausalLM, context: int, memory_gib: float) -> int:
    """Of sequences whose cache fits beside the weights, 6 GiB left for activations and graphs."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    free = (memory_gib - 6) * 2**30 - weights
    count = max(1, int(free / computed_cache_bytes(model, 1, context)))
    return min(1 << (count.bit_length() - 1), 1024)


def row(name: str, model: JetNemotronForCausalLM, batch: int, context: int, bandwidth: float, **extra: Any) -> dict:
    """Measure one setting; both absolute columns and the share of the bandwidth bound of decoding."""
    torch.cuda.empty_cache()
    prefill_batch = max(1, min(batch, 65536 // context))
    measured = measure_generation(
        model,
        batch,
        context,
        prefill_batch=prefill_batch,
        decode_tokens=16,
        prefill_chunk=prefill_chunk(prefill_batch),
        repeats=3 if context <= 16384 else 1,  # a prompt of 256K takes a full-attention model half a minute
    )
    bound = batch / (step_bytes(model, batch, context) / bandwidth)
    print(f"{name} at {context}: {measured}", flush=True)
    return {
        "model": name,
        "context": context,
        "batch": batch,
        "decode tokens/s": measured["decode_tokens_per_s"],
        "bandwidth bound": bound,
        "share of bound": measured["decode_tokens_per_s"] / bound,
        "prefill tokens/s": measured["prefill_tokens_per_s"],
        "cache MiB a sequence": measured["cache_bytes"] / batch / 2**20,
        "cache measured / computed": measured["cache_bytes"] / computed_cache_bytes(model, batch, context),
        "peak GiB": measured["peak_memory_bytes"] / 2**30,
    } | extra


def table(arguments: argparse.Namespace, bandwidth: float) -> None:
    """Measure the released shapes and the paper's full-attention models beside them; write model by model."""
    notes = f"Device copy {bandwidth / 1e12:.2f} TB/s, bytes read and written; the bound is a step's bytes over it."
    for name in arguments.models:
        model = MODELS[name]()
        rows = []
        for context, batch, paper, goal in TABLE[name]:
            if context in arguments.contexts:
                batch = batch or largest_power_of_two(model, context, arguments.memory_gib)
                rows.append(row(name, model, batch, context, bandwidth, paper=paper, **{"to reach": goal}))
        del model
        gc.collect()
        rows = with_earlier(rows, "generation", ("model", "context", "batch"), arguments.out)
        rows.sort(key=lambda row: (row["model"], row["context"]))
        report("generation", "Generation, bf16, random weights, one GPU", rows, notes, arguments.out)


def curve(arguments: argparse.Namespace, bandwidth: float) -> None:
    """Speed-up over the full-attention model by context, with both absolute columns."""
    measured: dict[str, dict[int, dict]] = {}
    for name in ("2B", "Qwen3-1.7B"):
        model = MODELS[name]()
        measured[name] = {}
        for context in arguments.contexts:
            batch = largest_power_of_two(model, context, arguments.memory_gib)
            measured[name][context] = row(name, model, batch, context, bandwidth)
        del model
        gc.collect()
        torch.cuda.empty_cache()
    fast, full = measured.values()
    rows = [
        {
            "context": context,
            "batch 2B / Qwen3": f"{fast[context]['batch']} / {full[context]['batch']}",
            **{
                f"{what} {label}": side[context][f"{what} tokens/s"]
                for what in ("prefill", "decode")
                for label, side in (("2B", fast), ("Qwen3", full))
            },
            "prefill speed-up": fast[context]["prefill tokens/s"] / full[context]["prefill tokens/s"],
            "paper's prefill": PAPER_PREFILL.get(context),
            "decode speed-up": fast[context]["decode tokens/s"] / full[context]["decode tokens/s"],
            "paper's decode": PAPER_DECODE.get(context),
            "bytes allow": fast[context]["bandwidth bound"] / full[context]["bandwidth bound"],
            "share of bound 2B": fast[context]["share of bound"],
            "share of bound Qwen3": full[context]["share of bound"],
        }
        for context in arguments.contexts
    ]
    rows = with_earlier(rows, "speedup_by_context", ("context",), arguments.out)
    rows.sort(key=lambda row: row["context"])
    title = "2B over Qwen3-1.7B's shape in the same engine (fig. 6)"
    report("speedup_by_context", title, rows, CURVE_NOTES, arguments.out)
    draw(arguments.out)


LARGEST_NOTES = (
    "All of the card's memory, found by running: a batch counts once its cache is allocated, its decode step captured, "
    "its first two chunks of prompt and its last token run. The tokens of a prompt at once are chosen on one sequence "
    "and then shared by the batch, but no sequence gets less than 128; the prefill rate is that of the first 256 of "
    "each prompt."
)


def largest(arguments: argparse.Namespace, bandwidth: float) -> None:
    """Find the largest batch at 64K by running it, on all of this card's memory, and measure its decoding."""
    for name in arguments.models:
        model = MODELS[name]()
        found = find_largest_batch(model, 65536)
        speeds = ", ".join(f"{chunk}: {speed:,.0f}" for chunk, speed in found.chunk_speeds.items())
        torch.cuda.empty_cache()
        measured = measure_generation(model, found.batch, 65536, prefill_batch=0, decode_tokens=16)
        bound = found.batch / (step_bytes(model, found.batch, 65536) / bandwidth)
        measured_now = {
            "model": name,
            "largest batch": found.batch,
            "tokens of a prompt at once": found.prefill_chunk,
            "one prompt, tokens/s by tokens at once": speeds,
            "prefill tokens/s": found.prefill_tokens_per_s,
            "decode tokens/s": measured["decode_tokens_per_s"],
            "share of bound": measured["decode_tokens_per_s"] / bound,
            "peak GiB": max(found.peak_memory_bytes, measured["peak_memory_bytes"]) / 2**30,
            "paper": PAPER_DECODE_RATE[name],
        }
        del model
        gc.collect()
        torch.cuda.empty_cache()
        rows = with_earlier([measured_now], "largest_batch", ("model",), arguments.out)
        title = "Largest batch at 64K, bf16, random weights, one GPU"
        report("largest_batch", title, rows, LARGEST_NOTES, arguments.out)


def draw(folder: Path) -> None:
    """Fig. 6: speed-up by context, the paper's and that of every card with a report in the folder."""
    figure, axes = new_figure(columns=2, width=9, height=3.6)
    reports = [read_json(file) for file in sorted(folder.glob("speedup_by_context*.json"))]
    for axis, what, paper in zip(axes, ("prefill", "decode"), (PAPER_PREFILL, PAPER_DECODE)):
        axis.plot(
            [_label(each) for each in paper], list(paper.values()), marker="s", linestyle="--", label="paper, H100"
        )
        for each in reports:
            contexts = [_label(row["context"]) for row in each["rows"]]
            card = each["hardware"]["gpus"][0].removeprefix("NVIDIA ").partition(" ")[0]
            axis.plot(contexts, [row[f"{what} speed-up"] for row in each["rows"]], marker="o", label=f"here, {card}")
        axis.set(title=f"{what.capitalize()} over Qwen3-1.7B", xlabel="context (tokens)", ylabel="times faster")
        axis.legend()
    save(figure, folder / "speedup_by_context.png")


def _label(context: int) -> str:
    return f"{context // 1024}K"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=["table", "curve", "largest", "all"], default="all")
    parser.add_argument("--contexts", type=int, nargs="+", default=CONTEXTS, help="of the table and the curve")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="of the table and largest")
    parser.add_argument("--memory-gib", type=float, default=79.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    bandwidth = ceilings()["bytes"]
    for part in (table, curve, largest):
        if arguments.part in (part.__name__, "all"):
            part(arguments, bandwidth)


if __name__ == "__main__":
    main()
