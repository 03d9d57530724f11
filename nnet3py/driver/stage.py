"""What every part of a training works with: its options, its directory, the engine that runs programs."""

from __future__ import annotations

from collections.abc import Sequence

from nnet3py.driver.alignments import has_transition_ids
from nnet3py.driver.engine import Engine
from nnet3py.driver.experiment import Experiment
from nnet3py.driver.options import TrainingOptions

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

    def _minibatches(self, kind: str) -> str:
        """A diagnostic set in minibatches, as a file of the directory."""
        return f"{kind}_diagnostic.minibatches"

    def _raw(self, index: int | str) -> str:
        return self.experiment.model(index)

    def _run(self, name: str, command: Sequence[str], what: str, *, jobs: int | None = None) -> None:
        self.engine.run(self.experiment.log(name), command, what=what, jobs=jobs)
