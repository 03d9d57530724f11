"""The directory of configuration files: what is written into it, and the network's context that is found with it.

    xconfig                      a copy of the xconfig file
    xconfig.expanded.1, .2       the same with every default; in .2 also with descriptors written out
    init.config                  what a fixed-affine-layer is estimated from; only where there is one
    ref.config                   the whole network, random numbers in place of matrices that are yet to be estimated
    final.config                 the whole network
    init.raw, ref.raw            networks of init.config and ref.config
    vars                         model_left_context and model_right_context of ref.raw

The files appear together: until nnet-init has accepted the network they have temporary names.

Source: Kaldi egs/wsj/s5/steps/nnet3/xconfig_to_configs.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from nnet3py import log, temporary_files
from nnet3py.errors import UserError
from nnet3py.text.lines import BLANKS, decode, encode, fields, lines_of, write_text
from nnet3py.xconfig.layer import Layer
from nnet3py.xconfig.xconfig_file import nodes_of, parse_xconfig, read_text

_EXPLANATIONS = {
    "xconfig": "A copy of the xconfig file from which the other files here were made.",
    "xconfig.expanded.1": "The xconfig file with every default written out. See also xconfig.expanded.2.",
    "xconfig.expanded.2": "As xconfig.expanded.1, with the descriptors in input= written out too.",
    "init": "The part of the network before the fixed-affine-layer, which is estimated from its output.",
    "ref": "The whole network with random numbers in place of matrices that are estimated later: shows its context.",
    "final": "The whole network.",
}


@dataclass(frozen=True)
class GeneratedLine:
    """A line for a configuration file, and the layer that it comes from."""

    text: str
    layer: Layer


def config_files(layers: Sequence[Layer], path: str) -> dict[str, list[GeneratedLine]]:
    """The lines of ``ref``, ``final`` and, where a layer is estimated from its input, ``init``.

    Raises:
        UserError: the network has no output; ``path`` is the xconfig file's name for the message.
    """
    files: dict[str, list[GeneratedLine]] = {"ref": [], "final": [], "init": []}
    for layer in layers:
        for name, text in layer.config_lines():
            files[name].append(GeneratedLine(text, layer))
    if not _has_output(files["final"]):
        raise UserError(f"{path}: no line makes an output: add one such as 'output-layer name=output dim=2000'.")
    if not _has_output(files["init"]):
        del files["init"]
    return files


def _has_output(lines: Sequence[GeneratedLine]) -> bool:
    return any(line.text.startswith("output-node") for line in lines)


@dataclass(frozen=True)
class Settings:
    """What steps/xconfig_to_configs.py is asked for.

    Attributes:
        xconfig_file: the file to read.
        config_dir: where the files go.
        existing_model: a model that the layers are added to; "" for none.
        nnet_edits: edits as nnet-copy has them, before the context is looked for; "" for none.
        command: the command line, to be noted in the files.
    """

    xconfig_file: str
    config_dir: str
    existing_model: str = ""
    nnet_edits: str = ""
    command: str = ""


def make_config_directory(settings: Settings) -> tuple[int, int]:
    """Write the files; returns the network's left and right context.

    Raises:
        UserError: a line of the xconfig file is wrong, nnet-init refuses the network, or a program is not there.
    """
    text = read_text(settings.xconfig_file)
    layers = parse_xconfig(text, settings.xconfig_file, _existing_nodes(settings.existing_model))
    files = config_files(layers, settings.xconfig_file)
    try:
        os.makedirs(settings.config_dir, exist_ok=True)
    except OSError as problem:
        raise UserError(f"Cannot make the directory {settings.config_dir}: {problem.strerror}.") from problem
    for layer in layers:
        matrix = layer.matrix_file()
        if matrix is not None:
            write_text(*matrix)
    with _Staging(settings.config_dir) as staging:
        for name, content in _texts(text, layers, files).items():
            staging.write(name, _header(name, settings.command) + content)
        for name in ("init", "ref"):
            if name in files:
                _make_network(staging, name, files[name], settings)
        context = _find_context(staging, settings)
        if "init" in files:
            _check_init_context(staging, context, settings)
        staging.write("vars", f"model_left_context={context[0]}\nmodel_right_context={context[1]}\n")
        staging.publish()
    return context


def _existing_nodes(model: str) -> dict[str, int]:
    if not model:
        return {}
    nodes = nodes_of(_run(["nnet-info", "--print-args=false", model])[0])
    if not nodes:
        raise UserError(f"{model}: expected a network with nodes, found none.")
    return nodes


def _texts(text: str, layers: Sequence[Layer], files: dict[str, list[GeneratedLine]]) -> dict[str, str]:
    """What goes into each file, without its header."""
    texts = {"xconfig": [line.strip(BLANKS) for line in lines_of(text)]}
    for number, normalised in ((1, False), (2, True)):
        texts[f"xconfig.expanded.{number}"] = [layer.expanded(normalised=normalised) for layer in layers]
    for name, lines in files.items():
        texts[f"{name}.config"] = [line.text for line in lines]
    return {name: "".join(f"{line}\n" for line in lines) for name, lines in texts.items()}


def _header(name: str, command: str) -> str:
    lines = ["Made by:", *lines_of(command), _EXPLANATIONS[name.removesuffix(".config")]]
    return "".join(f"# {line}\n" for line in lines) + "\n"


def _make_network(staging: _Staging, name: str, lines: Sequence[GeneratedLine], settings: Settings) -> None:
    """``<name>.raw`` from ``<name>.config``; what nnet-init says of a line is said of the layer that it comes from."""
    config = staging.path(f"{name}.config")
    words = ["nnet-init", "--print-args=false", *([settings.existing_model] if settings.existing_model else [])]
    try:
        _, messages = _run([*words, config, staging.path(f"{name}.raw")])
    except UserError as problem:
        message = str(problem).replace(config, f"{name}.config")
        raise _of_layer(message, name, lines, settings) from problem
    if name == "ref":
        _warn_of_unused(re.findall(r"^WARNING .* Node (\S+) is never used", messages, re.MULTILINE), lines)


def _warn_of_unused(nodes: Sequence[str], lines: Sequence[GeneratedLine]) -> None:
    unused = {line.layer for line in lines for node in nodes if f"-node name={node} " in line.text}
    for layer in sorted(unused, key=lambda layer: layer.name):
        log.warning(f"{layer.line.where}: {layer.name} is never used to compute an output.")


def _of_layer(message: str, name: str, lines: Sequence[GeneratedLine], settings: Settings) -> UserError:
    """The error of nnet-init as one of the layer whose line or node it names, if it names one."""
    line = re.search(rf"\b{name}\.config:(\d+): (.*)", message)
    if line is not None:
        number = int(line[1]) - _header(name, settings.command).count("\n")
        return lines[number - 1].layer.error(line[2])
    node = re.search(rf"\b{name}\.config: (Node (\S+): .*)", message)
    for generated in lines if node else []:
        if node and f"-node name={node[2]} " in generated.text:
            hint = ""
            if name == "init" and generated.text.startswith("output-node"):
                hint = " (what comes before a fixed-affine-layer needs include-in-init=true, or this "
                hint += "write-init-config=false)"
            return generated.layer.error(node[1].rstrip(".") + hint)
    return UserError(f"{settings.xconfig_file}: {message}")


def _find_context(staging: _Staging, settings: Settings) -> tuple[int, int]:
    model = staging.path("ref.raw")
    if settings.nnet_edits:
        edited = staging.scratch("edited.raw")
        _run(["nnet-copy", "--print-args=false", f"--edits={settings.nnet_edits}", model, edited])
        model = edited
    context = _context_of(model, settings)
    if context is None:
        raise UserError(
            f"{settings.xconfig_file}: the network has no context, for it lacks an output called 'output' or an input "
            "called 'input': give --nnet-edits='rename-node old-name=NAME new-name=output', NAME being its main output."
        )
    return context


def _context_of(model: str, settings: Settings) -> tuple[int, int] | None:
    """What nnet-info says; None where it says nothing, because the network lacks the usual input or output."""
    try:
        info, _ = _run(["nnet-info", "--print-args=false", model])
    except UserError as problem:
        raise UserError(f"{settings.xconfig_file}: {problem}") from problem
    found = dict(re.findall(r"^(left|right)-context: (\d+)", info, re.MULTILINE))
    return (int(found["left"]), int(found["right"])) if len(found) == 2 else None


def _check_init_context(staging: _Staging, context: tuple[int, int], settings: Settings) -> None:
    """The examples that the fixed layer is estimated from have the context of the whole network."""
    init = _context_of(staging.path("init.raw"), settings)
    if init is None:
        raise UserError(f"{settings.xconfig_file}: the network of init.config lacks an input called 'input'.")
    if init[0] > context[0] or init[1] > context[1]:
        raise UserError(
            f"{settings.xconfig_file}: the input of the fixed-affine-layer needs {init[0]} frames on the left and "
            f"{init[1]} on the right, the whole network only {context[0]} and {context[1]}: with output-delay=N at the "
            "output, give the fixed-affine-layer delay=N."
        )


def _run(words: Sequence[str]) -> tuple[str, str]:
    """Standard output and messages of a program. Raises UserError with its ERROR line's text if it fails."""
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True)
    except OSError as problem:
        raise UserError(f"Cannot start {words[0]}: {problem.strerror}. The programs of bin/ must be on PATH.") from None
    messages = decode(done.stderr)
    if done.returncode != 0:
        found = re.search(r"^ERROR \([^\n]*?\) (.*)", messages, re.MULTILINE | re.DOTALL)
        text = found[1] if found else messages[-1000:] or f"its exit status was {done.returncode}."
        raise UserError(f"{words[0]}: {' '.join(fields(text))}")
    return decode(done.stdout), messages


