"""Make training examples of a data directory and its alignment, in archives of shuffled examples.

Some utterances are held out for validation, as many of the rest serve for diagnostics on the training data. Jobs cut
the rest into examples and deal them out at random; a second round puts each archive's parts together and shuffles.
Utterances that no example can be made of are left out before anything is drawn, and counted by reason.

Written in the directory of examples: ``egs.1.ark ...``, ``valid_diagnostic.egs``, ``train_diagnostic.egs``,
``combine.egs``, ``info/{feat_dim, ivector_dim, num_pdfs, num_frames, num_archives, frames_per_eg, egs_per_archive,
fewest_egs, left_context, right_context, data_used, left_out, ...}``, ``cmvn_opts``, ``phones.txt`` and ``tree`` where
the alignment has them, ``valid_uttlist``, ``train_subset_uttlist``; with ``--online-cmvn`` also ``global_cmvn.stats``
and ``online_cmvn``, an empty file that tells decoding.

Source: Kaldi egs/wsj/s5/steps/nnet3/get_egs.sh.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import resource
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from nnet3py import log
from nnet3py.driver import made_of
from nnet3py.driver.alignments import alignment_rspecifier, has_transition_ids
from nnet3py.driver.data_used import had_nothing_to_do, said_in_logs
from nnet3py.driver.directory_lock import locked
from nnet3py.driver.engine import Engine, Running, check_paths, pipe, pipeline
from nnet3py.driver.example_sources import ExampleSources
from nnet3py.driver.experiment import Experiment, copy_atomically, remove_unfinished, termination_interrupts
from nnet3py.driver.held_out import choose
from nnet3py.driver.many_files import numbered_archives
from nnet3py.driver.options import EgsOptions
from nnet3py.driver.split_data import remove_matching
from nnet3py.driver.usable_utterances import UsableUtterances
from nnet3py.errors import UserError
from nnet3py.features.speakers import parts_by_speaker, spk2utt_text
from nnet3py.temporary_files import replacing
from nnet3py.text.lines import (
    BLANKS,
    joined,
    read_number,
    read_table,
    read_text,
    write_text,
)

_MOST_OPEN_FILES = 512
_ORIGINALS = re.compile(r"egs_orig\.\d+\.\d+\.ark")
_SHUFFLED = re.compile(r"Shuffled order of (\d+) ")

FEWEST_EXAMPLES = "fewest_egs"
"""The file in ``info/`` with the number of examples in the smallest archive."""

_ARCHIVE = re.compile(r"egs\.(\d+)\.ark")
_MADE_AT = {
    2: re.compile(r"ali\.(?:ark|scp)|global_cmvn\.stats|online_cmvn"),
    3: re.compile(r"(?:valid|train)_(?:diagnostic|combine)\.egs|(?:valid|train_subset)_all\.egs|combine\.egs"),
    4: _ORIGINALS,
    5: _ARCHIVE,
}
"""By stage, what is made at it: removed first, so that what an earlier run left is not taken for this one's."""


def make_examples(options: EgsOptions, data: str, ali_dir: str, folder: str) -> None:
    """Make the examples of ``data`` and ``ali_dir`` in ``folder``; ``folder/.complete`` appears last.

    Raises:
        UserError: an option or a file is wrong, or a job has failed.
    """
    check_paths(options, {"<data>": data, "<ali-dir>": ali_dir, "<egs-dir>": folder})
    for path in (data, ali_dir):
        if not os.path.isdir(path):
            raise UserError(f"{path} is not a directory.")
    with contextlib.ExitStack() as stack:
        maker = _Maker(options, ExampleSources(options, data, ali_dir), folder)
        if options.reuse and maker.is_made():
            log.log(f"The examples in {folder} were made of the same, in the same way: nothing is to be done.")
            return
        os.makedirs(f"{folder}/log", exist_ok=True)
        os.makedirs(f"{folder}/info", exist_ok=True)
        stack.enter_context(termination_interrupts())
        stack.enter_context(locked(folder, "get_egs.py"))
        retries, limit = options.max_retries, options.job_time_limit
        engine = stack.enter_context(Engine(options.command, max_retries=retries, job_time_limit=limit))
        remove_unfinished(folder, "info", "split")
        maker.run(engine)


