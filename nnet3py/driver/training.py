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
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from nnet3py import log
from nnet3py.driver import minibatch_size, prior_scale
from nnet3py.driver.alignments import alignment_rspecifier, has_transition_ids
from nnet3py.driver.diagnostics import Probability, read_probability, read_training_objective, select_models
from nnet3py.driver.dropout_schedule import edits, parse_dropout_schedules
from nnet3py.driver.engine import Engine, Running, pipe, pipeline, require_plain_path, shell_word
from nnet3py.driver.experiment import (
    Experiment,
    copy_atomically,
    digest,
    link_atomically,
    locked,
    termination_interrupts,
    write_atomically,
)
from nnet3py.driver.options import TrainingOptions, affecting_model
from nnet3py.driver.progress_line import ProgressLine
from nnet3py.driver.report import Progress, accuracy_report, read_progress, write_progress
from nnet3py.driver.schedule import Iteration, Schedule, shard_expressions
from nnet3py.errors import UserError
from nnet3py.jobs import log_file
from nnet3py.jobs.local import DRIVER_PID

_DIAGNOSTIC_MINIBATCH = "1:64"
_DIAGNOSTIC_SETS = ("valid", "train")
_KEPT_FOR_DECODING = (
    "cmvn_opts",
    "online_cmvn",
    "global_cmvn.stats",
    "info/final.ie.id",
    "info/frame_subsampling_factor",
)
"""Files among the examples that Kaldi's steps/nnet3/decode.sh, and ours, look for beside the model."""


def train(options: TrainingOptions, *, get_egs: str) -> None:
    """Train a network, from where an earlier run of the same experiment stopped.

    ``get_egs`` is the program that makes examples.

    Raises:
        UserError: an option or a file is wrong, or a job has failed.
        KeyboardInterrupt: the user wants it to stop; the jobs have been ended.
    """
    _check(options)
    with termination_interrupts(), locked(options.dir, "train_dnn.py"), Engine(options.command) as engine:
        _Training(options, engine, get_egs).run()


def _check(options: TrainingOptions) -> None:
    for name, value in (("--dir", options.dir), ("--ali-dir", options.ali_dir)):
        if not value:
            raise UserError(f"Option {name} is needed.")
        if not os.path.isdir(value):
            raise UserError(f"{name} {value} is not a directory.")
        require_plain_path(name, value)
    if not options.egs_dir and not options.feat_dir:
        raise UserError("Option --feat-dir is needed to make examples; or give --egs.dir.")
    if options.egs_dir:
        require_plain_path("--egs.dir", options.egs_dir)
    if options.input_model and not os.path.isfile(options.input_model):
        raise UserError(f"--trainer.input-model {options.input_model} does not exist.")
    if options.use_gpu not in ("no", "false"):
        raise UserError(f"--use-gpu={options.use_gpu}: computing on a GPU is not supported yet; leave it at no.")
    minibatch_size.check(options.minibatch_size)
    parse_dropout_schedules(options.dropout_schedule)
    if options.backstitch_training_scale > 0 and options.momentum > 0:
        raise UserError("Backstitch and momentum do not go together: leave one of the two options at 0.")
    _schedule(options, num_archives=10**9, num_layers=1)  # what can be refused before examples are made
    if not options.max_param_change > 0:
        raise UserError(f"--trainer.max-param-change must be above 0, found {options.max_param_change}.")
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
    )


@dataclass(frozen=True)
class _Egs:
    """A directory of examples, as its info/ describes it."""

    folder: str
    num_archives: int
    frames_per_eg: int
    left_context: int
    right_context: int


