"""The minibatch loop on a device: counterpart of nnet3py.train.trainer, with the same options and the same lines.

A step is started without waiting for the one before: what the next step needs to know of it, such as the norm of the
change, stays on the device. Where all of a step is done there (no component is left to the host) it is recorded, once
for each form it takes, and later replayed as one graph. Its form depends on the shape of the minibatch, on whether the
estimates of natural gradient are renewed, and on three draws (:class:`nnet3py.gpu.component.Draws`). Objectives go to
a ring that is read now and then.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.gpu.component import Draws
from nnet3py.gpu.components import BatchNorm, Masked
from nnet3py.gpu.natural_gradient import LayerEstimates, Renewal
from nnet3py.gpu.network import DeviceNetwork
from nnet3py.gpu.nonlinearities import LogSoftmax
from nnet3py.gpu.operations import Array, HostOperations, Labels
from nnet3py.gpu.update import DeviceUpdate
from nnet3py.nnet.component import Phase
from nnet3py.nnet.computation import Computation, ComputationCache
from nnet3py.nnet.network import Network
from nnet3py.seed import not_negative
from nnet3py.train.max_change import MaxChangeCounts
from nnet3py.train.minibatch import Minibatch, SparseLabels
from nnet3py.train.objective import require_same_dim
from nnet3py.train.objective_log import ObjectiveLog
from nnet3py.train.optimizer_state import OptimizerState
from nnet3py.train.orthonormal import orthonormal_correction, takes_orthonormal_step
from nnet3py.train.parameter_update import Method
from nnet3py.train.trainer import TrainerOptions, report_run

_RING = 1024
_EAGER = 2
"""Steps of one form that run before it is recorded: they leave nothing to be made, loaded or compiled."""


@dataclass(frozen=True)
class _Form:
    """What makes two steps the same but for the numbers in their arrays. due: by layer with estimates, each use."""

    shape: Hashable
    scale: float
    max_change_scale: float
    regularize: bool
    suffix: str
    last: bool
    due: tuple[tuple[bool, ...], ...]
    store: bool
    derivative: bool
    repair: bool


class DeviceTrainer:
    """Trains ``network`` on a device, a minibatch at a time; :meth:`finish` brings the result back to it."""

    def __init__(
        self,
        ops: HostOperations,
        network: Network,
        options: TrainerOptions,
        state: OptimizerState | None = None,
        state_must_fit: bool = True,
    ) -> None:
        """As :class:`nnet3py.train.trainer.Trainer`."""
        options.check()
        if options.num_threads > 1:
            raise UserError("--num-threads above 1 is for CPUs: give --use-gpu=no, or one thread.")
        self.ops = ops
        self.network = network
        self.options = options
        self.minibatches = 0
        self.logs: dict[str, ObjectiveLog] = {}
        if options.zero_component_stats:
            for component in network.components.values():
                component.zero_statistics()
        self._device = DeviceNetwork(ops, network)
        self._batch_norms = [c for c in self._device.components.values() if isinstance(c, BatchNorm)]
        for component in self._batch_norms:
            component.storing = options.store_component_stats
        self._masked = [c for c in self._device.components.values() if isinstance(c, Masked)]
        parameters = self._device.parameters
        self.updates = {
            name: DeviceUpdate(ops, component, options.method, parameters.delta[name])
            for name, component in network.updatable_components().items()
            if component.learning_rate != 0.0
        }
        self._computations = ComputationCache(self._device.on_device)
        self._kinds = {node.name: node.objective for node in network.output_nodes()}
        self._numbers = itertools.count(0 if state is None else state.minibatches)
        self._number = 0
        self._random = np.random.default_rng(not_negative(options.srand))
        self._backstitch_offset = int(self._random.integers(options.backstitch_training_interval))
        self._slot = ops.zeros(1, np.int32)
        self._values: dict[str, Array] = {}
        self._pending: list[tuple[int, dict[str, float]]] = []
        self._layers: list[LayerEstimates] = []
        self._renewals: dict[tuple[bool, ...], Renewal] = {}
        self._last_renewals: list[Renewal] = []
        self._runs: dict[_Form, int] = {}
        self._touched: dict[_Form, tuple[tuple[int, ...], list[Renewal]]] = {}
        self._graphs: dict[_Form, Any] = {}
        updates_recordable = all(update.recordable for update in self.updates.values())
        self._recording = ops.on_device and self._device.recordable and updates_recordable
        self._restored = OptimizerState() if state is None else state
        if state is not None:
            self._restore(state, state_must_fit)

    def _restore(self, state: OptimizerState, must_fit: bool) -> None:
        from nnet3py.train.trainer import Trainer

        # The CPU's trainer says what fits; nothing of it is kept but that.
        Trainer(self.network, replace(self.options, zero_component_stats=False), state, must_fit)
        for name, update in self.updates.items():
            estimates = {key: of for key, of in state.estimates.get(name, {}).items() if key[1] in update.delta}
            if update.method is Method.ONLINE:
                update.restore(estimates, name, must_fit)
            if self.options.momentum > 0.0:
                for field, change in state.momentum.get(name, {}).items():
                    if field in update.delta and update.delta[field].shape == change.shape:
                        update.delta[field][...] = self.ops.upload(change)

    def optimizer_state(self) -> OptimizerState:
        """As :meth:`nnet3py.train.trainer.Trainer.optimizer_state`."""
        components = self.network.updatable_components()
        kept = {name: found for name, found in self._restored.estimates.items() if name in components}
        estimates = {**kept, **{name: update.estimates() for name, update in self.updates.items()}}
        momentum = {}
        if self.options.momentum > 0.0:
            momentum = {
                name: {field: self.ops.download(array) for field, array in update.delta.items()}
                for name, update in self.updates.items()
            }
        return OptimizerState(
            self._restored.minibatches + self.minibatches,
            {name: found for name, found in estimates.items() if found},
            momentum,
        )

    def train(self, minibatch: Minibatch) -> None:
        """Start the change of the network's parameters by one minibatch."""
        options = self.options
        self._number = next(self._numbers)
        inputs = {name: self.ops.send(("input", name), array) for name, array in minibatch.inputs.items()}
        labels = {name: self._send_labels(name, of) for name, of in minibatch.outputs.items()}
        turn = (self._number - self._backstitch_offset) % options.backstitch_training_interval
        if options.backstitch_training_scale > 0.0 and turn == 0:
            alpha = options.backstitch_training_scale
            draws = self._draws()
            seed = [not_negative(options.srand), self._number]  # both steps see the same dropout masks
            draws.generator = np.random.default_rng(seed)
            self._step(minibatch, inputs, labels, draws, -alpha, alpha, regularize=False, last=False, frozen=True)
            self._constrain_orthonormal()
            draws.generator = np.random.default_rng(seed)
            self._step(minibatch, inputs, labels, draws, 1.0 + alpha, 1.0 + alpha, suffix="_backstitch")
        else:
            self._step(minibatch, inputs, labels, self._draws(), 1.0 - options.momentum, 1.0)
            self._constrain_orthonormal()
        self.minibatches += 1
        self._pending.append((self._number, _weights(minibatch, self._kinds)))
        if len(self._pending) == _RING or (self._number + 1) % options.print_interval == 0:
            self._read_objectives()

    def _draws(self) -> Draws:
        """Kaldi's probabilities; the first minibatch is always stored."""
        first = self.minibatches == 0
        store, derivative, repair = self._random.random() < 0.5, self._random.random() < 0.75, self._random.random()
        return Draws(store or first, derivative or first, repair <= 0.5, self._random)

    def _send_labels(self, name: str, supervision: SparseLabels | np.ndarray) -> Any:
        """Supervision on the device: an array, or rows, classes and weights, filled up with labels of no weight."""
        if not isinstance(supervision, SparseLabels):
            return self.ops.send(("targets", name), supervision)
        count = len(supervision.classes)
        room = count if supervision.one_per_row else -(-count // 1024) * 1024
        filled = np.zeros((3, room), np.int32)
        filled[0, :count], filled[1, :count] = supervision.rows, supervision.classes
        filled[2, :count] = supervision.weights.view(np.int32)
        sent = self.ops.send(("labels", name, supervision.one_per_row), filled)
        return Labels(sent[0], sent[1], sent[2].view(np.float32), supervision.one_per_row)

    def _step(
        self,
        minibatch: Minibatch,
        inputs: dict[str, Array],
        labels: dict[str, Any],
        draws: Draws,
        scale: float,
        max_change_scale: float,
        regularize: bool = True,
        suffix: str = "",
        last: bool = True,
        frozen: bool = False,
    ) -> None:
        """Forward, backward, and ``scale`` times the change added unless it is not finite; on the device, later."""
        due = tuple(tuple(not frozen and layer.due(use) for use in range(layer.most_uses)) for layer in self._layers)
        for update in self.updates.values():
            update.renewing = not frozen
        if any(map(any, due)):
            for renewal in self._last_renewals:
                renewal.correct()
        shapes = tuple((name, _shape(of)) for name, of in labels.items())
        form = _Form(
            (minibatch.request, shapes), scale, max_change_scale, regularize, suffix, last, due, draws.store,
            draws.derivative, draws.repair,
        )  # fmt: skip

        def prepare() -> None:
            for component in self._masked:
                component.draw(minibatch.request, draws.generator)

        def body() -> None:
            self._body(minibatch, inputs, labels, draws, form)

        self._run(form, prepare, body)
        uses, renewals = self._touched[form]
        if renewals:
            self._last_renewals = renewals
        for renewal in renewals:
            renewal.renewed()
            if any(layer.starting for layer in self._layers):
                renewal.correct()
        for layer, times in zip(self._layers, uses, strict=True):
            layer.count(times)

    def _run(self, form: _Form, prepare: Callable[[], None], body: Callable[[], None]) -> None:
        """Replay the step, or record it first, or start it piece by piece."""
        prepare()
        graph = self._graphs.get(form)
        runs = self._runs.get(form, 0)
        if graph is None and self._recording and runs >= _EAGER and not any(layer.starting for layer in self._layers):
            try:
                graph = self._graphs[form] = self.ops.record(body)
            except Exception as problem:
                log.warning(
                    f"A training step could not be recorded as a graph, and is started piece by piece: {problem}"
                )
                self._recording = False
                prepare()
        if graph is not None:
            self.ops.replay(graph)
        else:
            body()
            self._runs[form] = runs + 1

    def _body(
        self, minibatch: Minibatch, inputs: dict[str, Array], labels: dict[str, Any], draws: Draws, form: _Form
    ) -> None:
        ops, options = self.ops, self.options
        for component in self._batch_norms:
            component.fade = options.batchnorm_stats_scale if form.last else 1.0
        computation = self._computations.get(minibatch.request)
        passed: Any = draws  # as what the components on the device know it
        outputs, trace = computation.forward(
            inputs, Phase.TRAIN, random=passed, store_statistics=options.store_component_stats
        )
        derivatives = {
            name: self._objective(name, outputs[name], minibatch, of, form, computation) for name, of in labels.items()
        }
        for update in self.updates.values():
            update.begin_step()
        computation.backward(trace, derivatives, self.updates)
        ops.join()
        self._layers = [layer for update in self.updates.values() for layer in update.layers.values()]
        uses = tuple(layer.uses for layer in self._layers)
        renewed = tuple(layer.uses > 0 and layer.renewing for layer in self._layers)
        renewals = [renewal for update in self.updates.values() for renewal in update.between]
        if any(renewed):
            renewals.append(self._renewal(renewed))
            with ops.aside():
                renewals[-1].renew()
        self._touched[form] = uses, renewals
        weight = minibatch.num_sequences * options.l2_regularize_factor if form.regularize else 0.0
        # The momentum is part of Δ; backstitch's 1 + α must not be part of the regularisation.
        weight = weight / form.scale if form.suffix else weight
        self._device.parameters.apply(
            weight, options.max_param_change, form.scale, form.max_change_scale, options.momentum
        )
        if form.last:
            ops.advance(self._slot, _RING)
        ops.join()

    def _renewal(self, renewing: tuple[bool, ...]) -> Renewal:
        if renewing not in self._renewals:
            chosen = [layer for layer, renewed in zip(self._layers, renewing, strict=True) if renewed]
            self._renewals[renewing] = Renewal(self.ops, chosen)
        return self._renewals[renewing]

    def _objective(
        self, name: str, output: Array, minibatch: Minibatch, labels: Any, form: _Form, computation: Computation
    ) -> Array:
        require_same_dim(name, output.shape[1], minibatch.outputs[name])
        key = name + form.suffix
        if key not in self._values:
            self._values[key] = self.ops.zeros(_RING, np.float64)
            self.logs[key] = ObjectiveLog(key, self.options.print_interval)
        if isinstance(labels, Labels):
            if self._kinds[name] == "linear":
                self.ops.sparse_objective(output, labels, self._values[key], self._slot)
                last = self._device.components.get(computation.component_of_output(name))
                if labels.one_per_row and isinstance(last, LogSoftmax):
                    last.labels = labels
                    return output  # in place of a derivative: nobody reads it
                return self.ops.sparse_derivative(output, labels)
            dense = minibatch.outputs[name]
            assert isinstance(dense, SparseLabels)
            self._recording = False
            labels = self.ops.upload(dense.to_array())
        return self.ops.dense_objective(self._kinds[name], output, labels, self._values[key], self._slot)

    def _read_objectives(self) -> None:
        """Wait for the steps that were started, and count their objectives."""
        if not self._pending:
            return
        slot = int(self.ops.download(self._slot)[0])
        values = {key: self.ops.download(of) for key, of in self._values.items()}
        count = len(self._pending)
        for i, (number, weights) in enumerate(self._pending):
            at = (slot - count + i) % _RING
            for key in values:
                name = key.removesuffix("_backstitch") if key not in self._kinds else key
                turn = (number - self._backstitch_offset) % self.options.backstitch_training_interval
                if key != name and not (self.options.backstitch_training_scale > 0.0 and turn == 0):
                    continue
                if name in weights and math.isfinite(values[key][at]):
                    self.logs[key].add(number, weights[name], float(values[key][at]))
        self._pending.clear()

    def _constrain_orthonormal(self) -> None:
        for name, component in self.network.components.items():
            if not takes_orthonormal_step(component, self._random):
                continue
            constraint = float(component.orthonormal_constraint)  # type: ignore[attr-defined]
            matrix = next(array for array in self._device.parameters.parameters[name].values() if array.ndim == 2)
            rows, columns = matrix.shape
            wide = rows <= columns
            products = self.ops.product(
                self.ops.empty((min(rows, columns),) * 2), matrix, matrix, transpose_left=not wide,
                transpose_right=wide, exact=True,
            )  # fmt: skip
            correction = orthonormal_correction(self.ops.download(products), constraint)
            if correction is None:
                continue
            step = self.ops.upload(np.eye(len(correction), dtype=np.float32) + correction)
            changed = self.ops.empty(matrix.shape)
            left, right = (step, matrix) if wide else (matrix, step)
            matrix[...] = self.ops.product(changed, left, right, exact=True)

    def finish(self) -> None:
        """Wait for all steps and bring parameters and statistics back to the network on the host."""
        self._read_objectives()
        for renewal in self._last_renewals:
            renewal.correct()
        self._device.give_back()
        if self.counts.not_finite:
            for component in self.network.components.values():
                if not component.has_finite_statistics():
                    component.zero_statistics()

    @property
    def counts(self) -> MaxChangeCounts:
        """How often the limits of the change were reached so far."""
        return self._device.parameters.counts()

    def report(self) -> None:
        """As :meth:`nnet3py.train.trainer.Trainer.report`."""
        self._read_objectives()
        report_run(self.logs, self.counts, self.minibatches)


def _shape(labels: Any) -> Hashable:
    return labels.form if isinstance(labels, Labels) else labels.shape


def _weights(minibatch: Minibatch, kinds: dict[str, str]) -> dict[str, float]:
    """By output, what its objective is divided by for an average."""
    weights = {}
    for name, of in minibatch.outputs.items():
        if kinds[name] == "quadratic":
            weights[name] = float(of.num_rows if isinstance(of, SparseLabels) else len(of))
        else:
            numbers = of.weights if isinstance(of, SparseLabels) else of
            weights[name] = float(numbers.sum(dtype=np.float64))
    return weights


def train_on_device(
    ops: HostOperations,
    network: Network,
    minibatches: Iterable[Minibatch],
    options: TrainerOptions,
    state: OptimizerState | None = None,
    state_must_fit: bool = True,
) -> DeviceTrainer:
    """Counterpart of :func:`nnet3py.train.shard.train_shard` for a device."""
    trainer = DeviceTrainer(ops, network, options, state, state_must_fit)
    for minibatch in minibatches:
        trainer.train(minibatch)
    trainer.report()
    trainer.finish()
    log.verbose(1, f"Trained on {trainer.minibatches} minibatches.")
    return trainer