@dataclass(frozen=True)
class _Subset:
    """A diagnostic set: its name, and how many examples of it serve for what."""

    name: str
    diagnostic: int
    combine: int


class _Maker:
    engine: Engine

    def __init__(self, options: EgsOptions, sources: ExampleSources, folder: str) -> None:
        self.options = options
        self.sources = sources
        self.folder = folder
        self.split = f"{folder}/split"

    def run(self, engine: Engine) -> None:
        """Make them."""
        self.engine = engine
        stage = self.options.stage
        if os.path.exists(f"{self.folder}/.complete"):
            os.unlink(f"{self.folder}/.complete")
        os.makedirs(self.split, exist_ok=True)
        self._compare_record()
        for made_at, pattern in _MADE_AT.items():
            if stage <= made_at:
                remove_matching(self.folder, pattern)
        if stage <= 2:
            self._copy_alignments()
        alignments = read_table(f"{self.folder}/ali.scp")
        used = UsableUtterances(self.sources, engine, self.folder).account(alignments)
        longest = max(used.lengths.values())
        advice = f"The longest has {longest} frames: give --frames-per-eg={longest} at most." if (
            0 < longest < self.sources.frames_per_eg
        ) else ""  # fmt: skip
        usable = used.usable(self.sources.features, self.sources.data, advice)
        valid, subset, train = choose(self.options, self.sources.data, list(usable), used)
        jobs = self._write_lists(alignments, valid, subset, train)
        if self.options.online_cmvn:
            target = f"{self.folder}/global_cmvn.stats"
            command = ["matrix-sum", "--binary=false", f"scp:{self.sources.data}/cmvn.scp", target]
            self._run("global_cmvn", command, "Adding up statistics")
        archives, multiple = self._describe(sum(used.lengths[utterance] for utterance in usable))
        if stage <= 3:
            self._make_diagnostic_sets()
        if stage <= 4:
            self._cut(archives // multiple, jobs=jobs)
        if stage <= 5:
            self._shuffle(archives // multiple, multiple, jobs=jobs)
        logs = [f"get_egs.{job}" for job in range(1, jobs + 1)] + ["create_valid", "create_train_subset"]
        for utterance, why in said_in_logs((f"{self.folder}/log/{name}.log" for name in logs), usable).items():
            used.leave_out([utterance], why)
        used.report(self.folder)
        self._clean_up(archives)
        write_text(f"{self.folder}/.complete", "")
        log.log(f"Made {archives} archives of examples in {self.folder}.")

    def is_made(self) -> bool:
        """Whether the examples are there, made with the same options of the same data and alignments."""
        there = all(os.path.isfile(f"{self.folder}/{name}") for name in (".complete", made_of.NAME))
        return there and not Experiment(self.folder).record(made_of.NAME, self.sources.made_with(), force=False)

    def _compare_record(self) -> None:
        """Refuse to go on, at a later stage, with what was made with other options."""
        changed = Experiment(self.folder).record(made_of.NAME, self.sources.made_with(), force=self.options.stage <= 2)
        if changed and self.options.stage > 2:
            differences = "; ".join(f"{key} was {then}, is {now}" for key, (then, now) in changed.items())
            raise UserError(
                f"{self.folder} was begun otherwise: {differences}. Go on with what it was begun with, or leave out "
                "--stage to begin anew."
            )

    def _write_lists(self, alignments: Mapping[str, str], valid: list[str], subset: list[str], train: list[str]) -> int:
        """Write what the jobs read; returns how many jobs there are."""
        write_text(f"{self.folder}/valid_uttlist", joined(valid))
        write_text(f"{self.folder}/train_subset_uttlist", joined(subset))
        parts: dict[str, Sequence[str]] = {"valid": valid, "train_subset": subset}
        jobs = min(self.options.nj, len(train))
        if self.sources.speaker_of:
            of_jobs = parts_by_speaker(train, jobs, self.sources.speaker_of)
        else:
            of_jobs = [train[job * len(train) // jobs : (job + 1) * len(train) // jobs] for job in range(jobs)]
        parts |= {str(number): part for number, part in enumerate(of_jobs, 1)}
        for name, utterances in parts.items():
            for kind, table in (("feats", self.sources.features), ("ali", alignments)):
                write_text(f"{self.split}/{kind}.{name}.scp", joined(f"{each} {table[each]}" for each in utterances))
            if self.sources.speaker_of:
                write_text(f"{self.split}/spk2utt.{name}", spk2utt_text(utterances, self.sources.speaker_of))
        return len(of_jobs)

    # What info/ says.

    def _describe(self, frames: int) -> tuple[int, int]:
        """Write info/; returns the number of archives, and how many of them one file of the first round becomes.

        ``frames``: those of all utterances that are used.
        """
        options = self.options
        for name in ("phones.txt", "tree"):
            if os.path.isfile(f"{self.sources.ali_dir}/{name}"):
                copy_atomically(f"{self.sources.ali_dir}/{name}", f"{self.folder}/{name}")
            else:
                _remove([f"{self.folder}/{name}"])
        self._put("num_pdfs", self.sources.num_pdfs)
        self._put("cmvn_opts", options.cmvn_opts, info=False)
        _remove([f"{self.folder}/online_cmvn", f"{self.folder}/info/final.ie.id"])
        if options.online_cmvn:
            write_text(f"{self.folder}/online_cmvn", "")
        self._put("feat_dim", self._dimension("feat_dim", f"scp:{self.split}/feats.1.scp"))
        dim = 0
        if options.online_ivector_dir:
            dim = self._dimension("ivector_dim", f"scp:{options.online_ivector_dir}/ivector_online.scp")
            self._copy_extractor_id()
        self._put("ivector_dim", dim)
        archives = frames // (self.sources.frames_per_eg * options.samples_per_iter) + 1
        open_files = min(_MOST_OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        multiple = 1
        while archives // multiple + (multiple > 1) + 16 > open_files:
            multiple += 1
        if multiple > 1:
            archives = multiple * (archives // multiple + 1)
        self._put("num_frames", frames)
        self._put("num_archives", archives)
        self._put("frames_per_eg", options.frames_per_eg)
        self._put("egs_per_archive", frames // (self.sources.frames_per_eg * archives))
        self._put("left_context", options.left_context)
        self._put("right_context", options.right_context)
        _remove([f"{self.folder}/info/frame_subsampling_factor"])
        if options.frame_subsampling_factor != 1:
            self._put("frame_subsampling_factor", options.frame_subsampling_factor)
        self._put("left_context_initial", options.left_context_initial)
        self._put("right_context_final", options.right_context_final)
        return archives, multiple

    def _put(self, name: str, value: object, *, info: bool = True) -> None:
        write_text(f"{self.folder}/{'info/' if info else ''}{name}", f"{value}\n")

    def _copy_extractor_id(self) -> None:
        """By its extractor's id, decoding knows iVectors that do not fit (Kaldi's check_ivectors_compatible.sh)."""
        for name in ("final.ie.id", "final.ie"):
            path = f"{self.options.online_ivector_dir}/{name}"
            if os.path.isfile(path):
                identity = read_text(path).strip(BLANKS) if name == "final.ie.id" else _md5(path)
                self._put("final.ie.id", identity)
                return

    def _dimension(self, name: str, rspecifier: str) -> int:
        target = f"{self.folder}/info/{name}"
        self._run(name, ["feat-to-dim", rspecifier, target], f"Finding the dimension of {rspecifier}")
        return read_number(target)

    # The stages.

    def _copy_alignments(self) -> None:
        """Make ali.scp: the alignment directory's own, or of a copy of its archives."""
        source = alignment_rspecifier(self.sources.ali_dir)
        assert source is not None
        if source.startswith("scp:"):
            copy_atomically(f"{self.sources.ali_dir}/ali.scp", f"{self.folder}/ali.scp")
            return
        target = f"ark,scp:{self.folder}/ali.ark,{self.folder}/ali.scp"
        self._run("copy_alignments", ["copy-int-vector", source, target], "Copying alignments")

    def _make_diagnostic_sets(self) -> None:
        options, length = self.options, self.sources.frames_per_eg
        diagnostic = max(1, options.num_frames_diagnostic // length)
        subsets = [
            _Subset("valid", diagnostic, options.num_valid_frames_combine // length),
            _Subset("train_subset", diagnostic, max(1, options.num_train_frames_combine // length)),
        ]
        running = []
        for subset in subsets:
            command = [*self._get_egs_command(subset.name), f"ark:{self.folder}/{subset.name}_all.egs"]
            running.append(self._start(f"create_{subset.name}", command, f"Cutting the set {subset.name}"))
        for jobs in running:
            jobs.wait()
        running = []
        combine = []
        for subset in subsets:
            kind = subset.name.removesuffix("_subset")
            for use, count in (("diagnostic", subset.diagnostic), ("combine", subset.combine)):
                if count > 0:
                    target = f"{self.folder}/{kind}_{use}.egs"
                    combine += [target] if use == "combine" else []
                    source = f"ark:{self.folder}/{subset.name}_all.egs"
                    command = ["nnet-subset-egs", f"--srand={options.srand}", f"--n={count}", source, f"ark:{target}"]
                    running.append(self._start(f"create_{kind}_{use}", command, f"Choosing {kind}_{use}.egs"))
        for jobs in running:
            jobs.wait()
        with replacing(f"{self.folder}/combine.egs") as temporary, open(temporary, "wb") as out:
            for path in combine:
                with open(path, "rb") as part:
                    shutil.copyfileobj(part, out)
        for name in ("valid_diagnostic.egs", "train_diagnostic.egs", "combine.egs"):
            if os.path.getsize(f"{self.folder}/{name}") == 0:
                raise UserError(f"No examples came into {self.folder}/{name}; see the logs in {self.folder}/log.")
        _remove([*combine, *(f"{self.folder}/{subset.name}_all.egs" for subset in subsets)])

    def _cut(self, outputs: int, *, jobs: int) -> None:
        targets = [f"ark:{self.folder}/egs_orig.JOB.{number}.ark" for number in range(1, outputs + 1)]
        seed = f"$((JOB+{self.options.srand}))"
        command = pipeline(
            [*self._get_egs_command("JOB"), "ark:-"],
            ["nnet-copy-egs", "--random=true", f"--srand={seed}", "ark:-", *targets],
        )
        log_name = f"{self.folder}/log/get_egs.JOB.log"
        excused = had_nothing_to_do(self.split, [log_name])
        idle = self.engine.run(log_name, command, what="Cutting examples", jobs=jobs, excused=excused)
        for job in idle:
            for number in range(1, outputs + 1):
                write_text(f"{self.folder}/egs_orig.{job}.{number}.ark", "")
        for number in range(1, outputs + 1):
            self._require_some(f"{self.folder}/egs_orig.{{}}.{number}.ark", jobs, number, outputs)

    def _shuffle(self, inputs: int, multiple: int, *, jobs: int) -> None:
        parts = numbered_archives("cat", f"{self.folder}/egs_orig.", ".JOB.ark", jobs)
        shuffle = ["nnet-shuffle-egs", f"--srand=$((JOB+{self.options.srand}))", f"ark:{parts}"]
        if multiple == 1:
            command = [*shuffle, f"ark:{self.folder}/egs.JOB.ark"]
        else:
            targets = [f"ark:{self.folder}/egs.$(((JOB-1)*{multiple}+{n})).ark" for n in range(1, multiple + 1)]
            command = pipeline([*shuffle, "ark:-"], ["nnet-copy-egs", "ark:-", *targets])
        self._run("shuffle.JOB", command, "Shuffling examples", jobs=inputs)
        fewest = self._fewest_examples([f"{self.folder}/log/shuffle.{job}.log" for job in range(1, inputs + 1)])
        _remove([f"{self.folder}/info/{FEWEST_EXAMPLES}"])
        if fewest is not None:
            self._put(FEWEST_EXAMPLES, fewest // multiple)
        for number in range(1, inputs * multiple + 1):
            self._require_some(f"{self.folder}/egs.{number}.ark", 1, number, inputs * multiple)

    def _fewest_examples(self, logs: Iterable[str]) -> int | None:
        """How many examples the smallest of the shuffled files has, by the logs; None where one does not say."""
        found = [_SHUFFLED.findall(read_text(path)) for path in logs]
        return min(int(numbers[-1]) for numbers in found) if all(found) else None

    def _require_some(self, parts: str, jobs: int, archive: int, archives: int) -> None:
        """Refuse so many archives that one of them has got no example, which no job could train on."""
        paths = [parts.format(job) for job in range(1, jobs + 1)]
        if all(os.path.exists(path) and os.path.getsize(path) == 0 for path in paths):
            samples = self.options.samples_per_iter
            raise UserError(
                f"Archive {archive} of {archives} has got no example: --samples-per-iter={samples} makes too many "
                f"archives of these data. Give {max(10, 2 * samples)}, say (train_dnn.py: --trainer.samples-per-iter)."
            )

    def _get_egs_command(self, part: str) -> list[str]:
        """nnet-get-egs over one part of the data, without its output."""
        options = self.options
        command = [
            "nnet-get-egs",
            f"--num-pdfs={self.sources.num_pdfs}",
            f"--left-context={options.left_context}",
            f"--right-context={options.right_context}",
            f"--compress={str(options.compress).lower()}",
            f"--num-frames={options.frames_per_eg}",
        ]
        if options.frame_subsampling_factor != 1:
            command.append(f"--frame-subsampling-factor={options.frame_subsampling_factor}")
        if options.left_context_initial >= 0:
            command.append(f"--left-context-initial={options.left_context_initial}")
        if options.right_context_final >= 0:
            command.append(f"--right-context-final={options.right_context_final}")
        if options.online_ivector_dir:
            period = read_number(f"{options.online_ivector_dir}/ivector_period")
            command.append(f"--online-ivectors=scp:{options.online_ivector_dir}/ivector_online.scp")
            command.append(f"--online-ivector-period={period}")
        return [*command, self._features(part), self._posteriors(part)]

    def _features(self, part: str) -> str:
        source = f"scp:{self.split}/feats.{part}.scp"
        normalising = replace(self.sources.normalisation, online=self.options.online_cmvn).command(
            source,
            data_dir=self.sources.data,
            spk2utt=f"{self.split}/spk2utt.{part}",
            statistics=f"{self.folder}/global_cmvn.stats",
        )
        return "ark,s,cs:" + pipe(normalising) if normalising else source  # one program fewer where nothing is done

    def _posteriors(self, part: str) -> str:
        source = f"scp:{self.split}/ali.{part}.scp"
        if not has_transition_ids(self.sources.ali_dir):
            return "ark,s,cs:" + pipe(f"ali-to-post {source} ark:-")
        model = f"{self.sources.ali_dir}/final.mdl"
        return "ark,s,cs:" + pipe(f"ali-to-pdf {model} {source} ark:-", "ali-to-post ark:- ark:-")

    def _clean_up(self, archives: int) -> None:
        """Remove what only jobs needed, and archives that an earlier run with more of them has left."""
        remove_matching(self.folder, _ORIGINALS)
        for name in os.listdir(self.folder):
            match = _ARCHIVE.fullmatch(name)
            if match and int(match[1]) > archives:
                os.unlink(f"{self.folder}/{name}")
        _remove([f"{self.folder}/ali.ark", f"{self.folder}/ali.scp"])
        shutil.rmtree(self.split)

    def _run(self, name: str, command: list[str], what: str, *, jobs: int | None = None) -> None:
        self.engine.run(f"{self.folder}/log/{name}.log", command, what=what, jobs=jobs)

    def _start(self, name: str, command: list[str], what: str) -> Running:
        return self.engine.start(f"{self.folder}/log/{name}.log", command, what=what)


def _md5(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.md5(file.read(), usedforsecurity=False).hexdigest()


def _remove(paths: Iterable[str]) -> None:
    for path in paths:
        if os.path.exists(path):
            os.unlink(path)
