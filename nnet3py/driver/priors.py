"""Priors of the classes from the network itself: its output averaged over training data, put into an acoustic model.

Decoding and alignment need likelihoods. The network gives posteriors, p(class | x), and p(x | class) is in proportion
to p(class | x) / p(class). As p(class) serves the mean of the network's own posteriors over a part of the training
data, so that a class which the network overrates in general is not favoured:

    prior = sum over frames of p(. | x_t), normalised to sum to one.

Source: arXiv:1410.7455 (the adjustment of priors); Kaldi egs/wsj/s5/steps/nnet3/adjust_priors.sh and
steps/libs/nnet3/train/frame_level_objf/common.py (``compute_average_posterior``, ``adjust_am_priors``).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from nnet3py import log
from nnet3py.directories.belonging import (
    require_same_extractor,
    require_same_phones,
    require_same_subsampling,
    require_same_tree,
)
from nnet3py.directories.normalisation import require_same_normalisation
from nnet3py.driver.alignments import alignment_rspecifier
from nnet3py.driver.directory_lock import locked
from nnet3py.driver.engine import Engine, check_paths, pipeline
from nnet3py.driver.experiment import Experiment, remove_unfinished, termination_interrupts
from nnet3py.driver.made_of import require_complete
from nnet3py.driver.options import PriorOptions, TrainingOptions
from nnet3py.driver.preparation import Egs
from nnet3py.errors import UserError
from nnet3py.nnet.model_file import read_network
from nnet3py.nnet.times import network_context
from nnet3py.tables.named_files import require_input, require_output_folder
from nnet3py.text.lines import read_number, write_text

_SUBSAMPLING = "frame_subsampling_factor"


@dataclass(frozen=True)
class PriorData:
    """The examples that posteriors are averaged over: from each of the first archives some, chosen at random.

    Attributes:
        egs_folder: directory with ``egs.1.ark``, ...
        num_archives: how many of them there are.
        max_archives: most archives to read, one a job.
        examples: most examples to take from each.
    """

    egs_folder: str
    num_archives: int
    max_archives: int
    examples: int

    @property
    def num_jobs(self) -> int:
        """How many jobs read them, an archive each."""
        return min(self.max_archives, self.num_archives)


def prior_data(options: TrainingOptions, egs: Egs) -> PriorData:
    """The examples that a training's priors are made of."""
    return PriorData(egs.folder, egs.num_archives, options.num_jobs_compute_prior, options.prior_subset_size)


def sum_posteriors(
    engine: Engine, experiment: Experiment, name: str, model: str, data: PriorData, *, minibatch_size: int = 128
) -> str:
    """Sum a network's output over examples; the path of the vector, ``post.<name>.vec``.

    ``model``: file of a network or an acoustic model. ``name`` is that of the logs too.

    Raises:
        UserError: a job has failed.
    """
    jobs = data.num_jobs
    engine.run(
        experiment.log(f"get_post.{name}.JOB"),
        pipeline(
            ["nnet-subset-egs", "--srand=JOB", f"--n={data.examples}", f"ark:{data.egs_folder}/egs.JOB.ark", "ark:-"],
            ["nnet-merge-egs", f"--minibatch-size=1:{minibatch_size}", "ark:-", "ark:-"],
            ["nnet-compute-from-egs", "--apply-exp=true", model, "ark:-", "ark:-"],
            ["matrix-sum-rows", "ark:-", "ark:-"],
            ["vector-sum", "ark:-", experiment.path(f"post.{name}.JOB.vec")],
        ),
        what="Averaging posteriors",
        jobs=jobs,
    )
    parts = [f"post.{name}.{job}.vec" for job in range(1, jobs + 1)]
    table = f"post.{name}.parts.scp"
    write_text(experiment.path(table), "".join(f"{job} {experiment.path(part)}\n" for job, part in enumerate(parts, 1)))
    total = experiment.path(f"post.{name}.vec")
    command = ["vector-sum", f"scp:{experiment.path(table)}", total]
    engine.run(experiment.log(f"vector_sum.{name}"), command, what="Summing posteriors")
    experiment.remove(*parts, table)
    return total


