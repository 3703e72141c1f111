"""A loader that Lightning can stop and resume at any batch."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from litdata import StreamingDataLoader, StreamingDataset

from jetlit.datamodules.mixture import Mixture
from jetlit.errors import UserError


class ResumableLoader(StreamingDataLoader):
    """litdata's loader, with two faults corrected:

    - litdata clears its `restore` flag only when an iterator is exhausted. Lightning leaves the iterator at an epoch's
      last batch, so that after a resume the next epoch would replay the end of the resumed one.
    - A weighted mixture has no length. Lightning then fetches a batch ahead, which the saved position counts, and a
      resume would skip it. This loader always has a length.

    The dataset is opened with drop_last. A position in data of another `fingerprint` is refused.
    """

    def __init__(
        self, dataset: StreamingDataset | Mixture, batch_size: int, num_workers: int = 0, fingerprint: str = ""
    ) -> None:
        super().__init__(dataset, batch_size=batch_size, num_workers=num_workers, pin_memory=torch.cuda.is_available())
        self._fingerprint = fingerprint
        self._batches_done = 0
        self._resume = False

    def __len__(self) -> int:
        """Return the batches of an epoch on this rank."""
        if isinstance(self.dataset, Mixture):
            return self.dataset.epoch_batches(self.batch_size, self.num_workers)
        return super().__len__()

    def __iter__(self) -> Iterator[Any]:
        length = len(self)
        self.restore = self._resume and self._batches_done < length
        self._resume = False
        if not self.restore:
            self._batches_done = 0
        try:
            for batch in super().__iter__():
                self._batches_done += 1
                yield batch
                if self._batches_done >= length:
                    return
        except UserError as error:
            # An error of a worker process arrives as the text of its traceback: raise its sentence alone.
            raise UserError(str(error).strip().rpartition("UserError: ")[2]) from None

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the next batch, for Lightning's checkpoints."""
        return {**super().state_dict(), "batches_done": self._batches_done, "fingerprint": self._fingerprint}

    def load_state_dict(self, obj: dict[str, Any]) -> None:
        """Continue from a saved position.

        Raises:
            UserError: it is of other data, or of a mixture with other numbers of ranks or workers or batch size.
        """
        state = deepcopy(obj)  # litdata alters what it is given
        self._batches_done = state.pop("batches_done")
        if state.pop("fingerprint") != self._fingerprint:
            raise UserError(
                "The checkpoint's position belongs to other training data: resume with the same corpora and weights, "
                "prepared as they were, or start a new run from the exported model."
            )
        # The corpora may have been moved; litdata refuses other paths than the saved ones.
        if isinstance(self.dataset, Mixture):
            datasets = self.dataset._datasets
            saved = [state["dataset"][str(number)] for number in range(len(datasets))]
        else:
            datasets, saved = [self.dataset], [state["dataset"]]
        for dataset, position in zip(datasets, saved):
            position["input_dir_path"] = dataset.input_dir.path
            position["input_dir_url"] = dataset.input_dir.url
        try:
            super().load_state_dict(state)
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"The checkpoint's position in the data does not fit these settings ({error}): resume with the same "
                "number of processes, num_workers and batch_size."
            ) from error
        if getattr(self.dataset, "_elastic_drop_first", None) is not None:
            # Another number of ranks or workers or batch size: litdata redistributes the rest of the epoch and ends it.
            self._batches_done = 0
        self._resume = self.restore
