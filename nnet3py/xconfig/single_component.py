"""Layers of one component each, or of one dim-range-node.

Source: Kaldi egs/wsj/s5/steps/libs/nnet3/xconfig/trivial_layers.py; basic_layers.py (``XconfigAffineLayer``);
convolution.py (``ChannelAverageLayer``).
"""

from __future__ import annotations

import math
from typing import ClassVar

from nnet3py import log
from nnet3py.xconfig.key import NOT_NEGATIVE, POSITIVE, Keys, handed_on, integer, number, switch, text
from nnet3py.xconfig.layer import Layer, Output, chain


class SingleComponent(Layer):
    """A component called as the layer. Its dimension is ``dim=`` where there is such a key, else the input's."""

    def output(self) -> Output:
        return Output(self.name, self.values.get("dim", self.input.dim))

    def lines(self) -> list[str]:
        return chain(self.input.nodes, [(self.name, self.settings())])

    def settings(self) -> str:
        """Type and settings of the component."""
        raise NotImplementedError

    def _dims(self) -> str:
        return f"input-dim={self.input.dim} output-dim={self.values['dim']}"


class RenormComponent(SingleComponent):
    """``renorm-component name=renorm1``."""

    keys: ClassVar[Keys] = {"input": text("[-1]"), "target-rms": number(1.0, POSITIVE)}

    def settings(self) -> str:
        return f"type=NormalizeComponent dim={self.input.dim} target-rms={self.values['target-rms']}"


class BatchnormComponent(SingleComponent):
    """``batchnorm-component name=batchnorm1``; include-in-init where a fixed-affine-layer follows."""

    keys: ClassVar[Keys] = {"input": text("[-1]"), "target-rms": number(1.0, POSITIVE), "include-in-init": switch()}

    def settings(self) -> str:
        return f"type=BatchNormComponent dim={self.input.dim} target-rms={self.values['target-rms']}"


class NoOpComponent(SingleComponent):
    """``no-op-component name=both input=Append(tdnn3, tdnn4)``: a node for a descriptor."""

    keys: ClassVar[Keys] = {"input": text("[-1]")}

    def settings(self) -> str:
        return f"type=NoOpComponent dim={self.input.dim}"


class LinearComponent(SingleComponent):
    """``linear-component name=prefinal-l dim=256 orthonormal-constraint=-1.0``."""

    keys: ClassVar[Keys] = {
        "input": text("[-1]"),
        "dim": integer(-1),
        "orthonormal-constraint": handed_on(),
        "max-change": number(0.75),
        "l2-regularize": handed_on(),
        "param-stddev": handed_on(NOT_NEGATIVE),
        "learning-rate-factor": handed_on(),
    }

    def settings(self) -> str:
        options = self.options(
            "orthonormal-constraint", "max-change", "l2-regularize", "param-stddev", "learning-rate-factor"
        )
        return f"type=LinearComponent {self._dims()} {options}"


class AffineComponent(SingleComponent):
    """``affine-component name=affine1 dim=1024``."""

    keys: ClassVar[Keys] = {
        "input": text("[-1]"),
        "dim": integer(-1),
        "orthonormal-constraint": handed_on(),
        "max-change": number(0.75),
        "param-stddev": handed_on(NOT_NEGATIVE),
        "bias-stddev": handed_on(),
        "l2-regularize": handed_on(),
    }

    def settings(self) -> str:
        options = self.options("orthonormal-constraint", "max-change", "l2-regularize", "param-stddev", "bias-stddev")
        return f"type=NaturalGradientAffineComponent {self._dims()} {options}"


class AffineLayer(SingleComponent):
    """``affine-layer name=affine1 dim=1024``, with the initial parameters' distribution written out.

    Two things differ from Kaldi's script, which puts no blank before ng-affine-options, so that they spoil the value
    before them. And it takes learning-rate-factor without handing it on; that is kept, with a warning.
    """

    keys: ClassVar[Keys] = {
        "input": text("[-1]"),
        "dim": integer(-1),
        "param-stddev": number(-1.0),
        "bias-stddev": number(1.0, NOT_NEGATIVE),
        "bias-mean": number(0.0),
        "max-change": number(0.75),
        "l2-regularize": number(0.0),
        "learning-rate-factor": number(1.0),
        "ng-affine-options": text(),
    }

    def complete(self) -> None:
        if self.values["param-stddev"] < 0:
            self.values["param-stddev"] = 1.0 / math.sqrt(self.input.dim)

    def check(self) -> None:
        if self.values["learning-rate-factor"] != 1.0:
            log.warning(
                f"{self.line.where}: learning-rate-factor= of an affine-layer has no effect, as in Kaldi: "
                'write ng-affine-options="learning-rate-factor=..."'
            )

    def settings(self) -> str:
        options = self.options("param-stddev", "bias-stddev", "bias-mean", "max-change", "l2-regularize")
        extra = self.values["ng-affine-options"]
        return f"type=NaturalGradientAffineComponent {self._dims()} {options}" + (f" {extra}" if extra else "")


