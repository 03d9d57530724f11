"""The minibatch loop: one pass over the examples of a shard, changing a network in place.

For each minibatch the change Δ of all parameters is computed (forward, backward, each component's update by the
training method of :mod:`nnet3py.train.parameter_update`), regularised, limited (:mod:`nnet3py.train.max_change`) and
added. With momentum μ, Δ is what this minibatch adds to μ times the Δ before, and ``(1-μ) Δ`` is added to the
parameters, so that the learning rate means the same with and without it.

*Backstitch* (Y. Wang et al., Interspeech 2017) does every n-th minibatch twice: a step of -α times the change, then
one of 1+α times the change computed at the place that the first step led to.

*Several threads* may train one network (:mod:`nnet3py.train.threads`), each with a trainer of its own: the parameters,
the estimates of natural gradient and the log of objectives are common, all else is a trainer's own.

Source: Kaldi src/nnet3/nnet-training.cc, NnetTrainer.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.nnet.arithmetic import add_statistics, scale_component
from nnet3py.nnet.batch_norm import BatchNormComponent
from nnet3py.nnet.component import Array, Component, Phase
from nnet3py.nnet.computation import ComputationCache
from nnet3py.nnet.in_place import add_scaled
from nnet3py.nnet.network import Network
from nnet3py.seed import not_negative
from nnet3py.train.max_change import MaxChangeCounts, limited_scales
from nnet3py.train.minibatch import Minibatch
from nnet3py.train.objective import objective
from nnet3py.train.objective_log import ObjectiveLog
from nnet3py.train.optimizer_state import OptimizerState
from nnet3py.train.orthonormal import constrain_orthonormal
from nnet3py.train.parameter_update import Method, ParameterUpdate


@dataclass(frozen=True)
class TrainerOptions:
    """nnet3-train's options, under their names and with their defaults, and the training method."""

    method: Method = Method.AS_MODEL
    momentum: float = 0.0
    max_param_change: float = 2.0
    l2_regularize_factor: float = 1.0
    zero_component_stats: bool = True
    store_component_stats: bool = True
    batchnorm_stats_scale: float = 0.8
    backstitch_training_scale: float = 0.0
    backstitch_training_interval: int = 1
    print_interval: int = 100
    srand: int = 0
    num_threads: int = 1

    def check(self) -> None:
        """Raise UserError for a value that makes no sense."""
        bounds = (
            ("momentum", self.momentum, 0.0, 1.0 - 1.0e-6),
            ("max-param-change", self.max_param_change, 0.0, math.inf),
            ("l2-regularize-factor", self.l2_regularize_factor, 0.0, math.inf),
            ("batchnorm-stats-scale", self.batchnorm_stats_scale, 0.0, 1.0),
            ("backstitch-training-scale", self.backstitch_training_scale, 0.0, math.inf),
            ("backstitch-training-interval", self.backstitch_training_interval, 1, math.inf),
            ("print-interval", self.print_interval, 1, math.inf),
            ("num-threads", self.num_threads, 1, 1024),
        )
        for name, value, lowest, highest in bounds:
            if not (lowest <= value <= highest and math.isfinite(value)):
                wanted = f"at least {lowest:g}" if highest == math.inf else f"from {lowest:g} to {highest:g}"
                raise UserError(f"--{name}={value:g} is not possible: give a number {wanted}.")
        if self.backstitch_training_scale > 0.0 and self.momentum > 0.0:
            raise UserError("--backstitch-training-scale cannot be combined with --momentum: set one of them to 0.")
        if self.backstitch_training_scale > 0.0 and self.num_threads > 1:
            raise UserError(
                "--backstitch-training-scale needs --num-threads=1: the step back is to be undone before anything else "
                "is computed, which other threads do not wait for."
            )


class ParameterChange:
    """Δ: a change for every trained parameter of a network, in one piece of memory, and who writes to it."""

    def __init__(self, network: Network, method: Method, every_component: bool = False) -> None:
        """Zero change; unless ``every_component``, those with a learning rate of zero have no part in it."""
        self.components: dict[str, Component] = {
            name: component
            for name, component in network.updatable_components().items()
            if every_component or component.learning_rate != 0.0
        }
        self.flat = np.zeros(sum(c.num_parameters() for c in self.components.values()), np.float32)
        self.updates: dict[str, ParameterUpdate] = {}
        self._parts: dict[str, Array] = {}
        start = 0
        for name, component in self.components.items():
            begin, delta = start, {}
            for field, parameter in component.parameters().items():
                delta[field] = self.flat[start : start + parameter.size].reshape(parameter.shape)
                start += parameter.size
            self._parts[name] = self.flat[begin:start]
            self.updates[name] = ParameterUpdate(component, method, delta)

    def norms(self) -> dict[str, float]:
        """Euclidean norm of each component's change; NaN where derivatives came that were not finite."""
        found = {}
        with np.errstate(over="ignore", invalid="ignore"):  # the caller looks
            for name, part in self._parts.items():
                squared = float(np.dot(part, part)) if self.updates[name].finite else math.nan
                found[name] = math.sqrt(squared) if squared >= 0.0 else math.nan
        return found

    def add_l2(self, scale: float) -> None:
        """The derivative of ``-scale * l2_regularize * ‖parameters‖²``, times the learning rate."""
        for name, component in self.components.items():
            factor = -2.0 * scale * component.learning_rate * component.l2_regularize
            if factor != 0.0:
                for field, parameter in component.parameters().items():
                    self.updates[name].delta[field] += np.float32(factor) * parameter

    def apply(self, scales: dict[str, float]) -> None:
        """Add the change, times a scale for each component, to the parameters."""
        for name, component in self.components.items():
            for field, parameter in component.parameters().items():
                add_scaled(parameter, scales[name], self.updates[name].delta[field])

    def scale(self, factor: float) -> None:
        """Multiply by ``factor``; 0 also clears what is not finite."""
        if factor == 0.0:
            self.flat.fill(0.0)
        else:
            self.flat *= np.float32(factor)
        for update in self.updates.values():
            update.finite = True

    def freeze_natural_gradient(self, frozen: bool) -> None:
        """While frozen, the estimates of natural gradient are used but not updated."""
        for update in self.updates.values():
            update.freeze(frozen)


