"""Sizes computed on the host at every launch: Triton's own functions cost more than a launch allows."""


def cdiv(a: int, b: int) -> int:
    """Return a / b rounded up."""
    return -(-a // b)


def power_of_two(n: int) -> int:
    """Return the smallest power of two that is at least `n` ≥ 1."""
    return 1 << (n - 1).bit_length()
