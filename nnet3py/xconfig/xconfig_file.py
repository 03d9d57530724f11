"""An xconfig file as layers.

Source: Kaldi egs/wsj/s5/steps/libs/nnet3/xconfig/parser.py (``read_xconfig_file``, ``get_model_component_info``).
"""

from __future__ import annotations

from nnet3py.errors import UserError
from nnet3py.text.expectation import Expected, refuse_misfit
from nnet3py.text.lines import decode, fields, lines_of
from nnet3py.xconfig.layer import Layer, Predecessors
from nnet3py.xconfig.layer_types import make_layer
from nnet3py.xconfig.xconfig_line import parse_line

_EXPECTED = Expected("an xconfig file", form=None, takes_commands=False)


def read_text(path: str) -> str:
    """All of an xconfig file. Raises UserError if it cannot be read or is not text."""
    try:
        with open(path, "rb") as file:
            data = file.read()
        refuse_misfit(data, path, _EXPECTED)
        return decode(data)
    except OSError as problem:
        raise UserError(f"Cannot read the xconfig file {path}: {problem.strerror}.") from problem


def parse_xconfig(text: str, path: str, existing: dict[str, int] | None = None) -> list[Layer]:
    """The layers of an xconfig file.

    Args:
        text: the file.
        path: its name, for messages.
        existing: nodes of a model that the layers will be added to, and their dimensions.

    Raises:
        UserError: a line is wrong, or there is none.
    """
    before = Predecessors(existing=existing or {})
    for number, content in enumerate(lines_of(text), 1):
        line = parse_line(content, f"{path}:{number}")
        if line is not None:
            before.layers.append(make_layer(line, before))
    if not before.layers:
        raise UserError(f"{path}: expected lines such as 'input name=input dim=40', found none.")
    return before.layers


def nodes_of(info: str) -> dict[str, int]:
    """The nodes that the output of nnet-info lists, and their dimensions.

    A line is ``input-node name=input dim=40`` or ``component-node name=a component=a input=... output-dim=512``.
    """
    found = {}
    for line in lines_of(info):
        words = fields(line)
        values = dict(word.split("=", 1) for word in words if "=" in word)
        dim = values.get("output-dim", values.get("dim"))
        if words and words[0].endswith("-node") and "name" in values and dim:
            found[values["name"]] = int(dim)
    return found