class _PerElement(SingleComponent):
    """A number for each column."""

    type_name: str
    keys: ClassVar[Keys] = {
        "input": text("[-1]"),
        "l2-regularize": handed_on(),
        "max-change": number(0.75),
        "param-mean": handed_on(),
        "param-stddev": handed_on(),
        "learning-rate-factor": handed_on(),
    }

    def settings(self) -> str:
        options = self.options("learning-rate-factor", "max-change", "l2-regularize", "param-mean", "param-stddev")
        return f"type={self.type_name} dim={self.input.dim} {options} "


class ScaleComponent(_PerElement):
    """``scale-component name=scale1``."""

    type_name = "NaturalGradientPerElementScaleComponent"


class OffsetComponent(_PerElement):
    """``offset-component name=offset1``."""

    type_name = "PerElementOffsetComponent"


class DimRangeComponent(SingleComponent):
    """``dim-range-component name=first dim=40 dim-offset=0``: some of the input's columns, by a dim-range-node."""

    keys: ClassVar[Keys] = {"input": text("[-1]"), "dim": integer(-1), "dim-offset": integer(0, NOT_NEGATIVE)}

    def check(self) -> None:
        end = self.values["dim-offset"] + self.values["dim"]
        if end > self.input.dim:
            raise self.error(f"dim-offset + dim is {end}, but the input has {self.input.dim} columns")
        if "(" in self.input.nodes:
            raise self.error(f"input={self.values['input']} must be one line's output: put a no-op-component before")

    def lines(self) -> list[str]:
        values = self.values
        return [
            f"dim-range-node name={self.name} input-node={self.input.nodes} dim={values['dim']} "
            f"dim-offset={values['dim-offset']}"
        ]


class CombineFeatureMapsLayer(SingleComponent):
    """``combine-feature-maps-layer name=maps height=40 num-filters1=1 num-filters2=5``: images side by side into one.

    The input is two or three images appended, each with its filters of one height together; in the output the filters
    of all images are together for each height.
    """

    keys: ClassVar[Keys] = {
        "input": text("[-1]"),
        "num-filters1": integer(-1),
        "num-filters2": integer(-1),
        "num-filters3": integer(0, NOT_NEGATIVE),
        "height": integer(-1),
    }

    def check(self) -> None:
        for key in ("num-filters1", "num-filters2", "height"):
            if self.values[key] <= 0:
                raise self.error(f"{key}= must be given, above zero")
        expected = sum(self._filters()) * self.values["height"]
        if self.input.dim != expected:
            raise self.error(f"filters times height are {expected}, but the input has {self.input.dim} columns")

    def _filters(self) -> list[int]:
        return [self.values[f"num-filters{image}"] for image in (1, 2, 3)]

    def settings(self) -> str:
        columns: list[int] = []
        for row in range(self.values["height"]):
            start = 0
            for filters in self._filters():
                columns += range(start + row * filters, start + (row + 1) * filters)
                start += self.values["height"] * filters
        return f"type=PermuteComponent column-map={','.join(map(str, columns))} "


class ChannelAverageLayer(SingleComponent):
    """``channel-average-layer name=average dim=64``: the mean of the input's blocks of dim columns."""

    keys: ClassVar[Keys] = {"input": text("[-1]"), "dim": integer(-1)}
    takes_dim_from_input = False

    def check(self) -> None:
        dim = self.values["dim"]
        if dim <= 0:
            raise self.error("dim= must be given, above zero")
        if self.input.dim % dim:
            raise self.error(f"the input's {self.input.dim} columns are not a multiple of dim={dim}")

    def settings(self) -> str:
        return f"type=SumBlockComponent {self._dims()} scale={self.values['dim'] / self.input.dim}"
