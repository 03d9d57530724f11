"""Seeds as users give them: any integer, also a negative one (Kaldi's scripts have ``nnet3-init --srand=-2``)."""

from __future__ import annotations


def not_negative(seed: int) -> int:
    """What a generator is seeded with: the same number, a negative one as its 64-bit two's complement.

    NumPy's generators refuse negative seeds, and Python's take -2 for 2.
    """
    return seed if seed >= 0 else seed & 0xFFFFFFFFFFFFFFFF
