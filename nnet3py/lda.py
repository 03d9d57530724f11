"""A linear transform that keeps classes apart, from statistics of labelled vectors: the network's fixed first layer.

Of vectors x with classes c and weights w, the statistics are the counts z_c = Σ w, the sums F_c = Σ w x and the total
scatter S = Σ w x xᵀ. With N = Σ z_c and the mean m = Σ F_c / N,

    total covariance           T = S / N - m mᵀ
    between-class covariance   B = Σ_c (z_c / N) (F_c / z_c)(F_c / z_c)ᵀ - m mᵀ
    within-class covariance    W = T - B = C Cᵀ     (Cholesky)

and the singular value decomposition C⁻¹ B C⁻ᵀ = U diag(λ) Uᵀ, λ descending, gives directions Uᵀ C⁻¹ in which W is the
identity and B is diag(λ). Plain LDA takes the first of them. For the input of a network every direction is kept, and
its total variance 1 + λ_i is brought to λ_i + f (f the within-class factor, 0.001 by default), so that directions which
tell nothing about the class become small instead of being cut off. Singular values of the whole transform above a
maximum are brought down to it, and the mean is removed by a last column.

Sources: Povey, Zhang and Khudanpur, arXiv:1410.7455, appendix on preprocessing; Kaldi src/transform/lda-estimate.cc and
src/nnet2/get-feature-transform.{h,cc}; src/nnet3bin/nnet3-acc-lda-stats.cc.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.seed import not_negative
from nnet3py.tables.basic_types import (
    expect_token,
    read_header,
    read_int,
    read_token,
    write_header,
    write_int,
    write_token,
)
from nnet3py.tables.matrix import read_matrix, read_vector, write_matrix, write_vector
from nnet3py.tables.streams import Sink, Source, open_input, open_output
from nnet3py.text.expectation import Expected

if TYPE_CHECKING:
    from nnet3py.egs.example import Example
    from nnet3py.nnet.network import Network

_STATISTICS = Expected("statistics for LDA", frozenset({"LDA statistics"}))
_ROWS_AT_ONCE = 4096
_LARGEST_DIM = 1 << 16


@dataclass
class LdaStatistics:
    """Sums over labelled vectors, in float64.

    counts: (classes,) z_c. sums: (classes, dim) F_c. scatter: (dim, dim) S, symmetric.
    """

    counts: np.ndarray
    sums: np.ndarray
    scatter: np.ndarray

    @classmethod
    def zero(cls, num_classes: int, dim: int) -> LdaStatistics:
        """Statistics of nothing."""
        return cls(np.zeros(num_classes), np.zeros((num_classes, dim)), np.zeros((dim, dim)))

    @property
    def num_classes(self) -> int:
        """How many classes there are, seen or not."""
        return self.sums.shape[0]

    @property
    def dim(self) -> int:
        """The dimension of the vectors."""
        return self.sums.shape[1]

    def accumulate(self, vectors: np.ndarray, classes: np.ndarray, weights: np.ndarray) -> None:
        """Add vectors (n, dim) with their classes (n,) and weights (n,)."""
        if not len(classes):
            return
        x = np.asarray(vectors, dtype=np.float64)
        weighted = x * np.asarray(weights, dtype=np.float64)[:, None]
        order = np.argsort(classes, kind="stable")
        by_class = classes[order]
        starts = np.flatnonzero(np.diff(by_class, prepend=-1))
        seen = by_class[starts]
        self.counts[seen] += np.add.reduceat(np.asarray(weights, dtype=np.float64)[order], starts)
        self.sums[seen] += np.add.reduceat(weighted[order], starts, axis=0)
        self.scatter += x.T @ weighted

    def add(self, other: LdaStatistics) -> None:
        """Add the statistics of another part of the data. Raises UserError if dimensions or classes differ."""
        if self.sums.shape != other.sums.shape:
            raise UserError(
                f"Cannot add LDA statistics of {other.num_classes} classes and dimension {other.dim} to those of "
                f"{self.num_classes} classes and dimension {self.dim}."
            )
        self.counts += other.counts
        self.sums += other.sums
        self.scatter += other.scatter

    def covariances(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """Total and between-class covariance (dim, dim), mean (dim,), and the total count."""
        total = float(self.counts.sum())
        if not total > 0:
            raise UserError("The LDA statistics are of no data (their count is zero).")
        mean = self.sums.sum(axis=0) / total
        seen = self.counts != 0
        class_means = self.sums[seen] / self.counts[seen, None]
        outer = np.outer(mean, mean)
        between = class_means.T @ (class_means * (self.counts[seen] / total)[:, None]) - outer
        return self.scatter / total - outer, between, mean, total

    def _scatter_of_classes(self, counts: np.ndarray, sums: np.ndarray) -> np.ndarray:
        seen = counts != 0
        return sums[seen].T @ (sums[seen] / counts[seen, None])


def read_statistics(rxfilename: str) -> LdaStatistics:
    """Statistics as Kaldi's acc-lda and ours write them, binary or text.

    Raises UserError if the file is not such, is cut off, or holds numbers that are not finite.
    """
    # What is not finite is refused below, in one line: NumPy need not warn of it.
    with np.errstate(over="ignore", invalid="ignore"), open_input(rxfilename, _STATISTICS) as source:
        binary = read_header(source)
        expect_token(source, binary, "<LDAACCS>")
        expect_token(source, binary, "<VECSIZE>")
        dim = read_int(source, binary)
        expect_token(source, binary, "<NUMCLASSES>")
        num_classes = read_int(source, binary)
        if not (0 < dim <= _LARGEST_DIM and num_classes > 0):
            raise source.error(f"expected sizes of LDA statistics, found dimension {dim}, {num_classes} classes.")
        parts = {}
        while (token := read_token(source, binary)) != "</LDAACCS>":
            parts[token] = _read_part(source, binary, token)
        expected = {"<ZERO_ACCS>": (num_classes,), "<FIRST_ACCS>": (num_classes, dim), "<SECOND_ACCS>": (dim, dim)}
        for name, shape in expected.items():
            if name not in parts or parts[name].shape != shape:
                found = f"of shape {parts[name].shape}" if name in parts else "none"
                raise source.error(f"expected {name} of shape {shape}, found {found}.")
            if not np.isfinite(parts[name]).all():
                raise source.error(f"{name} contains a value that is not finite.")
    counts, sums, rest = (parts[name] for name in expected)
    statistics = LdaStatistics(counts, sums, rest)
    # The file holds the scatter around the class means: its float32 would lose too much of the whole.
    statistics.scatter = rest + statistics._scatter_of_classes(counts, sums)
    return statistics


def read_sum(rxfilenames: Sequence[str]) -> LdaStatistics:
    """The sum of the statistics in files.

    Raises:
        UserError: as for :func:`read_statistics`, and where two files are of different dimensions or classes.
    """
    total = read_statistics(rxfilenames[0])
    for name in rxfilenames[1:]:
        try:
            total.add(read_statistics(name))
        except UserError as problem:
            raise UserError(f"{name} after {rxfilenames[0]}: {problem}") from problem
    return total


def _read_part(source: Source, binary: bool, token: str) -> np.ndarray:
    if token == "<ZERO_ACCS>":
        return read_vector(source, binary).astype(np.float64)
    if token == "<FIRST_ACCS>":
        return read_matrix(source, binary).astype(np.float64)
    if token == "<SECOND_ACCS>":
        return read_packed(source, binary)
    raise source.error(f"expected a part of LDA statistics, found {token}.")


def write_statistics(wxfilename: str, statistics: LdaStatistics, binary: bool = True) -> None:
    """The counterpart of :func:`read_statistics`, in float32; a UserError if a number is too large for that."""
    of_classes = statistics._scatter_of_classes(statistics.counts, statistics.sums)
    with np.errstate(over="ignore"):
        counts, sums, rest = (
            part.astype(np.float32) for part in (statistics.counts, statistics.sums, statistics.scatter - of_classes)
        )
    if not all(np.isfinite(part).all() for part in (counts, sums, rest)):
        raise UserError(
            f"The statistics for {wxfilename} are too large for single precision: are the features damaged?"
        )
    with open_output(wxfilename) as sink:
        write_header(sink, binary)
        write_token(sink, binary, "<LDAACCS>")
        write_token(sink, binary, "<VECSIZE>")
        write_int(sink, binary, statistics.dim)
        write_token(sink, binary, "<NUMCLASSES>")
        write_int(sink, binary, statistics.num_classes)
        write_token(sink, binary, "<ZERO_ACCS>")
        write_vector(sink, counts, binary)
        write_token(sink, binary, "<FIRST_ACCS>")
        write_matrix(sink, sums, binary)
        write_token(sink, binary, "<SECOND_ACCS>")
        write_packed(sink, rest, binary)
        write_token(sink, binary, "</LDAACCS>")


def read_packed(source: Source, binary: bool) -> np.ndarray:
    """A symmetric matrix stored as its lower triangle, (dim, dim) float64. Source: Kaldi's packed-matrix.cc."""
    if binary:
        token = read_token(source, True)
        kinds = {"FP": "<f4", "DP": "<f8"}
        if token not in kinds:
            raise source.error(f"expected a packed matrix (FP or DP), found {token!r}.")
        dim = read_int(source, True)
        if not 0 <= dim <= _LARGEST_DIM:
            raise source.error(f"expected the size of a packed matrix, found {dim}.")
        triangle = source.read_array(kinds[token], dim * (dim + 1) // 2).astype(np.float64)
    else:
        expect_token(source, False, "[")
        numbers = []
        while (word := source.read_word()) not in (b"]", b""):
            last = word.endswith(b"]")
            try:
                numbers.append(float(word.rstrip(b"]")))
            except ValueError:
                raise source.error(f"expected a number, found {word[:20]!r}.") from None
            if last:
                break
        else:
            if word == b"":
                raise source.error('the data end within a packed matrix; expected "]".')
        triangle = np.array(numbers)
        dim = int(np.sqrt(2 * len(triangle)))
        if dim * (dim + 1) // 2 != len(triangle):
            raise source.error(f"expected the lower triangle of a matrix, found {len(triangle)} numbers.")
    matrix = np.zeros((dim, dim))
    matrix[np.tril_indices(dim)] = triangle
    return matrix + np.tril(matrix, -1).T


def write_packed(sink: Sink, matrix: np.ndarray, binary: bool) -> None:
    """The lower triangle of ``matrix`` (dim, dim), in float32."""
    dim = len(matrix)
    if binary:
        sink.write(b"FP " + struct.pack("<bi", 4, dim))
        sink.write(matrix[np.tril_indices(dim)].astype("<f4").tobytes())
        return
    rows = (("%.7g " * (row + 1)) % tuple(matrix[row, : row + 1].tolist()) for row in range(dim))
    sink.write(("[\n" + "\n".join(rows) + "]\n").encode() if dim else b"[ ]\n")


def accumulate_examples(
    network: Network, examples: Iterable[tuple[str, Example]], rand_prune: float = 0.0, seed: int = 0
) -> tuple[LdaStatistics, int]:
    """Statistics of the network's ``output``, with the examples' supervision as classes; and the number of examples.

    rand_prune: weights below this become it or zero at random, so that their expectation stays and work is saved.
    Raises UserError if there is no data.
    """
    from nnet3py.nnet.component import Phase
    from nnet3py.nnet.computation import ComputationCache
    from nnet3py.train.minibatch import Minibatch, SparseLabels

    if not 0 <= rand_prune < math.inf:
        raise UserError(f"--rand-prune={rand_prune:g} is not possible: give a number from 0 on.")
    input_names = [node.name for node in network.input_nodes()]
    output_names = [node.name for node in network.output_nodes()]
    computations = ComputationCache(network)
    generator = np.random.default_rng(not_negative(seed))
    statistics: LdaStatistics | None = None
    waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    num_examples = num_waiting = 0

    def flush() -> None:
        if statistics is not None and waiting:
            vectors, classes, weights = (np.concatenate(column) for column in zip(*waiting, strict=True))
            statistics.accumulate(vectors, classes, weights)
            waiting.clear()

    for key, example in examples:
        num_examples += 1
        minibatch = Minibatch.from_example(example, input_names, output_names, f"the example {key}")
        labels = minibatch.outputs.get("output")
        if labels is None:
            raise UserError(f"The example {key} has no output named 'output'.")
        computation = computations.get(minibatch.request)
        vectors = computation.forward(minibatch.inputs, Phase.TEST, keep_trace=False)[0]["output"]
        if isinstance(labels, SparseLabels):
            rows, classes, weights = labels.rows, labels.classes, labels.weights
            num_classes = labels.dim
        else:
            rows, classes = np.nonzero(labels)
            weights = labels[rows, classes]
            num_classes = labels.shape[1]
        if statistics is None:
            statistics = LdaStatistics.zero(num_classes, vectors.shape[1])
        elif num_classes != statistics.num_classes:
            raise UserError(
                f"The example {key} has labels of {num_classes} classes, the ones before it {statistics.num_classes}."
            )
        weights = _pruned(weights, rand_prune, generator)
        kept = np.flatnonzero(weights)
        waiting.append((vectors[rows[kept]], classes[kept], weights[kept]))
        num_waiting += len(kept)
        if num_waiting >= _ROWS_AT_ONCE:
            flush()
            num_waiting = 0
    flush()
    if statistics is None or not statistics.counts.any():
        raise UserError("Accumulated no stats: there are no examples, or none has a label.")
    return statistics, num_examples


def _pruned(weights: np.ndarray, threshold: float, generator: np.random.Generator) -> np.ndarray:
    small = (np.abs(weights) < threshold) & (weights != 0)
    if not small.any():
        return weights
    pruned = weights.copy()
    keep = generator.random(int(small.sum())) <= np.abs(weights[small]) / threshold
    pruned[small] = np.sign(weights[small]) * threshold * keep
    return pruned


@dataclass(frozen=True)
class TransformOptions:
    """dim: rows of the transform, 0 or less for all. max_singular_value: 0 or less for no maximum."""

    dim: int = -1
    within_class_factor: float = 0.001
    max_singular_value: float = 5.0
    remove_offset: bool = True


@dataclass(frozen=True)
class FeatureTransform:
    """matrix: (dim, input dim), float32, with one more column for the offset if it is removed.

    within_class_cholesky: (input dim, input dim) lower triangular, float64.
    """

    matrix: np.ndarray
    within_class_cholesky: np.ndarray


def estimate_transform(statistics: LdaStatistics, options: TransformOptions) -> FeatureTransform:
    """The transform the module describes; logs what Kaldi logs.

    Raises UserError if there is no data, or if more rows are asked for than the vectors have dimensions.
    """
    total, between, mean, count = statistics.covariances()
    dim = statistics.dim
    target = options.dim if options.dim > 0 else dim
    if target > dim:
        raise UserError(f"--dim={target} is more than the dimension of the statistics, {dim}.")
    if not 0 <= options.within_class_factor < math.inf:
        raise UserError(
            f"--within-class-factor={options.within_class_factor:g} is not possible: give a number from 0 on."
        )
    log.log(f"Data count is {count:g}")
    within = total - between
    cholesky = _cholesky(within, count)
    inverse = np.linalg.inv(cholesky)
    projected = inverse @ between @ inverse.T
    u, singular_values, _ = np.linalg.svd((projected + projected.T) / 2)
    log.log(f"LDA singular values are  [ {' '.join(f'{value:g}' for value in singular_values)} ]")
    log.log(f"Sum of all singular values is {singular_values.sum():g}")
    log.log(f"Sum of selected singular values is {singular_values[:target].sum():g}")
    matrix = (u.T @ inverse)[:target]
    if options.within_class_factor != 1.0:
        scales = np.sqrt((options.within_class_factor + singular_values) / (1.0 + singular_values))
        matrix *= scales[:target, None]
    matrix = _limit_singular_values(matrix, options.max_singular_value)
    if options.remove_offset:
        matrix = np.hstack([matrix, -(matrix @ mean)[:, None]])
    return FeatureTransform(matrix.astype(np.float32), cholesky)


def _cholesky(within: np.ndarray, count: float) -> np.ndarray:
    try:
        return np.linalg.cholesky(within)
    except np.linalg.LinAlgError:
        smooth = 1.0e-03 * np.trace(within) / len(within)
        log.log(f"Cholesky failed (possibly not +ve definite), so adding {smooth:g} to diagonal and trying again.")
    try:
        return np.linalg.cholesky(within + smooth * np.eye(len(within)))
    except np.linalg.LinAlgError:
        raise UserError(
            f"The within-class covariance of the LDA statistics, {len(within)} dimensions of {count:g} frames, is not "
            "positive definite. If the frames are that few, accumulate all of them: nnet-acc-lda-stats --rand-prune=0 "
            "(train_dnn.py: --trainer.lda.rand-prune=0). If not, do some of the features never change?"
        ) from None


def _limit_singular_values(matrix: np.ndarray, maximum: float) -> np.ndarray:
    if maximum <= 0:
        return matrix
    u, values, vt = np.linalg.svd(matrix, full_matrices=False)
    above = int((values > maximum).sum())
    if not above:
        return matrix
    log.log(
        f"Applied ceiling to {above} out of {len(values)} singular values of transform using ceiling {maximum:g}, max "
        f"is {values[0]:g}"
    )
    return (u * np.minimum(values, maximum)) @ vt
