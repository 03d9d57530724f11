"""Lock-free training: threads of one process change the same parameters, each with its own minibatches.

A thread takes the next minibatch, computes its change with the parameters as they are, and adds it, waiting for nobody:
no lock guards the parameters. Others may have changed them since the forward pass, or change them while they are read;
as long as one change is small beside the parameters, the sum of all is nearly what one thread would have made. It is as
if with T threads the changes of T minibatches were computed at one place: T times the size of a minibatch should not be
more than a minibatch of one thread could be (docs/method.md has what it costs where it is). The result depends on how
the threads happen to run.

NumPy and BLAS let other threads run while they compute, so that T threads can keep T cores busy. What is Python's own
in a training step is done by one thread at a time.

Sources: F. Niu, B. Recht, C. Ré, S. J. Wright, "Hogwild!", NIPS 2011; Kaldi src/nnet2/nnet-update-parallel.cc and, for
the size of minibatches, egs/wsj/s5/steps/nnet2/train_pnorm_fast.sh (threads times size below about 2000).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable

from nnet3py.train.minibatch import Minibatch
from nnet3py.train.trainer import Trainer

_END_SECONDS = 1.0


def train_in_threads(trainer: Trainer, minibatches: Iterable[Minibatch], num_threads: int) -> None:
    """Let ``num_threads`` threads train on all of ``minibatches``; ``trainer`` has their counts and statistics then.

    Whatever is raised in a thread or by ``minibatches`` is raised here, when the other threads have ended their
    minibatch; KeyboardInterrupt too.
    """
    trainers = [trainer, *(trainer.twin(thread) for thread in range(1, num_threads))]
    source = iter(minibatches)
    taking, stopping = threading.Lock(), threading.Event()
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def work(own: Trainer) -> None:
        problem: BaseException | None = None
        try:
            while not stopping.is_set():
                with taking:
                    minibatch = next(source, None)
                if minibatch is None:
                    break
                own.train(minibatch)
        except BaseException as raised:
            problem = raised
        ended.put(problem)

    threads = [threading.Thread(target=work, args=(own,), daemon=True) for own in trainers]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            problem = ended.get()
            if problem is not None:
                raise problem
    finally:
        stopping.set()
        deadline = time.monotonic() + _END_SECONDS  # one that waits for its minibatch may wait for ever
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
    for twin in trainers[1:]:
        trainer.absorb(twin)
