"""Each operation of a training step against its definition in NumPy, for any kind of operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nnet3py.gpu.change import _chunks
from nnet3py.gpu.natural_gradient import LayerEstimates, Renewal
from nnet3py.gpu.operations import HostOperations, Labels
from nnet3py.nnet.component import NaturalGradientOptions

Check = Callable[[HostOperations, np.random.Generator], list[Any]]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    """A function that applies operations to data that depend on the generator, and returns the arrays it got."""
    CHECKS[function.__name__] = function
    return function


def normal(random: np.random.Generator, *shape: int) -> np.ndarray:
    return random.standard_normal(shape).astype(np.float32)


def compare(name: str, ops: HostOperations, tolerance: float, seed: int = 0) -> float:
    """The largest difference found, relative to the largest number of each array; AssertionError above tolerance."""
    expected = CHECKS[name](HostOperations(), np.random.default_rng(seed))
    found = CHECKS[name](ops, np.random.default_rng(seed))
    worst = 0.0
    for number, (a, b) in enumerate(zip(expected, found, strict=True)):
        a, b = np.asarray(a, np.float64), np.asarray(ops.download(b), np.float64)
        assert a.shape == b.shape, (name, number, a.shape, b.shape)
        assert np.array_equal(np.isfinite(a), np.isfinite(b)), (name, number)
        a, b = a[np.isfinite(a)], b[np.isfinite(a)]
        difference = float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)) if a.size else 0.0
        assert difference <= tolerance, (name, number, difference)
        worst = max(worst, difference)
    return worst


@check
def products(ops: HostOperations, random: np.random.Generator) -> list[Any]:
    found = []
    for rows, inner, columns in ((40, 30, 20), (33, 143, 17), (1, 5, 3), (64, 128, 1)):
        for left_turned, right_turned in ((False, False), (True, False), (False, True), (True, True)):
            left = ops.upload(normal(random, *((inner, rows) if left_turned else (rows, inner))))
            right = ops.upload(normal(random, *((columns, inner) if right_turned else (inner, columns))))
            out, bias = ops.upload(normal(random, rows, columns)), ops.upload(normal(random, columns))
            factor = ops.upload(normal(random, 1))
            turned = {"transpose_left": left_turned, "transpose_right": right_turned, "exact": True}
            found += [
                ops.product(ops.empty((rows, columns)), left, right, bias=bias, **turned),
                ops.product(ops.upload(ops.download(out)), left, right, alpha=-0.5, beta=1.0, **turned),
                ops.product(out, left, right, alpha=factor, beta=1.0, **turned),
            ]
    wide = ops.upload(normal(random, 50, 30))  # parts of the columns, as H has them
    out = ops.zeros((50, 30))
    found.append(ops.product(out[:, 10:], wide[:, :10], wide[:20, :10], transpose_right=True, exact=True))
    return found


@check
def nonlinearities(ops: HostOperations, random: np.random.Generator) -> list[Any]:
    found = []
    for kind in ("relu", "sigmoid", "tanh"):
        for rows, columns, block in ((70, 40, 40), (5, 66, 33)):
            x = ops.upload(normal(random, rows, columns) * np.float32(3.0))
            y, dy = ops.activate(kind, x), ops.upload(normal(random, rows, columns))
            sums = [ops.upload(random.random(columns)) for _ in range(3)]
            counters = ops.zeros(4, np.float64)
            ops.add_statistics(kind, y, sums[0], sums[1], counters)
            ops.add_column_squares(dy, sums[2], counters)
            ops.times_slope(kind, y, dy)
            own = block if kind == "relu" else columns
            ops.repair(kind, y, dy, sums[1], counters, own, (0.4, 0.5), 0.25)
            found += [y, dy, *sums, counters]
    value_sum = ops.zeros(40, np.float64)
    ops.add_statistics(None, ops.upload(normal(random, 9, 40)), value_sum, value_sum, counters)
    return [*found, value_sum, counters]


@check
def softmaxes(ops: HostOperations, random: np.random.Generator) -> list[Any]:
    found = []
    for take_log in (True, False):
        for rows, columns in ((6, 300), (3, 5), (2, 1)):
            y = ops.softmax(ops.upload(normal(random, rows, columns) * np.float32(5.0)), take_log)
            dy = ops.upload(normal(random, rows, columns))
            ops.softmax_backward(y, dy, take_log)
            found += [y, dy]
    return found


@check
def columns(ops: HostOperations, random: np.random.Generator) -> list[Any]:
    """Sums of groups of columns, and columns in another order."""
    x = ops.upload(normal(random, 37, 301))
    sizes = random.multinomial(301 - 40, np.ones(40) / 40) + 1
    starts = ops.upload(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32))
    chosen = ops.upload(random.integers(0, 301, 450).astype(np.int32))
    return [ops.sum_groups(x, starts), ops.take_columns(x, chosen)]


@check
def group_norms(ops: HostOperations, random: np.random.Generator) -> list[Any]:
    found = []
    for rows, groups, size in ((9, 40, 5), (300, 7, 10), (1, 1, 3)):
        numbers = normal(random, rows, groups * size)
        numbers[0, :size] = 0.0
        x, dy = ops.upload(numbers), ops.upload(normal(random, rows, groups))
        y = ops.pnorm(x, groups)
        found += [y, ops.pnorm_backward(x, y, dy)]
    return found


@check
def row_norms(ops: HostOperations, random: np.random.Generator) -> list[Any]:
    found = []
    for rows, dim, block, rms, log_stddev in ((9, 40, 40, 1.0, False), (5, 66, 33, 0.5, True), (17, 8, 8, 2.0, True)):
        numbers = normal(random, rows, dim)
        numbers[0] = 0.0
        x = ops.upload(numbers)
        y, factors = ops.normalize(x, block, rms, log_stddev)
        dy = ops.upload(normal(random, *y.shape))
        dy[0] = 0.0  # the factor of a row of zeros is so large that float32 loses the rest
        found += [y[1:], factors[1:], ops.normalize_backward(x, factors, dy, block, rms, log_stddev)]
    return found


@check
def batch_norms(ops: HostOperations, random: np.random.Generator) -> list[Any]:
    found = []
    for rows, columns in ((90, 40), (4, 100)):
        statistics = ops.upload(random.random(1 + 2 * columns))
        x, dz = ops.upload(normal(random, rows, columns) + 2.0), ops.upload(normal(random, rows, columns))
        z, scale = ops.batch_norm(x, 0.001, 0.5, statistics, 0.8)
        unstored, _ = ops.batch_norm(x, 0.001, 0.5, None, 0.8)
        ops.batch_norm_backward(z, scale, dz, 0.5)
        found += [z, scale, statistics, unstored, dz]
    return found


@check
def objectives(ops: HostOperations, random: np.random.Generator) -> list[Any]:
    values, slot = ops.zeros(4, np.float64), ops.zeros(1, np.int32)
    output, targets = ops.upload(normal(random, 30, 20)), ops.upload(normal(random, 30, 20))
    weights = random.random(40).astype(np.float32)
    weights[30:] = 0.0  # filled up
    label_rows = np.concatenate([np.arange(30), np.zeros(10)]).astype(np.int32)
    classes = random.integers(0, 20, 40, np.int32)
    labels = Labels(ops.upload(label_rows), ops.upload(classes), ops.upload(weights), False)
    one_per_row = Labels(*(ops.upload(array[:30]) for array in (label_rows, classes, weights)), True)
    sums, counters = ops.upload(random.random(20)), ops.zeros(4, np.float64)
    ops.sparse_objective(output, labels, values, slot)
    ops.label_squares(one_per_row, sums, counters)
    found = [ops.sparse_derivative(output, labels), sums, counters]
    found.append(ops.log_softmax_label_backward(ops.softmax(output, True), one_per_row))
    for kind in ("linear", "quadratic"):
        ops.advance(slot, 4)
        found.append(ops.dense_objective(kind, output, targets, values, slot))
    ops.advance(slot, 4)
    ops.advance(slot, 4)
    return [*found, values, slot]


@check
def changes(ops: HostOperations, random: np.random.Generator) -> list[Any]:
    found = []
    spans = [(0, 64), (64, 64 + 20032), (20096, 20160)]
    chunks = _chunks(ops, spans)
    max_changes = ops.upload(np.array([0.5, 0.0, 2.0], np.float32))
    l2_factors = ops.upload(np.array([0.0, -0.1, -0.2], np.float32))
    for scale, limit, spoilt in ((1.0, 3.0, False), (0.5, 0.0, False), (-0.3, 2.0, True)):
        numbers = normal(random, 20160)
        delta, parameters = ops.upload(numbers), ops.upload(normal(random, 20160))
        if spoilt:
            delta[100] = np.nan
        scales, counts = ops.zeros(3, np.float64), ops.zeros(6, np.float64)
        ops.squared_norms(delta, parameters, chunks, l2_factors)
        ops.limit(chunks, max_changes, limit, scale, 1.5, scales, counts)
        ops.apply_change(delta, parameters, chunks, scales, 0.9)
        found += [delta, parameters, scales, counts]
    return found


def _natural_gradient(ops: HostOperations, random: np.random.Generator, spread: float, minibatches: int) -> list[Any]:
    found = []
    options = NaturalGradientOptions(rank_in=6, rank_out=9)
    sizes = ((40, 30, True), (35, 1, True), (1, 50, False), (50, 37, False), (45, 1, False))
    layers = [LayerEstimates(ops, options, outputs, inputs, bias, {}) for outputs, inputs, bias in sizes]
    deltas = [(ops.zeros((outputs, inputs)), ops.zeros(outputs)) for outputs, inputs, _ in sizes]
    mixtures = [(normal(random, o, o), normal(random, i, i)) for o, i, _ in sizes]
    renewal = Renewal(ops, layers)
    for number in range(minibatches):
        for layer, (outputs, inputs, bias), (delta, bias_delta), mixture in zip(
            layers, sizes, deltas, mixtures, strict=True
        ):
            dy = normal(random, 64, outputs) @ mixture[0] * np.float32(spread) ** normal(random, 1, outputs)
            x = normal(random, 64, inputs) @ mixture[1] * np.float32(spread) ** normal(random, 1, inputs)
            dy, x = ops.upload(dy), ops.upload(x)
            if number == 0:
                layer.start(dy, x)
            layer.renewing = layer.due()
            layer.add(delta, bias_delta if bias else None, dy, x, 0.01)
            layer.count()
        renewal.renew()
        renewal.renewed()
        renewal.correct()
    for delta in deltas:
        found += delta
    for estimate in renewal.estimates:
        found += [estimate.W.T @ estimate.W, estimate.rho, estimate.d]
    return found


@check
def natural_gradient(ops: HostOperations, random: np.random.Generator) -> list[Any]:
    return _natural_gradient(ops, random, 1.0, 8)


@check
def natural_gradient_of_rows_that_a_few_directions_dominate(
    ops: HostOperations, random: np.random.Generator
) -> list[Any]:
    return _natural_gradient(ops, random, 20.0, 3)


@check
def steps_of_rows_that_nearly_vanish(ops: HostOperations, random: np.random.Generator) -> list[Any]:
    """Where the norm after preconditioning is too small for its formula, it is taken from the rows themselves."""
    found = []
    layer = LayerEstimates(ops, NaturalGradientOptions(rank_in=6, rank_out=9), 140, 130, True, {})
    delta, bias_delta = ops.zeros((140, 130)), ops.zeros(140)
    directions = normal(random, 1, 140), normal(random, 1, 130)
    renewal = Renewal(ops, [layer])
    for number in range(6):
        along = normal(random, 64, 1)
        dy, x = (ops.upload(100.0 * along * to + normal(random, 64, to.shape[1])) for to in directions)
        if number == 0:
            layer.start(dy, x)
        layer.add(delta, bias_delta, dy, x, 0.01)
        layer.count()
        renewal.renew()
        renewal.renewed()
        renewal.correct()
    layer.add(delta, bias_delta, dy, x, 0.01)
    sums = ops.download(layer.layer.sums)
    assert (sums[2:] < 0.005 * sums[:2]).all()
    layer.layer.G *= np.float32(1.0003)  # the formula then is far off, and what is below its limit stays below
    ops.layer_step(layer.layer, dy, x, 0.01)
    found.append(layer.layer.factors)
    return found
