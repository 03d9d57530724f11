"""Options of the drivers, each declared once: its name, default and meaning are a dataclass field.

The command line, the record that a resumed training is compared with, and the code that reads the values all follow
from the declaration. Names and defaults are Kaldi's where the thing is the same.

Source: Kaldi egs/wsj/s5/steps/nnet3/train_dnn.py, steps/libs/nnet3/train/common.py (``CommonParser``) and
steps/nnet3/get_egs.sh.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import click

Kind = Literal["", "path", "words", "table", "arguments"]
"""How an option's text gets into the command lines of jobs, by which ``nnet3py.driver.engine.check_paths`` looks at it:

- ``path``: as (part of) a file's name;
- ``words``: as words between others, options of a program;
- ``table``: as an rspecifier, which may be a pipe;
- ``arguments``: not through a shell, but as arguments of another driver, which looks at them itself;
- nothing: not at all, or after a check of its own.
"""


def _option(name: str, default: Any, text: str, *, affects_model: bool = True, kind: Kind = "", **settings: Any) -> Any:
    """A field that is an option; ``affects_model``: whether another value makes another model."""
    metadata = {"option": name, "help": text, "affects_model": affects_model, "kind": kind, "settings": settings}
    if settings.get("multiple"):
        return field(default_factory=tuple, metadata=metadata)
    return field(default=default, metadata=metadata)


def declares(options: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a program every option of a dataclass; the function gets them by the fields' names."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for declared in reversed(fields(options)):
            about = declared.metadata
            settings = dict(about["settings"])
            if not settings.get("multiple"):
                settings.setdefault("default", declared.default)
                settings.setdefault("show_default", declared.default not in ("", None))
            if "type" not in settings and declared.default is not None:
                settings["type"] = type(declared.default)
            function = click.option(about["option"], declared.name, help=about["help"], **settings)(function)
        return function

    return decorate


def affecting_model(options: Any) -> dict[str, Any]:
    """The options, by their names on the command line, whose values the model depends on."""
    return {
        declared.metadata["option"]: getattr(options, declared.name)
        for declared in fields(options)
        if declared.metadata["affects_model"]
    }


def option_name(options: type, name: str) -> str:
    """What a field is called on the command line."""
    return str(next(declared.metadata["option"] for declared in fields(options) if declared.name == name))


def _max_retries() -> Any:
    return _option(
        "--max-retries",
        2,
        "How often a job that was lost (killed, hanging, or without a result that can be read) is started again.",
        affects_model=False,
        type=click.IntRange(0),
    )


def _job_time_limit() -> Any:
    return _option(
        "--job-time-limit",
        0.0,
        "Seconds after which a job counts as hanging, is ended and started again; 0: never.",
        affects_model=False,
        type=click.FloatRange(0),
        metavar="SECONDS",
    )


@dataclass(frozen=True)
class TrainingOptions:
    """steps/train_dnn.py."""

    dir: str = _option(
        "--dir", "", "Directory of the experiment, with configs/ in it; models and logs go there.", kind="path"
    )
    ali_dir: str = _option("--ali-dir", "", "Directory with alignments (see get_egs.py).", kind="path")
    feat_dir: str = _option("--feat-dir", "", "Data directory with features; not needed with --egs.dir.", kind="path")
    lang: str = _option(
        "--lang", "", "Language directory; read for --trainer.realign-times.", affects_model=False, kind="path"
    )
    command: str = _option(
        "--cmd",
        "run-local",
        "Engine that runs the jobs, with its options: run-local, or run.pl, queue.pl, ...",
        affects_model=False,
    )
    egs_command: str = _option("--egs.cmd", "", "Engine for making examples, where not --cmd.", affects_model=False)
    stage: int | None = _option(
        "--stage",
        None,
        "Go on from here instead of where the last run stopped: -5 configuration, -4 examples, -3 decorrelating "
        "transform, -2 scales before the softmax, -1 initial model, 0... an iteration; the number of iterations for "
        "the combination, one more for the priors. What later stages made is removed.",
        affects_model=False,
        type=int,
    )
    exit_stage: int | None = _option("--exit-stage", None, "Stop before this iteration.", affects_model=False, type=int)
    use_gpu: str = _option(
        "--use-gpu",
        "no",
        "Whether training runs on GPUs, one for each job: engines are told by their option --gpu 1. wait: jobs wait "
        "while their GPU is taken.",
        affects_model=False,
        type=click.Choice(["yes", "no", "wait", "true", "false"]),
    )

    cmvn_opts: str = _option(
        "--feat.cmvn-opts",
        "--norm-means=false --norm-vars=false",
        "Options of apply-cmvn for the features.",
        kind="words",
    )
    online_ivector_dir: str = _option(
        "--feat.online-ivector-dir", "", "Directory with iVectors to add to the input.", kind="path"
    )

    egs_dir: str = _option(
        "--egs.dir", "", "Directory with examples; without it they are made in <dir>/egs.", kind="path"
    )
    egs_stage: int = _option("--egs.stage", 0, "Stage at which get_egs.py starts.", affects_model=False)
    egs_opts: str = _option("--egs.opts", "", "More options for get_egs.py, as one text.", kind="arguments")
    frames_per_eg: int = _option("--egs.frames-per-eg", 8, "Labelled frames in an example.", type=click.IntRange(1))
    chunk_left_context: int = _option(
        "--egs.chunk-left-context", 0, "Input frames on the left beyond what the network needs.", type=click.IntRange(0)
    )
    chunk_right_context: int = _option(
        "--egs.chunk-right-context",
        0,
        "Input frames on the right beyond what the network needs.",
        type=click.IntRange(0),
    )

    chunk_left_context_initial: int = _option(
        "--egs.chunk-left-context-initial",
        -1,
        "The same on the left of an utterance's first example, if not negative.",
        type=click.IntRange(-1),
    )
    chunk_right_context_final: int = _option(
        "--egs.chunk-right-context-final",
        -1,
        "The same on the right of an utterance's last example, if not negative.",
        type=click.IntRange(-1),
    )

    input_model: str = _option(
        "--trainer.input-model", "", "Start from this model; configs/ is not read then.", kind="path"
    )
    srand: int = _option("--trainer.srand", 0, "Seed of initialisation and shuffling.", type=click.IntRange(0))
    num_epochs: float = _option("--trainer.num-epochs", 8.0, "Passes over the data.")
    samples_per_iter: int = _option(
        "--trainer.samples-per-iter", 400000, "About how many examples an archive holds.", type=click.IntRange(1)
    )
    one_frame_per_eg: bool = _option(
        "--trainer.one-frame-per-eg",
        True,
        "A job trains on one frame of each example, another one in each pass, as in Kaldi. With false it trains on all "
        "of them at once: minibatches are then of examples, not frames, and an archive is read once an epoch.",
    )
    update_method: str = _option(
        "--trainer.update-method",
        "online-ng",
        "Natural gradient, online or of each minibatch, or plain SGD (nnet-train-shard --update).",
        type=click.Choice(["online-ng", "simple-ng", "sgd"]),
    )
    carry_natural_gradient: bool = _option(
        "--trainer.carry-natural-gradient",
        False,
        "Each job goes on with the estimates of natural gradient, and the momentum, that its predecessor in the "
        "iteration before has left, instead of starting afresh.",
    )
    num_threads: int = _option(
        "--trainer.num-threads",
        1,
        "Threads of a job that train the same parameters without locks (nnet-train-shard --num-threads). Above 1 a "
        "repeated training is not the same to the byte. Engines are told by their option --num-threads.",
        type=click.IntRange(1),
    )
    shuffle_buffer_size: int = _option(
        "--trainer.shuffle-buffer-size", 5000, "Examples shuffled among each other in an iteration; 0 is all."
    )
    read_directly: bool = _option(
        "--trainer.read-directly",
        True,
        "A job shuffles and merges its examples itself; with false it reads a pipe of nnet-shuffle-egs and "
        "nnet-merge-egs, as a trainer that is not nnet-train-shard must. The model is the same, byte for byte.",
        affects_model=False,
    )
    max_param_change: float = _option(
        "--trainer.max-param-change", 2.0, "Largest change of all parameters in a minibatch (Frobenius norm)."
    )
    add_layers_period: int = _option(
        "--trainer.add-layers-period",
        0,
        "Add the layers configs/layer2.config, layer3.config, ... one by one, each after so many iterations; "
        "configs/final.config, or layer1.config, is what training starts from. 0 adds none.",
        type=click.IntRange(0),
    )
    learning_rate_factors: str = _option(
        "--trainer.learning-rate-factors",
        "",
        "Factors of the learning rate for components, by patterns of their names: affine1=0.5 output*=2; of several "
        "that match the last one counts. A factor of 0 keeps a component as it is.",
    )
    mix_up: int = _option(
        "--trainer.mix-up",
        0,
        "Mix up to so many softmax units in the middle of training (nnet-mix-up); 0 does not.",
        type=click.IntRange(0),
    )
    mix_up_iter: int = _option(
        "--trainer.mix-up-iter",
        -1,
        "The iteration that starts with mixing up; -1: halfway between the last added layer and the end.",
        type=click.IntRange(-1),
    )
    mix_up_power: float = _option(
        "--trainer.mix-up-power", 0.25, "Softmax units are shared out in proportion to this power of the pdfs' counts."
    )
    mix_up_min_count: float = _option(
        "--trainer.mix-up-min-count", 10.0, "A softmax unit must have more frames than this."
    )
    mix_up_perturb_stddev: float = _option(
        "--trainer.mix-up-perturb-stddev", 0.01, "Deviation of what moves the two halves of a softmax unit apart."
    )
    shrink_period: int = _option(
        "--trainer.shrink-period",
        0,
        "Scale each component of an average by the factor that is best for training data, every so many iterations "
        "(nnet-shrink); 0 never.",
        type=click.IntRange(0),
    )
    fix_period: int = _option(
        "--trainer.fix-period",
        0,
        "Lead units back that are saturated or always linear, every so many iterations (nnet-fix); 0 never.",
        type=click.IntRange(0),
    )
    dropout_schedule: str = _option(
        "--trainer.dropout-schedule",
        "",
        "How the dropout proportion changes with the data seen: 0,0.2@0.5,0 goes from 0 to 0.2 at half of the data and "
        "back; several, separated by spaces, have the pattern of the components first, as in final*=0,0.5,0.",
    )
    compute_per_dim_accuracy: bool = _option(
        "--trainer.compute-per-dim-accuracy",
        False,
        "Have the logs of the diagnostics say the accuracy of each class.",
        affects_model=False,
    )
    realign_times: str = _option(
        "--trainer.realign-times",
        "",
        "Shares of the training, such as '0.3 0.6', after which the data are aligned with the network as it is and "
        "training goes on with these labels. Needs --lang, --feat-dir with a text, and --ali-dir with a final.mdl.",
    )
    realign_nj: int = _option(
        "--realign.nj", 4, "Jobs that align, for --trainer.realign-times.", affects_model=False, type=click.IntRange(1)
    )
    realign_command: str = _option("--realign.cmd", "", "Engine for aligning, where not --cmd.", affects_model=False)
    realign_opts: str = _option("--realign.opts", "", "More options for align.py, as one text.", kind="arguments")
    rand_prune: float = _option("--trainer.lda.rand-prune", 4.0, "Random pruning of the transform's statistics.")
    lda_dim: int = _option(
        "--trainer.lda.dim",
        -1,
        "Dimensions that the decorrelating transform keeps, those that tell the classes apart best; -1 keeps all.",
    )
    lda_within_class_factor: float = _option(
        "--trainer.lda.within-class-factor",
        0.001,
        "Variance that the transform gives to a direction without any difference between the classes.",
    )
    lda_max_singular_value: float = _option(
        "--trainer.lda.max-singular-value",
        5.0,
        "Larger singular values of the transform are brought to this; 0: no limit.",
    )
    max_lda_jobs: int = _option(
        "--trainer.lda.max-lda-jobs", 10, "Most archives read for the transform's statistics.", type=click.IntRange(1)
    )
    presoftmax_prior_scale_power: float = _option(
        "--trainer.presoftmax-prior-scale-power",
        -0.25,
        "Power of the pdfs' counts that what goes into the softmax is scaled by, where a file in configs/ names "
        "presoftmax_prior_scale.vec.",
    )
    train_opts: tuple[str, ...] = _option(
        "--trainer.add-option", (), "Another option for nnet-train-shard; may be repeated.", multiple=True, kind="words"
    )
    prior_subset_size: int = _option(
        "--trainer.prior-subset-size", 20000, "Examples per job for the priors.", type=click.IntRange(1)
    )
    num_jobs_compute_prior: int = _option(
        "--trainer.num-jobs-compute-prior", 10, "Jobs (archives) for the priors.", type=click.IntRange(1)
    )

    initial_effective_lrate: float = _option(
        "--trainer.optimization.initial-effective-lrate", 0.0003, "Learning rate per example at the start."
    )
    final_effective_lrate: float = _option(
        "--trainer.optimization.final-effective-lrate", 0.00003, "Learning rate per example at the end."
    )
    num_epochs_extra: float = _option(
        "--trainer.optimization.num-epochs-extra",
        0.0,
        "Passes over the data at the final learning rate, after those of --trainer.num-epochs.",
    )
    num_jobs_initial: int = _option("--trainer.optimization.num-jobs-initial", 1, "Jobs of the first iteration.")
    num_jobs_final: int = _option("--trainer.optimization.num-jobs-final", 8, "Jobs of the last iteration.")
    num_jobs_step: int = _option(
        "--trainer.optimization.num-jobs-step", 1, "The number of jobs is a multiple of this once it is that large."
    )
    minibatch_size: str = _option(
        "--trainer.optimization.minibatch-size", "512", "Examples in a minibatch, or rules as nnet-merge-egs has them."
    )
    momentum: float = _option("--trainer.optimization.momentum", 0.0, "Momentum; the effective rate stays the same.")
    backstitch_training_scale: float = _option(
        "--trainer.optimization.backstitch-training-scale",
        0.0,
        "Backstitch: the share of a step that is first taken backwards; 0 is off.",
    )
    backstitch_training_interval: int = _option(
        "--trainer.optimization.backstitch-training-interval",
        1,
        "Backstitch on every so many minibatches.",
        type=click.IntRange(1),
    )
    outer_momentum: float = _option(
        "--trainer.optimization.outer-momentum",
        0.0,
        "Momentum from iteration to iteration: the change of an average is a step with Nesterov momentum; 0 is none "
        "(nnet-average --outer-momentum).",
    )
    outer_learning_rate: float = _option(
        "--trainer.optimization.outer-learning-rate", 1.0, "Multiplies the step from iteration to iteration."
    )
    average_group_size: int = _option(
        "--trainer.optimization.average-group-size",
        0,
        "Most models that one job averages, up to 256: more are averaged in groups first, side by side "
        "(docs/scaling.md). 0: as many as can be.",
        type=click.IntRange(0),
    )
    proportional_shrink: float = _option(
        "--trainer.optimization.proportional-shrink",
        0.0,
        "Scale parameters by 1 - this * learning rate each iteration.",
    )
    do_final_combination: bool = _option(
        "--trainer.optimization.do-final-combination",
        True,
        "Combine the models of the last iterations; with false the last model is the final one.",
    )
    combine_method: str = _option(
        "--trainer.optimization.combine-method",
        "running-average",
        "How the models of the last iterations are combined: the best of their running averages (nnet-combine), or "
        "with the best weights for each model and component (nnet-combine-fast).",
        type=click.Choice(["running-average", "weights"]),
    )
    max_models_combine: int = _option(
        "--trainer.optimization.max-models-combine", 20, "Most models to combine.", type=click.IntRange(1)
    )
    max_objective_evaluations: int = _option(
        "--trainer.optimization.max-objective-evaluations", 30, "Most evaluations of the objective in combining."
    )
    sum_to_one_penalty: float = _option(
        "--trainer.optimization.combine-sum-to-one-penalty",
        0.0,
        "Accepted as in Kaldi, where it has no effect any more.",
        affects_model=False,
    )

    max_retries: int = _max_retries()
    job_time_limit: float = _job_time_limit()
    min_successful_share: float = _option(
        "--min-successful-share",
        0.75,
        "Go on without jobs of an iteration that stay lost if at least this share of its jobs has succeeded: the "
        "average is then that of the others. With 1, one job that stays lost ends training, as in Kaldi.",
        affects_model=False,
        type=click.FloatRange(0, 1, min_open=True),
    )

    cleanup: bool = _option("--cleanup", True, "Remove models that nothing needs any more.", affects_model=False)
    remove_egs: bool = _option(
        "--cleanup.remove-egs", True, "Remove the examples in the end (not those of --egs.dir).", affects_model=False
    )
    preserve_model_interval: int = _option(
        "--cleanup.preserve-model-interval",
        100,
        "Keep every model whose number is a multiple of this.",
        affects_model=False,
        type=click.IntRange(1),
    )

    reporting_email: str = _option(
        "--reporting.email",
        "",
        "Accepted as in Kaldi, with a warning: no mail is sent, accuracy.report has what it would say.",
        affects_model=False,
    )
    reporting_interval: float = _option(
        "--reporting.interval", 0.1, "Accepted as in Kaldi; has no effect.", affects_model=False
    )

    @property
    def use_gpu_of_jobs(self) -> str:
        """The option ``--use-gpu`` of nnet-train-shard: yes, no or wait."""
        return {"true": "yes", "false": "no"}.get(self.use_gpu, self.use_gpu)


@dataclass(frozen=True)
class EgsOptions:
    """steps/get_egs.py."""

    command: str = _option("--cmd", "run-local", "Engine that runs the jobs.")
    max_retries: int = _max_retries()
    job_time_limit: float = _job_time_limit()
    nj: int = _option("--nj", 4, "Parts that the data are split into, one job each.", type=click.IntRange(1))
    left_context: int = _option("--left-context", 4, "Input frames on the left of the labels.")
    right_context: int = _option("--right-context", 4, "Input frames on the right of the labels.")
    left_context_initial: int = _option(
        "--left-context-initial", -1, "The same at an utterance's start, if not negative."
    )
    right_context_final: int = _option("--right-context-final", -1, "The same at an utterance's end, if not negative.")
    frames_per_eg: str = _option(
        "--frames-per-eg", "8", "Labelled frames in an example; several lengths, the preferred first, as 8,4."
    )
    samples_per_iter: int = _option(
        "--samples-per-iter", 400000, "About how many examples an archive holds.", type=click.IntRange(1)
    )
    frame_subsampling_factor: int = _option(
        "--frame-subsampling-factor",
        1,
        "Frames of features to one of the alignment, where that is of a lower rate.",
        type=click.IntRange(1),
    )
    num_utts_subset: int = _option(
        "--num-utts-subset",
        0,
        "Utterances held out for validation, and as many of the training data for diagnostics. 0: 300, or a tenth of "
        "the data where that is fewer.",
        type=click.IntRange(0),
    )
    valid_uttlist: str = _option(
        "--valid-uttlist",
        "",
        "File with the utterances to hold out, one a line, in place of a random choice.",
        kind="path",
    )
    num_frames_diagnostic: int = _option(
        "--num-frames-diagnostic", 10000, "Frames in each of the two diagnostic sets.", type=click.IntRange(1)
    )
    num_train_frames_combine: int = _option(
        "--num-train-frames-combine", 60000, "Training frames for the final combination."
    )
    num_valid_frames_combine: int = _option(
        "--num-valid-frames-combine", 0, "Validation frames for the final combination."
    )
    num_pdfs: int = _option(
        "--num-pdfs", 0, "Classes; 0: what <ali-dir>/num_pdfs says, or <ali-dir>/final.mdl through hmm-info."
    )
    cmvn_opts: str = _option(
        "--cmvn-opts", "--norm-means=false --norm-vars=false", "Options of apply-cmvn for the features.", kind="words"
    )
    online_cmvn: bool = _option(
        "--online-cmvn",
        False,
        "Normalise features by what came before (apply-cmvn-online, with the options of --cmvn-opts) and global "
        "statistics, the sum of <data>/cmvn.scp; decoding will too.",
    )
    online_ivector_dir: str = _option(
        "--online-ivector-dir", "", "Directory with iVectors to add to the input.", kind="path"
    )
    compress: bool = _option("--compress", True, "Store features in a byte per value.")
    srand: int = _option("--srand", 0, "Seed of the choice of utterances and of shuffling.", type=click.IntRange(0))
    stage: int = _option(
        "--stage", 0, "Start at: 2 alignments, 3 diagnostic sets, 4 cutting, 5 shuffling, 6 cleaning up."
    )
    reuse: bool = _option(
        "--reuse",
        False,
        "Do nothing where <egs-dir> is complete and was made with the same options of the same data and alignments.",
    )


@dataclass(frozen=True)
class NetworkJobOptions:
    """What steps/align.py and steps/decode.py have in common: jobs that evaluate a network."""

    command: str = _option("--cmd", "run-local", "Engine that runs the jobs.")
    max_retries: int = _max_retries()
    job_time_limit: float = _job_time_limit()
    nj: int = _option("--nj", 4, "Parts that the data are split into, one job each.", type=click.IntRange(1))
    cmvn_opts: str | None = _option(
        "--cmvn-opts",
        None,
        "Options of apply-cmvn, in place of those in cmvn_opts beside the model; without that file nothing is "
        "normalised.",
        kind="words",
        type=str,
    )
    online_ivector_dir: str = _option(
        "--online-ivector-dir", "", "Directory with iVectors for these data.", kind="path"
    )
    frames_per_chunk: int = _option(
        "--frames-per-chunk", 50, "Input frames of the chunks that are evaluated separately."
    )
    extra_left_context: int = _option("--extra-left-context", 0, "Frames on the left beyond what the network needs.")
    extra_right_context: int = _option("--extra-right-context", 0, "Frames on the right beyond what the network needs.")
    extra_left_context_initial: int = _option(
        "--extra-left-context-initial", -1, "If not negative, instead at an utterance's start."
    )
    extra_right_context_final: int = _option(
        "--extra-right-context-final", -1, "If not negative, instead at an utterance's end."
    )
    use_gpu: str = _option("--use-gpu", "no", "Option of nnet-compute.", kind="words", metavar="yes|no")


@dataclass(frozen=True)
class AlignOptions(NetworkJobOptions):
    """steps/align.py."""

    iteration: str = _option("--iter", "final", "The model is NAME.mdl of <src-dir>.", metavar="NAME", kind="path")
    scale_opts: str = _option(
        "--scale-opts",
        "--transition-scale=1.0 --acoustic-scale=0.1 --self-loop-scale=0.1",
        "Options of align-compiled-mapped.",
        kind="words",
    )
    graphs: str = _option(
        "--graphs",
        "",
        "Table of compiled graphs to align with, in place of graphs compiled here: for a model that depends on "
        "neighbouring phones, those of Kaldi's compile-train-graphs.",
        metavar="RSPECIFIER",
        kind="table",
    )


@dataclass(frozen=True)
class DecodeOptions(NetworkJobOptions):
    """steps/decode.py."""

    iteration: str = _option(
        "--iter", "final", "The model is NAME.mdl in the parent of <decode-dir>.", metavar="NAME", kind="path"
    )
    acwt: str = _option(
        "--acwt", "0.1", "Acoustic scale; with several, one set of hypotheses for each.", metavar="X,..."
    )
    beam: float = _option("--beam", 16.0, "Hypotheses that cost more than the best by this are dropped.")
    max_active: int = _option("--max-active", 7000, "Most hypotheses kept a frame.")
    min_active: int = _option("--min-active", 200, "Fewest hypotheses kept a frame.")
    use_priors: bool = _option("--use-priors", True, "Divide the network's output by the priors in the model.")


@dataclass(frozen=True)
class EqualAlignOptions:
    """steps/align_equal.py."""

    command: str = _option("--cmd", "run-local", "Engine that runs the jobs.")
    max_retries: int = _max_retries()
    job_time_limit: float = _job_time_limit()
    nj: int = _option("--nj", 4, "Parts that the data are split into, one job each.", type=click.IntRange(1))
    srand: int = _option("--srand", 0, "Seed of the choice among the ways to say a transcript.", type=click.IntRange(0))


@dataclass(frozen=True)
class VectorOptions:
    """steps/compute_utterance_vectors.py. What makes a vector what it is comes from ``like`` where that is given."""

    command: str = _option("--cmd", "run-local", "Engine that runs the jobs.")
    max_retries: int = _max_retries()
    job_time_limit: float = _job_time_limit()
    nj: int = _option("--nj", 4, "Parts that the data are split into, one job each.", type=click.IntRange(1))
    like: str = _option(
        "--like",
        "",
        "Directory of vectors, those of the training data, whose statistics and settings are used; give none of the "
        "options below then.",
        metavar="DIR",
        kind="path",
    )
    ivector_period: int = _option(
        "--ivector-period", 10, "Frames from one row to the next.", type=click.IntRange(1), metavar="N"
    )
    online: bool = _option("--online", False, "Make each row of the frames up to it, not of the whole utterance.")
    per_speaker: bool = _option("--per-speaker", False, "Count all frames of a speaker together.")
    prior_count: float = _option(
        "--prior-count", 50.0, "Frames of all data added to an utterance's, for short ones.", metavar="N"
    )
    deviations: bool = _option("--deviations", True, "Put standard deviations after the means.")


@dataclass(frozen=True)
class PriorOptions:
    """steps/adjust_priors.py."""

    command: str = _option("--cmd", "run-local", "Engine that runs the jobs.")
    max_retries: int = _max_retries()
    job_time_limit: float = _job_time_limit()
    iteration: str = _option("--iter", "final", "The model is NAME.mdl.", metavar="NAME", kind="path")
    use_raw_nnet: bool = _option(
        "--use-raw-nnet", False, "The model is NAME.raw; the summed posteriors are the result."
    )
    prior_subset_size: int = _option("--prior-subset-size", 20000, "Examples per job.", type=click.IntRange(1))
    num_jobs_compute_prior: int = _option(
        "--num-jobs-compute-prior", 10, "Most jobs, which read an archive each.", type=click.IntRange(1)
    )
    minibatch_size: int = _option("--minibatch-size", 256, "Examples computed together.", type=click.IntRange(1))
