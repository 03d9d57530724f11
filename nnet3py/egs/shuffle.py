"""Putting examples in random order, and keeping a random part of them.

Examples are kept as bytes and not interpreted.

Source: Kaldi src/nnet3bin/nnet3-shuffle-egs.cc and nnet3-subset-egs.cc. Seeds are honoured, but give other orders than
there.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from nnet3py.egs.example import Example
from nnet3py.errors import UserError
from nnet3py.seed import not_negative

KeyedExample = tuple[str, Example]


def shuffled(examples: Iterable[KeyedExample], seed: int, buffer_size: int = 0) -> Iterator[KeyedExample]:
    """All of the examples in random order.

    With a ``buffer_size``, no more than that many are held: each example takes a random place of the buffer, and what
    was there goes out.
    """
    if buffer_size < 0:
        raise UserError(f"--buffer-size cannot be negative, found {buffer_size}.")
    generator = random.Random(not_negative(seed))
    held: list[tuple[str, bytes] | None]
    if buffer_size == 0:
        held = [(key, example.encoded()) for key, example in examples]
        generator.shuffle(held)
    else:
        held = [None] * buffer_size
        for key, example in examples:
            place = int(generator.random() * buffer_size)
            before = held[place]
            held[place] = key, example.encoded()
            if before is not None:
                yield before[0], Example.from_bytes(before[1])
    for entry in held:
        if entry is not None:
            yield entry[0], Example.from_bytes(entry[1])


def random_subset(
    examples: Iterable[KeyedExample], size: int, seed: int, randomize_order: bool = True
) -> tuple[list[KeyedExample], int]:
    """``size`` of the examples (all, if there are fewer), each as likely as any other, and how many there were.

    Memory for ``size`` examples is needed. Reservoir sampling (Vitter's algorithm R).
    """
    if size < 0:
        raise UserError(f"--n must be at least 0, found {size}.")
    generator = random.Random(not_negative(seed))
    held: list[tuple[str, bytes]] = []
    count = 0
    for key, example in examples:
        count += 1
        if count <= size:
            held.append((key, example.encoded()))
            continue
        place = generator.randrange(count)
        if place < size:
            held[place] = key, example.encoded()
    if randomize_order:
        generator.shuffle(held)
    return [(key, Example.from_bytes(encoded)) for key, encoded in held], count
