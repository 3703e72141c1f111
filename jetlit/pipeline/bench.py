"""`jetlit bench`: parameter counts from shapes, and throughput on the machine at hand."""

from __future__ import annotations

import torch

from jetlit.generation import measure_generation, measure_training
from jetlit.generation.measurements import cached_measurement, shapes
from jetlit.models import JetNemotronConfig
from jetlit.models.assembly import count_parameters
from jetlit.models.loading import convert_config, load_model, read_config
from jetlit.objectives import chunked_cross_entropy
from jetlit.pipeline.command_configs import GenerationConfig, ParamsConfig, TrainingConfig
from jetlit.results import Result
from jetlit.search.grid import PAPER_GRID, grid_config


def bench_params(config: ParamsConfig) -> Result:
    """Count the parameters of one model, or of each row of table 2 by its name and of Jet-Nemotron-2B."""
    if config.model is not None:
        counts = {"parameters": count_parameters(convert_config(read_config(config.model)))}
    else:
        counts = {f"{row.name}/parameters": count_parameters(grid_config(row)) for row in PAPER_GRID}
        counts["Jet-Nemotron-2B/parameters"] = count_parameters(_released_2b())
    return Result("bench params", config.values(), counts)


def bench_generation(config: GenerationConfig) -> Result:
    """Measure generation."""

    def measure() -> dict[str, float]:
        model = load_model(config.model, config.dtype, config.device)
        return measure_generation(model, config.batch, config.context, repeats=config.repeats)

    values = config.values()
    if config.cache is None:
        return Result("bench generation", values, measure())
    # The shapes decide, not the folder: another model may have taken its place.
    key = {name: value for name, value in values.items() if name not in ("model", "cache")}
    key |= {"bench": "generation", "config": shapes(read_config(config.model))}
    return Result("bench generation", values, cached_measurement(config.cache, key, measure))


def bench_training(config: TrainingConfig) -> Result:
    """Measure training."""
    model = load_model(config.model, config.dtype, config.device).train()
    device = model.lm_head.weight.device
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (config.batch, config.length), generator=generator).to(device)

    def step() -> None:
        hidden = model.model(ids, use_cache=False).last_hidden_state
        chunked_cross_entropy(hidden, model.lm_head.weight, ids).backward()
        optimizer.step()
        optimizer.zero_grad()

    measured = measure_training(step, config.batch * config.length, device=device, repeats=config.repeats)
    return Result("bench training", config.values(), measured)


def _released_2b() -> JetNemotronConfig:
    layers = ["jet"] * 28
    layers[14] = layers[19] = "attn"
    layers[20] = layers[21] = "swa"
    jet = {"num_heads": 12, "head_dim": 96, "expand_v": 2.6666666667, "conv_size": 4, "dconv_generator_reduction": 8}
    return JetNemotronConfig(layer_types=layers, efficient_attention_config={"jet": jet, "swa": {"window_size": 1152}})
