"""Plain-PyTorch references: the oracle of every kernel, and what runs where there is no GPU."""
