"""`jetlit data`."""

import time

from jetlit_data import CorpusSpec, prepare

from jetlit.results import metric, write_result


def data(
    corpora: dict[str, CorpusSpec],
    run_dir: str = "runs/quickstart",
    out_dir: str = "${run_dir}/data",
    tokenizer: str = "bytes",
    val_fraction: float = 0.02,
    chunk_tokens: int = 2**22,
    seed: int = 0,
    near_duplicates: float | None = None,
    hash: str | None = None,
) -> None:
    """Prepares corpora: each becomes OUT_DIR/NAME with litdata chunks, a tokenizer and corpus.json.

    Args:
        corpora: what to prepare, by name.
        run_dir: folder of the whole run.
        out_dir: folder of the corpora.
        tokenizer: "bytes", a folder or a hub name.
        val_fraction: share of the documents held out for validation.
        chunk_tokens: tokens to a chunk.
        seed: of generated documents and of the order of files.
        near_duplicates: share of a document's text that may stand in earlier ones of any corpus; null: all of it.
        hash: what the caller recognises the result by.
    """
    begun = time.monotonic()
    prepared = prepare(out_dir, corpora, tokenizer, val_fraction, chunk_tokens, seed, near_duplicates)
    metrics = {}
    for name, info in prepared.items():
        for split, content in info.splits.items():
            metrics[f"{name}/{split}/tokens"] = metric(content.tokens, "tokens")
            metrics[f"{name}/{split}/documents"] = metric(content.documents, "documents")
    config = {
        "run_dir": run_dir,
        "out_dir": out_dir,
        "corpora": {name: vars(spec) for name, spec in corpora.items()},
        "tokenizer": tokenizer,
        "val_fraction": val_fraction,
        "chunk_tokens": chunk_tokens,
        "seed": seed,
        "near_duplicates": near_duplicates,
    }
    write_result(
        out_dir,
        stage="data",
        config=config,
        metrics=metrics,
        decision={"corpora": sorted(prepared)},
        seed=seed,
        seconds=time.monotonic() - begun,
        hash=hash,
    )
