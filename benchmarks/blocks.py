"""Every block at Jet-Nemotron-2B's size on one GPU, in one process: a fair race.

    python benchmarks/blocks.py
    python benchmarks/blocks.py --blocks jet gla --parts training

Training is the block alone, 8x4096 tokens, forward and both ways. Decoding is a 2B of random weights with the block in
24 of its 28 layers, two layers of full attention and two windows, through the engine. All is bf16, states float32.
The bound of decoding is what a step must move at the GPU's copy speed: weights, keys and values, and states twice.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from reporting import RESULTS, report, with_earlier
from timing import ceilings, milliseconds

from jetlit.blocks import build_block
from jetlit.generation import measure_generation
from jetlit.models import JetNemotronConfig, JetNemotronForCausalLM

BLOCKS = ("jet", "gated_delta_net", "delta_net", "gla", "retnet", "mamba2", "rwkv7")
PARTS = ("training", "decoding", "prefill")
BATCH, CONTEXT = 128, 65536


def sizes(name: str) -> dict[str, Any]:
    """Return heads and head sizes: the 2B's, for RWKV7 its paper's."""
    if name == "rwkv7":
        return {"num_heads": 24, "head_dim": 64}
    return {"num_heads": 12, "head_dim": 96, "expand_v": 256 / 96}


def training(name: str) -> dict[str, float]:
    """Time a block forward and both ways."""
    torch.manual_seed(0)
    block = build_block(name, 1536, **sizes(name)).cuda().bfloat16()
    x = torch.randn(8, 4096, 1536, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    upstream = torch.randn_like(x)

    def both_ways() -> None:
        block.zero_grad(set_to_none=True)
        x.grad = None
        block(x).backward(upstream)

    return {
        "forward (ms)": round(milliseconds(lambda: block(x)), 2),
        "both ways (ms)": round(milliseconds(both_ways), 2),
    }


def random_model(name: str) -> JetNemotronForCausalLM:
    """Return a 2B of random weights with this block."""
    layers = [name] * 28
    layers[14] = layers[19] = "attn"
    layers[20] = layers[21] = "swa"
    with torch.device("cuda"):
        settings = {"swa": {"window_size": 1152}, name: sizes(name)}
        config = JetNemotronConfig(layer_types=layers, efficient_attention_config=settings)
        return JetNemotronForCausalLM(config).bfloat16().eval()


def bound(model: JetNemotronForCausalLM, name: str, cache_bytes: float, copy: float) -> float:
    """Return the tokens/s at which a decode step moves its bytes."""
    block = build_block(name, 1536, **sizes(name))
    states = 24 * block.state_bytes(BATCH, CONTEXT, torch.bfloat16)
    weights = sum(p.nbytes for p in model.parameters())
    return BATCH / ((weights + cache_bytes + states) / copy)


def measure(name: str, parts: list[str], copy: float) -> dict[str, Any]:
    """Measure one block."""
    row: dict[str, Any] = {"block": name}
    if "training" in parts:
        row |= training(name)
        torch.cuda.empty_cache()
    if "decoding" in parts:
        model = random_model(name)
        found = measure_generation(model, BATCH, CONTEXT, repeats=3, decode_tokens=64, prefill_batch=0)
        rate = found["decode_tokens_per_s"]
        highest = bound(model, name, found["cache_bytes"], copy)
        row |= {"decode, 128x64K (tokens/s)": round(rate), "of its bound": f"{rate / highest:.0%}"}
        if "prefill" in parts:
            found = measure_generation(model, 64, 4096, repeats=3, decode_tokens=64, prefill_batch=64)
            row["prefill, 64x4K (tokens/s)"] = round(found["prefill_tokens_per_s"])
            found = measure_generation(model, 1, 4096, repeats=3, decode_tokens=64, prefill_batch=0)
            row["decode, 1x4K (tokens/s)"] = round(found["decode_tokens_per_s"])
        del model
        torch.cuda.empty_cache()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", nargs="+", choices=BLOCKS, default=list(BLOCKS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    copy = ceilings()["bytes"]
    rows: list[dict[str, Any]] = []
    for name in arguments.blocks:
        rows.append(measure(name, arguments.parts, copy))
        notes = f"Copy: {copy / 1e12:.2f} TB/s. RWKV7 has no Triton kernels here and no fused step."
        merged = with_earlier(rows, "blocks", ("block",), arguments.out)
        report("blocks", "Every block at the 2B's size", merged, notes, arguments.out, show=False)
        print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