class _Training:
    def __init__(self, options: TrainingOptions, engine: Engine, get_egs: str) -> None:
        self.options = options
        self.engine = engine
        self.get_egs = get_egs
        self.experiment = Experiment(options.dir)
        self.egs_folder = options.egs_dir or f"{options.dir}/egs"
        self.layers = self._layers()
        self.dropout_schedules = parse_dropout_schedules(options.dropout_schedule)

    # The stages in order. Each runs if its result is missing.

    def run(self) -> None:
        os.makedirs(self.experiment.path("log"), exist_ok=True)
        self._compare_record("train_options.json", {**affecting_model(self.options), **self._config_digests()})
        if self.options.stage is not None and self.options.stage < 0:
            self._forget_preparation(self.options.stage)
        if self.options.stage is None and self._finished():
            log.log(f"Training in {self.options.dir} is already finished; --stage goes back to a stage.")
            self._clean_up()
            return
        line = None
        try:
            self._copy_alignment_files()
            context = self._context()
            self._make_egs(context)
            egs = self._read_egs(context)
            schedule = _schedule(self.options, egs.num_archives, len(self.layers) + 1)
            self._compare_record("train_examples.json", _info_files(egs.folder))
            self._make_initial_model(egs)
            self._check_context(egs)
            self._merge_diagnostic_sets(egs)
            if self.options.stage is not None and self.options.stage >= 0:
                self._forget_iterations(self.options.stage, schedule)
            line = ProgressLine(schedule)
            if self._iterate(egs, schedule, line):
                self._finish(egs, schedule, line)
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

    def _has_transitions(self) -> bool:
        return has_transition_ids(self.options.ali_dir)

    # What the experiment is made with.

    def _compare_record(self, name: str, values: dict[str, object]) -> None:
        """Refuse to mix models made with different options, unless --stage says where to start again."""
        made = ("init.raw", "0.raw", "egs/.complete")
        begun = self.experiment.last_model() is not None or any(self.experiment.has(name) for name in made)
        forced = self.options.stage is not None or not begun
        changed = self.experiment.record(name, values, force=forced)
        if not changed:
            return
        differences = "; ".join(f"{key} was {_shown(then)}, is {_shown(now)}" for key, (then, now) in changed.items())
        if not begun:
            return
        if forced:
            log.warning(f"Going on with changes: {differences}.")
            return
        raise UserError(
            f"{self.options.dir} was begun otherwise: {differences}. Go on with what it was begun with, choose another "
            "--dir, or give --stage to start again from there (-5 from the beginning) with what is given now."
        )

    def _config_digests(self) -> dict[str, object]:
        names = ["init.config", "final.config", "layer1.config", "vars"]
        names += [os.path.basename(path) for path in self.layers]
        return {f"configs/{name}": digest(self.experiment.path(f"configs/{name}")) for name in names}

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

    def _forget_preparation(self, stage: int) -> None:
        self.experiment.remove_models_after(-1)
        self.experiment.remove("progress.tsv", "accuracy.report")
        self.experiment.remove(*(f"{kind}_diagnostic.minibatches" for kind in _DIAGNOSTIC_SETS))
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
            self.experiment.remove_models_after(stage)
            path = self.experiment.path("progress.tsv")
            rows = [row for row in read_progress(path) if row.model != "final" and int(row.model) < stage]
            write_progress(path, rows)
        self.experiment.remove("final.mdl", "final.priors")

    def _copy_alignment_files(self) -> None:
        for name in ("phones.txt", "tree", "num_jobs"):
            source = f"{self.options.ali_dir}/{name}"
            if os.path.isfile(source):
                copy_atomically(source, self.experiment.path(name))

    # Preparation: contexts, examples, the initial model.

    def _context(self) -> tuple[int, int]:
        """The network's context: from configs/vars, or from the network that can be made before the examples."""
        if self.options.input_model:
            return self._context_of(self.options.input_model)
        if self._initial_config() is None:
            raise UserError(f"Expected {self.options.dir}/configs/final.config, found no such file.")
        if self.experiment.has("configs/init.config") and not self.experiment.has("init.raw"):
            self._run(
                "nnet_init",
                ["nnet-init", "--srand=0", self.experiment.path("configs/init.config"), self._raw("init")],
                "Making the network that splices frames",
            )
        if self.experiment.has("configs/vars"):
            return _read_vars(self.experiment.path("configs/vars"))
        if self.experiment.has("init.raw"):
            return self._context_of(self._raw("init"))
        if not self.experiment.has("0.raw"):
            self._initialise()
        return self._context_of(self._raw(0))

    def _initial_config(self) -> str | None:
        for name in ("configs/final.config", "configs/layer1.config"):
            if self.experiment.has(name):
                return self.experiment.path(name)
        return None

    def _context_of(self, model: str) -> tuple[int, int]:
        self._run("context", ["nnet-info", model], f"Finding the context of {model}")
        with open(self.experiment.log("context"), encoding="utf-8", errors="replace") as text:
            found = dict(re.findall(r"^(left|right)-context: (\d+)", text.read(), re.MULTILINE))
        if len(found) != 2:
            raise UserError(f"nnet-info does not say the context of {model}; see {self.experiment.log('context')}.")
        return int(found["left"]), int(found["right"])

    def _make_egs(self, context: tuple[int, int]) -> None:
        options = self.options
        if options.egs_dir or self.experiment.has("egs/.complete"):
            return
        log.log(f"Making examples in {self.egs_folder}")
        words = {
            "--cmd": options.egs_command or options.command,
            "--cmvn-opts": options.cmvn_opts,
            "--online-ivector-dir": options.online_ivector_dir,
            "--left-context": context[0] + options.chunk_left_context,
            "--right-context": context[1] + options.chunk_right_context,
            "--samples-per-iter": options.samples_per_iter,
            "--left-context-initial": _at_the_edge(context[0], options.chunk_left_context_initial),
            "--right-context-final": _at_the_edge(context[1], options.chunk_right_context_final),
            "--frames-per-eg": options.frames_per_eg,
            "--srand": options.srand,
            "--stage": options.egs_stage,
        }
        command = [self.get_egs, "--print-args=false", *(f"{name}={value}" for name, value in words.items())]
        command += [*shlex.split(options.egs_opts), options.feat_dir, options.ali_dir, self.egs_folder]
        process = subprocess.Popen(command, env={**os.environ, DRIVER_PID: str(os.getpid())})
        try:
            status = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if status != 0:
            raise UserError(f"Making examples failed ({os.path.basename(self.get_egs)} exited with status {status}).")

    def _read_egs(self, context: tuple[int, int]) -> _Egs:
        folder = self.egs_folder

        def number(name: str) -> int:
            path = f"{folder}/info/{name}"
            try:
                with open(path, encoding="utf-8") as file:
                    return int(file.readline().split(",")[0])
            except (OSError, ValueError) as problem:
                raise UserError(f"Expected a number in {path}, found none ({problem}). Is {folder} complete?") from None

        egs = _Egs(
            folder, *(number(f"{n}") for n in ("num_archives", "frames_per_eg", "left_context", "right_context"))
        )
        if egs.frames_per_eg != self.options.frames_per_eg:
            raise UserError(
                f"The examples in {folder} have {egs.frames_per_eg} frames each, --egs.frames-per-eg is "
                f"{self.options.frames_per_eg}: give that number, or examples that were cut with it."
            )
        self._require_context(egs, context)
        for name in ["valid_diagnostic.egs", "train_diagnostic.egs", "combine.egs", "egs.1.ark"]:
            if not os.path.isfile(f"{folder}/{name}"):
                raise UserError(f"Expected {folder}/{name}, found no such file: make the examples again (--stage -4).")
        for name in _KEPT_FOR_DECODING:
            if os.path.isfile(f"{folder}/{name}"):
                copy_atomically(f"{folder}/{name}", self.experiment.path(os.path.basename(name)))
        return egs

    def _require_context(self, egs: _Egs, context: tuple[int, int]) -> None:
        if egs.left_context < context[0] or egs.right_context < context[1]:
            raise UserError(
                f"The network needs {context[0]} frames on the left and {context[1]} on the right, the examples in "
                f"{egs.folder} have {egs.left_context} and {egs.right_context}. Write model_left_context={context[0]} "
                f"and model_right_context={context[1]} into {self.options.dir}/configs/vars and make them again "
                "(--stage -4)."
            )

    def _check_context(self, egs: _Egs) -> None:
        """The initial model itself has the last word on its context; asked once, when it is new."""
        if self.experiment.last_model() == 0 and not self.experiment.has("progress.tsv"):
            self._require_context(egs, self._context_of(self._raw(0)))

    def _make_initial_model(self, egs: _Egs) -> None:
        if self.experiment.last_model() is not None:
            return
        if self.options.input_model:
            copy_atomically(self.options.input_model, self._raw(0))
            return
        if self.experiment.has("configs/init.config") and not self.experiment.has("lda.mat"):
            self._estimate_transform(egs)
        self._initialise()

    def _estimate_transform(self, egs: _Egs) -> None:
        """The transform that decorrelates the spliced input, held fixed as the first layer (appendix C.6)."""
        jobs = min(egs.num_archives, self.options.max_lda_jobs)
        log.log("Estimating the transform that decorrelates the input")
        self._run(
            "get_lda_stats.JOB",
            [
                "nnet-acc-lda-stats",
                f"--rand-prune={self.options.rand_prune:g}",
                self._raw("init"),
                f"ark:{egs.folder}/egs.JOB.ark",
                self.experiment.path("JOB.lda_stats"),
            ],
            "Accumulating the transform's statistics",
            jobs=jobs,
        )
        parts = [self.experiment.path(f"{job}.lda_stats") for job in range(1, jobs + 1)]
        self._run(
            "get_transform",
            ["nnet-get-feature-transform", self.experiment.path("lda.mat"), *parts],
            "Estimating the transform",
        )
        self.experiment.remove(*(os.path.basename(path) for path in parts))

    def _initialise(self) -> None:
        """Make 0.raw of final.config; matrices that it names are found in the directory and in configs/."""
        config = self._initial_config()
        assert config is not None
        if self.experiment.has("lda.mat"):
            link_atomically("../lda.mat", self.experiment.path("configs/lda.mat"))
        if prior_scale.is_named(self.experiment):
            power = self.options.presoftmax_prior_scale_power
            prior_scale.compute(self.experiment, self.engine, self.options.ali_dir, power)
        base = [self._raw("init")] if self.experiment.has("init.raw") else []
        self._run(
            "add_first_layer" if base else "init_model",
            ["nnet-init", f"--srand={self.options.srand}", *base, config, self._raw(0)],
            "Making the initial model",
        )

    def _merge_diagnostic_sets(self, egs: _Egs) -> None:
        """Lay the diagnostic sets out in minibatches once, not again in every iteration."""
        running = []
        for kind in _DIAGNOSTIC_SETS:
            name = f"{kind}_diagnostic.minibatches"
            if not self.experiment.has(name):
                size = f"--minibatch-size={_DIAGNOSTIC_MINIBATCH}"
                source, target = f"ark:{egs.folder}/{kind}_diagnostic.egs", f"ark:{self.experiment.path(name)}"
                command = ["nnet-merge-egs", size, source, target]
                path = self.experiment.log(f"merge_{kind}_diagnostic")
                running.append(self.engine.start(path, command, what=f"Merging the {kind} diagnostic set"))
        for jobs in running:
            jobs.wait()

    # The iterations.

    def _iterate(self, egs: _Egs, schedule: Schedule, line: ProgressLine) -> bool:
        """Run what is left of the iterations; false where --exit-stage came first."""
        first = self.experiment.last_model()
        assert first is not None
        rows = self._known_progress(schedule, first)
        combined = set(schedule.models_to_combine(self.options.max_models_combine))
        for iteration in schedule.iterations[first:]:
            if iteration.index == self.options.exit_stage:
                line.stage(f"Stopping before iteration {iteration.index} (--exit-stage).")
                return False
            started = time.monotonic()
            diagnostics = self._start_diagnostics(schedule, iteration.index)
            self._run_iteration(egs, schedule, iteration)
            seconds = time.monotonic() - started
            rows.append(self._progress(schedule, iteration.index, diagnostics, seconds, rows))
            self._write_progress(rows)
            self.experiment.remove_shard_models()
            if self.options.cleanup:
                self._remove_model(iteration.index - 1, combined)
            line.iteration_done(iteration, seconds, rows[-1])
        return True

    def _run_iteration(self, egs: _Egs, schedule: Schedule, iteration: Iteration) -> None:
        index = iteration.index
        self._run(
            f"train.{index}.JOB",
            self._train_command(egs, iteration),
            f"Training, iteration {index}",
            jobs=iteration.jobs,
        )
        logs = [self.experiment.log(f"train.{index}.{job}") for job in range(1, iteration.jobs + 1)]
        selection = select_models([read_training_objective(path) for path in logs])
        if len(selection.accepted) < iteration.jobs:
            log.warning(
                f"Iteration {index}: only {len(selection.accepted)} of {iteration.jobs} models are good enough to "
                f"go on with; see the objectives in {self.experiment.log(f'train.{index}.*')}."
            )
        if iteration.averages and len(selection.accepted) > 1:
            models = [self._raw(f"{index + 1}.{job}") for job in selection.accepted]
            command = ["nnet-average", *models, self._raw(index + 1)]
            self._run(f"average.{index}", command, f"Averaging, iteration {index}")
        else:
            copy_atomically(self._raw(f"{index + 1}.{selection.best}"), self._raw(index + 1))

    def _train_command(self, egs: _Egs, iteration: Iteration) -> list[str]:
        options = self.options
        index = iteration.index
        size, max_change = options.minibatch_size, options.max_param_change
        if not iteration.averages:  # where the network changes fast, smaller steps are the safer ones
            size, max_change = minibatch_size.halved(size), max_change / math.sqrt(2)
        return [
            "nnet-train-shard",
            f"--update={options.update_method}",
            f"--momentum={options.momentum:g}",
            f"--backstitch-training-scale={options.backstitch_training_scale:g}",
            f"--backstitch-training-interval={options.backstitch_training_interval}",
            f"--max-param-change={max_change:.8g}",
            f"--l2-regularize-factor={1 / iteration.jobs:.8g}",
            f"--srand={index + options.srand}",
            *options.train_opts,
            self._model_to_train(iteration),
            self._shard_rspecifier(egs, iteration, size),
            self._raw(f"{index + 1}.JOB"),
        ]

    def _model_to_train(self, iteration: Iteration) -> str:
        """The model that an iteration starts from, with its learning rate, shrinking, dropout and new layer."""
        shrink = 1 - self.options.proportional_shrink * iteration.learning_rate
        if shrink <= 0.5:
            raise UserError(
                f"--trainer.optimization.proportional-shrink is too large: parameters would be scaled by {shrink:.3g}."
            )
        scale = f" --scale={shrink:.8g}" if shrink != 1 else ""
        dropout = ""
        if self.dropout_schedules:
            dropout = f" --edits={shell_word(edits(self.dropout_schedules, iteration.share))}"
        rate = f"--learning-rate={iteration.learning_rate:.8g}"
        copy = f"nnet-copy {rate}{scale}{dropout} {self._raw(iteration.index)} -"
        if not iteration.adds_layer:
            return f"{copy} |"
        config = self.layers[iteration.adds_layer - 2]
        return pipe(copy, f"nnet-init --srand={iteration.index + self.options.srand} - {config} -")

    def _shard_rspecifier(self, egs: _Egs, iteration: Iteration, size: str) -> str:
        """A job's examples: its archive in turn, shuffled, in minibatches; one frame of each if it is to be so."""
        single = self.options.one_frame_per_eg and egs.frames_per_eg > 1
        frames = egs.frames_per_eg if single else 1
        archive, frame = shard_expressions(iteration.archives_before, egs.num_archives, frames)
        source = f"ark:{egs.folder}/egs.{archive}.ark"
        commands = []
        if single:
            commands.append(f"nnet-copy-egs --frame={frame} {source} ark:-")
            source = "ark:-"
        commands.append(
            f"nnet-shuffle-egs --buffer-size={self.options.shuffle_buffer_size} "
            f"--srand={iteration.index + self.options.srand} {source} ark:-"
        )
        commands.append(f"nnet-merge-egs --minibatch-size={size} ark:- ark:-")
        return "ark,bg:" + pipe(*commands)

    # Diagnostics, beside the training.

    def _start_diagnostics(self, schedule: Schedule, model: int | str) -> list[Running]:
        """Log-probability on both diagnostic sets, and what has changed since the model before."""
        running = []
        for kind in _DIAGNOSTIC_SETS:
            name = f"compute_prob_{kind}.{model}"
            if log_file.status(self.experiment.log(name)) == 0 and self._newer(self.experiment.log(name), model):
                continue
            examples = f"ark:{self.experiment.path(f'{kind}_diagnostic.minibatches')}"
            command = ["nnet-compute-prob", *self._probability_options(), self._raw(model), examples]
            running.append(self.engine.start(self.experiment.log(name), command, what=f"Diagnostics of model {model}"))
        if isinstance(model, int) and model > 0 and not schedule.adds_layer(model - 1):
            running += self._start_comparison(model)
        return running

    def _probability_options(self) -> list[str]:
        return ["--compute-per-dim-accuracy=true"] if self.options.compute_per_dim_accuracy else []

    def _newer(self, path: str, model: int | str) -> bool:
        return os.path.getmtime(path) >= os.path.getmtime(self._raw(model))

    def _start_comparison(self, model: int) -> list[Running]:
        if not os.path.isfile(self._raw(model - 1)):
            return []
        command = ["nnet-show-progress", self._raw(model - 1), self._raw(model)]
        if model % 10 == 0:  # now and then the whole network as well
            command = ["nnet-info", self._raw(model), "&&", *command]
        path = self.experiment.log(f"progress.{model}")
        return [self.engine.start(path, command, what=f"Comparing models {model - 1} and {model}")]

    def _progress(
        self, schedule: Schedule, model: int | str, running: Sequence[Running], seconds: float, rows: list[Progress]
    ) -> Progress:
        """Wait for a model's diagnostics and read them."""
        for jobs in running:
            jobs.wait()
        valid, train = (
            read_probability(self.experiment.log(f"compute_prob_{kind}.{model}")) for kind in _DIAGNOSTIC_SETS
        )
        return self._row(schedule, model, valid, train, seconds, rows)

    def _row(
        self,
        schedule: Schedule,
        model: int | str,
        valid: Probability,
        train: Probability,
        seconds: float,
        rows: list[Progress],
    ) -> Progress:
        starts = isinstance(model, int) and model < schedule.num_iterations
        iteration = schedule.iterations[model] if isinstance(model, int) and starts else None
        archives = iteration.archives_before if iteration else schedule.archives_processed
        before = sum(row.iteration_seconds for row in rows if not math.isnan(row.iteration_seconds))
        return Progress(
            model=str(model),
            epoch=schedule.epoch(archives),
            archives=archives,
            jobs=iteration.jobs if iteration else math.nan,
            learning_rate=iteration.learning_rate if iteration else math.nan,
            train_logprob=train.log_probability,
            valid_logprob=valid.log_probability,
            train_accuracy=train.accuracy,
            valid_accuracy=valid.accuracy,
            iteration_seconds=seconds if iteration else math.nan,
            seconds=before,
        )

    def _known_progress(self, schedule: Schedule, first: int) -> list[Progress]:
        """The rows of earlier runs, and those that an interruption kept from being written."""
        path = self.experiment.path("progress.tsv")
        rows = [row for row in read_progress(path) if row.model != "final" and int(row.model) < first]
        for model in range(len(rows), first):
            if not os.path.isfile(self._raw(model)):
                raise UserError(
                    f"{path} has no line for model {model}, whose file is gone: remove {path} lines after it and give "
                    f"--stage {first}, or --stage -1 to train again."
                )
            running = self._start_diagnostics(schedule, model)
            jobs = schedule.iterations[model].jobs
            seconds = max(log_file.elapsed(self.experiment.log(f"train.{model}.{job}")) for job in range(1, jobs + 1))
            rows.append(self._progress(schedule, model, running, seconds, rows))
        if rows:
            self._write_progress(rows)
        return rows

    def _write_progress(self, rows: list[Progress]) -> None:
        write_progress(self.experiment.path("progress.tsv"), rows)

    # The end.

    def _finish(self, egs: _Egs, schedule: Schedule, line: ProgressLine) -> None:
        last = schedule.num_iterations
        rows = self._known_progress(schedule, last)
        diagnostics = self._start_diagnostics(schedule, last)
        if not self.experiment.has("final.raw"):
            line.stage("Combining the last models")
            self._combine(egs, schedule)
        rows.append(self._progress(schedule, last, diagnostics, math.nan, rows))
        diagnostics = self._start_diagnostics(schedule, "final")
        line.stage("Computing priors")
        self._compute_priors(egs)
        rows.append(self._progress(schedule, "final", diagnostics, math.nan, rows))
        self._write_progress(rows)
        self._report(rows)
        self._put_priors()
        line.stage(
            f"Trained {self.options.dir}/{'final.mdl' if self._has_transitions() else 'final.raw'}: log-probability "
            f"{rows[-1].valid_logprob:.4f}, accuracy {100 * rows[-1].valid_accuracy:.2f} % on the validation set"
        )

    def _combine(self, egs: _Egs, schedule: Schedule) -> None:
        models = schedule.models_to_combine(self.options.max_models_combine)
        if not self.options.do_final_combination or len(models) == 1:
            copy_atomically(self._raw(schedule.num_iterations), self._raw("final"))
            return
        for model in models:
            if not os.path.isfile(self._raw(model)):
                raise UserError(f"Cannot combine: {self._raw(model)} is missing. Go back with --stage.")
        merge = f"nnet-merge-egs --minibatch-size=1:{self.options.minibatch_size} ark:{egs.folder}/combine.egs ark:-"
        if not self.options.minibatch_size.isdigit():
            merge = merge.replace("=1:", "=")
        self._run(
            "combine",
            [
                "nnet-combine",
                f"--max-objective-evaluations={self.options.max_objective_evaluations}",
                *(self._raw(model) for model in reversed(models)),  # the newest first: its batch-norm statistics stay
                "ark,bg:" + pipe(merge),
                self._raw("final"),
            ],
            "Combining",
        )

    def _compute_priors(self, egs: _Egs) -> None:
        """The network's output averaged over training data, which serves as the classes' priors."""
        jobs = min(self.options.num_jobs_compute_prior, egs.num_archives)
        self._run(
            "get_post.final.JOB",
            pipeline(
                [
                    "nnet-subset-egs",
                    "--srand=JOB",
                    f"--n={self.options.prior_subset_size}",
                    f"ark:{egs.folder}/egs.JOB.ark",
                    "ark:-",
                ],
                ["nnet-merge-egs", "--minibatch-size=1:128", "ark:-", "ark:-"],
                ["nnet-compute-from-egs", "--apply-exp=true", self._raw("final"), "ark:-", "ark:-"],
                ["matrix-sum-rows", "ark:-", "ark:-"],
                ["vector-sum", "ark:-", self.experiment.path("post.final.JOB.vec")],
            ),
            "Averaging posteriors",
            jobs=jobs,
        )
        parts = [self.experiment.path(f"post.final.{job}.vec") for job in range(1, jobs + 1)]
        self._run(
            "vector_sum.final", ["vector-sum", *parts, self.experiment.path("post.final.vec")], "Summing posteriors"
        )
        self.experiment.remove(*(os.path.basename(path) for path in parts))

    def _put_priors(self) -> None:
        """The last file: its presence says that training is finished."""
        posteriors = self.experiment.path("post.final.vec")
        if not self._has_transitions():
            copy_atomically(posteriors, self.experiment.path("final.priors"))
            return
        alignments = alignment_rspecifier(self.options.ali_dir)
        train_transitions = []
        if alignments is None:
            log.warning(
                f"{self.options.ali_dir} has no alignments: transition probabilities stay those of its final.mdl."
            )
        else:
            train_transitions.append(["nnet-am-train-transitions", "--set-priors=false", "-", alignments, "-"])
        self._run(
            "adjust_priors.final",
            pipeline(
                ["nnet-am-init", f"{self.options.ali_dir}/final.mdl", self._raw("final"), "-"],
                *train_transitions,
                ["nnet-am-adjust-priors", "-", posteriors, self.experiment.path("final.mdl")],
            ),
            "Making the acoustic model",
        )

    def _report(self, rows: list[Progress]) -> None:
        write_atomically(self.experiment.path("accuracy.report"), accuracy_report(rows))

    def _clean_up(self) -> None:
        if not self.options.cleanup:
            return
        last = self.experiment.last_model() or 0
        for model in self.experiment.models():
            if model < last:
                self._remove_model(model, set())
        self.experiment.remove_shard_models()
        self.experiment.remove(*(f"{kind}_diagnostic.minibatches" for kind in _DIAGNOSTIC_SETS))
        own = not self.options.egs_dir and os.path.isdir(self.egs_folder)
        if own and self.options.remove_egs and not os.path.exists(f"{self.egs_folder}/.nodelete"):
            shutil.rmtree(self.egs_folder)

    def _remove_model(self, model: int, needed: set[int]) -> None:
        if model >= 0 and model not in needed and model % self.options.preserve_model_interval != 0:
            self.experiment.remove(f"{model}.raw")

    # Small things.

    def _raw(self, index: int | str) -> str:
        return self.experiment.model(index)

    def _run(
        self, name: str, command: Sequence[str], what: str, *, jobs: int | None = None, options: Sequence[str] = ()
    ) -> None:
        self.engine.run(self.experiment.log(name), command, what=what, jobs=jobs, options=options)


def _shown(value: object) -> str:
    if value is None or value == "":
        return "absent"
    text = str(value)
    return f"file {text[:8]}" if re.fullmatch(r"[0-9a-f]{64}", text) else text


def _info_files(folder: str) -> dict[str, object]:
    """What <egs>/info says, as file: text."""
    out: dict[str, object] = {}
    for name in sorted(os.listdir(f"{folder}/info")):
        with open(f"{folder}/info/{name}", encoding="utf-8") as file:
            out[f"{folder}/info/{name}"] = file.read().strip()
    return out


def _at_the_edge(context: int, chunk_context: int) -> int:
    """Frames of context at an utterance's edge; negative where it is what it is elsewhere."""
    return context + chunk_context if chunk_context >= 0 else -1


def _read_vars(path: str) -> tuple[int, int]:
    """The context that configs/vars states."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    found = dict(re.findall(r"^\s*(?:model_)?(left|right)_context\s*=\s*(\d+)\s*$", text, re.MULTILINE))
    if len(found) != 2:
        raise UserError(f"{path}: expected the lines model_left_context=... and model_right_context=...")
    return int(found["left"]), int(found["right"])
