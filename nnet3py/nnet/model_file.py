r"""Networks to and from files: Kaldi's binary and text forms, HDF5, and the network inside an acoustic model.

The forms are told apart by their first bytes: ``\0B<Nnet3>`` and ``<Nnet3>`` are Kaldi's, ``\x89HDF`` is HDF5,
``<TransitionModel>`` starts an acoustic model. What is written follows the name: ``.h5`` and ``.hdf5`` are HDF5, any
other name is Kaldi's binary form, or text on request.

Source of the form: Kaldi src/nnet3/nnet-nnet.cc, ``Nnet::Read`` and ``Nnet::Write``.
"""

from __future__ import annotations

from nnet3py.errors import UserError
from nnet3py.nnet.component import Component
from nnet3py.nnet.component_fields import read_component, write_component
from nnet3py.nnet.network import Network, build_network
from nnet3py.nnet.nodes import is_valid_name
from nnet3py.tables.basic_types import (
    expect_token,
    peek_token,
    read_header,
    read_int,
    read_token,
    write_header,
    write_int,
    write_token,
)
from nnet3py.tables.streams import Sink, Source, open_input, open_output
from nnet3py.text.expectation import Expected

_HDF5_START = b"\x89HDF"
_EXPECTED = Expected(
    "a network",
    frozenset({"network", "transition model", "HDF5"}),
    usual_names=("final.mdl", "final.raw", "final.h5"),
    advice={
        "configuration": "`nnet-init {name} NEW.raw` makes a network of it",
        "xconfig": "xconfig_to_configs.py makes configuration lines of it, nnet-init a network of those",
        "tree": "the model is in final.mdl beside it, as a rule",
    },
)
_MOST_COMPONENTS = 100000


def is_hdf5_name(name: str) -> bool:
    """Whether a file of this name is written as HDF5."""
    return name.endswith((".h5", ".hdf5"))


def read_network(rxfilename: str, check_finite: bool = True) -> Network:
    """The network in a file of any form; of an acoustic model (.mdl) the network within.

    Args:
        check_finite: refuse parameters that are not finite numbers.

    Raises:
        UserError: the file cannot be read, or is cut off, corrupt, of another kind or has parts that do not fit.
    """
    with open_input(rxfilename, _EXPECTED) as source:
        start = source.peek(4)
        if start == _HDF5_START:
            from nnet3py.nnet.hdf5_file import read_hdf5_network

            return read_hdf5_network(rxfilename, source, check_finite)
        binary = read_header(source)
        token = peek_token(source, binary)
        if token == "<TransitionModel>":
            from nnet3py.nnet.transition_model import read_transition_model_from

            read_transition_model_from(source, binary)
            return read_network_after_transitions(source, binary, check_finite)
        return read_network_from(source, binary, check_finite)


def read_network_after_transitions(source: Source, binary: bool, check_finite: bool = True) -> Network:
    """The network of an acoustic model, whose transitions were read: many a ``final.mdl`` has none.

    Raises:
        UserError: as :func:`read_network`.
    """
    token = peek_token(source, binary)
    if token in ("", "<DIMENSION>"):
        found = "Gaussian mixtures (this is a GMM model, as is aligned with)" if token else "transitions alone"
        raise source.error(
            f"expected a network after the transitions, found {found}: give the final.mdl or final.raw of a "
            "directory in which a network was trained."
        )
    return read_network_from(source, binary, check_finite)


def read_network_from(source: Source, binary: bool, check_finite: bool = True) -> Network:
    """The network that starts at ``<Nnet3>`` in a stream that may go on after it.

    Raises:
        UserError: as :func:`read_network`.
    """
    place = source.tell()
    token = read_token(source, binary)
    if token != "<Nnet3>":
        raise source.error(f"expected a network, which starts with <Nnet3>, found {token[:60]!r}{_hint(token)}.", place)
    lines = _read_config_lines(source)
    expect_token(source, binary, "<NumComponents>")
    place = source.tell()
    count = read_int(source, binary)
    if not 0 <= count < _MOST_COMPONENTS:
        raise source.error(f"expected the number of components, found {count}.", place)
    components: dict[str, Component] = {}
    for _ in range(count):
        expect_token(source, binary, "<ComponentName>")
        place = source.tell()
        name = read_token(source, binary)
        if not is_valid_name(name) or name in components:
            problem = "a second time" if name in components else "which is not a valid name"
            raise source.error(f"expected the name of a component, found {name[:60]!r} {problem}.", place)
        components[name] = read_component(source, binary, name, check_finite)
    expect_token(source, binary, "</Nnet3>")
    return build_network(lines, components, source.name)


def _hint(token: str) -> str:
    if token in ("<DIMENSION>", "<NUMPDFS>"):
        return " (this is a GMM model, or one that begins like it)"
    if token == "<Nnet>":
        return " (this is a network of Kaldi's nnet2 or nnet1)"
    return ""


def _read_config_lines(source: Source) -> list[str]:
    """The lines after ``<Nnet3>`` up to an empty one."""
    place = source.tell()
    if source.readline().strip():
        raise source.error("expected the line to end after <Nnet3>.", place)
    lines: list[str] = []
    while True:
        place = source.tell()
        line = source.readline()
        if not line:
            raise source.error("the data end within the configuration lines of the network.", place)
        if line in (b"\n", b"\r\n"):
            return lines
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError:
            raise source.error("expected a configuration line in UTF-8, found other bytes.", place) from None


def write_network(wxfilename: str, network: Network, binary: bool = True) -> None:
    """Write a network; the form follows the name (module docstring). The file appears complete or not at all.

    Raises:
        UserError: it cannot be written.
    """
    with open_output(wxfilename) as sink:
        if is_hdf5_name(wxfilename):
            from nnet3py.nnet.hdf5_file import write_hdf5_network

            write_hdf5_network(sink, network)
        else:
            write_header(sink, binary)
            write_network_to(sink, network, binary)


def write_network_to(sink: Sink, network: Network, binary: bool) -> None:
    """Write from ``<Nnet3>`` to ``</Nnet3>`` in Kaldi's form."""
    write_token(sink, binary, "<Nnet3>")
    text = "".join(f"{line}\n" for line in network.config_lines())
    sink.write(f"\n{text}\n".encode())
    write_token(sink, binary, "<NumComponents>")
    write_int(sink, binary, len(network.components))
    _end_line(sink, binary)
    for name, component in network.components.items():
        write_token(sink, binary, "<ComponentName>")
        write_token(sink, binary, name)
        write_component(sink, component, binary)
        _end_line(sink, binary)
    write_token(sink, binary, "</Nnet3>")


def _end_line(sink: Sink, binary: bool) -> None:
    if not binary:
        sink.write(b"\n")


def is_acoustic_model(rxfilename: str) -> bool:
    """Whether a file starts with a transition model (it is not read further). Raises UserError if it cannot be read."""
    with open_input(rxfilename) as source:
        if source.peek(4) == _HDF5_START:
            return False
        start = source.peek(64)
        return start.removeprefix(b"\0B").lstrip().startswith(b"<TransitionModel>")


def require_network_name(name: str) -> None:
    """Raise UserError for the name of an HDF5 file where only Kaldi's form will do."""
    if is_hdf5_name(name):
        raise UserError(f"{name}: an acoustic model is written in Kaldi's form; give it a name without .h5 or .hdf5.")
