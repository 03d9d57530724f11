"""Components to and from model files, driven by the fields they declare (:class:`nnet3py.nnet.component.Field`).

In Kaldi's files a component is ``<Type>``, then for each field its token and value, then ``</Type>``. Fields are
recognised by their tokens, so that files of older versions of Kaldi, which have them in another order, are read too.
Statistics are sums in memory and averages on disk, as in Kaldi: adding two models is then adding their fields.

Source of the form: the ``Read`` and ``Write`` functions in Kaldi src/nnet3/nnet-simple-component.cc and its like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nnet3py.errors import UserError
from nnet3py.nnet.component import Array, Component, Field, Kind, OldForm
from nnet3py.nnet.families import component_class
from nnet3py.tables.basic_types import (
    read_bool,
    read_double,
    read_float,
    read_int,
    read_token,
    write_bool,
    write_double,
    write_float,
    write_int,
    write_token,
)
from nnet3py.tables.matrix import (
    read_int_vector,
    read_matrix,
    read_vector,
    write_int_vector,
    write_matrix,
    write_vector,
)
from nnet3py.tables.streams import Sink, Source

ARRAY_KINDS = (Kind.MATRIX, Kind.VECTOR, Kind.AVERAGE, Kind.RMS, Kind.VARIANCE)
"""Kinds whose value is an array of real numbers."""

NORMALISED_KINDS = (Kind.AVERAGE, Kind.RMS, Kind.VARIANCE)
"""Kinds that are sums in memory and averages in a file."""


def _pair(read: Callable[[Source, bool], Any]) -> Callable[[Source, bool], Any]:
    return lambda source, binary: (read(source, binary), read(source, binary))


def _read_float32_vector(source: Source, binary: bool) -> Array:
    return read_vector(source, binary).astype(np.float32, copy=False)


def _read_float32_matrix(source: Source, binary: bool) -> Array:
    return read_matrix(source, binary).astype(np.float32, copy=False)


def _read_int_list(source: Source, binary: bool) -> list[int]:
    values: list[int] = read_int_vector(source, binary).tolist()
    return values


_READERS: dict[Kind, Callable[[Source, bool], Any]] = {
    Kind.FLOAT: read_float,
    Kind.DOUBLE: read_double,
    Kind.INT: read_int,
    Kind.BOOL: read_bool,
    Kind.INT_VECTOR: _read_int_list,
    Kind.MATRIX: _read_float32_matrix,
    Kind.VECTOR: _read_float32_vector,
    Kind.AVERAGE: _read_float32_vector,
    Kind.RMS: _read_float32_vector,
    Kind.VARIANCE: _read_float32_vector,
    Kind.FLOAT_PAIR: _pair(read_float),
    Kind.INT_PAIR: _pair(read_int),
    Kind.FLAG: lambda source, binary: True,
}


def read_component(source: Source, binary: bool, name: str, check_finite: bool = True) -> Component:
    """The component that starts at ``<Type>``; ``name`` is for messages.

    Raises:
        UserError: a type that nnet3py does not have, a token that does not belong, a missing field, data that end too
            early, fields that do not fit together, or (with ``check_finite``) a parameter that is not a finite number.
    """
    place = source.tell()
    token = read_token(source, binary)
    if len(token) < 3 or token[0] != "<" or token[-1] != ">":
        raise source.error(f"expected the type of component {name}, such as <AffineComponent>, found {token}.", place)
    try:
        cls = component_class(token[1:-1])
        values = _read_fields(source, binary, cls)
        return assemble(cls, values, check_finite)
    except UserError as problem:
        raise _in_component(problem, source, name, token[1:-1]) from problem


def _in_component(problem: UserError, source: Source, name: str, type_name: str) -> UserError:
    text = str(problem)
    if not text.startswith(source.name):
        text = f"{source.name}: {text}"
    return UserError(f"{text} (Component {name} of type {type_name}.)")


def _read_fields(source: Source, binary: bool, cls: type[Component]) -> dict[str, Any]:
    """Values as stored, by attribute."""
    waiting: dict[str, list[tuple[Field, OldForm]]] = {}
    for field in cls.fields:
        for form in (OldForm(field.token, field.kind), *field.old_forms):
            waiting.setdefault(form.token, []).append((field, form))
    values: dict[str, Any] = {}
    missing = {field.attribute: field for field in cls.fields if not field.optional and field.kind is not Kind.FLAG}
    start, end = f"<{cls.type_name}>", f"</{cls.type_name}>"
    while True:
        place = source.tell()
        token = read_token(source, binary)
        if token == end or (token == start and values and not missing):
            break  # some old files end with the opening token
        if token == start and not values:
            continue  # and some have it twice
        if token not in waiting:
            raise source.error(f"expected {_expected(missing, end)}, found {token[:60]!r}.", place)
        field, form = _next_form(source, binary, waiting[token])
        value = form.convert(_READERS[form.kind](source, binary))
        if field.attribute:
            values[field.attribute] = value
            missing.pop(field.attribute, None)
        if not waiting[token]:
            del waiting[token]
    if missing:
        raise source.error(f"expected {_expected(missing, end)}, found the end of the component.", place)
    return values


def _next_form(source: Source, binary: bool, candidates: list[tuple[Field, OldForm]]) -> tuple[Field, OldForm]:
    """The field that the token just read stands for, and its form; it is taken from the candidates."""
    field, form = candidates.pop(0)
    others = [other for owner, other in candidates if owner is field]  # forms with the same token
    del candidates[: len(others)]
    if others and binary and source.peek(1) in (b"F", b"D"):  # not numbers of the size of integers
        return field, others[0]
    return field, form


def _expected(missing: Mapping[str, Field], end: str) -> str:
    return " or ".join([field.token for field in missing.values()][:1] or [end])


def assemble(cls: type[Component], values: dict[str, Any], check_finite: bool = True) -> Component:
    """A component of the stored values (by attribute), with defaults for those that are absent.

    Raises:
        UserError: they do not fit together, or a parameter is not finite.
    """
    component = cls.__new__(cls)
    complete: dict[str, Any] = {}
    for field in cls.fields:
        if field.obsolete:
            continue
        if field.attribute in values:
            complete[field.attribute] = values[field.attribute]
        else:
            complete.setdefault(field.attribute, _value_of_absent(field, complete))
    for field in cls.fields:
        if not field.obsolete:
            value = complete[field.attribute]
            if check_finite:
                _require_finite(field, value)
            setattr(component, field.attribute, _in_memory(field, value, complete))
    component.check()
    return component


def _value_of_absent(field: Field, values: Mapping[str, Any]) -> Any:
    if field.default_from:
        return values[field.default_from]
    if field.kind in ARRAY_KINDS:
        return np.array(field.default, np.float32)
    return False if field.kind is Kind.FLAG else field.default


def is_finite(array: Array) -> bool:
    """Whether all elements are finite; one pass over the memory at the speed of a dot product."""
    flat = array.reshape(-1)
    with np.errstate(all="ignore"):
        return bool(np.isfinite(np.dot(flat, flat))) or bool(np.isfinite(flat).all())


def _require_finite(field: Field, value: Any) -> None:
    if field.kind in ARRAY_KINDS:
        if not is_finite(value):
            bad = int(np.count_nonzero(~np.isfinite(value)))
            raise UserError(
                f"{bad} of the {value.size} numbers of {field.token} are not finite (NaN or infinite): the training "
                f"that made this model diverged."
            )
    elif field.kind in (Kind.FLOAT, Kind.DOUBLE, Kind.FLOAT_PAIR) and not np.all(np.isfinite(value)):
        raise UserError(f"{field.token} is {value}, expected a finite number.")


def _in_memory(field: Field, value: Any, stored: Mapping[str, Any]) -> Any:
    """What a component holds for a stored value: sums in place of averages."""
    if field.kind not in NORMALISED_KINDS:
        return value
    average = np.asarray(value, np.float64)
    if field.kind is Kind.RMS:
        average = np.square(average)
    elif field.kind is Kind.VARIANCE:
        mean = np.asarray(stored[field.mean], np.float64)
        if mean.shape != average.shape:
            raise UserError(f"{field.token} has {average.size} numbers, but the mean it belongs to {mean.size}.")
        average = average + np.square(mean)
    return average * float(stored[field.count])


def stored_values(component: Component) -> list[tuple[Field, Any]]:
    """The fields to write, in order, each with its value as stored: statistics as float64 averages."""
    found = []
    for field in component.fields:
        if field.obsolete:
            continue
        value = getattr(component, field.attribute)
        if field.optional and not field.always and _is_default(component, field, value):
            continue
        if field.kind is Kind.FLAG and not value:
            continue
        if field.kind in NORMALISED_KINDS:
            value = _normalised(component, field, value)
        found.append((field, value))
    return found


def _is_default(component: Component, field: Field, value: Any) -> bool:
    default = getattr(component, field.default_from) if field.default_from else field.default
    if isinstance(value, np.ndarray) or isinstance(default, np.ndarray):
        return np.array_equal(value, default)
    return bool(value == default)


def _normalised(component: Component, field: Field, value: Array) -> Array:
    count = float(getattr(component, field.count))
    scale = count if count != 0.0 else 1.0
    average: Array = np.asarray(value, np.float64) / scale
    if field.kind is Kind.RMS:  # the difference of two models may have negative "sums of squares"
        average = np.sqrt(np.maximum(average, 0.0))
    elif field.kind is Kind.VARIANCE and count != 0.0:
        average = average - np.square(np.asarray(getattr(component, field.mean), np.float64) / scale)
    return average


def write_component(sink: Sink, component: Component, binary: bool) -> None:
    """A component in Kaldi's form, from ``<Type>`` to ``</Type>``."""
    write_token(sink, binary, f"<{component.type_name}>")
    for field, value in stored_values(component):
        write_token(sink, binary, field.token)
        _write_value(sink, binary, field.kind, value)
    write_token(sink, binary, f"</{component.type_name}>")


def _write_value(sink: Sink, binary: bool, kind: Kind, value: Any) -> None:
    if kind is Kind.MATRIX:
        write_matrix(sink, np.asarray(value, np.float32), binary)
    elif kind in ARRAY_KINDS:
        write_vector(sink, np.asarray(value, np.float32), binary)
    elif kind is Kind.INT_VECTOR:
        write_int_vector(sink, value, binary)
    elif kind is Kind.INT:
        write_int(sink, binary, value)
    elif kind is Kind.BOOL:
        write_bool(sink, binary, value)
    elif kind is Kind.FLOAT:
        write_float(sink, binary, value)
    elif kind is Kind.DOUBLE:
        write_double(sink, binary, value)
    elif kind is Kind.INT_PAIR:
        for number in value:
            write_int(sink, binary, number)
    elif kind is Kind.FLOAT_PAIR:
        for number in value:
            write_float(sink, binary, number)
