"""Layers of several components with names of their own: tdnnf-layer, prefinal-layer, delta-layer, spec-augment-layer.

Source: Kaldi egs/wsj/s5/steps/libs/nnet3/xconfig/composite_layers.py; trivial_layers.py (``XconfigDeltaLayer``);
basic_layers.py (``XconfigSpecAugmentLayer``).
"""

from __future__ import annotations

from typing import ClassVar

from nnet3py.xconfig.key import (
    BETWEEN_ZERO_AND_ONE,
    FROM_MINUS_ONE_TO_ONE,
    FROM_ZERO_TO_ONE,
    POSITIVE,
    Keys,
    choice,
    integer,
    number,
    switch,
    text,
)
from nnet3py.xconfig.layer import Layer, Output, chain


class TdnnfLayer(Layer):
    """``tdnnf-layer name=tdnnf2 dim=1024 bottleneck-dim=128 time-stride=3``: a factorised TDNN layer.

    A linear component to bottleneck-dim, kept near a multiple of an orthonormal matrix, an affine one to dim, ReLU,
    batch norm, dropout (one scale a sequence) where dropout-proportion is given, and bypass-scale times the input.
    """

    keys: ClassVar[Keys] = {
        "input": text("[-1]"),
        "dim": integer(-1),
        "bottleneck-dim": integer(-1),
        "bypass-scale": number(0.66, FROM_MINUS_ONE_TO_ONE),
        "dropout-proportion": number(-1.0),
        "time-stride": integer(1),
        "l2-regularize": number(0.0),
        "max-change": number(0.75),
        "self-repair-scale": number(1.0e-05, FROM_ZERO_TO_ONE),
        "context": choice("default", "left-only", "shift-left", "none"),
    }
    takes_dim_from_input = False

    def check(self) -> None:
        values = self.values
        if values["bottleneck-dim"] <= 0:
            raise self.error("bottleneck-dim= must be given, above zero")
        if values["dim"] <= values["bottleneck-dim"]:
            raise self.error(f"dim={values['dim']} must be above bottleneck-dim={values['bottleneck-dim']}")
        dropout = values["dropout-proportion"]
        if dropout != -1.0 and not 0.0 <= dropout < 1.0:
            raise self.error(f"dropout-proportion={dropout} must be at least 0 and below 1, or -1 for none")
        if values["bypass-scale"] != 0.0 and values["dim"] != self.input.dim:
            raise self.error(
                f"dim={values['dim']} must be the input's dimension {self.input.dim}, or bypass-scale be 0.0"
            )

    def output(self) -> Output:
        last = "noop" if self.values["bypass-scale"] != 0.0 else self._before_bypass()
        return Output(f"{self.name}.{last}", self.values["dim"])

    def _before_bypass(self) -> str:
        return "dropout" if self.values["dropout-proportion"] != -1.0 else "batchnorm"

    def _time_offsets(self) -> tuple[str, str]:
        """Of the linear and of the affine component."""
        stride, context = self.values["time-stride"], self.values["context"]
        if stride == 0 or context == "none":
            return "0", "0"
        left, right = f"{-stride},0", f"0,{stride}"
        return left, {"default": right, "shift-left": left, "left-only": "0"}[context]

    def lines(self) -> list[str]:
        values, name, dim = self.values, self.name, self.values["dim"]
        first, second = self._time_offsets()
        bottleneck = values["bottleneck-dim"]
        updates = f"l2-regularize={values['l2-regularize']} max-change={values['max-change']}"
        components = {
            "linear": f"type=TdnnComponent input-dim={self.input.dim} output-dim={bottleneck} {updates} use-bias=false "
            f"time-offsets={first} orthonormal-constraint=-1.0",
            "affine": f"type=TdnnComponent input-dim={bottleneck} output-dim={dim} {updates} time-offsets={second}",
            "relu": f"type=RectifiedLinearComponent dim={dim} self-repair-scale={values['self-repair-scale']}",
            "batchnorm": f"type=BatchNormComponent dim={dim}",
        }
        if self._before_bypass() == "dropout":
            proportion = values["dropout-proportion"]
            components["dropout"] = (
                f"type=GeneralDropoutComponent dim={dim} dropout-proportion={proportion} continuous=true"
            )
        lines = chain(self.input.nodes, [(f"{name}.{part}", settings) for part, settings in components.items()])
        if values["bypass-scale"] != 0.0:
            bypass = f"Sum(Scale({values['bypass-scale']}, {self.input.nodes}), {name}.{self._before_bypass()})"
            lines += chain(bypass, [(f"{name}.noop", f"type=NoOpComponent dim={dim}")])
        return lines