class _Staging:
    """Files of a directory under temporary names, which get their own together or are removed."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._files: dict[str, str] = {}  # what a file is to be called: where it is
        self._scratch: list[str] = []

    def __enter__(self) -> _Staging:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, at: TracebackType | None
    ) -> None:
        for path in [*self._files.values(), *self._scratch]:
            temporary_files.remove(path)

    def path(self, name: str) -> str:
        """The temporary path of a file that is to be published."""
        if name not in self._files:
            self._files[name] = temporary_files.beside(os.path.join(self._folder, name))
        return self._files[name]

    def scratch(self, name: str) -> str:
        """The path of a file that is not to stay."""
        self._scratch.append(temporary_files.beside(os.path.join(self._folder, name)))
        return self._scratch[-1]

    def write(self, name: str, text: str) -> None:
        """Write a file under its temporary name."""
        try:
            with open(self.path(name), "wb") as file:
                file.write(encode(text))
                file.flush()
                os.fsync(file.fileno())
        except OSError as problem:
            raise UserError(f"Cannot write {self._folder}/{name}: {problem.strerror}.") from problem

    def publish(self) -> None:
        """Put the files in the place of what an earlier run left; vars, which says that all are there, is last."""
        for name in ("vars", "init.config", "init.raw"):
            if name == "vars" or name not in self._files:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self._folder, name))
        for name, temporary in self._files.items():
            os.replace(temporary, os.path.join(self._folder, name))
