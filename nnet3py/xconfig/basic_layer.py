"""relu-batchnorm-layer and its kind: an affine component, then what the layer's type names, in that order.

Source: Kaldi egs/wsj/s5/steps/libs/nnet3/xconfig/basic_layers.py (``XconfigBasicLayer``).
"""

from __future__ import annotations

from typing import ClassVar

from nnet3py.xconfig.key import FROM_ZERO_TO_ONE, NOT_NEGATIVE, POSITIVE, Keys, handed_on, integer, number, switch, text
from nnet3py.xconfig.layer import Layer, Output, chain

_NONLINEARITIES = {"relu": "RectifiedLinearComponent", "sigmoid": "SigmoidComponent", "tanh": "TanhComponent"}


class BasicLayer(Layer):
    """``relu-renorm-layer name=tdnn1 dim=1024 input=Append(-1,0,1)``: nodes tdnn1.affine, tdnn1.relu, tdnn1.renorm.

    With bottleneck-dim a linear component comes first. add-log-stddev lets the last renorm append one column, for
    which the layer computes one fewer. ng-affine-options is put into the affine component's line as it is.
    """

    keys: ClassVar[Keys] = {
        "input": text("[-1]"),
        "dim": integer(-1),
        "bottleneck-dim": integer(-1),
        "self-repair-scale": number(1.0e-05, FROM_ZERO_TO_ONE),
        "target-rms": number(1.0, NOT_NEGATIVE),
        "ng-affine-options": text(),
        "ng-linear-options": text(),
        "dropout-proportion": number(0.5),
        "dropout-per-dim": switch(),
        "dropout-per-dim-continuous": switch(),
        "add-log-stddev": switch(),
        "bias-stddev": handed_on(),
        "l2-regularize": handed_on(),
        "learning-rate-factor": handed_on(POSITIVE),
        "max-change": number(0.75),
    }

    @property
    def operations(self) -> list[str]:
        """The words of the layer's type: ``relu``, ``batchnorm``."""
        return self.line.first_word.split("-")[:-1]

    def check(self) -> None:
        dim, bottleneck = self.values["dim"], self.values["bottleneck-dim"]
        if bottleneck >= 0 and not 0 < bottleneck < dim:
            raise self.error(f"bottleneck-dim={bottleneck} must be above zero and below dim={dim}")
        if self.values["add-log-stddev"] and self.operations[-1] != "renorm":
            raise self.error("add-log-stddev=true needs a type that ends in renorm, such as relu-renorm-layer")

    def output(self) -> Output:
        return Output(f"{self.name}.{self.operations[-1]}", self.values["dim"])

    def lines(self) -> list[str]:
        dim = self.values["dim"] - self.values["add-log-stddev"]
        components = self._affine(dim)
        for position, operation in enumerate(self.operations, 1):
            last = position == len(self.operations)
            components.append((operation, self._settings(operation, dim, last)))
        return chain(self.input.nodes, [(f"{self.name}.{name}", settings) for name, settings in components])

    def _affine(self, output_dim: int) -> list[tuple[str, str]]:
        components, dim = [], self.input.dim
        bottleneck = self.values["bottleneck-dim"]
        if bottleneck > 0:
            options = self.values["ng-linear-options"] + self.options("max-change", "learning-rate-factor")
            dims = f"input-dim={dim} orthonormal-constraint=1.0 output-dim={bottleneck}"
            components.append(("linear", f"type=LinearComponent {dims} {options}"))
            dim = bottleneck
        options = self.values["ng-affine-options"] + self.options(
            "max-change", "learning-rate-factor", "bias-stddev", "l2-regularize"
        )
        affine = f"type=NaturalGradientAffineComponent input-dim={dim} output-dim={output_dim} {options}"
        return [*components, ("affine", affine)]

    def _settings(self, operation: str, dim: int, last: bool) -> str:
        values = self.values
        if operation in _NONLINEARITIES:
            return f"type={_NONLINEARITIES[operation]} dim={dim} self-repair-scale={values['self-repair-scale']}"
        if operation == "renorm":
            log_stddev = "true" if last and values["add-log-stddev"] else "false"
            return f"type=NormalizeComponent dim={dim} target-rms={values['target-rms']} add-log-stddev={log_stddev}"
        if operation == "batchnorm":
            return f"type=BatchNormComponent dim={dim} target-rms={values['target-rms']}"
        if operation == "so":
            return f"type=ScaleAndOffsetComponent dim={dim} max-change=0.5 "
        return self._dropout(dim)

    def _dropout(self, dim: int) -> str:
        """One mask for all times (GeneralDropoutComponent) where dropout is per dimension, else one for each."""
        rest = f"dim={dim} dropout-proportion={self.values['dropout-proportion']}"
        if self.values["dropout-per-dim-continuous"]:
            return f"type=GeneralDropoutComponent {rest} continuous=true"
        if self.values["dropout-per-dim"]:
            return f"type=GeneralDropoutComponent {rest} "
        return f"type=DropoutComponent {rest}"
