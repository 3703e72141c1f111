"""Reading blocks of tokens from a prepared corpus, each chunk verified before its first token is used."""

from pathlib import Path
from typing import Any

import boto3
import litdata
import numpy as np
import torch
from litdata.streaming import downloader

from jetlit.errors import UserError
from jetlit_data.corpus import check_size, sha256_of


class TokensLoader(litdata.TokensLoader):
    """litdata's TokensLoader, which compares each chunk with the SHA-256 in the index when a process first reads it.

    litdata itself does not notice wrong bytes in a chunk of the right size. The class keeps the name of its parent
    because litdata compares the loader's name with the one in the index.

    Raises:
        UserError: on reading, where a chunk is damaged.
    """

    def __init__(self, block_size: int) -> None:
        super().__init__(block_size=block_size)
        self._verified: set[int] = set()

    def load_item_from_chunk(
        self, index: int, chunk_index: int, chunk_filepath: str, begin: int, filesize_bytes: int
    ) -> Any:
        """One block of tokens [block_size], as stored."""
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
    """Stored tokens [T] as a training example {"input_ids": int64 [T]}."""
    return {"input_ids": torch.from_numpy(tokens.astype(np.int64))}


def open_split(corpus: str, split: str, block_size: int, *, shuffle: bool, seed: int = 0) -> litdata.StreamingDataset:
    """The blocks of one split of a corpus.

    Args:
        corpus: folder or s3:// path of the corpus.
        split: "train" or "val".
        block_size: tokens to a block.
        shuffle: shuffle chunks, and blocks inside them, anew each epoch.
        seed: of the shuffle.

    Returns:
        A data set of {"input_ids": int64 [block_size]}; each rank and worker iterates over blocks of its own.
    """
    if corpus.startswith("s3://"):
        _allow_plain_http()
    return litdata.StreamingDataset(
        f"{corpus.rstrip('/')}/{split}",
        item_loader=TokensLoader(block_size),
        shuffle=shuffle,
        drop_last=shuffle,
        seed=seed,
        transform=to_example,
    )


def _allow_plain_http() -> None:
    """Let obstore, by which litdata fetches chunks, speak to an endpoint that the user's settings of S3 name http://.

    It refuses such an endpoint otherwise; boto3, by which litdata fetches all else, does not.
    """
    if boto3.client("s3").meta.endpoint_url.startswith("http://"):
        downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = "true"
