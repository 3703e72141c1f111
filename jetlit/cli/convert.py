"""`jetlit convert`."""

from typing import Any

from jetlit.models.export import convert as write_hybrid
from jetlit.models.loading import pick_dtype


def convert(
    teacher: str,
    architecture: str,
    out_dir: str,
    block: str | None = None,
    block_config: dict[str, Any] | None = None,
    dtype: str | None = None,
) -> None:
    """Turns a Llama, Qwen2 or Qwen3 checkpoint into a hybrid whose new blocks start from its attention.

    Args:
        teacher: folder or hub name of the checkpoint.
        architecture: JSON file of the layers' blocks.
        out_dir: the Hugging Face directory to write; an existing one is replaced.
        block: in every layer that is not attention, in place of the architecture's own.
        block_config: that block's arguments.
        dtype: of the weights; by default the checkpoint's.
    """
    wanted = None if dtype is None else pick_dtype(dtype)
    write_hybrid(teacher, architecture, out_dir, block=block, block_config=block_config, dtype=wanted)
    print(f"Wrote {out_dir}.")
