"""Tokens written as litdata chunks, with a checksum for each."""

import hashlib
import json
from pathlib import Path

import numpy as np
from litdata.streaming.item_loader import TokensLoader
from litdata.streaming.writer import BinaryWriter

from jetlit.files import write_text
from jetlit_data.corpus import INDEX_FILE, ChunkInfo, SplitInfo, sha256_of


class ChunkWriter:
    """Joins documents into one stream of tokens and cuts it into chunks of equal length.

    Each chunk but the last holds exactly `chunk_tokens` tokens, so that a block size that divides `chunk_tokens` loses
    no token between chunks. litdata's `optimize` cuts by documents, loses the rest of each chunk and starts processes;
    this uses litdata's writer directly, for the same format.

    Args:
        folder: a new folder for the chunks and the index.
        chunk_tokens: tokens of a chunk.
        dtype: dtype of the stored tokens, uint16 or int32.
    """

    def __init__(self, folder: Path, chunk_tokens: int, dtype: np.dtype) -> None:
        self.folder = folder
        self.documents = 0
        self.tokens = 0
        self._buffer = np.empty(chunk_tokens, dtype=dtype)
        self._filled = 0
        self._written = 0
        folder.mkdir(parents=True)
        self._writer = BinaryWriter(str(folder), chunk_size=chunk_tokens, item_loader=TokensLoader())

    def add(self, tokens: np.ndarray) -> None:
        """Append a document's token ids [n]."""
        self.documents += 1
        self.tokens += len(tokens)
        while len(tokens):
            room = len(self._buffer) - self._filled
            piece, tokens = tokens[:room], tokens[room:]
            self._buffer[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            if self._filled == len(self._buffer):
                self._flush()

    def close(self) -> SplitInfo:
        """Write what is left, and the index, which holds checksums for readers of an object store."""
        if self._filled:
            self._flush()
        self._writer.done()
        self._writer.merge(num_workers=1)
        index_path = self.folder / INDEX_FILE
        index = json.loads(index_path.read_text())
        for chunk in index["chunks"]:
            chunk["sha256"] = sha256_of(self.folder / chunk["filename"])
        # litdata caches a remote corpus under its address and this value, by default the time. With a digest of the
        # content no corpus is taken for another, and the same documents give the same bytes.
        index["updated_at"] = hashlib.sha256(json.dumps(index["chunks"], sort_keys=True).encode()).hexdigest()[:32]
        write_text(index_path, json.dumps(index, sort_keys=True))
        chunks = [
            ChunkInfo(chunk["filename"], chunk["dim"], chunk["chunk_bytes"], chunk["sha256"])
            for chunk in index["chunks"]
        ]
        return SplitInfo(self.documents, self.tokens, sha256_of(index_path), chunks)

    def _flush(self) -> None:
        self._writer.add_item(self._written, self._buffer[: self._filled].copy())
        self._written += 1
        self._filled = 0
