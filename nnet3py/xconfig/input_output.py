"""Inputs and outputs of the network: input, output, output-layer.

Source: Kaldi egs/wsj/s5/steps/libs/nnet3/xconfig/basic_layers.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

from nnet3py.xconfig.descriptor import DescriptorError
from nnet3py.xconfig.key import NOT_NEGATIVE, POSITIVE, Keys, choice, handed_on, integer, number, switch, text
from nnet3py.xconfig.layer import Layer, Output, chain


class InputLayer(Layer):
    """``input name=ivector dim=100``: an input-node, in every file."""

    keys: ClassVar[Keys] = {"dim": integer(-1)}

    def check(self) -> None:
        if self.values["dim"] <= 0:
            raise self.error("dim= must be given, above zero")

    def output(self) -> Output:
        return Output(self.name, self.values["dim"])

    def config_lines(self) -> Iterator[tuple[str, str]]:
        for file in ("init", "ref", "final"):
            yield file, f"input-node name={self.name} dim={self.values['dim']}"


class _NetworkOutput(Layer):
    """A layer that ends in an output-node, which no other line can read."""

    def output_for_others(self) -> Output:
        inner = " or ".join(f"{self.name}.{name}" for name in self.inner_outputs())
        hint = f" (read {inner})" if inner else ""
        raise DescriptorError(f"{self.name} is an output of the network and cannot be another line's input{hint}")

    def output_node(self, source: str) -> str:
        """The line of the output-node that reads ``source``, delayed where the layer says so."""
        delay = self.values["output-delay"]
        if delay:
            source = f"Offset({source}, {delay})"
        return f"output-node name={self.name} input={source} objective={self.values['objective-type']}"


class TrivialOutputLayer(_NetworkOutput):
    """``output name=output input=tdnn5``: an output-node and nothing else."""

    keys: ClassVar[Keys] = {
        "input": text("[-1]"),
        "dim": integer(-1),
        "objective-type": choice("linear", "quadratic"),
        "output-delay": integer(0),
    }

    def check(self) -> None:
        if self.values["dim"] != self.input.dim:
            raise self.error(f"dim={self.values['dim']} but the input has {self.input.dim}: leave dim= out")

    def output(self) -> Output:
        return Output(self.name, self.input.dim)

    def lines(self) -> list[str]:
        return [self.output_node(self.input.nodes)]


class OutputLayer(_NetworkOutput):
    """``output-layer name=output dim=2000``: affine, log-softmax, output-node; perhaps a linear bottleneck before."""

    keys: ClassVar[Keys] = {
        "input": text("[-1]"),
        "dim": integer(-1),
        "bottleneck-dim": integer(-1),
        "orthonormal-constraint": number(1.0, POSITIVE),
        "include-log-softmax": switch(True),
        "objective-type": choice("linear", "quadratic"),
        "output-delay": integer(0),
        "ng-affine-options": text(),
        "ng-linear-options": text(),
        "learning-rate-factor": handed_on(),
        "l2-regularize": handed_on(),
        "max-change": number(1.5),
        "param-stddev": number(0.0, NOT_NEGATIVE),
        "bias-stddev": number(0.0, NOT_NEGATIVE),
    }

    def check(self) -> None:
        bottleneck = self.values["bottleneck-dim"]
        smaller = min(self.input.dim, self.values["dim"])
        if bottleneck >= 0 and not 0 < bottleneck < smaller:
            raise self.error(f"bottleneck-dim={bottleneck} must be above zero and below {smaller}")

    def output(self) -> Output:
        return Output(self.name, self.values["dim"])

    def inner_outputs(self) -> dict[str, Output]:
        names = ["affine"] + ["log-softmax"] * self.values["include-log-softmax"]
        return {name: Output(f"{self.name}.{name}", self.values["dim"]) for name in names}

    def lines(self) -> list[str]:
        values, components = self.values, []
        dim, bottleneck = self.input.dim, values["bottleneck-dim"]
        if bottleneck > 0:
            components.append((f"{self.name}.linear", self._bottleneck()))
            dim = bottleneck
        options = values["ng-affine-options"] + self.options(
            "learning-rate-factor", "l2-regularize", "max-change", "param-stddev", "bias-stddev"
        )
        affine = f"type=NaturalGradientAffineComponent input-dim={dim} output-dim={values['dim']} {options}"
        components.append((f"{self.name}.affine", affine))
        if values["include-log-softmax"]:
            components.append((f"{self.name}.log-softmax", f"type=LogSoftmaxComponent dim={values['dim']}"))
        return [*chain(self.input.nodes, components), self.output_node(components[-1][0])]

    def _bottleneck(self) -> str:
        constraint, dim = self.values["orthonormal-constraint"], self.input.dim
        options = self.values["ng-linear-options"] + self.options("learning-rate-factor", "l2-regularize", "max-change")
        return (
            f"type=LinearComponent orthonormal-constraint={constraint} param-stddev={constraint / math.sqrt(dim)} "
            f"input-dim={dim} output-dim={self.values['bottleneck-dim']} max-change=0.75 {options}"
        )
