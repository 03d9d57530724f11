"""What a training step eats: a (merged) example as time-major float32 arrays and supervision.

Kaldi's merged examples hold the rows of sequence 0, then those of sequence 1, and so on. Networks here work on
time-major rows: for T times and N sequences, row ``t_index * N + n``. The reordering depends on the index vectors only,
and is remembered for those met before.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from nnet3py.egs.example import Example, NnetIo
from nnet3py.errors import UserError
from nnet3py.nnet.request import Request
from nnet3py.tables.general_matrix import to_array
from nnet3py.tables.sparse_matrix import SparseMatrix


@dataclass(frozen=True)
class SparseLabels:
    """Supervision of which few elements differ from zero: class ``classes[i]`` has ``weights[i]`` in row ``rows[i]``.

    ``rows`` (int64, ascending) index time-major rows; ``classes`` int32; ``weights`` float32; all of one length. The
    whole is a (num_rows, dim) matrix. Where ``one_per_row`` is true, ``rows`` is 0, 1, ... num_rows - 1.
    """

    rows: np.ndarray
    classes: np.ndarray
    weights: np.ndarray
    num_rows: int
    dim: int
    one_per_row: bool

    def to_array(self) -> np.ndarray:
        """The same as a dense (num_rows, dim) float32 matrix."""
        dense = np.zeros((self.num_rows, self.dim), dtype=np.float32)
        np.add.at(dense, (self.rows, self.classes), self.weights)
        return dense


@dataclass(frozen=True)
class Minibatch:
    """``num_sequences`` sequences of the same shape, ready for a network.

    inputs: name -> (T * N, dim) float32, C-contiguous, time-major.
    outputs: name -> SparseLabels, or (T * N, dim) float32 for dense targets, in the same order of rows.
    times: name -> the T frame numbers, ascending, as a tuple.
    """

    num_sequences: int
    times: Mapping[str, tuple[int, ...]]
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, SparseLabels | np.ndarray]

    @property
    def request(self) -> Request:
        """What is to be computed; the same object for minibatches of the same shape."""
        return _request(
            tuple((name, self.times[name]) for name in self.inputs),
            tuple((name, self.times[name]) for name in self.outputs),
            self.num_sequences,
        )

    @classmethod
    def from_example(
        cls,
        example: Example,
        input_names: Collection[str] | None = None,
        output_names: Collection[str] | None = None,
        where: str = "the example",
    ) -> Minibatch:
        """Lay ``example`` out for a network with these inputs and outputs.

        Without names, what begins with ``output`` is an output. Raises UserError, naming ``where``, if the example has
        something the network has not, if sequences differ in their times, or if a number in it is not finite.
        """
        inputs: dict[str, np.ndarray] = {}
        outputs: dict[str, SparseLabels | np.ndarray] = {}
        times: dict[str, tuple[int, ...]] = {}
        sizes: dict[str, int] = {}
        try:
            for part in example.ios:
                is_output = _is_output(part.name, input_names, output_names)
                if part.name in times:
                    raise UserError(f"{part.name!r} occurs twice")
                grid = _grid(part.indexes.tobytes(), part.name)
                times[part.name] = grid.times
                sizes[part.name] = grid.num_sequences
                if not is_output:
                    inputs[part.name] = _dense(part, grid)
                elif isinstance(part.features, SparseMatrix):
                    outputs[part.name] = _labels(part.features, part.name, grid)
                else:
                    outputs[part.name] = _dense(part, grid)
            if len(set(sizes.values())) != 1:
                counts = ", ".join(f"{name} {size}" for name, size in sizes.items())
                raise UserError(f"its parts have different numbers of sequences ({counts})")
        except UserError as problem:
            raise UserError(f"Cannot use {where}: {problem}.") from None
        return cls(next(iter(sizes.values())), times, inputs, outputs)


def _is_output(name: str, input_names: Collection[str] | None, output_names: Collection[str] | None) -> bool:
    if input_names is None or output_names is None:
        return name.startswith("output")
    if name in output_names:
        return True
    if name in input_names:
        return False
    raise UserError(f"it has an input or output named {name!r}, but no such input or output node is in the network")


@functools.lru_cache(maxsize=512)
def _request(
    inputs: tuple[tuple[str, tuple[int, ...]], ...],
    outputs: tuple[tuple[str, tuple[int, ...]], ...],
    num_sequences: int,
) -> Request:
    return Request(
        inputs={name: np.array(times, dtype=np.int64) for name, times in inputs},
        outputs={name: np.array(times, dtype=np.int64) for name, times in outputs},
        num_sequences=num_sequences,
    )


@dataclass(frozen=True)
class _Grid:
    """Rows arranged as every sequence at every time."""

    times: tuple[int, ...]
    num_sequences: int
    order: np.ndarray | None
    """The example's row at each time-major row; None if they are in time-major order already."""
    place: np.ndarray
    """The time-major row of each of the example's rows."""


@functools.lru_cache(maxsize=1024)
def _grid(flat_indexes: bytes, name: str) -> _Grid:
    indexes = np.frombuffer(flat_indexes, dtype=np.int32).reshape(-1, 3)
    if not len(indexes):
        raise UserError(f"{name!r} has no rows")
    n, t, x = indexes.T
    if x.any():
        raise UserError(f"{name!r} has an index with x other than 0, which no component here uses")
    order = np.lexsort((n, t))
    times = np.unique(t)
    num_sequences = int(n.max()) + 1
    if not (
        len(indexes) == len(times) * num_sequences
        and (n[order].reshape(len(times), -1) == np.arange(num_sequences)).all()
        and (t[order].reshape(len(times), -1) == times[:, None]).all()
    ):
        raise UserError(
            f"the sequences in {name!r} do not all have the same frames ({len(indexes)} rows, {len(times)} times, "
            f"{num_sequences} sequences); merge examples with nnet-merge-egs, which keeps different shapes apart"
        )
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    in_order = bool((order == np.arange(len(order))).all())
    return _Grid(tuple(times.tolist()), num_sequences, None if in_order else order, place)


def _is_finite(numbers: np.ndarray) -> bool:
    """A finite sum shows it in one pass without a temporary array; only another sum needs a closer look."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(np.add.reduce(numbers, axis=None)) or np.isfinite(numbers).all())


def _dense(part: NnetIo, grid: _Grid) -> np.ndarray:
    rows = to_array(part.features)
    if grid.order is not None:
        rows = rows.take(grid.order, axis=0)
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    if not _is_finite(rows):
        raise UserError(f"{part.name!r} contains a value that is not finite")
    return rows


def _labels(labels: SparseMatrix, name: str, grid: _Grid) -> SparseLabels:
    num_rows = labels.num_rows
    classes, weights = labels.indices, labels.values
    if not _is_finite(weights):
        raise UserError(f"{name!r} contains a label weight that is not finite")
    if len(classes) == num_rows and (labels.indptr == np.arange(num_rows + 1)).all():
        if grid.order is not None:
            classes, weights = classes.take(grid.order), weights.take(grid.order)
        return SparseLabels(_counting(num_rows), classes, weights, num_rows, labels.num_cols, True)
    rows = grid.place.repeat(np.diff(labels.indptr))
    order = rows.argsort(kind="stable")
    return SparseLabels(rows[order], classes[order], weights[order], num_rows, labels.num_cols, False)


@functools.lru_cache(maxsize=64)
def _counting(count: int) -> np.ndarray:
    rows = np.arange(count)
    rows.flags.writeable = False
    return rows
