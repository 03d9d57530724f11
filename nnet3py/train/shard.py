"""One pass over the examples of a shard, by one thread or several."""

from __future__ import annotations

from collections.abc import Iterable

from nnet3py import log
from nnet3py.kept_memory import keep_freed_memory
from nnet3py.nnet.network import Network
from nnet3py.train.minibatch import Minibatch
from nnet3py.train.optimizer_state import OptimizerState
from nnet3py.train.threads import train_in_threads
from nnet3py.train.trainer import Trainer, TrainerOptions


def train_shard(
    network: Network,
    minibatches: Iterable[Minibatch],
    options: TrainerOptions,
    state: OptimizerState | None = None,
    state_must_fit: bool = True,
) -> Trainer:
    """Train ``network`` in place on all of ``minibatches`` and print the final lines; returns the trainer.

    ``state`` is what an earlier run left to go on from; see :class:`Trainer`.

    Raises:
        UserError: the options make no sense, the state does not fit, or there was nothing that could be trained on.
    """
    keep_freed_memory()
    trainer = Trainer(network, options, state, state_must_fit)
    if options.num_threads > 1:
        train_in_threads(trainer, minibatches, options.num_threads)
    else:
        for minibatch in minibatches:
            trainer.train(minibatch)
    trainer.report()
    log.verbose(1, f"Trained on {trainer.minibatches} minibatches.")
    return trainer
