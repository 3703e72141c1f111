"""Blocks of tokens from a prepared corpus. Each chunk is verified before its first token is used."""

from pathlib import Path
from typing import Any

import boto3
import litdata
import numpy as np
import torch
from litdata.streaming import downloader
from litdata.utilities.env import _DistributedEnv

from jetlit.errors import UserError
from jetlit_data.corpus import check_plain_names, check_size, sha256_of


class TokensLoader(litdata.TokensLoader):
    """litdata's TokensLoader, which verifies each chunk's SHA-256 when a process first reads it.

    litdata does not notice wrong bytes in a chunk of the right size. The class has its parent's name because litdata
    compares it with the name in the index.
    """

    def __init__(self, block_size: int) -> None:
        super().__init__(block_size=block_size)
        self._verified: set[int] = set()

    def setup(self, config: dict[str, Any], chunks: list[Any], *args: Any, **kwargs: Any) -> None:
        """Take the index in. Raises UserError if a chunk is to be read or fetched elsewhere than beside it."""
        check_plain_names([chunk["filename"] for chunk in chunks], "The corpus' index")
        super().setup(config, chunks, *args, **kwargs)

    def load_item_from_chunk(
        self, index: int, chunk_index: int, chunk_filepath: str, begin: int, filesize_bytes: int
    ) -> Any:
        """Return a block of tokens [block_size] as stored. Raises UserError if its chunk is damaged."""
        if chunk_index not in self._verified:
            self._wait_until_chunk_ready(chunk_index, chunk_filepath, filesize_bytes)
            self._verify(int(chunk_index), Path(chunk_filepath))
            self._verified.add(chunk_index)
        return super().load_item_from_chunk(index, chunk_index, chunk_filepath, begin, filesize_bytes)

    def _verify(self, chunk_index: int, path: Path) -> None:
        chunk = self._chunks[chunk_index]
        check_size(path, chunk["chunk_bytes"])
        if "sha256" in chunk and sha256_of(path) != chunk["sha256"]:
            raise UserError(
                f"Chunk {path} is damaged (its checksum differs from the index): "
                "prepare the corpus again or restore the file from its copy."
            )


def to_example(tokens: np.ndarray) -> dict[str, torch.Tensor]:
    """Convert stored tokens [T] to a training example {"input_ids": int64 [T]}."""
    return {"input_ids": torch.from_numpy(tokens.astype(np.int64))}


def open_split(corpus: str, split: str, block_size: int, *, shuffle: bool, seed: int = 0) -> litdata.StreamingDataset:
    """Open a split of a corpus.

    Args:
        corpus: folder or s3:// path of the corpus.
        split: "train" or "val".
        block_size: tokens of a block.
        shuffle: shuffle chunks, and blocks inside them, anew in each epoch.
        seed: seed of the shuffle.

    Returns:
        A data set of {"input_ids": int64 [block_size]}, the whole split in every process.
    """
    if corpus.startswith("s3://"):
        _allow_plain_http()
    dataset = litdata.StreamingDataset(
        f"{corpus.rstrip('/')}/{split}",
        item_loader=TokensLoader(block_size),
        shuffle=shuffle,
        drop_last=True,  # drops nothing of a whole split, and litdata warns of anything else in a distributed run
        seed=seed,
        transform=to_example,
    )
    # litdata would give each process of a distributed run a share, also of the length.
    dataset.distributed_env = _DistributedEnv(world_size=1, global_rank=0, num_nodes=1)
    return dataset


def _allow_plain_http() -> None:
    """Let obstore, which fetches litdata's chunks, use an S3 endpoint that the user configured as http://.

    It refuses one by default, unlike boto3, which fetches all else.
    """
    if boto3.client("s3").meta.endpoint_url.startswith("http://"):
        downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = "true"
