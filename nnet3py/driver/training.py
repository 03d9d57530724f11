"""The outer loop: N jobs train N copies of a model on N shards, their average starts the next iteration.

The stages, each of which leaves a file that says it is done:

    -5  init.raw          the network that splices frames, for the statistics of the decorrelating transform
    -4  egs/              examples (steps/get_egs.py)
    -3  lda.mat           the decorrelating transform
    -2  presoftmax_prior_scale.vec    where a configuration names it (:mod:`nnet3py.driver.prior_scale`)
    -1  0.raw             the initial model
     i  <i+1>.raw         iteration i
     n  final.raw         the models of the last iterations combined
    n+1 final.mdl         with priors and the transition model trained on the alignment; or final.priors without one

Source: arXiv:1410.7455; Kaldi egs/wsj/s5/steps/nnet3/train_dnn.py and
steps/libs/nnet3/train/frame_level_objf/common.py.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import time
from collections.abc import Mapping

from nnet3py import log
from nnet3py.driver import (
    averaging,
    made_of,
    minibatch_size,
    mix_up,
    optimizer_states,
    pdf_counts,
    prior_scale,
    realignment,
)
from nnet3py.driver.averaging import Averaging
from nnet3py.driver.data_used import LEFT_OUT, read_data_used
from nnet3py.driver.diagnostics import read_training_objective, select_models
from nnet3py.driver.directory_lock import locked
from nnet3py.driver.dropout_schedule import parse_dropout_schedules
from nnet3py.driver.engine import Engine, check_paths, pipe
from nnet3py.driver.experiment import copy_atomically, digest, termination_interrupts
from nnet3py.driver.faults import FaultRecord, fault_report
from nnet3py.driver.final_model import FinalModel
from nnet3py.driver.learning_rate_factors import parse_learning_rate_factors
from nnet3py.driver.model_diagnostics import ModelDiagnostics
from nnet3py.driver.optimizer_states import OptimizerStates
from nnet3py.driver.options import TrainingOptions, affecting_model
from nnet3py.driver.preparation import Egs, Preparation
from nnet3py.driver.progress_line import ProgressLine
from nnet3py.driver.report import accuracy_report, data_report, read_progress, write_progress
from nnet3py.driver.schedule import Iteration, Schedule, shard_expressions
from nnet3py.driver.shard_jobs import LOG_BYTES, ShardJobs
from nnet3py.driver.shrink_and_fix import ShrinkAndFix
from nnet3py.driver.space import free_bytes, require_space
from nnet3py.driver.stage import DIAGNOSTIC_SETS, Stage
from nnet3py.driver.starting_model import StartingModel
from nnet3py.egs.merge import MinibatchSizes
from nnet3py.errors import UserError
from nnet3py.text.lines import BLANKS, read_text, write_text

_ALIGNMENT_DIGESTS = {f"--ali-dir {name}": name for name in ("tree", "phones.txt", "num_pdfs")}
_NEWER_THAN_RECORDS = re.compile(r"examples |--(?:ali-dir|feat-dir|ivectors) \w")
"""Digests that records of older versions do not have."""

_TAKES_EFFECT = {
    -5: r"configs/init\.config$",
    -4: r"--ali-dir \S+|--feat-dir (?!text)|--ivectors |--egs\.|--feat\.cmvn-opts|--trainer\.samples-per-iter",
    -3: r"--trainer\.(lda\.|rand-prune)",
    -2: r"--trainer\.presoftmax-prior-scale-power",
    -1: r"configs/(final|layer1)\.config$|--trainer\.input-model",
}
"""By stage, what is of no effect after it."""

_OF_ITERATIONS = re.compile(r"--trainer\.(?:optimization\.|num-epochs$|max-param-change$)")
"""Options that nothing depends on before the first iteration."""

_DIAGNOSTIC_LOG = re.compile(rf"compute_prob_(?:{'|'.join(DIAGNOSTIC_SETS)})\.(\d+|final)\.log")


def train(options: TrainingOptions, *, get_egs: str, align: str) -> None:
    """Train a network, from where an earlier run of the same experiment stopped.

    ``get_egs`` is the program that makes examples, ``align`` the one that aligns.

    Raises:
        UserError: an option or a file is wrong, or a job has failed.
        KeyboardInterrupt: the user wants it to stop; the jobs have been ended.
    """
    _check(options)
    with (
        termination_interrupts(),
        locked(options.dir, "train_dnn.py"),
        Engine(options.command, max_retries=options.max_retries, job_time_limit=options.job_time_limit) as engine,
    ):
        training = _Training(options, engine, get_egs, align)
        try:
            training.run()
        except UserError as problem:
            if free_bytes(options.dir) < LOG_BYTES:
                raise UserError(
                    f"{problem}\nThe disk of {options.dir} is full: make space; the same command goes on."
                ) from problem
            raise


def _check(options: TrainingOptions) -> None:
    check_paths(options)
    needed = [("--dir", options.dir), ("--ali-dir", options.ali_dir)]
    needed += [("--egs.dir", options.egs_dir)] if options.egs_dir else []
    for name, value in needed:
        if not value:
            raise UserError(f"Option {name} is needed.")
        if not os.path.isdir(value):
            raise UserError(f"{name} {value} is not a directory.")
    if not options.egs_dir and not options.feat_dir:
        raise UserError("Option --feat-dir is needed to make examples; or give --egs.dir.")
    if options.input_model and not os.path.isfile(options.input_model):
        raise UserError(f"--trainer.input-model {options.input_model} does not exist.")
    if options.reporting_email:
        log.warning(
            f"No mail goes to {options.reporting_email}: see {options.dir}/accuracy.report when training is done."
        )
    minibatch_size.check(options.minibatch_size)
    parse_dropout_schedules(options.dropout_schedule)
    parse_learning_rate_factors(options.learning_rate_factors)
    mix_up.check(options)
    realignment.check(options)
    if options.backstitch_training_scale > 0 and options.momentum > 0:
        raise UserError("Backstitch and momentum do not go together: leave one of the two options at 0.")
    optimizer_states.check(options)
    averaging.check(options)
    _schedule(options, num_archives=10**9, num_layers=1)  # what can be refused before examples are made
    if not options.max_param_change > 0:
        raise UserError(f"--trainer.max-param-change must be above 0, found {options.max_param_change}.")
    if not 0 <= options.outer_momentum < 1:
        raise UserError(
            f"--trainer.optimization.outer-momentum={options.outer_momentum:g} is not possible: give a number from 0 "
            "to below 1."
        )
    if not 0 < options.outer_learning_rate < math.inf:
        raise UserError(
            f"--trainer.optimization.outer-learning-rate={options.outer_learning_rate:g} is not possible: give a "
            "number above 0."
        )
    if not 0 <= options.momentum < 1:
        raise UserError(f"--trainer.optimization.momentum must be at least 0 and below 1, found {options.momentum}.")


def _schedule(options: TrainingOptions, num_archives: int, num_layers: int) -> Schedule:
    return Schedule(
        num_epochs=options.num_epochs,
        num_archives=num_archives,
        passes_per_epoch=options.frames_per_eg if options.one_frame_per_eg else 1,
        jobs_initial=options.num_jobs_initial,
        jobs_final=options.num_jobs_final,
        jobs_step=options.num_jobs_step,
        initial_effective_lrate=options.initial_effective_lrate,
        final_effective_lrate=options.final_effective_lrate,
        num_layers=num_layers,
        add_layers_period=options.add_layers_period if num_layers > 1 else 0,
        num_epochs_extra=options.num_epochs_extra,
        mix_up_iter=options.mix_up_iter if options.mix_up else None,
    )


class _Training(Stage):
    def __init__(self, options: TrainingOptions, engine: Engine, get_egs: str, align: str) -> None:
        super().__init__(options, engine)
        self.preparation = Preparation(options, engine, get_egs)
        self.realignment = realignment.Realignment(options, engine, align)
        self.optimizer_states = OptimizerStates(options, engine)
        self.layers = self._layers()
        self.starting_model = StartingModel(options, engine, self.layers)
        self.averaging = Averaging(options, engine)
        self.shrink_and_fix = ShrinkAndFix(options, engine)
        self.faults = FaultRecord(self.experiment)
        engine.on_fault = self.faults.note

    # The stages in order. Each runs if its result is missing.

    def run(self) -> None:
        os.makedirs(self.experiment.path("log"), exist_ok=True)
        begun, run_before = self._begun(), self.experiment.has("train_options.json")
        made_with = {**affecting_model(self.options), **self._digests(), **self.realignment.record()}
        self._compare_record("train_options.json", made_with)
        if self.options.stage is not None and self.options.stage < 0:
            self._forget_preparation(self.options.stage)
        elif run_before and not begun:
            self._forget_leftovers()
        if self.options.stage is None and self._finished():
            if self.options.egs_dir and os.path.isdir(f"{self.options.egs_dir}/info"):
                self._compare_record("train_examples.json", _of_examples(self.options.egs_dir))
            log.log(f"Training in {self.options.dir} is already finished; --stage goes back to a stage.")
            self._clean_up()
            return
        self.experiment.remove_leavings()
        self._forget_after_last_model()
        line = None
        try:
            preparation = self.preparation
            preparation.copy_alignment_files()
            preparation.check_inputs()
            context = preparation.context()
            preparation.make_egs(context)
            egs = preparation.read_egs(context)
            schedule = _schedule(self.options, egs.num_archives, len(self.layers) + 1)
            self._require_full_minibatches(egs, schedule)
            realignment.realigned_iterations(self.options, schedule)  # what can be refused before anything is trained
            if self._compare_record("train_examples.json", _of_examples(egs.folder)):
                self.experiment.remove(*map(self._minibatches, DIAGNOSTIC_SETS))
            preparation.make_initial_model(egs)
            preparation.check_context(egs)
            preparation.merge_diagnostic_sets(egs)
            if self.options.stage is not None and self.options.stage >= 0:
                self._forget_iterations(self.options.stage, schedule)
            self.starting_model.prepare(schedule)
            line = ProgressLine(schedule)
            diagnostics = ModelDiagnostics(self.options, self.engine, schedule)
            if self._iterate(egs, schedule, diagnostics, line):
                self._finish(egs, schedule, diagnostics, line)
                self._clean_up()
        except KeyboardInterrupt:
            if line is not None:
                line.end()
            log.warning(f"Stopped; the same command goes on from {self._place()}.")
            raise
        finally:
            if line is not None:
                line.end()

    def _place(self) -> str:
        last = self.experiment.last_model()
        return "the beginning" if last is None else f"iteration {last}"

    def _finished(self) -> bool:
        return self.experiment.has("final.mdl" if self._has_transitions() else "final.priors")

    # What the experiment is made with.

    def _begun(self) -> bool:
        """Whether there is something that the options of an earlier run have made."""
        made = ("init.raw", "0.raw", "egs/.complete")
        return self.experiment.last_model() is not None or any(self.experiment.has(name) for name in made)

    def _compare_record(self, name: str, values: dict[str, object]) -> bool:
        """Refuse to mix models made with different options, unless --stage says where to start again.

        Returns whether something has changed.
        """
        begun = self._begun()
        defaults = {key: value for key, value in affecting_model(TrainingOptions()).items() if key in values}
        defaults |= {key: value for key, value in values.items() if _NEWER_THAN_RECORDS.match(key)}
        changed = self.experiment.record(name, values, force=False, defaults=defaults)
        if not changed:
            return False
        in_time = not self.experiment.last_model() and all(map(_OF_ITERATIONS.match, changed))  # none is done yet
        forced = self.options.stage is not None or not begun or in_time
        differences = "; ".join(f"{key} was {_shown(then)}, is {_shown(now)}" for key, (then, now) in changed.items())
        if forced:
            if begun:
                self._require_early_stage(changed)
                log.warning(f"Going on with changes: {differences}.")
            self.experiment.record(name, values, force=True, defaults=defaults)
            return True
        raise UserError(
            f"{self.options.dir} was begun otherwise: {differences}. Go on with what it was begun with, choose another "
            "--dir, or give --stage to start again from there (-5 from the beginning) with what is given now."
        )

    def _require_early_stage(self, changed: Mapping[str, object]) -> None:
        """Refuse to begin after the stage at which a change would take effect: what it made would be used as it was."""
        own_examples = not self.options.egs_dir
        for stage, pattern in _TAKES_EFFECT.items():
            found = [key for key in changed if re.match(pattern, key) and (stage != -4 or own_examples)]
            if found and self.options.stage is not None and self.options.stage > stage:
                raise UserError(
                    f"{found[0]} has changed, which has no effect on what --stage={self.options.stage} keeps: give "
                    f"--stage={stage}, or go on with what {self.options.dir} was begun with."
                )

    def _digests(self) -> dict[str, object]:
        options = self.options
        names = ["init.config", "final.config", "layer1.config", "vars"]
        names += [os.path.basename(path) for path in self.layers]
        configs = {f"configs/{name}": digest(self.experiment.path(f"configs/{name}")) for name in names}
        return {
            **configs,
            **{key: digest(f"{options.ali_dir}/{name}") for key, name in _ALIGNMENT_DIGESTS.items()},
            **made_of.alignment_digests("--ali-dir", options.ali_dir),
            **(made_of.data_digests("--feat-dir", options.feat_dir) if self._reads_features() else {}),
            **(made_of.vector_digests("--ivectors", options.online_ivector_dir) if self._reads_features() else {}),
        }

    def _reads_features(self) -> bool:
        return not self.options.egs_dir or bool(realignment.realign_times(self.options))

    def _require_full_minibatches(self, egs: Egs, schedule: Schedule) -> None:
        """Refuse a minibatch size that an archive has too few examples for: nothing of it would be trained on.

        Raises:
            UserError: the smallest minibatch of an iteration is larger than an archive.
        """
        size, most = self.options.minibatch_size, egs.most_egs
        rules = size if any(iteration.averages for iteration in schedule.iterations) else minibatch_size.halved(size)
        if MinibatchSizes.parse(rules).of_rest(egs.frames_per_eg, most) == 0:
            raise UserError(
                f"An archive of {egs.folder} has no more than {most} examples, too few for the smallest minibatch that "
                f"--trainer.optimization.minibatch-size={size} allows: give 1:{max(1, most)}, say."
            )

    def _layers(self) -> list[str]:
        """The configurations of the layers to add, the first of them layer 2."""
        found: list[str] = []
        if self.options.add_layers_period:
            while os.path.isfile(path := self.experiment.path(f"configs/layer{len(found) + 2}.config")):
                found.append(path)
            if not found:
                raise UserError(
                    f"--trainer.add-layers-period is given, but {self.options.dir}/configs has no layer2.config to add."
                )
        return found

    def _forget_after_last_model(self) -> None:
        """Remove what was made of models that are not there, taken away by hand, say: they are to be made anew."""
        last = self.experiment.last_model()
        first = 0 if last is None else last + 1
        if last is None:
            self.experiment.remove_models_after(-1)
            self.experiment.remove("progress.tsv", "accuracy.report", *map(self._minibatches, DIAGNOSTIC_SETS))
        else:
            self.experiment.remove_velocities_after(last)
        if not self.experiment.has("final.raw"):
            self._forget_diagnostics(first)
        self.optimizer_states.remove_after(first - 1)
        self.faults.forget(first)
        self.realignment.forget(first)

    def _forget_leftovers(self) -> None:
        """Remove what an earlier run computed, where all that would tell what it was made of has been removed."""
        self.faults.forget(-1)
        for name, made_by in (("lda.mat", "get_transform"), (prior_scale.NAME, pdf_counts.NAME)):
            if self.experiment.has(f"log/{made_by}.log"):  # else it is the user's own
                self.experiment.remove(name)

    def _forget_diagnostics(self, first: int) -> None:
        """Remove the logs of what models from ``first`` on reach, for these are to be made anew.

        A log that is there is its model's: nothing is told by the times of files, which machines may not agree about.
        """
        for name in os.listdir(self.experiment.path("log")) if os.path.isdir(self.experiment.path("log")) else []:
            found = _DIAGNOSTIC_LOG.fullmatch(name)
            if found and (found[1] == "final" or int(found[1]) >= first):
                self.experiment.remove(f"log/{name}")

    def _forget_preparation(self, stage: int) -> None:
        self.experiment.remove_models_after(-1)
        self.optimizer_states.remove_after(-1)
        self.experiment.remove("progress.tsv", "accuracy.report")
        self.faults.forget(-1)
        self.experiment.remove(*map(self._minibatches, DIAGNOSTIC_SETS))
        self.realignment.forget(0)
        for done_at, name in ((-2, prior_scale.NAME), (-3, "lda.mat"), (-4, "egs/.complete"), (-5, "init.raw")):
            if stage <= done_at and not (name.startswith("egs/") and self.options.egs_dir):
                self.experiment.remove(name)

    def _forget_iterations(self, stage: int, schedule: Schedule) -> None:
        last = schedule.num_iterations
        needed = self.experiment.model(stage if stage <= last else "final")
        if stage > last + 1 or not os.path.isfile(needed):
            raise UserError(
                f"Cannot go on from stage {stage} of {last + 1}: it needs {needed}, which is not there. "
                f"The models of {self.options.dir} are {' '.join(map(str, self.experiment.models())) or 'none'}."
            )
        if stage <= last:
            self.optimizer_states.require(stage)
            self.optimizer_states.remove_after(stage)
            self.experiment.remove_models_after(stage)
            self.realignment.forget(stage)
            self._forget_diagnostics(stage)
            self.faults.forget(stage)
            path = self.experiment.path("progress.tsv")
            rows = [row for row in read_progress(path) if row.model != "final" and int(row.model) < stage]
            write_progress(path, rows)
        self.experiment.remove("final.mdl", "final.priors")

    # The iterations.

    def _iterate(self, egs: Egs, schedule: Schedule, diagnostics: ModelDiagnostics, line: ProgressLine) -> bool:
        """Run what is left of the iterations; false where --exit-stage came first."""
        first = self.experiment.last_model()
        assert first is not None
        rows = diagnostics.known_rows(first)
        combined = set(schedule.models_to_combine(self.options.max_models_combine))
        for iteration in schedule.iterations[first:]:
            if iteration.index == self.options.exit_stage:
                line.stage(f"Stopping before iteration {iteration.index} (--exit-stage).")
                return False
            labelled = self._with_labels(egs, schedule, iteration.index)
            started = time.monotonic()
            looking = diagnostics.start(iteration.index)
            self._run_iteration(labelled, iteration)
            seconds = time.monotonic() - started
            rows.append(diagnostics.row(iteration.index, looking, seconds, rows))
            diagnostics.write(rows)
            self.experiment.remove_shard_models()
            if self.options.cleanup:
                for model in self.experiment.models():  # also what an interrupted run has left
                    if model < iteration.index:
                        self._remove_model(model, combined)
                self.optimizer_states.remove_before(iteration.index + 1)
            line.iteration_done(iteration, seconds, rows[-1])
        return True

    def _with_labels(self, egs: Egs, schedule: Schedule, model: int) -> Egs:
        """The examples with the labels in use at a model, the diagnostic sets with them laid out."""
        labelled = self.realignment.examples(egs, schedule, model)
        self.preparation.merge_diagnostic_sets(labelled, realignment.labels_of(self.options, schedule, model))
        return labelled

    def _run_iteration(self, egs: Egs, iteration: Iteration) -> None:
        index = iteration.index
        self._require_space(iteration)
        self.experiment.remove_shard_models()  # those of a run that was stopped: a job must leave its own
        self.experiment.remove("final.raw", "final.mdl", "final.priors", "accuracy.report")
        self._forget_diagnostics(index + 1)
        outputs = [self._raw(f"{index + 1}.JOB"), *self.optimizer_states.outputs(iteration)]
        command = self._train_command(egs, iteration)
        shards = ShardJobs(self.options, self.engine, self.faults, iteration, command, outputs)
        shards.run()
        while not self._join(iteration, shards):
            pass
        self.optimizer_states.stand_in(index + 1, shards.lost, shards.ready)
        if self.shrink_and_fix.is_due(iteration):
            self.shrink_and_fix.run(egs, iteration)

    def _join(self, iteration: Iteration, shards: ShardJobs) -> bool:
        """Make one model of the jobs'; false if some could not be read and have been trained again."""
        index = iteration.index
        selection = select_models([read_training_objective(shards.log(job)) for job in shards.ready])
        accepted = [shards.ready[place - 1] for place in selection.accepted]
        best = shards.ready[selection.best - 1]
        if len(accepted) < len(shards.ready):
            log.warning(
                f"Iteration {index}: only {len(accepted)} of {len(shards.ready)} models are good enough to "
                f"go on with; see the objectives in {self.experiment.log(f'train.{index}.*')}."
            )
        made = self.shrink_and_fix.average(iteration) if self.shrink_and_fix.is_due(iteration) else self._raw(index + 1)
        if not (iteration.averages and (self.averaging.outer_step(index) or len(accepted) > 1)):
            if shards.train_unreadable([best]):
                return False
            copy_atomically(shards.model(best), made)
            return True

        def recover(what: str) -> bool:
            require_space(self.options.dir, os.path.getsize(self._raw(index)) + LOG_BYTES, what)
            return shards.train_unreadable(accepted)

        return self.averaging.run(index, [shards.model(job) for job in accepted], made, recover)

    def _require_space(self, iteration: Iteration) -> None:
        """Room for an iteration's models, states of the optimiser and logs, by the size of the model it starts from."""
        model = os.path.getsize(self._raw(iteration.index))
        models = iteration.jobs + 1 + self.averaging.num_extra_models(iteration)
        models += self.shrink_and_fix.is_due(iteration)
        states = self.optimizer_states.bytes_needed(iteration, model)
        needed = models * model + states + (iteration.jobs + 3) * LOG_BYTES
        require_space(self.options.dir, needed, f"Iteration {iteration.index}")

    def _train_command(self, egs: Egs, iteration: Iteration) -> list[str]:
        options = self.options
        index = iteration.index
        size, max_change = options.minibatch_size, options.max_param_change
        if not iteration.averages:  # where the network changes fast, smaller steps are the safer ones
            size, max_change = minibatch_size.halved(size), max_change / math.sqrt(2)
        *arrangement, rspecifier = self._examples(egs, iteration, size)
        return [
            "nnet-train-shard",
            f"--update={options.update_method}",
            f"--momentum={options.momentum:g}",
            f"--backstitch-training-scale={options.backstitch_training_scale:g}",
            f"--backstitch-training-interval={options.backstitch_training_interval}",
            f"--max-param-change={max_change:.8g}",
            f"--l2-regularize-factor={1 / iteration.jobs:.8g}",
            f"--srand={index + options.srand}",
            *([f"--num-threads={options.num_threads}"] if options.num_threads > 1 else []),
            f"--use-gpu={options.use_gpu_of_jobs}",
            *self.optimizer_states.words(iteration),
            *options.train_opts,
            *arrangement,
            self.starting_model.rxfilename(iteration),
            rspecifier,
            self._raw(f"{index + 1}.JOB"),
        ]

    def _examples(self, egs: Egs, iteration: Iteration, size: str) -> list[str]:
        """A job's examples, its archive in turn, shuffled, in minibatches; one frame of each if it is to be so.

        They are the last of the words, an rspecifier; those before are options that do the rest.
        """
        options = self.options
        single = options.one_frame_per_eg and egs.frames_per_eg > 1
        frames = egs.frames_per_eg if single else 1
        archive, frame = shard_expressions(iteration.archives_before, egs.num_archives, frames)
        source, commands = f"ark:{egs.folder}/egs.{archive}.ark", []
        if single:
            commands.append(f"nnet-copy-egs --frame={frame} {source} ark:-")
        buffer, seed = options.shuffle_buffer_size, iteration.index + options.srand
        if options.read_directly:
            words = [f"--shuffle-buffer-size={buffer}", f"--shuffle-srand={seed}", f"--minibatch-size={size}"]
            return [*words, "ark,bg:" + pipe(*commands) if commands else source]
        shuffle_source = "ark:-" if commands else source
        commands.append(f"nnet-shuffle-egs --buffer-size={buffer} --srand={seed} {shuffle_source} ark:-")
        commands.append(f"nnet-merge-egs --minibatch-size={size} ark:- ark:-")
        return ["ark,bg:" + pipe(*commands)]

    def _finish(self, egs: Egs, schedule: Schedule, diagnostics: ModelDiagnostics, line: ProgressLine) -> None:
        last = schedule.num_iterations
        egs = self._with_labels(egs, schedule, last)
        final = FinalModel(self.options, self.engine)
        rows = diagnostics.known_rows(last)
        looking = diagnostics.start(last)
        if not self.experiment.has("final.raw"):
            self._forget_diagnostics(last + 1)
            line.stage("Combining the last models")
            final.combine(egs, schedule)
        rows.append(diagnostics.row(last, looking, math.nan, rows))
        looking = diagnostics.start("final")
        line.stage("Computing priors")
        final.compute_priors(egs)
        rows.append(diagnostics.row("final", looking, math.nan, rows))
        diagnostics.write(rows)
        parts = [data_report(read_data_used(self.options.dir), rows), fault_report(self.faults.rows())]
        report = accuracy_report(rows, parts)
        write_text(self.experiment.path("accuracy.report"), report)
        final.put_priors(self.realignment.ali_dir(realignment.labels_of(self.options, schedule, last)))
        line.stage(
            f"Trained {self.options.dir}/{'final.mdl' if self._has_transitions() else 'final.raw'}: log-probability "
            f"{rows[-1].valid_logprob:.4f}, accuracy {100 * rows[-1].valid_accuracy:.2f} % on the validation set"
        )

    def _clean_up(self) -> None:
        if not self.options.cleanup:
            return
        last = self.experiment.last_model() or 0
        for model in self.experiment.models():
            if model < last:
                self._remove_model(model, set())
        self.experiment.remove_shard_models()
        self.optimizer_states.remove_after(-1)
        self.experiment.remove(*map(self._minibatches, DIAGNOSTIC_SETS))
        self.realignment.clean_up()
        own = not self.options.egs_dir and os.path.isdir(self.preparation.egs_folder)
        if own and self.options.remove_egs and not os.path.exists(f"{self.preparation.egs_folder}/.nodelete"):
            shutil.rmtree(self.preparation.egs_folder)

    def _remove_model(self, model: int, needed: set[int]) -> None:
        if model >= 0 and model not in needed and model % self.options.preserve_model_interval != 0:
            self.experiment.remove(f"{model}.raw", f"{model}.velocity.raw")


def _shown(value: object) -> str:
    if value is None or value == "":
        return "absent"
    text = str(value)
    return f"file {text[:8]}" if re.fullmatch(r"[0-9a-f]{64}", text) else text


def _of_examples(folder: str) -> dict[str, object]:
    """What <egs>/info says, as file: text, and digests of some examples: others may have the same numbers."""
    out: dict[str, object] = {}
    for name in sorted(os.listdir(f"{folder}/info")):
        if name == LEFT_OUT:  # as long as the data; info/data_used counts what is in it
            continue
        out[f"{folder}/info/{name}"] = read_text(f"{folder}/info/{name}").strip(BLANKS)
    for name in ("egs.1.ark", "combine.egs", *(f"{kind}_diagnostic.egs" for kind in DIAGNOSTIC_SETS)):
        out[f"examples {folder}/{name}"] = made_of.digest_of_ends([f"{folder}/{name}"])
    return out
