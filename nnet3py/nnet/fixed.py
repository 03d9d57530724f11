"""Layers that are not trained: an affine transform (LDA, decorrelation), a scale, a bias, a permutation.

Source: Kaldi src/nnet3/nnet-simple-component.cc (FixedAffine-, FixedScale-, FixedBias-, PermuteComponent).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nnet3py.errors import UserError
from nnet3py.nnet.affine import normal
from nnet3py.nnet.component import Array, Component, Field, Kind, Layout, OldForm, Phase, Random, Update
from nnet3py.nnet.in_place import affine
from nnet3py.nnet.parameter_file import read_matrix_file, read_vector_file
from nnet3py.nnet.summary import describe_matrix, describe_vector

if TYPE_CHECKING:
    from nnet3py.nnet.configuration import ConfigLine


class FixedAffineComponent(Component):
    """``y = x Wᵀ + b``; ``linear``: W (output dim, input dim), ``bias``: b (output dim,)."""

    type_name = "FixedAffineComponent"
    fields = (
        Field("<LinearParams>", "linear", Kind.MATRIX),
        Field("<BiasParams>", "bias", Kind.VECTOR),
    )

    linear: Array
    bias: Array

    @classmethod
    def from_config(cls, config: ConfigLine, random: np.random.Generator) -> FixedAffineComponent:
        component = cls()
        if "matrix" in config:
            matrix = read_matrix_file(config.text_value("matrix"), min_columns=2)
        else:
            matrix = normal(random, (config.positive("output-dim"), config.positive("input-dim") + 1), 1.0)
        component.linear = np.ascontiguousarray(matrix[:, :-1])
        component.bias = matrix[:, -1].copy()
        return component

    @property
    def input_dim(self) -> int:
        return self.linear.shape[1]

    @property
    def output_dim(self) -> int:
        return self.linear.shape[0]

    def check(self) -> None:
        if self.linear.size == 0 or self.bias.shape != (self.output_dim,):
            raise UserError(
                f"{self.type_name}: {self.output_dim} rows of linear parameters of dimension {self.input_dim} do not "
                f"fit {self.bias.size} bias parameters."
            )

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Random = None) -> tuple[Array, Any]:
        return affine(x, self.linear, self.bias), None

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Update | None, want_dx: bool) -> Array | None:
        return np.dot(dy, self.linear) if want_dx else None

    def info(self) -> str:
        return (
            super().info() + describe_matrix("linear-params", self.linear, False) + describe_vector("bias", self.bias)
        )


class FixedScaleComponent(Component):
    """``y = x * scales``; ``scales``: (dim,)."""

    type_name = "FixedScaleComponent"
    fields = (Field("<Scales>", "scales", Kind.VECTOR),)

    scales: Array

    @classmethod
    def from_config(cls, config: ConfigLine, random: np.random.Generator) -> FixedScaleComponent:
        component = cls()
        if "scales" in config:
            component.scales = read_vector_file(config.text_value("scales"))
        elif "scale" in config:
            component.scales = np.full(config.positive("dim"), config.number("scale"), np.float32)
        else:
            component.scales = normal(random, config.positive("dim"), 1.0)
        return component

    @property
    def input_dim(self) -> int:
        return len(self.scales)

    @property
    def output_dim(self) -> int:
        return len(self.scales)

    def check(self) -> None:
        if self.scales.size == 0:
            raise UserError(f"{self.type_name}: has no scales.")

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Random = None) -> tuple[Array, Any]:
        return x * self.scales, None

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Update | None, want_dx: bool) -> Array | None:
        return np.multiply(dy, self.scales, out=dy) if want_dx else None

    def info(self) -> str:
        return super().info() + describe_vector("scales", self.scales)


class FixedBiasComponent(Component):
    """``y = x + bias``; ``bias``: (dim,)."""

    type_name = "FixedBiasComponent"
    fields = (Field("<Bias>", "bias", Kind.VECTOR),)

    bias: Array

    @classmethod
    def from_config(cls, config: ConfigLine, random: np.random.Generator) -> FixedBiasComponent:
        component = cls()
        if "bias" in config:
            component.bias = read_vector_file(config.text_value("bias"))
        else:
            component.bias = normal(random, config.positive("dim"), 1.0)
        return component

    @property
    def input_dim(self) -> int:
        return len(self.bias)

    @property
    def output_dim(self) -> int:
        return len(self.bias)

    def check(self) -> None:
        if self.bias.size == 0:
            raise UserError(f"{self.type_name}: has no bias.")

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Random = None) -> tuple[Array, Any]:
        return x + self.bias, None

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Update | None, want_dx: bool) -> Array | None:
        return dy if want_dx else None

    def info(self) -> str:
        return super().info() + describe_vector("bias", self.bias)


def _column_map_of_numbers(numbers: Array) -> list[int]:
    """The map of an old binary file, which has float32 numbers, the last of them wrong: it was the last column."""
    with np.errstate(invalid="ignore"):  # what is not a number is no column either
        columns = (numbers[:-1] + np.float32(0.5)).astype(np.int32).tolist()
    return [*columns, len(numbers) - 1]


class PermuteComponent(Component):
    """Column j of the output is column ``column_map[j]`` of the input; ``column_map`` is a permutation."""

    type_name = "PermuteComponent"
    fields = (
        Field(
            "<ColumnMap>",
            "column_map",
            Kind.INT_VECTOR,
            old_forms=(OldForm("<ColumnMap>", Kind.VECTOR, _column_map_of_numbers),),
        ),
    )

    column_map: list[int]

    @classmethod
    def from_config(cls, config: ConfigLine, random: np.random.Generator) -> PermuteComponent:
        component = cls()
        component.column_map = config.integers("column-map")
        if not component._is_permutation():
            raise config.error("column-map is not a permutation of 0, 1, 2, ...")
        return component

    def _is_permutation(self) -> bool:
        return len(self.column_map) > 0 and sorted(self.column_map) == list(range(len(self.column_map)))

    @property
    def input_dim(self) -> int:
        return len(self.column_map)

    @property
    def output_dim(self) -> int:
        return len(self.column_map)

    def check(self) -> None:
        if not self._is_permutation():
            raise UserError(f"{self.type_name}: the column map is not a permutation of 0, 1, 2, ...")

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Random = None) -> tuple[Array, Any]:
        return np.take(x, self.column_map, axis=1), None

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Update | None, want_dx: bool) -> Array | None:
        return np.take(dy, np.argsort(self.column_map), axis=1) if want_dx else None

    def info(self) -> str:
        first = "".join(f"{column} " for column in self.column_map[:5])
        rest = "... " if len(self.column_map) > 5 else ""
        return f"{self.type_name}, dim={self.input_dim} , column-map=[ {first}{rest}]"