def make_acoustic_model(
    engine: Engine,
    experiment: Experiment,
    name: str,
    *,
    network: str,
    posteriors: str,
    model_dir: str,
    ali_dir: str,
    target: str,
) -> None:
    """An acoustic model of a network: with a transition model trained on alignments, and priors.

    Args:
        name: that of the log, ``adjust_priors.<name>``.
        network: file of the network.
        posteriors: file of the summed posteriors.
        model_dir: directory whose ``final.mdl`` has the transition model.
        ali_dir: directory of alignments of its transition-ids; without any the probabilities stay as they are.
        target: file to write.

    Raises:
        UserError: a program has failed.
    """
    alignments = alignment_rspecifier(ali_dir)
    train_transitions = []
    if alignments is None:
        log.warning(f"{ali_dir} has no alignments: transition probabilities stay those of its final.mdl.")
    else:
        train_transitions.append(["nnet-am-train-transitions", "--set-priors=false", "-", alignments, "-"])
    engine.run(
        experiment.log(f"adjust_priors.{name}"),
        pipeline(
            ["nnet-am-init", f"{model_dir}/final.mdl", network, "-"],
            *train_transitions,
            ["nnet-am-adjust-priors", "-", posteriors, target],
        ),
        what="Making the acoustic model",
    )


def adjust_priors(options: PriorOptions, folder: str, egs_folder: str) -> str:
    """Put the priors of ``<folder>/<iter>.mdl`` right by examples; what ``steps/adjust_priors.py`` does.

    Returns the file written: ``<folder>/<iter>_adj.mdl``, or, for a network without transition model, the sums of its
    posteriors ``<folder>/post.<iter>.vec``.

    Raises:
        UserError: a file is missing, or a job has failed.
    """
    check_paths(options, {"<exp-dir>": folder, "<egs-dir>": egs_folder})
    for path in (folder, egs_folder):
        if not os.path.isdir(path):
            raise UserError(f"{path} is not a directory.")
    require_complete(egs_folder)
    model = f"{folder}/{options.iteration}.{'raw' if options.use_raw_nnet else 'mdl'}"
    require_output_folder(f"{folder}/log")
    require_input(model)
    data = PriorData(egs_folder, _num_archives(egs_folder), options.num_jobs_compute_prior, options.prior_subset_size)
    for job in range(1, data.num_jobs + 1):
        require_input(f"{egs_folder}/egs.{job}.ark")
    _require_examples_of_model(folder, model, egs_folder)
    os.makedirs(f"{folder}/log", exist_ok=True)
    experiment = Experiment(folder)
    with (
        termination_interrupts(),
        locked(folder, "adjust_priors.py"),
        Engine(options.command, max_retries=options.max_retries, job_time_limit=options.job_time_limit) as engine,
    ):
        remove_unfinished(folder)
        name = options.iteration
        experiment.remove(f"post.{name}.vec", f"{name}_adj.mdl")  # an earlier run's, should this one fail
        total = sum_posteriors(engine, experiment, name, model, data, minibatch_size=options.minibatch_size)
        if options.use_raw_nnet:
            return total
        target = experiment.path(f"{name}_adj.mdl")
        command = ["nnet-am-adjust-priors", model, total, target]
        engine.run(experiment.log(f"adjust_priors.{name}"), command, what="Setting the priors")
        return target


def _require_examples_of_model(folder: str, model: str, egs_folder: str) -> None:
    """Compare a network with the examples that its posteriors are to be averaged over, in all that these say.

    Raises:
        UserError: they are normalised otherwise than what it was trained on, of other phones, another tree, other
            iVectors or another frame rate, do not fit its inputs and output, or have too little context.
    """
    advice = "Give examples that are made as those that the network was trained on."
    require_same_normalisation(folder, egs_folder, advice)
    require_same_phones(folder, egs_folder, advice)
    require_same_tree(folder, egs_folder, advice)
    require_same_extractor(f"{egs_folder}/info", folder)
    info = f"{egs_folder}/info"
    require_same_subsampling(f"{folder}/{_SUBSAMPLING}", f"{info}/{_SUBSAMPLING}", advice)
    network = read_network(model)
    left, right = network_context(network)
    wanted = {
        "feat_dim": ("input dimension", network.input_dim("input")),
        "ivector_dim": ("iVector dimension", network.input_dim("ivector") if network.has_input("ivector") else 0),
        "num_pdfs": ("output dimension", network.output_dim("output")),
        "left_context": ("left context", left),
        "right_context": ("right context", right),
    }
    for name, (what, number) in wanted.items():
        path = f"{info}/{name}"
        if not os.path.isfile(path):
            continue
        stated = read_number(path)
        if stated < number if name.endswith("context") else stated != number:
            raise UserError(f"The network in {model} has the {what} {number}, {path} says {stated}. {advice}")


def _num_archives(egs_folder: str) -> int:
    path = f"{egs_folder}/info/num_archives"
    try:
        return read_number(path, least=1)
    except UserError as problem:
        raise UserError(f"{problem} Is {egs_folder} complete?") from problem