class PrefinalLayer(Layer):
    """``prefinal-layer name=prefinal big-dim=1024 small-dim=256``: affine, ReLU, batch norm, linear, batch norm."""

    keys: ClassVar[Keys] = {
        "input": text("[-1]"),
        "big-dim": integer(-1),
        "small-dim": integer(-1),
        "l2-regularize": number(0.0),
        "max-change": number(0.75),
        "self-repair-scale": number(1.0e-05, FROM_ZERO_TO_ONE),
    }

    def check(self) -> None:
        big, small = self.values["big-dim"], self.values["small-dim"]
        if small <= 0:
            raise self.error("small-dim= must be given, above zero")
        if big <= small:
            raise self.error(f"big-dim={big} must be above small-dim={small}")

    def output(self) -> Output:
        return Output(f"{self.name}.batchnorm2", self.values["small-dim"])

    def lines(self) -> list[str]:
        values, big, small = self.values, self.values["big-dim"], self.values["small-dim"]
        updates = f"l2-regularize={values['l2-regularize']} max-change={values['max-change']}"
        components = {
            "affine": f"type=NaturalGradientAffineComponent input-dim={self.input.dim} output-dim={big} {updates}",
            "relu": f"type=RectifiedLinearComponent dim={big} self-repair-scale={values['self-repair-scale']}",
            "batchnorm1": f"type=BatchNormComponent dim={big}",
            "linear": f"type=LinearComponent input-dim={big} output-dim={small} {updates} orthonormal-constraint=-1 ",
            "batchnorm2": f"type=BatchNormComponent dim={small}",
        }
        return chain(self.input.nodes, [(f"{self.name}.{part}", settings) for part, settings in components.items()])


class DeltaLayer(Layer):
    """``delta-layer name=delta input=idct``: frame t, the differences x(t+1) - x(t-1) and x(t-2) - 2 x(t) + x(t+2).

    Batch norm follows. The helping nodes are called after the input, as in Kaldi: one delta-layer for an input.
    """

    keys: ClassVar[Keys] = {"input": text("[-1]")}

    def check(self) -> None:
        if "(" in self.input.nodes:
            raise self.error(f"input={self.values['input']} must be one line's output: put a no-op-component before")

    def output(self) -> Output:
        return Output(self.name, 3 * self.input.dim)

    def lines(self) -> list[str]:
        source, dim = self.input.nodes, self.input.dim
        first = f"Sum(Offset(Scale(-1.0,{source}_copy1),-1), Offset({source},1))"
        second = f"Sum(Offset({source},-2), Offset({source},2), Offset(Scale(-2.0,{source}_copy2),0))"
        spliced = f"{source}_2"
        return [
            *(f"dim-range-node name={source}_copy{n} input-node={source} dim={dim} dim-offset=0" for n in (1, 2)),
            f"component name={spliced} type=NoOpComponent dim={3 * dim}",
            f"component-node name={spliced} component={spliced} input=Append(Offset({source},0), {first}, {second})",
            *chain(spliced, [(self.name, f"type=BatchNormComponent dim={3 * dim}")]),
        ]


class SpecAugmentLayer(Layer):
    """``spec-augment-layer name=spec-augment time-zeroed-proportion=0.2``: zeroes bands of columns and of frames."""

    keys: ClassVar[Keys] = {
        "input": text("[-1]"),
        "freq-max-proportion": number(0.5, BETWEEN_ZERO_AND_ONE),
        "time-zeroed-proportion": number(0.2, BETWEEN_ZERO_AND_ONE),
        "time-mask-max-frames": integer(20, POSITIVE),
        "include-in-init": switch(),
    }

    def output(self) -> Output:
        return Output(f"{self.name}.time-mask", self.input.dim)

    def lines(self) -> list[str]:
        values, dim = self.values, self.input.dim
        freq_mask = f"type=GeneralDropoutComponent dim={dim} specaugment-max-proportion={values['freq-max-proportion']}"
        time_mask = (
            f"type=SpecAugmentTimeMaskComponent dim={dim} zeroed-proportion={values['time-zeroed-proportion']} "
            f"time-mask-max-frames={values['time-mask-max-frames']}"
        )
        return chain(self.input.nodes, [(f"{self.name}.freq-mask", freq_mask), (f"{self.name}.time-mask", time_mask)])
