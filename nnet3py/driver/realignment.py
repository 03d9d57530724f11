"""Realignment in the middle of training: the network as it is aligns the training data, and goes on with those labels.

The labels that training begins with are another model's. Some way into the training the network knows better where one
state ends and the next begins. At the iterations that ``--trainer.realign-times`` names, before model i is trained on,

    post.<i>.vec           its mean posterior over training data, for the priors (:mod:`nnet3py.driver.priors`)
    ali.<i>/               the training data aligned with it (``steps/align.py``)
    egs.realigned.<i>/     the examples, with the new labels (``nnet-relabel-egs``); then the diagnostic sets

are made, each if it is missing, so that a training that is stopped goes on from there. Examples are always relabelled
from those that training began with, so that nothing depends on an earlier relabelling; an utterance that cannot be
aligned keeps its first labels.

Source: Kaldi egs/wsj/s5/steps/nnet2/train_pnorm_simple2.sh (``realign_epochs``), steps/nnet2/relabel_egs2.sh.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nnet3py import log
from nnet3py.directories.belonging import require_same_phones
from nnet3py.driver.alignments import alignment_rspecifier, has_transition_ids
from nnet3py.driver.data_used import tell
from nnet3py.driver.engine import Engine
from nnet3py.driver.experiment import digest
from nnet3py.driver.options import TrainingOptions
from nnet3py.driver.preparation import Egs
from nnet3py.driver.priors import make_acoustic_model, prior_data, sum_posteriors
from nnet3py.driver.schedule import Schedule
from nnet3py.driver.stage import DIAGNOSTIC_SETS, Stage
from nnet3py.errors import UserError
from nnet3py.text.lines import read_number, read_text, write_text

_LANGUAGE_FILES = ("L.fst", "words.txt", "phones.txt", "oov.txt", "phones/disambig.int")
_SMALL_SETS = ("combine.egs", *(f"{kind}_diagnostic.egs" for kind in DIAGNOSTIC_SETS))
_MADE = re.compile(r"(?:ali|egs\.realigned|post)\.(\d+)(?:\.vec)?|(\d+)\.mdl|\w+_diagnostic\.(\d+)\.minibatches")
_RELABELLED = re.compile(
    r"relabelled (\d+) frames of (\d+) examples, of which (\d+) have no alignment .* changed for (\d+) of those frames"
)


@dataclass(frozen=True)
class _Changes:
    """Labelled frames, examples, those that keep their first labels, and frames that got another label."""

    frames: int
    examples: int
    kept: int
    changed: int


def realign_times(options: TrainingOptions) -> list[float]:
    """The shares of training after which it realigns, ascending.

    Raises:
        UserError: one is not a number above 0 and below 1, or comes twice.
    """
    words = options.realign_times.replace(",", " ").split()
    try:
        times = sorted(float(word) for word in words)
    except ValueError:
        times = [-1.0]
    if not all(0 < time < 1 for time in times) or len(set(times)) < len(times):
        raise UserError(
            f"--trainer.realign-times must be different numbers above 0 and below 1, shares of the training, found "
            f"{options.realign_times!r}."
        )
    return times


def check(options: TrainingOptions) -> None:
    """Raise UserError for what realignment needs and does not have."""
    if not realign_times(options):
        return
    needed = {"--lang": options.lang, "--feat-dir": options.feat_dir}
    for name, value in needed.items():
        if not value:
            raise UserError(f"--trainer.realign-times needs {name}: the data are aligned with their transcripts.")
    if not has_transition_ids(options.ali_dir):
        raise UserError(
            f"--trainer.realign-times needs {options.ali_dir}/final.mdl, a transition model: alignments of pdf ids do "
            "not say what an utterance may be aligned with."
        )
    for path in (f"{options.ali_dir}/tree", f"{options.lang}/L.fst", f"{options.feat_dir}/text"):
        if not os.path.isfile(path):
            raise UserError(f"--trainer.realign-times needs {path}, which does not exist.")
    advice = "Give the language that the alignments were made with as --lang."
    require_same_phones(options.lang, options.ali_dir, advice)


def realigned_iterations(options: TrainingOptions, schedule: Schedule) -> list[int]:
    """The iterations before which the data are aligned anew: the first ones after those shares of the data.

    Raises:
        UserError: two times fall on one iteration, or one on none.
    """
    found: list[int] = []
    for time in realign_times(options):
        index = next((each.index for each in schedule.iterations if each.share >= time), None)
        if index is None or index in found:
            what = "no iteration begins after it" if index is None else f"iteration {index} has another already"
            raise UserError(f"--trainer.realign-times: at {time:g} of the training {what}: leave it out, or move it.")
        found.append(index)
    return found


def labels_of(options: TrainingOptions, schedule: Schedule, model: int | str) -> int:
    """The iteration whose realignment gave the labels that a model is tried on; 0 for the first labels."""
    done = [index for index in realigned_iterations(options, schedule) if isinstance(model, str) or index <= model]
    return max(done, default=0)


class Realignment(Stage):
    """Makes the labels that each iteration trains on."""

    def __init__(self, options: TrainingOptions, engine: Engine, align: str) -> None:
        """``align`` is the program that aligns."""
        super().__init__(options, engine)
        self.align = align

    def record(self) -> dict[str, object]:
        """What the labels depend on beside the options."""
        if not realign_times(self.options):
            return {}
        files = {f"--lang {name}": digest(f"{self.options.lang}/{name}") for name in _LANGUAGE_FILES}
        return {**files, "--feat-dir text": digest(f"{self.options.feat_dir}/text")}

    def ali_dir(self, labels: int) -> str:
        """The alignments that labels were made from."""
        return self.experiment.path(f"ali.{labels}") if labels else self.options.ali_dir

    def examples(self, egs: Egs, schedule: Schedule, model: int) -> Egs:
        """The examples with the labels that are in use when ``model`` is trained on; made if they are missing.

        ``egs`` are those that training began with.

        Raises:
            UserError: a model is missing that would be needed, or a job has failed.
        """
        labels = labels_of(self.options, schedule, model)
        if not labels:
            return egs
        realigned = replace(egs, folder=self._egs_folder(labels))
        if not os.path.isfile(f"{realigned.folder}/.complete"):
            self._align(egs, schedule, labels)
            self._relabel(egs, realigned.folder, labels)
            self._clean_up_before(labels)
        return realigned

    def forget(self, first: int) -> None:
        """Remove what was made of models from ``first`` on."""
        for name in os.listdir(self.options.dir):
            made = _MADE.fullmatch(name)
            if made and int(next(filter(None, made.groups()))) >= first:
                self._remove(self.experiment.path(name))

    def clean_up(self) -> None:
        """Remove what nothing needs when training is finished; alignments stay."""
        for labels in self._realignments_on_disk():
            self.experiment.remove(f"{labels}.mdl", *(self._minibatches(kind, labels) for kind in DIAGNOSTIC_SETS))
            self._remove_egs(labels)

    def _egs_folder(self, labels: int) -> str:
        return self.experiment.path(f"egs.realigned.{labels}")

    def _align(self, egs: Egs, schedule: Schedule, labels: int) -> None:
        folder = self.ali_dir(labels)
        if os.path.isfile(f"{folder}/.complete"):
            return
        log.log(f"Aligning the training data with model {labels}")
        self._make_model(egs, schedule, labels)
        options = self.options
        words = {
            "--cmd": options.realign_command or options.command,
            "--nj": options.realign_nj,
            "--iter": labels,
            "--max-retries": options.max_retries,
            "--online-ivector-dir": options.online_ivector_dir,
        }
        command = [self.align, "--print-args=false", *(f"{name}={value}" for name, value in words.items())]
        command += [*shlex.split(options.realign_opts), options.feat_dir, options.lang, options.dir, folder]
        self._run_step(command, "Aligning")

    def _make_model(self, egs: Egs, schedule: Schedule, labels: int) -> None:
        """``<labels>.mdl``: the network, its priors, and transitions trained on the labels that were in use so far."""
        if self.experiment.has(f"{labels}.mdl"):
            return
        network = self._raw(labels)
        if not os.path.isfile(network):
            raise UserError(
                f"Cannot realign with model {labels}: {network} is missing. Go back with --stage to a model before it."
            )
        posteriors = sum_posteriors(self.engine, self.experiment, str(labels), network, prior_data(self.options, egs))
        make_acoustic_model(
            self.engine,
            self.experiment,
            str(labels),
            network=network,
            posteriors=posteriors,
            model_dir=self.options.ali_dir,
            ali_dir=self.ali_dir(labels_of(self.options, schedule, labels - 1)),
            target=self.experiment.path(f"{labels}.mdl"),
        )

    def _relabel(self, egs: Egs, folder: str, labels: int) -> None:
        """Examples with other labels in ``folder``; ``folder/.complete`` appears last."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(f"{egs.folder}/info", f"{folder}/info")
        alignments = alignment_rspecifier(self.ali_dir(labels))
        assert alignments is not None
        pdfs = f"ark:{folder}/ali.pdf.ark"
        model = f"{self.ali_dir(labels)}/final.mdl"
        self._run(f"ali_to_pdf.{labels}", ["ali-to-pdf", model, alignments, pdfs], "Reading the alignment")
        relabel = ["nnet-relabel-egs", "--max-missing=1", *self._subsampling(), pdfs]  # of all together, see below
        sets = [f"ark:{where}/{name}" for where in (egs.folder, folder) for name in _SMALL_SETS]
        small = self.engine.start(
            self.experiment.log(f"relabel_sets.{labels}"), [*relabel, *sets], what="Relabelling the diagnostic sets"
        )
        archives = [f"ark:{where}/egs.JOB.ark" for where in (egs.folder, folder)]
        name = f"relabel.{labels}"
        self._run(f"{name}.JOB", [*relabel, *archives], "Relabelling examples", jobs=egs.num_archives)
        small.wait()
        os.unlink(f"{folder}/ali.pdf.ark")
        changes = self._changes([f"{name}.{job}" for job in range(1, egs.num_archives + 1)])
        if changes.kept > 0.5 * changes.examples:
            raise UserError(
                f"Model {labels} could align the utterances of {changes.examples - changes.kept} of {changes.examples} "
                f"examples only, see {self.ali_dir(labels)}/info/left_out: realign later (--trainer.realign-times)."
            )
        write_text(f"{folder}/.complete", "")
        log.log(
            f"Realigned with model {labels}: {100 * changes.changed / max(changes.frames, 1):.1f} % of the labels are "
            f"not the first. Log-probabilities are of the new labels from model {labels} on, not to be compared with "
            "those before."
        )
        if changes.kept:
            tell(
                f"{changes.kept} of {changes.examples} examples are of utterances that model {labels} could not align "
                f"and keep their first labels; {self.ali_dir(labels)}/info/left_out says why.",
                changes.kept,
                changes.examples,
            )

    def _subsampling(self) -> list[str]:
        """The option for labels of a lower rate; what read_egs has left beside the models."""
        path = self.experiment.path("frame_subsampling_factor")
        if not os.path.isfile(path):
            return []
        return [f"--frame-subsampling-factor={read_number(path, least=1)}"]

    def _changes(self, logs: Sequence[str]) -> _Changes:
        """What became of the examples, by the logs of nnet-relabel-egs."""
        sums = [0, 0, 0, 0]
        for name in logs:
            for found in _RELABELLED.findall(read_text(self.experiment.log(name)))[-1:]:
                sums = [total + int(number) for total, number in zip(sums, found, strict=True)]
        return _Changes(*sums)

    def _realignments_on_disk(self) -> list[int]:
        found = (re.fullmatch(r"ali\.(\d+)", name) for name in os.listdir(self.options.dir))
        return sorted(int(match[1]) for match in found if match)

    def _clean_up_before(self, labels: int) -> None:
        """Remove the examples of earlier realignments, which can be made again of their alignments."""
        if not self.options.cleanup:
            return
        self.experiment.remove(f"{labels}.mdl")
        for earlier in self._realignments_on_disk():
            if earlier < labels:
                self._remove_egs(earlier)

    def _remove_egs(self, labels: int) -> None:
        folder = self._egs_folder(labels)
        if self.options.remove_egs and not os.path.exists(f"{folder}/.nodelete"):
            self._remove(folder)

    def _remove(self, path: str) -> None:
        if os.path.isdir(path):
            for marker in glob.glob(f"{glob.escape(path)}/.complete"):  # first: what is left then is not whole
                os.unlink(marker)
            shutil.rmtree(path, ignore_errors=True)
        else:
            self.experiment.remove(os.path.basename(path))
