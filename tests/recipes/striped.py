"""The same global batches whatever the number of processes: each takes its stripe of every batch."""

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset


class Stripes(Dataset):
    def __init__(self, tokens):
        self.tokens = tokens

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        return {"input_ids": self.tokens[index]}


class ResumableBatches(DataLoader):
    """Goes on at the batch after the last one given."""

    done = 0
    skip = 0

    def __iter__(self):
        self.done, self.skip = self.skip, 0
        for index, batch in enumerate(super().__iter__()):
            if index >= self.done:
                self.done += 1
                yield batch

    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state_dict):
        self.skip = state_dict["done"]


class StripedTokens(LightningDataModule):
    def __init__(self, global_batch: int = 4, block_size: int = 12, rows: int = 64, vocab: int = 259) -> None:
        super().__init__()
        self.global_batch = global_batch
        generator = torch.Generator().manual_seed(0)
        # Each row counts upwards from its start, so that there is something to learn.
        start = torch.randint(200, (rows, 1), generator=generator)
        self.tokens = (start + torch.arange(block_size)) % vocab

    def _loader(self):
        world, rank = self.trainer.world_size, self.trainer.global_rank
        batches = self.tokens.view(-1, self.global_batch, self.tokens.shape[1])
        mine = batches[:, rank::world].flatten(0, 1)
        return ResumableBatches(Stripes(mine), batch_size=self.global_batch // world)

    def train_dataloader(self):
        return self._loader()

    def val_dataloader(self):
        return self._loader()
