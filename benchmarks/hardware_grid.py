"""Table 2's grid on this machine: does a constant state make throughput constant?

    python benchmarks/hardware_grid.py                           # nine rows of the JetBlock
    python benchmarks/hardware_grid.py --block gated_delta_net   # the block of the paper's table

Every row is the 2B with its linear layers in that row's shape and random weights in bf16, decoding at 64K of context.
Rows are measured as in the hardware-aware search (`measure_generation`, kept by `cached_measurement` under a
hash of configuration, device and versions): a second run reads them from `--cache`. The search itself, which trains
every row: `jetlit search hardware --config configs/jet_nemotron_2b/hardware.yaml`.
"""

import argparse
import gc
from pathlib import Path
from typing import Any

import torch
from generation import build, released_config, step_bytes
from reporting import RESULTS, report
from timing import ceilings

from jetlit.generation import measure_generation
from jetlit.generation.measurements import cached_measurement
from jetlit.models import Architecture, JetNemotronConfig
from jetlit.models.assembly import count_parameters, empty_model
from jetlit.search.grid import PAPER_GRID, GridRow

# Paper, table 2, tokens/s in the grid's order.
PAPER = [2969, 2961, 2979, 2986, 2970, 2971, 2959, 2955, 2952]


def row_config(block: str, row: GridRow) -> JetNemotronConfig:
    """Return the released 2B with `block` in the candidate's shape in its linear layers."""
    config = released_config("jet_nemotron_2b")
    shaped = Architecture.of(config).with_block(block, row.block_config())
    values = config.to_dict() | {
        "layer_types": shaped.layer_types,
        "efficient_attention_config": shaped.block_configs,
    }
    return JetNemotronConfig(**{key: values[key] for key in JetNemotronConfig.__annotations__ if key in values})


def measure_row(config: JetNemotronConfig, batch: int, context: int) -> dict[str, float]:
    """Decode throughput; the prefill is left out, since a full cache can be taken as given."""
    model = build(config)
    measured = measure_generation(model, batch, context, prefill_batch=0, decode_tokens=32, repeats=3)
    del model
    gc.collect()
    torch.cuda.empty_cache()
    return measured


def bandwidth_bound(config: JetNemotronConfig, batch: int, context: int, bandwidth: float) -> float:
    """Tokens/s that the bytes of a decode step in bf16 allow, from shapes alone."""
    return batch * bandwidth / step_bytes(empty_model(config).bfloat16(), batch, context)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--block", default="jet")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--context", type=int, default=65536)
    parser.add_argument("--cache", type=Path, default=Path("runs/measurements"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    bandwidth = ceilings()["bytes"]
    rows: list[dict[str, Any]] = []
    for row, paper in zip(PAPER_GRID, PAPER, strict=True):
        config = row_config(arguments.block, row)
        depends_on = {"config": config.to_dict(), "batch": arguments.batch, "context": arguments.context}
        found = cached_measurement(
            arguments.cache,
            depends_on | {"dtype": "bfloat16", "weights": "random"},
            lambda config=config: measure_row(config, arguments.batch, arguments.context),
        )
        bound = bandwidth_bound(config, arguments.batch, arguments.context, bandwidth)
        rows.append(
            {
                "d_K": row.key_dim,
                "d_V": row.value_dim,
                "heads": row.heads,
                "state": row.state_size,
                "parameters (B)": count_parameters(config) / 1e9,
                "cache MiB a sequence": found["cache_bytes"] / arguments.batch / 2**20,
                "decode tokens/s": found["decode_tokens_per_s"],
                "bandwidth bound": bound,
                "share of bound": found["decode_tokens_per_s"] / bound,
                "paper (Gated DeltaNet)": paper,
            }
        )
    report(
        f"hardware_grid_{arguments.block}",
        f"Table 2's rows with {arguments.block}, batch {arguments.batch}, {arguments.context // 1024}K, decoding",
        rows,
        f"{spread('Here', [row['decode tokens/s'] for row in rows])} {spread('In the paper', PAPER)} "
        f"{spread('By their bytes', [row['bandwidth bound'] for row in rows])} "
        f"Device copy {bandwidth / 1e12:.2f} TB/s, bytes read and written; the bound is a step's bytes over it.",
        arguments.out,
    )


def spread(where: str, speeds: list[float]) -> str:
    """How far the rows lie apart."""
    middle = sum(speeds) / len(speeds)
    low, high = min(speeds), max(speeds)
    return (
        f"{where} the rows lie between {low:,.0f} and {high:,.0f} tokens/s: {(high - low) / middle:.1%} of their mean."
    )


if __name__ == "__main__":
    main()
