"""The average of several models: how the jobs of an iteration become one model (arXiv:1410.7455, section 2.2).

Parameters and accumulated statistics are averaged; settings are those of the first model. One model is read at a time
and added to a running sum, so that two are in memory however many there are.

Source: Kaldi src/nnet3bin/nnet3-average.cc.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.nnet.model_file import read_network
from nnet3py.nnet.network import Network


def parse_weights(text: str, count: int) -> list[float]:
    """``count`` weights that sum to one, from numbers separated by colons; an empty text gives equal weights.

    Raises UserError for a wrong number of them, for what is not a number, and for a sum that is not above zero.
    """
    if not text:
        return [1.0 / count] * count
    try:
        weights = [float(word) for word in text.split(":")]
    except ValueError:
        raise UserError(
            f"--weights must be numbers separated by colons, such as 0.5:0.3:0.2; found {text!r}."
        ) from None
    if len(weights) != count:
        raise UserError(f"--weights must have one number for each of the {count} models; found {text!r}.")
    total = sum(weights)
    if not (math.isfinite(total) and total > 0.0):
        raise UserError(f"--weights must be finite and have a sum above zero; the sum of {text!r} is {total:g}.")
    if abs(total - 1.0) > 0.01:
        log.warning(f"Normalizing weights to sum to one, sum was {total:g}")
    return [weight / total for weight in weights]


def average(rxfilenames: Sequence[str], weights: Sequence[float]) -> Network:
    """The weighted sum of the networks in these files.

    Raises UserError if a file cannot be read, or if two networks differ in structure: it names both files and the
    first component that differs.
    """
    mean = read_network(rxfilenames[0])
    mean.scale(weights[0])
    for rxfilename, weight in zip(rxfilenames[1:], weights[1:], strict=True):
        network = read_network(rxfilename)
        require_same_structure(mean, rxfilenames[0], network, rxfilename)
        mean.add(weight, network)
        del network  # before the next one is read
    return mean


def require_same_structure(one: Network, one_name: str, other: Network, other_name: str) -> None:
    """Raise UserError, naming both files and the first component that differs, unless parameters can be added."""
    difference = one.difference(other)
    if difference:
        raise UserError(
            f"The networks in {one_name} and {other_name} differ in structure: {difference}. Give models of one "
            f"training run between two changes of its structure."
        )
