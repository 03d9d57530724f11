"""Layers whose matrix is not trained: fixed-affine-layer (LDA) and idct-layer.

Source: Kaldi egs/wsj/s5/steps/libs/nnet3/xconfig/basic_layers.py, and steps/libs/common.py (``compute_idct_matrix``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

from nnet3py.xconfig.key import Keys, integer, number, switch, text
from nnet3py.xconfig.layer import Output, chain
from nnet3py.xconfig.single_component import SingleComponent


class _FixedLayer(SingleComponent):
    def check(self) -> None:
        if not self.values["affine-transform-file"]:
            raise self.error("affine-transform-file= must be given")

    def settings(self) -> str:
        return f"type=FixedAffineComponent matrix={self.values['affine-transform-file']}"


class FixedAffineLayer(_FixedLayer):
    """``fixed-affine-layer name=lda input=Append(-1,0,1) affine-transform-file=exp/dnn/configs/lda.mat``.

    The matrix is estimated later, from the output of the network of init.config, which is this layer's input
    (``delay`` frames later). final.config reads the matrix from its file; ref.config has a random one of its size.
    """

    keys: ClassVar[Keys] = {
        "input": text("[-1]"),
        "dim": integer(-1),
        "affine-transform-file": text(),
        "delay": integer(0),
        "write-init-config": switch(True),
    }

    def output(self) -> Output:
        return Output(self.name, self.values["dim"])

    def config_lines(self) -> Iterator[tuple[str, str]]:
        if self.values["write-init-config"]:
            for line in self._init_lines():
                yield "init", line
        for line in self.lines():
            yield "final", line
        random = f"type=FixedAffineComponent input-dim={self.input.dim} output-dim={self.values['dim']}"
        for line in chain(self.input.nodes, [(self.name, random)]):
            yield "ref", line

    def _init_lines(self) -> list[str]:
        delay, delayed = self.values["delay"], f"{self.name}.delayed"
        if not delay:
            return [f"output-node name=output input={self.input.nodes}"]
        lines = chain(self.input.nodes, [(delayed, f"type=NoOpComponent dim={self.input.dim}")])
        return [*lines, f"output-node name=output input=Offset({delayed}, {delay})"]


class IdctLayer(_FixedLayer):
    """``idct-layer name=idct dim=40 cepstral-lifter=22 affine-transform-file=exp/dnn/configs/idct.mat``.

    From cepstra (MFCC) back to log mel energies. The layer writes the matrix into affine-transform-file;
    include-in-init where a fixed-affine-layer follows.
    """

    keys: ClassVar[Keys] = {
        "input": text("[-1]"),
        "dim": integer(-1),
        "cepstral-lifter": number(22.0),
        "affine-transform-file": text(),
        "include-in-init": switch(),
    }

    def matrix_file(self) -> tuple[str, str] | None:
        matrix = idct_matrix(self.input.dim, self.values["dim"], self.values["cepstral-lifter"])
        rows = (" ".join(str(value) for value in [*row, 0]) for row in matrix)  # the 0: no bias
        return self.values["affine-transform-file"], "[ " + "\n".join(rows) + " ]"


def idct_matrix(num_cepstra: int, num_bins: int, cepstral_lifter: float) -> list[list[float]]:
    """The inverse of the orthonormal DCT of type II, and of liftering: (num_bins, num_cepstra).

    Row n, column k is sqrt(2 / N) cos(pi k (n + 1/2) / N) / (1 + L/2 sin(pi k / L)), its first column sqrt(1 / N).
    """
    scale = math.sqrt(2.0 / num_bins)
    # The order of the factors is Kaldi's, so that the last digits are too.
    matrix = [
        [math.sqrt(1.0 / num_bins)]
        + [scale * math.cos(math.pi / num_bins * (n + 0.5) * k) for k in range(1, num_cepstra)]
        for n in range(num_bins)
    ]
    if cepstral_lifter == 0:
        return matrix
    lifter = [1.0 + 0.5 * cepstral_lifter * math.sin(math.pi * k / cepstral_lifter) for k in range(num_cepstra)]
    return [[value / factor for value, factor in zip(row, lifter, strict=True)] for row in matrix]
