"""What training knows beside the parameters: the state of the optimiser, to go on from in another run.

The natural gradient's estimates (:class:`nnet3py.train.natural_gradient.NaturalGradientState`), the change that
momentum adds to the next minibatch's, and how many minibatches there were. A run that starts from the model and the
state that another run left does what the other would have done had it had more data; what is drawn at random is not
part of the state, but of ``--srand``.

Layout of a file, which is HDF5 whatever its name:

* attributes ``format`` (``nnet3py-optimizer-state``), ``version`` (1) and ``minibatches``;
* a group ``components`` with a group for each component that has any state;
* in it groups ``in`` and ``out``, the estimates for its inputs and its output derivatives, with a group for each field
  of the component (``linear``): data sets ``W`` (rank, dim) float32 and ``d`` (rank,) float64, attributes ``rho`` and
  ``minibatch``;
* and, of a run with momentum, a group ``momentum`` with a data set for each field, of the field's shape, float32.

The same state gives the same bytes.
"""

from __future__ import annotations

import io
import math

import h5py
import numpy as np

from nnet3py.errors import UserError
from nnet3py.nnet.component_fields import is_finite
from nnet3py.nnet.hdf5_reading import child_group, opened, require_layout, stored_array
from nnet3py.tables.streams import open_input, open_output
from nnet3py.text.expectation import Expected
from nnet3py.train.natural_gradient import NaturalGradientState
from nnet3py.train.optimizer_state import Estimates, OptimizerState

Array = np.ndarray
_EXPECTED = Expected("a state of the optimizer, in HDF5", frozenset({"HDF5"}))
_FORMAT = "nnet3py-optimizer-state"
_VERSION = 1
_SIDES = ("in", "out")


def write_optimizer_state(wxfilename: str, state: OptimizerState) -> None:
    """Write a state in the layout above; the file appears complete or not at all.

    Raises:
        UserError: it cannot be written.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=("earliest", "v110")) as file:
        file.attrs["format"] = _FORMAT
        file.attrs["version"] = _VERSION
        file.attrs["minibatches"] = state.minibatches
        components = file.create_group("components")
        for name in sorted({*state.estimates, *state.momentum}):
            group = components.create_group(name)
            for (side, of), estimate in sorted(state.estimates.get(name, {}).items()):
                place = group.require_group(side).create_group(of)
                place.create_dataset("W", data=estimate.W)
                place.create_dataset("d", data=estimate.d)
                place.attrs["rho"] = estimate.rho
                place.attrs["minibatch"] = estimate.minibatch
            for of, change in sorted(state.momentum.get(name, {}).items()):
                group.require_group("momentum").create_dataset(of, data=change)
    with open_output(wxfilename) as sink:
        sink.write(buffer.getbuffer())


def read_optimizer_state(rxfilename: str) -> OptimizerState:
    """The state in a file.

    Raises:
        UserError: it cannot be read, is cut off, corrupt or something else, or holds numbers that no run leaves.
    """
    state = OptimizerState()
    what = "state of the optimizer"
    with open_input(rxfilename, _EXPECTED) as source, opened(rxfilename, source, what) as file:
        require_layout(file, _FORMAT, _VERSION, f"a {what}", source.name)
        state.minibatches = _count(file, "minibatches", source.name)
        components = child_group(file, "components", source.name)
        for name in components:
            where = f"{source.name}, component {name}"
            group = child_group(components, name, where)
            unknown = sorted(set(group) - {*_SIDES, "momentum"})
            if unknown:
                raise UserError(f"{where}: expected groups in, out and momentum, found {unknown[0]!r}.")
            estimates: Estimates = {}
            for side in _SIDES:
                for of in child_group(group, side, where) if side in group else ():
                    estimates[side, of] = _read_estimate(child_group(group[side], of, where), f"{where}, {side}/{of}")
            if estimates:
                state.estimates[name] = estimates
            if "momentum" in group:
                changes = child_group(group, "momentum", where)
                state.momentum[name] = {of: _finite_array(changes, of, np.float32, where) for of in changes}
    return state


def _read_estimate(group: h5py.Group, where: str) -> NaturalGradientState:
    W, d = _finite_array(group, "W", np.float32, where), _finite_array(group, "d", np.float64, where)
    rho = float(group.attrs["rho"])
    if W.ndim != 2 or d.shape != (len(W),) or not 0 < len(W) < W.shape[1]:
        raise UserError(f"{where}: W of shape {W.shape} and d of shape {d.shape} are not of an estimate.")
    if not (d.min() > 0.0 and 0.0 < rho < math.inf):
        raise UserError(f"{where}: expected d and rho above zero, found {d.min():g} and {rho:g}.")
    return NaturalGradientState(W, d, rho, W @ W.T, _count(group, "minibatch", where))


def _count(group: h5py.Group, name: str, where: str) -> int:
    count = int(group.attrs[name])
    if count < 0:
        raise UserError(f"{where}: expected a number of minibatches in the attribute {name}, found {count}.")
    return count


def _finite_array(group: h5py.Group, name: str, dtype: type, where: str) -> Array:
    array = stored_array(group, name, dtype, where)
    if not is_finite(array):
        raise UserError(f"{where}: numbers of {name} are not finite (NaN or infinite).")
    return array
