"""Files that a command line names, looked at before any work is done: inputs must be there, outputs possible.

A program of several inputs opens the last of them late, after gigabytes of the first; one that writes finds out in the
end that it cannot. So :func:`require_files` looks at all of them in the beginning. What each argument and option is, is
said by its metavar, in Kaldi's words for it: ``<model-in>``, ``<feats-rspecifier>``, ``<lda-stats-out>``,
``WSPECIFIER``, ``RXFILENAME``. Pipes and standard streams are passed over, as is what a script's lines point at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click

from nnet3py.tables.named_files import require_input, require_output

_WORD = re.compile(r"<(?:[a-z0-9-]+-)?(in|out|[rw]specifier|[rw]xfilename)[0-9N]*>|(\.\.\.)")
_OUTPUTS = ("out", "wspecifier", "wxfilename")


def require_files(parameters: Iterable[click.Parameter], values: Mapping[str, Any]) -> None:
    """Look at every file that a program's arguments and options name, in their order on the command line.

    Raises:
        UserError: an input is missing or cannot be read, or an output cannot be written.
    """
    for parameter in parameters:
        for name, is_output in _named(parameter, values.get(str(parameter.name))):
            require_output(name) if is_output else require_input(name)


def _named(parameter: click.Parameter, value: Any) -> Iterator[tuple[str, bool]]:
    """The files that a parameter names, and whether each is an output."""
    if not value or parameter.metavar is None:
        return
    if isinstance(parameter, click.Option):
        metavar = parameter.metavar.lower()
        if metavar in ("rspecifier", "wspecifier", "rxfilename", "wxfilename"):
            yield value, metavar in _OUTPUTS
        return
    words = [match[1] or match[2] for match in _WORD.finditer(parameter.metavar)]
    if not words or words[0] == "...":
        return
    names = value if isinstance(value, tuple) else (value,)
    outputs = _number_of_outputs(words, len(names))
    for position, name in enumerate(names):
        yield name, position >= len(names) - outputs


def _number_of_outputs(words: list[str], names: int) -> int:
    """How many of an argument's names, the last of them, are outputs: ``<model-in1> ... <model-inN> <model-out>``."""
    roles = [word in _OUTPUTS for word in words if word != "..."]
    if all(roles):
        return names
    if words[-1] == "..." and roles[-1]:  # as many as there are inputs
        return names // 2
    return sum(roles)
