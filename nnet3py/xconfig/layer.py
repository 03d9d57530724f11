"""What all layers share: values by key, the input descriptor, outputs that later lines may name, generated lines.

A layer type is a class that declares its keys and says what its output is and which lines it generates; values, their
errors, and the expanded line follow from the declaration.

Source: Kaldi egs/wsj/s5/steps/libs/nnet3/xconfig/basic_layers.py (``XconfigLayerBase``).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from nnet3py.errors import UserError
from nnet3py.xconfig.descriptor import NAME, DescriptorError, parse_descriptor
from nnet3py.xconfig.key import Keys
from nnet3py.xconfig.xconfig_line import XconfigLine


class Output(NamedTuple):
    """What another line may read: the name of a node in the generated network, and its dimension."""

    node: str
    dim: int


class Input(NamedTuple):
    """An ``input=`` in terms of layers (``layers``) and of the generated network's nodes (``nodes``)."""

    layers: str
    nodes: str
    dim: int


@dataclass
class Predecessors:
    """What the descriptors of a line may refer to.

    Attributes:
        layers: the lines before, in the order of the file.
        existing: nodes of an existing model and their dimensions; neither ``[-1]`` nor a bare offset means them.
    """

    layers: list[Layer] = field(default_factory=list)
    existing: dict[str, int] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Names of the lines before."""
        return [layer.name for layer in self.layers]

    def output(self, name: str) -> Output:
        """The output that a descriptor means by ``name``. Raises DescriptorError if there is none."""
        if name in self.existing:
            return Output(name, self.existing[name])
        layer_name, _, inner = name.partition(".")
        for layer in self.layers:
            if layer.name == name:
                return layer.output_for_others()
            if layer.name == layer_name:
                if inner in layer.inner_outputs():
                    return layer.inner_outputs()[inner]
                raise DescriptorError(f"{layer_name} has no inner output {inner}{_listed(layer.inner_outputs())}")
        known = [*self.names, *self.existing]
        near = difflib.get_close_matches(name, known, 1)
        hint = f" (is it {near[0]}?)" if near else f" (lines before: {', '.join(self.names) or 'none'})"
        raise DescriptorError(f"no line before this one is called {name}{hint}")


def _listed(names: dict[str, Output]) -> str:
    return f" (it has {', '.join(names)})" if names else ""


class Layer:
    """A line of an xconfig file. Subclasses declare ``keys`` and implement :meth:`output` and :meth:`lines`.

    Attributes:
        line: the line as it was read.
        name: the value of ``name=``.
        values: a value for each key, the default where the line has none.
        input: the value of ``input=``, if the layer has that key.
    """

    keys: ClassVar[Keys] = {}
    takes_dim_from_input: ClassVar[bool] = True
    """Whether ``dim=``, where it is not given or not above zero, is the input's dimension."""

    input: Input

    def __init__(self, line: XconfigLine, before: Predecessors) -> None:
        """Read the values of a line. Raises UserError for a value that is wrong, unknown, or missing."""
        self.line = line
        self.name = self._read_name(before)
        self.values = self._read_values()
        if "input" in self.keys:
            self.input = self._read_input(before)
            if self.takes_dim_from_input and "dim" in self.keys and self.values["dim"] <= 0:
                self.values["dim"] = self.input.dim
        self.complete()
        self.check()

    def error(self, problem: str) -> UserError:
        """A UserError that shows the line and where it stands."""
        return self.line.error(problem)

    def _read_name(self, before: Predecessors) -> str:
        name = self.line.values.get("name")
        if name is None:
            raise self.error("name= is missing")
        if not NAME.fullmatch(name):
            raise self.error(f"name={name} must be a letter or '_', then letters, digits, '_', '-' or '.'")
        for layer in before.layers:
            if layer.name == name:
                raise self.error(f"the name {name} is taken by the line at {layer.line.where}: choose another")
        return name

    def _read_values(self) -> dict[str, Any]:
        values = {name: key.default for name, key in self.keys.items()}
        for name, text in self.line.values.items():
            if name == "name":
                continue
            if name not in self.keys:
                raise self._unknown_key(name)
            try:
                values[name] = self.keys[name].read(text)
            except ValueError as problem:
                found = (
                    f"{name}={text} {problem}" if text else f"{name}= has no value: expected {self.keys[name].expected}"
                )
                raise self.error(found) from None
        return values

    def _unknown_key(self, name: str) -> UserError:
        allowed = sorted([*self.keys, "name"])
        near = difflib.get_close_matches(name, allowed, 1)
        hint = f"is it {near[0]}=?" if near else f"it has {', '.join(allowed)}"
        return self.error(f"{self.line.first_word} has no key {name}= ({hint})")

    def _read_input(self, before: Predecessors) -> Input:
        text = self.values["input"]
        try:
            descriptor = parse_descriptor(text, before.names)
            dim = descriptor.dim(lambda name: before.output(name).dim)
            return Input(descriptor.text(), descriptor.text(lambda name: before.output(name).node), dim)
        except DescriptorError as problem:
            raise self.error(f"input={text}: {problem}") from None

    def expanded(self, *, normalised: bool) -> str:
        """The line with every default in it; ``normalised``: ``input=`` with its short forms written out."""
        values = dict(self.values)
        if normalised and "input" in values:
            values["input"] = self.input.layers
        words = [f"{self.line.first_word} name={self.name}"]
        for key, value in sorted(values.items()):
            words.append(f'{key}="{value}"' if isinstance(value, str) and "=" in value else f"{key}={value}")
        return " ".join(words)

    def options(self, *names: str) -> str:
        """`` key=value`` for each of the keys, each after a blank; those handed on and not given are left out."""
        return "".join(f" {name}={self.values[name]}" for name in names if self.values[name] != "")

    # What a layer type adds.

    def complete(self) -> None:
        """Set values that follow from others."""

    def check(self) -> None:
        """Raise UserError if values do not go together."""

    def output(self) -> Output:
        """The layer's output."""
        raise NotImplementedError

    def output_for_others(self) -> Output:
        """The output, where a later line may read it. Raises DescriptorError where it may not."""
        return self.output()

    def inner_outputs(self) -> dict[str, Output]:
        """Outputs that are read as ``layer.NAME``."""
        return {}

    def lines(self) -> list[str]:
        """Configuration lines, the same in every file that the layer writes into."""
        raise NotImplementedError

    def config_lines(self) -> Iterator[tuple[str, str]]:
        """Pairs of a file (``init``, ``ref``, ``final``) and a line for it."""
        files = ["ref", "final", *(["init"] if self.values.get("include-in-init") else [])]
        for line in self.lines():
            for file in files:
                yield file, line

    def matrix_file(self) -> tuple[str, str] | None:
        """A file that the generated lines refer to and that this layer makes: its name and its text."""
        return None


def chain(source: str, components: Sequence[tuple[str, str]]) -> list[str]:
    """Lines of components of which each reads the one before, the first reads the descriptor ``source``.

    Args:
        source: a descriptor.
        components: name and settings (``type=NoOpComponent dim=5``) of each.
    """
    lines = []
    for name, settings in components:
        lines.append(f"component name={name} {settings}")
        lines.append(f"component-node name={name} component={name} input={source}")
        source = name
    return lines
