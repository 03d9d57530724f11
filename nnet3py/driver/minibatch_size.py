"""Minibatch sizes as nnet3-merge-egs takes them: ``512``, ``128,64``, ``64:128``, ``264=64/128=128,64:100``.

Rules for several lengths of example are separated by ``/``; each is ``length=sizes``, sizes being numbers and ranges
``first:last`` separated by commas.

Source: Kaldi src/nnet3/nnet-example-utils.h, ``ExampleMergingConfig``.
"""

from __future__ import annotations

import re

from nnet3py.errors import UserError

_SIZES = re.compile(r"[1-9]\d*(:[1-9]\d*)?(,[1-9]\d*(:[1-9]\d*)?)*")
_RULE = re.compile(r"[1-9]\d*=(.+)")


def check(rules: str) -> str:
    """The same text, if it is well formed.

    Raises:
        UserError: it is not.
    """
    parts = rules.split("/")
    for part in parts:
        match = _RULE.fullmatch(part)
        sizes = match[1] if match else part
        if (match is None and len(parts) > 1) or not _SIZES.fullmatch(sizes) or not _ranges_ascend(sizes):
            raise UserError(f"Expected a minibatch size like 512, 64,128, 32:64 or 128=64/256=32, found {rules!r}.")
    return rules


def _ranges_ascend(sizes: str) -> bool:
    ranges = [[int(end) for end in size.split(":")] for size in sizes.split(",")]
    return all(ends == sorted(ends) for ends in ranges)


def halved(rules: str) -> str:
    """Every size halved (never below 1), the lengths of examples as they are."""

    def halve(match: re.Match[str]) -> str:
        return str(max(1, int(match[0]) // 2))

    return re.sub(r"(?<!\d)\d+(?!\d|=)", halve, check(rules))


def with_rest(rules: str) -> str:
    """The same largest sizes, and any smaller one for what is left in the end, so that nothing is discarded."""
    return re.sub(r"(?<![\d:])(\d+)(?::(\d+))?(?![\d=])", lambda size: f"1:{size[2] or size[1]}", check(rules))
