"""Stage `data`: text into corpora of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jetlit_data import CorpusSpec, load_tokenizer, prepare
from jetlit_data.encoding import tokenizer_digest
from jetlit_data.sources import open_source

from jetlit.errors import UserError
from jetlit.pipeline.stage_config import StageConfig
from jetlit.results import Result, read_result
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

    def values(self) -> dict[str, Any]:
        """Return all that the corpora depend on, with digests of the source text and of a tokenizer outside the run."""
        return super().values() | {"read": self._read}

    @cached_property
    def _read(self) -> dict[str, str]:
        """Digests of what lies outside the run, by corpus, and of the tokenizer; once, before anything is made."""
        earlier = (read_result(self.out_dir) or {}).get("config", {}).get("read", {})
        digests = {}
        for name, spec in self.corpora.items():
            try:
                digest = getattr(open_source(spec.source, spec.options), "digest", None)
            except UserError:
                if name not in earlier:
                    raise
                digests[name] = earlier[name]  # the text is gone, so that it has not changed
            else:
                if digest is not None:
                    digests[name] = digest()
        own = Path(self.run_dir).resolve()
        if Path(self.tokenizer).is_dir() and not Path(self.tokenizer).resolve().is_relative_to(own):
            digests["tokenizer"] = tokenizer_digest(load_tokenizer(self.tokenizer))
        return digests


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