class Trainer:
    """Trains ``network`` in place, a minibatch at a time."""

    def __init__(
        self,
        network: Network,
        options: TrainerOptions,
        state: OptimizerState | None = None,
        state_must_fit: bool = True,
    ) -> None:
        """Start afresh or from the ``state`` that an earlier run left.

        Raises UserError for options that make no sense, and for a state that does not fit the network. What may be
        another size, because the network was changed, does not fit either, but unless it must the component that it is
        for starts afresh.
        """
        options.check()
        self.network = network
        self.options = options
        self.change = ParameterChange(network, options.method)
        self.counts = MaxChangeCounts()
        self.minibatches = 0
        self._numbers: Iterator[int] = itertools.count(0 if state is None else state.minibatches)
        self._number = 0
        self.logs: dict[str, ObjectiveLog] = {}
        self._kinds = {node.name: node.objective for node in network.output_nodes()}
        self._batch_norms = [c for c in network.components.values() if isinstance(c, BatchNormComponent)]
        self._computations = ComputationCache(network)
        self._constraining = threading.Lock()
        self._random = np.random.default_rng(not_negative(options.srand))
        self._backstitch_offset = int(self._random.integers(options.backstitch_training_interval))
        if options.zero_component_stats:
            for component in network.components.values():
                component.zero_statistics()
        self._restored = OptimizerState() if state is None else state
        if state is not None:
            self._restore(state, state_must_fit)

    def _restore(self, state: OptimizerState, must_fit: bool) -> None:
        """Take over what there is of the components that are trained."""
        names = {*state.estimates, *state.momentum}
        absent = sorted(names - set(self.network.updatable_components()))
        if absent and must_fit:
            raise UserError(
                f"The state of the optimizer has a component {absent[0]}, which the network does not have or train: "
                "give the state that belongs to this model, or let what does not fit start afresh "
                "(--optimizer-state-must-fit=false)."
            )
        for name, component in self.change.components.items():
            self._restore_component(name, component, state, must_fit)

    def _restore_component(self, name: str, component: Component, state: OptimizerState, must_fit: bool) -> None:
        estimates, momentum = state.estimates.get(name, {}), state.momentum.get(name, {})
        update, parameters = self.change.updates[name], component.parameters()
        strange = [of for of in (*(field for _, field in estimates), *momentum) if of not in parameters]
        if estimates and update.method is not Method.ONLINE:
            problem = f"has estimates for {name}, which --update={update.method.value} has no use for"
        elif strange:
            problem = f"has something for {strange[0]} of {name}, which has no such parameters"
        elif any(change.shape != parameters[of].shape for of, change in momentum.items()):
            problem = f"has momentum of another shape than the parameters of {name}"
        else:
            update.restore(estimates, name, must_fit)
            if self.options.momentum > 0.0:
                for of, change in momentum.items():
                    update.delta[of][...] = change
            return
        if must_fit:
            raise UserError(
                f"The state of the optimizer {problem}: give the state that belongs to this model and method, or let "
                "what does not fit start afresh (--optimizer-state-must-fit=false)."
            )
        log.log(f"The state of the optimizer {problem}: {name} starts afresh.")

    def optimizer_state(self) -> OptimizerState:
        """What another run needs to go on from here, with the network; components that are not trained keep theirs."""
        components = self.network.updatable_components()
        kept = {name: found for name, found in self._restored.estimates.items() if name in components}
        estimates = {**kept, **{name: update.estimates() for name, update in self.change.updates.items()}}
        momentum = {}
        if self.options.momentum > 0.0:
            momentum = {name: update.delta for name, update in self.change.updates.items()}
        return OptimizerState(
            self._restored.minibatches + self.minibatches,
            {name: found for name, found in estimates.items() if found},
            momentum,
        )

    def twin(self, thread: int) -> Trainer:
        """A trainer for another thread of this run: the same parameters, estimates and log of objectives.

        Its changes, momentum, statistics, counts and random draws are its own; :meth:`absorb` adds up what can be.
        """
        twin = Trainer(self.network.sharing_parameters(), replace(self.options, zero_component_stats=True))
        for name, update in twin.change.updates.items():
            update.share_estimates(self.change.updates[name])
        twin.logs, twin._numbers, twin._constraining = self.logs, self._numbers, self._constraining
        twin._random = np.random.default_rng([not_negative(self.options.srand), thread])
        return twin

    def absorb(self, twin: Trainer) -> None:
        """Add up statistics and counts of a thread that has ended."""
        for name, component in self.network.components.items():
            if not (isinstance(component, BatchNormComponent) and component.test_mode):  # these are not gathered
                add_statistics(component, twin.network.components[name])
        self.counts.add(twin.counts)
        self.minibatches += twin.minibatches

    def train(self, minibatch: Minibatch) -> None:
        """Change the network's parameters by one minibatch."""
        options = self.options
        self._number = next(self._numbers)
        turn = (self._number - self._backstitch_offset) % options.backstitch_training_interval
        if options.backstitch_training_scale > 0.0 and turn == 0:
            seed = [not_negative(options.srand), self._number]  # both steps see the same dropout masks
            alpha = options.backstitch_training_scale
            self.change.freeze_natural_gradient(True)
            self._step(minibatch, -alpha, alpha, np.random.default_rng(seed), regularize=False)
            self._constrain_orthonormal()
            self.change.freeze_natural_gradient(False)
            self._step(minibatch, 1.0 + alpha, 1.0 + alpha, np.random.default_rng(seed), suffix="_backstitch")
            self._scale_batch_norm_statistics()
        else:
            self._step(minibatch, 1.0 - options.momentum, 1.0, self._random)
            self._scale_batch_norm_statistics()
            self._constrain_orthonormal()
        self.minibatches += 1

    def _step(
        self,
        minibatch: Minibatch,
        scale: float,
        max_change_scale: float,
        random: np.random.Generator,
        regularize: bool = True,
        suffix: str = "",
    ) -> None:
        """Forward, backward, and ``scale`` times the change added unless it is not finite."""
        self._accumulate(minibatch, random, suffix)
        if regularize:
            # The momentum is part of Δ; backstitch's 1 + α must not be part of the regularisation.
            weight = minibatch.num_sequences * self.options.l2_regularize_factor
            self.change.add_l2(weight / scale if suffix else weight)
        scales = limited_scales(
            self.change.norms(),
            {name: component.max_change for name, component in self.change.components.items()},
            self.options.max_param_change,
            scale,
            max_change_scale,
            self.counts,
        )
        if scales is not None:
            self.change.apply(scales)
        else:
            self._forget_broken_statistics()
        self.change.scale(self.options.momentum if scales is not None else 0.0)

    def _accumulate(self, minibatch: Minibatch, random: np.random.Generator, suffix: str) -> None:
        """Add this minibatch's change to Δ and its objectives to the logs."""
        computation = self._computations.get(minibatch.request)
        outputs, trace = computation.forward(
            minibatch.inputs, Phase.TRAIN, random=random, store_statistics=self.options.store_component_stats
        )
        derivatives: dict[str, Array] = {}
        for name, supervision in minibatch.outputs.items():
            found = objective(self._kinds[name], name, outputs[name], supervision)
            assert found.derivative is not None
            derivatives[name] = found.derivative
            if name + suffix not in self.logs:
                self.logs.setdefault(name + suffix, ObjectiveLog(name + suffix, self.options.print_interval))
            if math.isfinite(found.value):
                self.logs[name + suffix].add(self._number, found.weight, found.value)
        computation.backward(trace, derivatives, self.change.updates)

    def _forget_broken_statistics(self) -> None:
        """A minibatch that overflowed has left infinities in statistics too."""
        for component in self.network.components.values():
            if not component.has_finite_statistics():
                component.zero_statistics()

    def _scale_batch_norm_statistics(self) -> None:
        """Let old statistics fade, so that those which are written belong to the last minibatches' parameters."""
        if self.options.batchnorm_stats_scale != 1.0:
            for component in self._batch_norms:
                scale_component(component, self.options.batchnorm_stats_scale)

    def _constrain_orthonormal(self) -> None:
        with self._constraining:  # two threads that take the same step would overshoot
            for component in self.network.components.values():
                constrain_orthonormal(component, self._random)

    def report(self) -> None:
        """Print the lines at the end of the run. Raises UserError if there was nothing to train on."""
        report_run(self.logs, self.counts, self.minibatches)


def report_run(logs: Mapping[str, ObjectiveLog], counts: MaxChangeCounts, minibatches: int) -> None:
    """The lines at the end of a run of training. Raises UserError if there was nothing that could be trained on."""
    for name in sorted(logs):
        logs[name].report()
    counts.report()
    if minibatches == 0:
        raise UserError("There were no examples to train on: the table of examples is empty.")
    if counts.not_finite == counts.minibatches:
        raise UserError(
            "No minibatch gave a finite parameter change: the learning rate is too high or the model has diverged. "
            "No model was written."
        )
    if not any(entry.overall.weight for entry in logs.values()):
        raise UserError("All examples have weight zero: there was nothing to train on.")
