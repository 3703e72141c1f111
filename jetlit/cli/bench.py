"""`jetlit bench`: parameter counts from shapes, and throughput on the machine at hand."""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table

from jetlit.generation import measure_generation, measure_training
from jetlit.generation.measurements import cached_measurement, shapes
from jetlit.models import JetNemotronConfig
from jetlit.models.loading import convert_config, load_model, read_config
from jetlit.models.parameters import PAPER_GRID, count_parameters, grid_config
from jetlit.objectives import chunked_cross_entropy


def bench_params(model: str | None = None) -> None:
    """Counts parameters from shapes alone; no weight is allocated.

    Args:
        model: folder of a model (its config.json is enough); by default table 2 of the paper and Jet-Nemotron-2B.
    """
    if model is not None:
        print(f"{count_parameters(convert_config(read_config(model))):,} parameters")
        return
    table = Table("d_K", "d_V", "heads", "parameters", "billions", "paper", title="Table 2: Gated DeltaNet")
    for row in PAPER_GRID:
        count = count_parameters(grid_config(row.key_dim, row.value_dim, row.heads))
        shape = (str(row.key_dim), str(row.value_dim), str(row.heads))
        table.add_row(*shape, f"{count:,}", f"{count / 1e9:.2f}", f"{row.billions:.2f}")
    Console().print(table)
    print(f"Jet-Nemotron-2B: {count_parameters(_released_2b()):,} parameters")


def bench_generation(
    model: str,
    batch: int = 1,
    context: int = 1024,
    repeats: int = 3,
    device: str = "auto",
    dtype: str | None = None,
    cache: str | None = None,
) -> None:
    """Measures prefill and decode tokens/s: warm-up, then the median of repeats.

    Args:
        model: folder of the model.
        batch: sequences at a time.
        context: tokens of a sequence.
        repeats: measurements of which the median is taken.
        device: "auto", "cpu" or "cuda".
        dtype: to compute in; by default the checkpoint's.
        cache: folder of measurements; one taken before on the same machine and versions is not taken again.
    """

    def measure() -> dict[str, float]:
        return measure_generation(load_model(model, dtype, device), batch, context, repeats=repeats)

    # The shapes decide, not the folder: another model may have taken its place.
    config = {"bench": "generation", "config": shapes(read_config(model)), "batch": batch, "context": context}
    config |= {"repeats": repeats, "device": device, "dtype": dtype}
    _show(measure() if cache is None else cached_measurement(cache, config, measure))


def bench_training(
    model: str,
    batch: int = 8,
    length: int = 512,
    repeats: int = 5,
    device: str = "auto",
    dtype: str | None = None,
) -> None:
    """Measures training tokens/s: forward, backward and AdamW on all weights.

    Args:
        model: folder of the model.
        batch: sequences at a time.
        length: tokens of a sequence.
        repeats: measurements of which the median is taken.
        device: "auto", "cpu" or "cuda".
        dtype: to compute in; by default the checkpoint's.
    """
    loaded = load_model(model, dtype, device).train()
    where = loaded.lm_head.weight.device
    optimizer = torch.optim.AdamW(loaded.parameters(), lr=1e-5)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(loaded.config.vocab_size, (batch, length), generator=generator).to(where)

    def step() -> None:
        hidden = loaded.model(ids, use_cache=False).last_hidden_state
        chunked_cross_entropy(hidden, loaded.lm_head.weight, ids).backward()
        optimizer.step()
        optimizer.zero_grad()

    _show(measure_training(step, batch * length, device=where, repeats=repeats))


def _show(measured: dict[str, float]) -> None:
    table = Table("measured", "value", "unit")
    for name, value in measured.items():
        unit = "tokens/s" if name.endswith("_per_s") else "B"
        table.add_row(name, f"{value:,.0f}", unit)
    Console().print(table)


def _released_2b() -> JetNemotronConfig:
    layers = ["jet"] * 28
    layers[14] = layers[19] = "attn"
    layers[20] = layers[21] = "swa"
    jet = {"num_heads": 12, "head_dim": 96, "expand_v": 2.6666666667, "conv_size": 4, "dconv_generator_reduction": 8}
    return JetNemotronConfig(layer_types=layers, efficient_attention_config={"jet": jet, "swa": {"window_size": 1152}})
