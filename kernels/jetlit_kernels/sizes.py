"""Sizes of blocks, computed on the host at every launch: Triton's own function costs more than a launch allows."""


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least `n` ≥ 1."""
    return 1 << (n - 1).bit_length()
