"""Mixing up in the middle of a training: one iteration starts from the model with more softmax units.

Every job of that iteration puts the model through ``nnet-mix-up`` with the same seed, as with a layer that is added, so
that nothing but the iteration's result is kept. Counts are those of the alignments. Whether the initial model can be
mixed up with these options is tried before the first iteration.

Source: arXiv:1410.7455, appendix C.3; Kaldi egs/wsj/s5/steps/nnet2/train_pnorm.sh (``mix_up``).
"""

from __future__ import annotations

import re

from nnet3py import log
from nnet3py.driver import pdf_counts
from nnet3py.driver.options import TrainingOptions
from nnet3py.driver.schedule import Schedule
from nnet3py.driver.stage import Stage
from nnet3py.errors import UserError
from nnet3py.text.lines import read_text

_DONE = re.compile(r"Mixed up from dimension of (\d+) to (\d+) in the softmax layer")


def check(options: TrainingOptions) -> None:
    """Raise UserError for options that contradict each other."""
    if options.mix_up_iter >= 0 and not options.mix_up:
        raise UserError("--trainer.mix-up-iter is given, but no number of softmax units (--trainer.mix-up).")


class MixUp(Stage):
    """What ``--trainer.mix-up`` asks for."""

    def prepare(self, schedule: Schedule) -> None:
        """Count pdfs, and try the operation on the initial model; nothing if it is not asked for or done already.

        Raises:
            UserError: there are no alignments, or nnet-mix-up refuses the model or the options.
        """
        if not self.options.mix_up:
            return
        new = self.experiment.last_model() == 0
        if new or not self.experiment.has(pdf_counts.NAME):
            pdf_counts.count_pdfs(self.experiment, self.engine, self.options.ali_dir, "--trainer.mix-up is given")
        if new:
            name = "mix_up.trial"
            command = [*self._words(seed=0), self._raw(0), self._raw(name)]
            self._run(name, command, "Trying whether the initial model can be mixed up")
            self.experiment.remove(f"{name}.raw")
            self._announce(name, schedule)

    def command(self, iteration: int) -> str:
        """The shell command, from standard input to standard output, that mixes up the model of an iteration."""
        return " ".join([*self._words(seed=iteration + self.options.srand), "-", "-"])

    def _words(self, seed: int) -> list[str]:
        options = self.options
        return [
            "nnet-mix-up",
            f"--num-mixtures={options.mix_up}",
            f"--power={options.mix_up_power:g}",
            f"--min-count={options.mix_up_min_count:g}",
            f"--perturb-stddev={options.mix_up_perturb_stddev:g}",
            f"--counts={self.experiment.path(pdf_counts.NAME)}",
            f"--srand={seed}",
        ]

    def _announce(self, name: str, schedule: Schedule) -> None:
        """Say how many softmax units there will be: fewer than asked for if pdfs have too few frames."""
        found = _DONE.search(read_text(self.experiment.log(name)))
        if found:
            where = f"Iteration {schedule.mix_up_iteration} of {schedule.num_iterations} will start"
            log.log(f"{where} with mixing up from {found[1]} to {found[2]} softmax units.")
            if int(found[2]) < self.options.mix_up:
                log.warning(
                    f"That is fewer than --trainer.mix-up={self.options.mix_up}: more would have no more than "
                    f"{self.options.mix_up_min_count:g} frames (--trainer.mix-up-min-count)."
                )
