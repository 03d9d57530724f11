"""Make training examples of a data directory and its alignment, in archives of shuffled examples.

Some utterances are held out for validation, as many of the rest serve for diagnostics on the training data. Jobs cut
the rest into examples and deal them out at random; a second round puts each archive's parts together and shuffles.

Written in the directory of examples: ``egs.1.ark ...``, ``valid_diagnostic.egs``, ``train_diagnostic.egs``,
``combine.egs``, ``info/{feat_dim, ivector_dim, num_frames, num_archives, frames_per_eg, egs_per_archive, left_context,
right_context, ...}``, ``cmvn_opts``, ``valid_uttlist``, ``train_subset_uttlist``; with ``--online-cmvn`` also
``global_cmvn.stats`` and ``online_cmvn``, an empty file that tells decoding.

Source: Kaldi egs/wsj/s5/steps/nnet3/get_egs.sh.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import resource
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nnet3py import log
from nnet3py.driver.alignments import alignment_rspecifier, has_transition_ids
from nnet3py.driver.directory_lock import locked
from nnet3py.driver.engine import Engine, Running, pipe, pipeline, require_plain_path
from nnet3py.driver.experiment import copy_atomically, remove_unfinished, termination_interrupts
from nnet3py.driver.many_files import numbered_archives
from nnet3py.driver.options import EgsOptions
from nnet3py.errors import UserError
from nnet3py.features.speakers import parts_by_speaker, spk2utt_text
from nnet3py.temporary_files import replacing
from nnet3py.text.lines import read_lines, read_number, read_table, write_text

_MOST_OPEN_FILES = 512
_USUAL_SUBSET = 300


def make_examples(options: EgsOptions, data: str, ali_dir: str, folder: str) -> None:
    """Make the examples of ``data`` and ``ali_dir`` in ``folder``; ``folder/.complete`` appears last.

    Raises:
        UserError: an option or a file is wrong, or a job has failed.
    """
    for name, path in (("<data>", data), ("<ali-dir>", ali_dir), ("<egs-dir>", folder)):
        require_plain_path(name, path)
    for path in (data, ali_dir):
        if not os.path.isdir(path):
            raise UserError(f"{path} is not a directory.")
    os.makedirs(f"{folder}/log", exist_ok=True)
    os.makedirs(f"{folder}/info", exist_ok=True)
    with (
        termination_interrupts(),
        locked(folder, "get_egs.py"),
        Engine(options.command, max_retries=options.max_retries, job_time_limit=options.job_time_limit) as engine,
    ):
        remove_unfinished(folder, "info", "split")
        _Maker(options, engine, data, ali_dir, folder).run()


@dataclass(frozen=True)
class _Subset:
    """A diagnostic set: its name, and how many examples of it serve for what."""

    name: str
    diagnostic: int
    combine: int


class _Maker:
    def __init__(self, options: EgsOptions, engine: Engine, data: str, ali_dir: str, folder: str) -> None:
        self.options = options
        self.engine = engine
        self.data = data
        self.ali_dir = ali_dir
        self.folder = folder
        self.split = f"{folder}/split"
        self.frames_per_eg = _principal_length(options.frames_per_eg)

    def run(self) -> None:
        stage = self.options.stage
        if self.options.online_cmvn and self._normalises_nothing():
            raise UserError(
                "--online-cmvn needs options that normalise: give --cmvn-opts=--norm-means=true, say "
                "(--feat.cmvn-opts of train_dnn.py)."
            )
        if os.path.exists(f"{self.folder}/.complete"):
            os.unlink(f"{self.folder}/.complete")
        os.makedirs(self.split, exist_ok=True)
        features = read_table(f"{self.data}/feats.scp")
        if stage <= 2:
            self._copy_alignments()
        alignments = read_table(f"{self.folder}/ali.scp")
        valid, subset, train = self._choose(features, alignments)
        jobs = self._write_lists(features, alignments, valid, subset, train)
        if self.options.online_cmvn:
            self._sum_statistics()
        archives, multiple = self._describe(features)
        num_pdfs = self._num_pdfs()
        if stage <= 3:
            self._make_diagnostic_sets(num_pdfs)
        if stage <= 4:
            self._cut(archives // multiple, num_pdfs, jobs=jobs)
        if stage <= 5:
            self._shuffle(archives // multiple, multiple, jobs=jobs)
        self._clean_up()
        write_text(f"{self.folder}/.complete", "")
        log.log(f"Made {archives} archives of examples in {self.folder}.")

    # Which utterances are for what.

    def _choose(self, features: dict[str, str], alignments: dict[str, str]) -> tuple[list[str], list[str], list[str]]:
        """Utterances for validation, for diagnostics (part of the training data), and for training."""
        usable = [utterance for utterance in features if utterance in alignments]
        if not usable:
            raise UserError(f"No utterance of {self.data}/feats.scp has an alignment in {self.ali_dir}.")
        if len(usable) < len(features):
            log.warning(f"{len(features) - len(usable)} of {len(features)} utterances have no alignment: left out.")
        if self.options.valid_uttlist:
            valid = self._listed(set(usable))
            count = len(valid)
        else:
            count = self._subset_size(len(usable))
            valid = self._with_copies(drawn(usable, count, self.options.srand), usable)
        held_out = set(valid)
        train = [utterance for utterance in usable if utterance not in held_out]
        if not train:
            raise UserError(f"Nothing is left to train on: all {len(usable)} utterances are for validation.")
        return sorted(valid), sorted(drawn(train, count, self.options.srand + 1)), sorted(train)

    def _subset_size(self, utterances: int) -> int:
        wanted = self.options.num_utts_subset
        if not wanted:
            return max(1, min(_USUAL_SUBSET, utterances // 10))
        if utterances <= 4 * wanted:
            raise UserError(
                f"{utterances} utterances are too few to set {wanted} aside: --num-utts-subset must be less than a "
                "quarter of them."
            )
        return wanted

    def _listed(self, usable: set[str]) -> list[str]:
        path = self.options.valid_uttlist
        listed = [line.split()[0] for line in read_lines(path) if line.strip()]
        found = [utterance for utterance in dict.fromkeys(listed) if utterance in usable]
        if not found:
            raise UserError(f"{path}: none of its {len(listed)} utterances has features and an alignment.")
        return found

    def _with_copies(self, chosen: list[str], usable: list[str]) -> list[str]:
        """With ``utt2uniq`` (augmented data): also every other version of the chosen utterances."""
        path = f"{self.data}/utt2uniq"
        if not os.path.isfile(path):
            return chosen
        original = read_table(path)
        wanted = {original.get(utterance, utterance) for utterance in chosen}
        return [utterance for utterance in usable if original.get(utterance, utterance) in wanted]

    def _write_lists(
        self,
        features: dict[str, str],
        alignments: dict[str, str],
        valid: list[str],
        subset: list[str],
        train: list[str],
    ) -> int:
        """Write what the jobs read; returns how many jobs there are."""
        write_text(f"{self.folder}/valid_uttlist", "".join(f"{utterance}\n" for utterance in valid))
        write_text(f"{self.folder}/train_subset_uttlist", "".join(f"{utterance}\n" for utterance in subset))
        parts: dict[str, Sequence[str]] = {"valid": valid, "train_subset": subset}
        jobs = min(self.options.nj, len(train))
        speaker_of = self._speakers([*valid, *train]) if self.options.online_cmvn else {}
        if speaker_of:
            of_jobs = parts_by_speaker(train, jobs, speaker_of)
        else:
            of_jobs = [train[job * len(train) // jobs : (job + 1) * len(train) // jobs] for job in range(jobs)]
        parts |= {str(number): part for number, part in enumerate(of_jobs, 1)}
        for name, utterances in parts.items():
            for kind, table in (("feats", features), ("ali", alignments)):
                lines = "".join(f"{utterance} {table[utterance]}\n" for utterance in utterances)
                write_text(f"{self.split}/{kind}.{name}.scp", lines)
            if speaker_of:
                write_text(f"{self.split}/spk2utt.{name}", spk2utt_text(utterances, speaker_of))
        return len(of_jobs)

    def _speakers(self, utterances: list[str]) -> dict[str, str]:
        path = f"{self.data}/utt2spk"
        speaker_of = read_table(path)
        for utterance in utterances:
            if utterance not in speaker_of:
                raise UserError(f"{path} has no speaker for {utterance}, which --online-cmvn needs.")
        return speaker_of

    def _sum_statistics(self) -> None:
        """The global statistics that normalisation begins with; decoding needs them as well."""
        source = f"{self.data}/cmvn.scp"
        if not os.path.isfile(source):
            raise UserError(f"Expected {source} for --online-cmvn, found none.")
        target = f"{self.folder}/global_cmvn.stats"
        self._run("global_cmvn", ["matrix-sum", "--binary=false", f"scp:{source}", target], "Adding up statistics")

    # What info/ says.

    def _describe(self, features: dict[str, str]) -> tuple[int, int]:
        """Write info/; returns the number of archives, and how many of them one file of the first round becomes."""
        options = self.options
        self._put("cmvn_opts", options.cmvn_opts, info=False)
        _remove([f"{self.folder}/online_cmvn"])
        if options.online_cmvn:
            write_text(f"{self.folder}/online_cmvn", "")
        self._put("feat_dim", self._dimension("feat_dim", f"scp:{self.split}/feats.1.scp"))
        dim = 0
        if options.online_ivector_dir:
            dim = self._dimension("ivector_dim", f"scp:{options.online_ivector_dir}/ivector_online.scp")
            self._copy_extractor_id()
        self._put("ivector_dim", dim)
        frames = self._count_frames(features)
        archives = frames // (self.frames_per_eg * options.samples_per_iter) + 1
        open_files = min(_MOST_OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        multiple = 1
        while archives // multiple + (multiple > 1) + 16 > open_files:
            multiple += 1
        if multiple > 1:
            archives = multiple * (archives // multiple + 1)
        self._put("num_frames", frames)
        self._put("num_archives", archives)
        self._put("frames_per_eg", options.frames_per_eg)
        self._put("egs_per_archive", frames // (self.frames_per_eg * archives))
        self._put("left_context", options.left_context)
        self._put("right_context", options.right_context)
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
                identity = "\n".join(read_lines(path)) if name == "final.ie.id" else _md5(path)
                self._put("final.ie.id", identity)
                return

    def _dimension(self, name: str, rspecifier: str) -> int:
        target = f"{self.folder}/info/{name}"
        self._run(name, ["feat-to-dim", rspecifier, target], f"Finding the dimension of {rspecifier}")
        return read_number(target)

    def _count_frames(self, features: dict[str, str]) -> int:
        path = f"{self.data}/utt2num_frames"
        if os.path.isfile(path):
            lengths = read_table(path)
            if all(utterance in lengths and lengths[utterance].isdigit() for utterance in features):
                return sum(int(lengths[utterance]) for utterance in features)
        target = f"{self.folder}/info/num_frames"
        self._run("num_frames", ["feat-to-len", f"scp:{self.data}/feats.scp", ">", target], "Counting frames")
        return read_number(target)

    def _num_pdfs(self) -> int:
        if self.options.num_pdfs:
            return self.options.num_pdfs
        path = f"{self.ali_dir}/num_pdfs"
        if os.path.isfile(path):
            return read_number(path)
        if not has_transition_ids(self.ali_dir):
            raise UserError(f"How many classes are there? Write the number into {path}, or give --num-pdfs.")
        self._run("num_pdfs", ["hmm-info", f"{self.ali_dir}/final.mdl"], "Finding the number of pdfs")
        found = re.search(r"^number of pdfs (\d+)", "\n".join(read_lines(f"{self.folder}/log/num_pdfs.log")), re.M)
        if not found:
            raise UserError(f"hmm-info does not say the number of pdfs; see {self.folder}/log/num_pdfs.log.")
        return int(found[1])

    # The stages.

    def _copy_alignments(self) -> None:
        """Make ali.scp: the alignment directory's own, or of a copy of its archives."""
        if os.path.isfile(f"{self.ali_dir}/ali.scp"):
            copy_atomically(f"{self.ali_dir}/ali.scp", f"{self.folder}/ali.scp")
            return
        source = alignment_rspecifier(self.ali_dir)
        if source is None:
            raise UserError(
                f"Expected alignments in {self.ali_dir}: ali.scp, ali.*.gz, ali.*.ark or ali.ark; found none."
            )
        target = f"ark,scp:{self.folder}/ali.ark,{self.folder}/ali.scp"
        self._run("copy_alignments", ["copy-int-vector", source, target], "Copying alignments")

    def _make_diagnostic_sets(self, num_pdfs: int) -> None:
        options, length = self.options, self.frames_per_eg
        subsets = [
            _Subset("valid", options.num_frames_diagnostic // length, options.num_valid_frames_combine // length),
            _Subset(
                "train_subset", options.num_frames_diagnostic // length, options.num_train_frames_combine // length
            ),
        ]
        running = []
        for subset in subsets:
            command = [*self._get_egs_command(subset.name, num_pdfs), f"ark:{self.folder}/{subset.name}_all.egs"]
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

    def _cut(self, outputs: int, num_pdfs: int, *, jobs: int) -> None:
        targets = [f"ark:{self.folder}/egs_orig.JOB.{number}.ark" for number in range(1, outputs + 1)]
        seed = f"$((JOB+{self.options.srand}))"
        command = pipeline(
            [*self._get_egs_command("JOB", num_pdfs), "ark:-"],
            ["nnet-copy-egs", "--random=true", f"--srand={seed}", "ark:-", *targets],
        )
        self._run("get_egs.JOB", command, "Cutting examples", jobs=jobs)

    def _shuffle(self, inputs: int, multiple: int, *, jobs: int) -> None:
        parts = numbered_archives("cat", f"{self.folder}/egs_orig.", ".JOB.ark", jobs)
        shuffle = ["nnet-shuffle-egs", f"--srand=$((JOB+{self.options.srand}))", f"ark:{parts}"]
        if multiple == 1:
            command = [*shuffle, f"ark:{self.folder}/egs.JOB.ark"]
        else:
            targets = [f"ark:{self.folder}/egs.$(((JOB-1)*{multiple}+{n})).ark" for n in range(1, multiple + 1)]
            command = pipeline([*shuffle, "ark:-"], ["nnet-copy-egs", "ark:-", *targets])
        self._run("shuffle.JOB", command, "Shuffling examples", jobs=inputs)

    def _get_egs_command(self, part: str, num_pdfs: int) -> list[str]:
        """nnet-get-egs over one part of the data, without its output."""
        options = self.options
        command = [
            "nnet-get-egs",
            f"--num-pdfs={num_pdfs}",
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
        if self.options.online_cmvn:
            speakers = f"--spk2utt=ark:{self.split}/spk2utt.{part} {self.folder}/global_cmvn.stats"
            return "ark,s,cs:" + pipe(f"apply-cmvn-online {self.options.cmvn_opts} {speakers} {source} ark:-")
        if self._normalises_nothing():
            return source  # nothing to apply: one program fewer a job
        for name in ("utt2spk", "cmvn.scp"):
            if not os.path.isfile(f"{self.data}/{name}"):
                raise UserError(f"Expected {self.data}/{name} for --cmvn-opts={self.options.cmvn_opts!r}, found none.")
        speakers = f"--utt2spk=ark:{self.data}/utt2spk scp:{self.data}/cmvn.scp"
        return "ark,s,cs:" + pipe(f"apply-cmvn {self.options.cmvn_opts} {speakers} {source} ark:-")

    def _normalises_nothing(self) -> bool:
        return bool(re.fullmatch(r"\s*--norm-means=false\s+--norm-vars=false\s*", self.options.cmvn_opts))

    def _posteriors(self, part: str) -> str:
        source = f"scp:{self.split}/ali.{part}.scp"
        if not has_transition_ids(self.ali_dir):
            return "ark,s,cs:" + pipe(f"ali-to-post {source} ark:-")
        model = f"{self.ali_dir}/final.mdl"
        return "ark,s,cs:" + pipe(f"ali-to-pdf {model} {source} ark:-", "ali-to-post ark:- ark:-")

    def _clean_up(self) -> None:
        _remove(glob.glob(f"{self.folder}/egs_orig.*.ark"))
        _remove([f"{self.folder}/ali.ark", f"{self.folder}/ali.scp"])
        shutil.rmtree(self.split)

    def _run(self, name: str, command: list[str], what: str, *, jobs: int | None = None) -> None:
        self.engine.run(f"{self.folder}/log/{name}.log", command, what=what, jobs=jobs)

    def _start(self, name: str, command: list[str], what: str) -> Running:
        return self.engine.start(f"{self.folder}/log/{name}.log", command, what=what)


def drawn(utterances: Iterable[str], count: int, seed: int) -> list[str]:
    """So many utterances chosen by chance, the same for the same seed whatever their order and the Python version."""

    def chance(utterance: str) -> bytes:
        return hashlib.sha256(f"{seed} {utterance}".encode("utf-8", "surrogateescape")).digest()

    return sorted(utterances, key=chance)[:count]


def _principal_length(text: str) -> int:
    """The first of the lengths of examples, the one that most have."""
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise UserError(f"Expected --frames-per-eg like 8 or 8,4, found {text!r}.")
    return int(text.split(",")[0])


def _md5(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.md5(file.read(), usedforsecurity=False).hexdigest()


def _remove(paths: Iterable[str]) -> None:
    for path in paths:
        if os.path.exists(path):
            os.unlink(path)
