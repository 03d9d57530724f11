r"""Networks in HDF5: for h5py, h5dump, MATLAB, Julia and whatever else reads it, without Kaldi's encodings.

Layout of a file:

* attributes ``format`` (``nnet3py-network``), ``version`` (1) and ``config``, the lines that define the nodes;
* a group ``components`` with a group per component: its attribute ``type`` is Kaldi's type name, ``index`` its place in
  the network; settings are attributes, parameters and statistics data sets, both under the names of Kaldi's tokens
  without brackets (``LinearParams``). Parameters are float32; statistics are float64 averages, as in Kaldi's files.

One parameter is read without the others: ``h5py.File("1.h5")["components/affine1/LinearParams"][:]`` or
:func:`read_hdf5_parameter`. The same network gives the same bytes.
"""

from __future__ import annotations

import io
from typing import Any

import h5py
import numpy as np

from nnet3py.errors import UserError
from nnet3py.nnet.component import Array, Component, Field, Kind
from nnet3py.nnet.component_fields import ARRAY_KINDS, NORMALISED_KINDS, assemble, stored_values
from nnet3py.nnet.families import component_class
from nnet3py.nnet.hdf5_reading import child_group, opened, require_layout, stored_array
from nnet3py.nnet.network import Network, build_network
from nnet3py.nnet.nodes import is_valid_name
from nnet3py.tables.streams import Sink, Source
from nnet3py.text.lines import lines_of

_FORMAT = "nnet3py-network"
_VERSION = 1
_LARGEST_ATTRIBUTE = 60000


def write_hdf5_network(sink: Sink, network: Network) -> None:
    """Write a network in the layout above."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=("earliest", "v110")) as file:
        file.attrs["format"] = _FORMAT
        file.attrs["version"] = _VERSION
        _write_text(file, "config", "".join(f"{line}\n" for line in network.config_lines()))
        components = file.create_group("components")
        for index, (name, component) in enumerate(network.components.items()):
            group = components.create_group(name)
            group.attrs["type"] = component.type_name
            group.attrs["index"] = index
            for field, value in stored_values(component):
                _write_field(group, field, value)
    sink.write(buffer.getbuffer())


def _write_text(group: h5py.Group, name: str, text: str) -> None:
    """As an attribute, or where HDF5 does not allow one so long as a data set."""
    if len(text.encode()) <= _LARGEST_ATTRIBUTE:
        group.attrs[name] = text
    else:
        group.create_dataset(name, data=np.frombuffer(text.encode(), np.uint8))


def _write_field(group: h5py.Group, field: Field, value: Any) -> None:
    name = field.token.strip("<>")
    if field.kind in NORMALISED_KINDS:
        group.create_dataset(name, data=np.asarray(value, np.float64))
    elif field.kind in ARRAY_KINDS:
        group.create_dataset(name, data=np.asarray(value, np.float32))
    elif field.kind is Kind.INT_VECTOR:
        group.create_dataset(name, data=np.asarray(value, np.int32))
    elif field.kind is Kind.INT_PAIR:
        group.attrs[name] = np.asarray(value, np.int32)
    elif field.kind is Kind.FLOAT_PAIR:
        group.attrs[name] = np.asarray(value, np.float64)
    elif field.kind in (Kind.BOOL, Kind.FLAG):
        group.attrs[name] = bool(value)
    elif field.kind is Kind.INT:
        group.attrs[name] = int(value)
    else:
        group.attrs[name] = float(value)


def read_hdf5_network(rxfilename: str, source: Source, check_finite: bool = True) -> Network:
    """The network in an HDF5 file that ``source`` has been opened on (its first bytes told the form).

    Raises:
        UserError: it has another layout, is corrupt, or its parts do not fit.
    """
    with opened(rxfilename, source, "network") as file:
        require_layout(file, _FORMAT, _VERSION, "a network", source.name)
        lines = lines_of(_text(file, "config", source.name))
        groups = child_group(file, "components", source.name)
        names = sorted(groups, key=lambda name: int(child_group(groups, name, source.name).attrs["index"]))
        components: dict[str, Component] = {}
        for name in names:
            if not is_valid_name(name):
                raise UserError(f"{source.name}: {name[:60]!r} is not a valid name of a component.")
            components[name] = _read_component(groups[name], f"{source.name}, component {name}", check_finite)
    return build_network(lines, components, source.name)


def _text(file: h5py.File, name: str, where: str) -> str:
    if name in file.attrs:
        return str(file.attrs[name])
    if name in file:
        return stored_array(file, name, np.uint8, where).tobytes().decode("utf-8")
    raise UserError(f"{where}: the attribute {name} is missing.")


def _read_component(group: h5py.Group, where: str, check_finite: bool) -> Component:
    type_name = str(group.attrs["type"])
    try:
        cls = component_class(type_name)
    except UserError as problem:
        raise UserError(f"{where}: {problem}") from problem
    known = {"type", "index"} | {field.token.strip("<>") for field in cls.fields}
    unknown = sorted((set(group.attrs) | set(group)) - known)
    if unknown:
        raise UserError(f"{where} ({type_name}): {unknown[0]} is not a field of this type.")
    values: dict[str, Any] = {}
    for field in cls.fields:
        name = field.token.strip("<>")
        if field.obsolete:
            continue
        if name in group.attrs or name in group:
            values[field.attribute] = _read_field(group, field, name, where)
        elif not field.optional and field.kind is not Kind.FLAG and field.attribute not in values:
            raise UserError(f"{where} ({type_name}): {name} is missing.")
    try:
        return assemble(cls, values, check_finite)
    except UserError as problem:
        raise UserError(f"{where} ({type_name}): {problem}") from problem


def _read_field(group: h5py.Group, field: Field, name: str, where: str) -> Any:
    if field.kind in ARRAY_KINDS:
        value = stored_array(group, name, np.float64 if field.kind in NORMALISED_KINDS else np.float32, where)
        dims = 2 if field.kind is Kind.MATRIX else 1
        if value.ndim != dims:
            raise UserError(f"{where}: expected {name} to have {dims} dimensions, found the shape {value.shape}.")
        return value
    if field.kind is Kind.INT_VECTOR:
        return stored_array(group, name, np.int32, where).reshape(-1).tolist()
    value = group.attrs[name]
    if field.kind in (Kind.INT_PAIR, Kind.FLOAT_PAIR):
        pair = np.asarray(value).tolist()
        if not isinstance(pair, list) or len(pair) != 2:
            raise UserError(f"{where}: expected two numbers in {name}, found {pair}.")
        return tuple(pair)
    if field.kind in (Kind.BOOL, Kind.FLAG):
        return bool(value)
    return int(value) if field.kind is Kind.INT else float(value)


def read_hdf5_parameter(rxfilename: str, component: str, name: str) -> Array:
    """One data set, ``LinearParams`` of ``affine1`` say, without reading the others.

    Raises:
        UserError: there is none, or the file is not a network in HDF5.
    """
    from nnet3py.tables.streams import open_input

    with open_input(rxfilename) as source, opened(rxfilename, source, "network") as file:
        require_layout(file, _FORMAT, _VERSION, "a network", source.name)
        group = child_group(child_group(file, "components", source.name), component, source.name)
        if name not in group:
            raise UserError(f"{source.name}: component {component} has no {name} (it has {', '.join(group)}).")
        kind = np.float64 if group[name].dtype == np.float64 else np.float32
        return stored_array(group, name, kind, f"{source.name}, component {component}")
