"""What every part of a training works with: its options, its directory, the engine that runs programs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from nnet3py.driver.alignments import has_transition_ids
from nnet3py.driver.engine import Engine
from nnet3py.driver.experiment import Experiment
from nnet3py.driver.options import TrainingOptions
from nnet3py.errors import UserError
from nnet3py.jobs.interruption import DRIVER_PID

DIAGNOSTIC_SETS = ("valid", "train")
"""Sets of examples that every model is tried on: ``<name>_diagnostic.egs`` of the examples."""


class Stage:
    """A part of a training; ``options.dir`` is its directory."""

    def __init__(self, options: TrainingOptions, engine: Engine) -> None:
        self.options = options
        self.engine = engine
        self.experiment = Experiment(options.dir)

    def _has_transitions(self) -> bool:
        return has_transition_ids(self.options.ali_dir)

    def _minibatches(self, kind: str, labels: int = 0) -> str:
        """A diagnostic set in minibatches, as a file of the directory; ``labels``: the realignment they are of."""
        return f"{kind}_diagnostic.{f'{labels}.' if labels else ''}minibatches"

    def _raw(self, index: int | str) -> str:
        return self.experiment.model(index)

    def _run_step(self, command: Sequence[str], what: str) -> None:
        """Run another driver, which says itself what it does; it ends with this one."""
        process = subprocess.Popen(command, env={**os.environ, DRIVER_PID: str(os.getpid())})
        try:
            status = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if status != 0:
            raise UserError(f"{what} failed ({os.path.basename(command[0])} exited with status {status}).")

    def _run(
        self, name: str, command: Sequence[str], what: str, *, jobs: int | None = None, num_threads: int = 1
    ) -> None:
        """Run jobs of so many threads each, with the log ``name``; every engine of Kaldi's knows ``--num-threads``."""
        threads = ["--num-threads", str(num_threads)] if num_threads > 1 else []
        self.engine.run(self.experiment.log(name), command, what=what, jobs=jobs, options=threads)
