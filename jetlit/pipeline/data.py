"""Stage `data`: text into corpora of tokens."""

from __future__ import annotations

from dataclasses import dataclass

from jetlit_data import CorpusSpec, prepare

from jetlit.pipeline.stage_config import StageConfig
from jetlit.results import Result
from jetlit.values import ChunkTokens, Fraction, InnerFraction, Seed

# What the stage leaves in its folder, as patterns. Corpora of today know their files themselves.
CORPUS_FILES = ("*/corpus.json", "*/train/*", "*/val/*", "*/tokenizer/*")


@dataclass
class DataConfig(StageConfig):
    """Prepare corpora: each becomes OUT_DIR/NAME with litdata chunks, a tokenizer and corpus.json.

    Attributes:
        corpora: what to prepare, by name.
        run_dir: folder of the whole run.
        out_dir: folder of the corpora.
        tokenizer: "bytes", a folder or a hub name.
        val_fraction: share of the documents held out for validation.
        chunk_tokens: tokens of a chunk.
        seed: seed of generated documents and of the order of files.
        near_duplicates: largest share of a document's text that may stand in earlier ones of any corpus; null allows
            all of it.
    """

    corpora: dict[str, CorpusSpec]
    run_dir: str = "runs/quickstart"
    out_dir: str = "${run_dir}/data"
    tokenizer: str = "bytes"
    val_fraction: InnerFraction = 0.02
    chunk_tokens: ChunkTokens = 2**22
    seed: Seed = 0
    near_duplicates: Fraction | None = None


def prepare_data(config: DataConfig) -> Result:
    """Prepare corpora; the decision names them, the metrics count tokens and documents of each split."""
    prepared = prepare(
        config.out_dir,
        config.corpora,
        config.tokenizer,
        config.val_fraction,
        config.chunk_tokens,
        config.seed,
        config.near_duplicates,
    )
    metrics = {}
    for name, info in prepared.items():
        for split, content in info.splits.items():
            metrics[f"{name}/{split}/tokens"] = content.tokens
            metrics[f"{name}/{split}/documents"] = content.documents
        metrics[f"{name}/skipped"] = sum(info.skipped.values())
    return Result("data", config.values(), metrics, {"corpora": sorted(prepared)}, config.seed)
