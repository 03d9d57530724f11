"""An affine layer over its own input at several times, so that the splicing belongs to the component.

Source: Kaldi src/nnet3/nnet-tdnn-component.cc.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nnet3py.errors import UserError
from nnet3py.nnet.affine import default_ranks, non_negative, normal, positive_number
from nnet3py.nnet.component import (
    UPDATABLE_FIELDS,
    Array,
    Field,
    Kind,
    Layout,
    NaturalGradientOptions,
    OldForm,
    Phase,
    Random,
    Role,
    UpdatableComponent,
    Update,
)
from nnet3py.nnet.in_place import affine
from nnet3py.nnet.rows import RowSelection
from nnet3py.nnet.summary import describe_matrix, describe_vector

if TYPE_CHECKING:
    from nnet3py.nnet.configuration import ConfigLine


class TdnnComponent(UpdatableComponent):
    """``y_t = sum_k x_{t + time_offsets[k]} W_kᵀ + b``.

    ``linear``: [W_1 W_2 ...] (output dim, offsets * input dim); ``bias``: b (output dim,), or empty for none.
    """

    type_name = "TdnnComponent"
    update_sees_all_nodes = False
    fields = (
        *UPDATABLE_FIELDS,
        Field("<TimeOffsets>", "time_offsets", Kind.INT_VECTOR),
        Field("<LinearParams>", "linear", Kind.MATRIX, Role.PARAMETER),
        Field("<BiasParams>", "bias", Kind.VECTOR, Role.PARAMETER),
        Field("<OrthonormalConstraint>", "orthonormal_constraint", Kind.FLOAT),
        Field("<UseNaturalGradient>", "use_natural_gradient", Kind.BOOL),
        Field("<NumSamplesHistory>", "num_samples_history", Kind.FLOAT),
        Field(
            "<AlphaInOut>",
            "alphas",
            Kind.FLOAT_PAIR,
            old_forms=(OldForm("<Alpha>", Kind.FLOAT, lambda alpha: (alpha, alpha)),),
        ),
        Field("<RankInOut>", "ranks", Kind.INT_PAIR),
    )

    time_offsets: list[int]
    linear: Array
    bias: Array
    orthonormal_constraint: float = 0.0
    use_natural_gradient: bool = True
    num_samples_history: float = 2000.0
    alphas: tuple[float, float] = (4.0, 4.0)
    ranks: tuple[int, int] = (20, 80)

    @classmethod
    def from_config(cls, config: ConfigLine, random: np.random.Generator) -> TdnnComponent:
        component = cls()
        component.read_learning_rates(config)
        component.time_offsets = config.integers("time-offsets")
        if len(set(component.time_offsets)) != len(component.time_offsets):
            raise config.error("time-offsets repeat one")
        spliced = config.positive("input-dim") * len(component.time_offsets)
        output_dim = config.positive("output-dim")
        stddev = config.number("param-stddev", -1.0)
        component.linear = normal(random, (output_dim, spliced), stddev if stddev >= 0.0 else spliced**-0.5)
        bias_mean, bias_stddev = config.number("bias-mean", 0.0), non_negative(config, "bias-stddev", 1.0)
        component.bias = np.zeros(0, np.float32)
        if config.switch("use-bias", True):
            component.bias = normal(random, output_dim, bias_stddev, bias_mean)
        component.orthonormal_constraint = config.number("orthonormal-constraint", 0.0)
        component.use_natural_gradient = config.switch("use-natural-gradient", True)
        component.num_samples_history = positive_number(config, "num-samples-history", 2000.0)
        component.alphas = (positive_number(config, "alpha-in", 4.0), positive_number(config, "alpha-out", 4.0))
        component.ranks = default_ranks(config, spliced, output_dim)
        return component

    @property
    def input_dim(self) -> int:
        return self.linear.shape[1] // len(self.time_offsets)

    @property
    def output_dim(self) -> int:
        return self.linear.shape[0]

    @property
    def natural_gradient(self) -> NaturalGradientOptions | None:
        if not self.use_natural_gradient:
            return None
        return NaturalGradientOptions(
            *self.ranks, alpha=self.alphas[0], alpha_out=self.alphas[1], num_samples_history=self.num_samples_history
        )

    def check(self) -> None:
        super().check()
        offsets = len(self.time_offsets)
        if offsets == 0 or len(set(self.time_offsets)) != offsets:
            raise UserError(f"{self.type_name}: the time offsets are missing or repeat one.")
        if self.linear.size == 0 or self.linear.shape[1] % offsets or self.bias.size not in (0, self.output_dim):
            raise UserError(
                f"{self.type_name}: linear parameters of {self.linear.shape[0]} by {self.linear.shape[1]}, {offsets} "
                f"time offsets and {self.bias.size} bias parameters do not fit together."
            )

    def input_times(self, output_times: Sequence[int]) -> list[int]:
        return sorted({time + offset for time in output_times for offset in self.time_offsets})

    def _selections(self, layout: Layout) -> list[RowSelection]:
        times = np.asarray(layout.output_times)
        return [RowSelection.of_times(times + offset, layout.input_times) for offset in self.time_offsets]

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Random = None) -> tuple[Array, Any]:
        rows = len(layout.output_times) * layout.num_sequences
        dim = self.input_dim
        spliced = np.empty((rows, self.linear.shape[1]), x.dtype)
        blocks = spliced.reshape(len(layout.output_times), layout.num_sequences, -1)
        for k, selection in enumerate(self._selections(layout)):
            blocks[:, :, k * dim : (k + 1) * dim] = selection.blocks(x)
        if self.bias.size:
            return affine(spliced, self.linear, self.bias), spliced
        return np.dot(spliced, self.linear.T), spliced

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Update | None, want_dx: bool) -> Array | None:
        dx = self._input_derivative(dy, layout) if want_dx else None
        if update is not None:
            update.add_outer_product(dy, memo, "linear", "bias" if self.bias.size else None)
        return dx

    def _input_derivative(self, dy: Array, layout: Layout) -> Array:
        dim = self.input_dim
        dx = np.zeros((len(layout.input_times) * layout.num_sequences, dim), dy.dtype)
        for k, selection in enumerate(self._selections(layout)):
            selection.add_to(dx, np.dot(dy, self.linear[:, k * dim : (k + 1) * dim]))
        return dx

    def info(self) -> str:
        text = super().info()
        if self.orthonormal_constraint != 0.0:
            text += f", orthonormal-constraint={self.orthonormal_constraint:g}"
        text += f", time-offsets={','.join(map(str, self.time_offsets))}"
        text += describe_matrix("linear-params", self.linear)
        text += describe_vector("bias", self.bias) if self.bias.size else ", has-bias=false"
        if not self.use_natural_gradient:
            return f"{text}, use-natural-gradient=false"
        return (
            f"{text}, rank-in={self.ranks[0]}, rank-out={self.ranks[1]}, "
            f"num-samples-history={self.num_samples_history:g}, update-period=4, alpha-in={self.alphas[0]:g}, "
            f"alpha-out={self.alphas[1]:g}"
        )
