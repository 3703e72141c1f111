"""Generation near the hardware's limit: the engine, its measurements, and the largest batch that fits."""

from jetlit.generation.cache import computed_cache_bytes
from jetlit.generation.engine import GenerationEngine
from jetlit.generation.largest_batch import LargestBatch, find_largest_batch
from jetlit.generation.sampling import Sampling, seeded
from jetlit.generation.throughput import measure_generation, measure_training

__all__ = [
    "GenerationEngine",
    "LargestBatch",
    "Sampling",
    "computed_cache_bytes",
    "find_largest_batch",
    "measure_generation",
    "measure_training",
    "seeded",
]
