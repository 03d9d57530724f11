"""The inputs and the output of a network by the lines that describe it, before it is made or read.

The lines are those of its configuration files, or what ``nnet-info`` prints of it, which has the same nodes.
"""

from __future__ import annotations

from collections.abc import Sequence

from nnet3py.nnet.configuration import ConfigLine, config_lines
from nnet3py.text.lines import BLANKS

OUTPUT = "output"


def inputs_of(lines: Sequence[str], where: str) -> dict[str, int]:
    """The input nodes and their dimensions; ``where`` names the lines in errors."""
    return {node.text_value("name"): node.positive("dim") for node in _lines(lines, "input-node", where)}


def output_dim_of(lines: Sequence[str], where: str) -> int | None:
    """The dimension of the output node ``output``, the number of classes.

    None if the lines do not say it in so many words, if there is no such node, or if its targets are no classes
    (``objective=quadratic``). Of lines for the same thing the last counts.
    """
    output = _named(lines, "output-node", OUTPUT, where)
    if output is None or output.text_value("objective", "linear") != "linear":
        return None
    if "dim" in output:
        return output.positive("dim")
    node = _named(lines, "component-node", output.text_value("input"), where)
    component = _named(lines, "component", node.text_value("component"), where) if node else None
    if component is None:
        return None
    return next((component.positive(key) for key in ("output-dim", "dim") if key in component), None)


def _named(lines: Sequence[str], first_word: str, name: str, where: str) -> ConfigLine | None:
    found = [line for line in _lines(lines, first_word, where, f"name={name}") if line.text_value("name") == name]
    return found[-1] if found else None


def _lines(lines: Sequence[str], first_word: str, where: str, containing: str = "") -> list[ConfigLine]:
    """The lines of a kind; the rest is not looked at."""
    start = f"{first_word} "
    return list(config_lines([x for x in lines if x.lstrip(BLANKS).startswith(start) and containing in x], where))
