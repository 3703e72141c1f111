"""Two checkouts of jetlit on one GPU: does a redesign change speed?

    git worktree add /tmp/before COMMIT
    python benchmarks/compare_trees.py /tmp/before .

Each tree runs twice, in processes of their own, in the order before, after, after, before. They time every linear block
at the 2B's size (8x4096 tokens, bf16), and a random Jet-Nemotron-2B in the engine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from reporting import RESULTS, report
from timing import milliseconds

BLOCKS = ("jet", "gated_delta_net", "delta_net", "gla", "retnet", "mamba2", "rwkv7")


def measure() -> dict[str, float]:
    """Time the tree that this process imports."""
    from jetlit.blocks import build_block
    from jetlit.generation import measure_generation
    from jetlit.models import JetNemotronConfig, JetNemotronForCausalLM

    found: dict[str, float] = {}
    torch.manual_seed(0)
    for name in BLOCKS:
        heads, key, expand = (24, 64, 1.0) if name == "rwkv7" else (12, 96, 256 / 96)
        block = build_block(name, 1536, num_heads=heads, head_dim=key, expand_v=expand).cuda().bfloat16()
        x = torch.randn(8, 4096, 1536, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        upstream = torch.randn_like(x)

        def both_ways(block=block, x=x, upstream=upstream) -> None:
            block.zero_grad(set_to_none=True)
            x.grad = None
            block(x).backward(upstream)

        found[f"{name}, forward (ms)"] = milliseconds(lambda block=block, x=x: block(x))
        found[f"{name}, both ways (ms)"] = milliseconds(both_ways)
        del block, x, upstream, both_ways
        torch.cuda.empty_cache()
    layers = ["jet"] * 28
    layers[14] = layers[19] = "attn"
    layers[20] = layers[21] = "swa"
    settings = {"swa": {"window_size": 1152}, "jet": {"num_heads": 12, "head_dim": 96, "expand_v": 256 / 96}}
    with torch.device("cuda"):
        config = JetNemotronConfig(layer_types=layers, efficient_attention_config=settings)
        model = JetNemotronForCausalLM(config).bfloat16().eval()
    for batch, context in ((1, 4096), (128, 65536)):
        measured = measure_generation(
            model, batch, context, repeats=5, decode_tokens=64, prefill_batch=0 if batch > 8 else None
        )
        for part in ("prefill", "decode"):
            if f"{part}_tokens_per_s" in measured:
                found[f"2B {part}, {batch}x{context} (tokens/s)"] = measured[f"{part}_tokens_per_s"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, nargs="?")
    parser.add_argument("after", type=Path, nargs="?")
    parser.add_argument("--measure", action="store_true", help="time the tree on PYTHONPATH and print JSON")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure()))
        return
    runs: dict[Path, list[dict[str, float]]] = {arguments.before: [], arguments.after: []}
    for tree in (arguments.before, arguments.after, arguments.after, arguments.before):
        parts = [str(tree.resolve() / part) for part in ("", "kernels", "data")]
        path = os.pathsep.join([*parts, *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, str(Path(__file__).resolve()), "--measure"]
        done = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=True
        )
        runs[tree].append(json.loads(done.stdout.splitlines()[-1]))
    rows = []
    for name in runs[arguments.before][0]:
        before, after = ([run[name] for run in runs[tree]] for tree in (arguments.before, arguments.after))
        row = {f"before, run {number}": value for number, value in enumerate(before, 1)}
        row |= {f"after, run {number}": value for number, value in enumerate(after, 1)}
        rows.append({"what": name} | row | {"after / before": statistics.mean(after) / statistics.mean(before)})
    report("compare_trees", "Two trees of jetlit, one GPU", rows, folder=arguments.out)


if __name__ == "__main__":
    main()
