"""Alignment of a data directory in jobs: with a network's acoustic model, or evenly where there is no model yet.

Written in the alignment directory, as Kaldi's align scripts leave it: ``ali.N.gz`` (a transition-id for each frame),
``num_jobs``, ``final.mdl`` (the model that aligned), ``tree``, ``phones.txt``, ``num_pdfs``, ``cmvn_opts``; in the end
an empty ``.complete``.

Source: Kaldi egs/wsj/s5/steps/nnet3/align.sh; for even alignments, the beginning of steps/train_mono.sh.
"""

from __future__ import annotations

import gzip
import os
import re
import shlex
from collections.abc import Collection, Mapping

from nnet3py import log
from nnet3py.alignment.timed_phones import monophone_transition_model, monophone_tree_text
from nnet3py.directories import alignment_archives
from nnet3py.directories.belonging import require_labels, require_same_phones, require_whole_model
from nnet3py.directories.data import DataDirectory
from nnet3py.directories.transcripts import read_transcripts
from nnet3py.driver.data_used import DataUsed, had_nothing_to_do
from nnet3py.driver.directory_lock import locked
from nnet3py.driver.engine import Engine, check_paths, pipeline
from nnet3py.driver.experiment import copy_atomically, remove_unfinished, termination_interrupts
from nnet3py.driver.likelihood_jobs import LikelihoodJobs
from nnet3py.driver.options import AlignOptions, EqualAlignOptions
from nnet3py.driver.split_data import remove_parts, split_features, utterances_of
from nnet3py.errors import UserError
from nnet3py.nnet.transition_model import read_topology, write_transition_model_to
from nnet3py.tables.basic_types import write_header
from nnet3py.tables.streams import open_output
from nnet3py.tables.transducer import read_transducer_file
from nnet3py.temporary_files import replacing
from nnet3py.text.lines import fields, read_lines, read_text, write_text
from nnet3py.text.symbols import read_symbols

_COUNTS = re.compile(r"^LOG .*?(?:Done|done) (\d+)(?: utterances)?, errors on (\d+)", re.MULTILINE)
_LOG_LIKELIHOOD = re.compile(
    r"^LOG .*Overall log-likelihood per frame is ([-+.0-9a-z]+) over (\d+) frames", re.MULTILINE
)


def align_with_network(options: AlignOptions, data: str, lang: str, model_dir: str, folder: str) -> None:
    """Align ``data`` with ``<model_dir>/<iter>.mdl``; what ``steps/align.py`` does.

    Raises:
        UserError: an option or a file is wrong, or a job has failed.
    """
    source = f"{model_dir}/{options.iteration}.mdl"
    check_paths(options, {"<data-dir>": data, "<lang-dir>": lang, "<src-dir>": model_dir, "<ali-dir>": folder})
    files = [source, f"{model_dir}/tree", f"{data}/feats.scp", f"{lang}/phones.txt"]
    _need(*files, *([] if options.graphs else [f"{lang}/L.fst", f"{lang}/words.txt", f"{data}/text"]))
    require_same_phones(lang, model_dir, "Align with the model's own language.")
    likelihoods = LikelihoodJobs(options, data, source, folder)
    model = likelihoods.acoustic_model.transition_model
    require_whole_model(model_dir, source, model)
    transcripts = None if options.graphs else _transcripts(data, lang)
    os.makedirs(f"{folder}/log", exist_ok=True)
    with (
        termination_interrupts(),
        locked(folder, "align.py"),
        Engine(options.command, max_retries=options.max_retries, job_time_limit=options.job_time_limit) as engine,
    ):
        _start_over(folder)
        if transcripts is not None:
            _leave_out_without_transcript(likelihoods.used, transcripts)
        jobs = likelihoods.split()
        compiling = []
        graphs = options.graphs
        if transcripts is not None:
            _write_transcripts(folder, jobs, transcripts)
            compiling.append(_compiling(lang, f"{model_dir}/tree", source, folder))
            graphs = "ark,o:-"
        command = [
            "align-compiled-mapped",
            *shlex.split(options.scale_opts),
            source,
            graphs,
            likelihoods.rspecifier(),
            f"ark:| gzip -nc > {alignment_archives.part(folder, 'JOB')}",
        ]
        log_name = f"{folder}/log/align.JOB.log"
        excused = had_nothing_to_do(folder, [log_name])
        idle = engine.run(log_name, pipeline(*compiling, command), what="Aligning", jobs=jobs, excused=excused)
        for name in alignment_archives.FROM_MODEL:
            _copy_or_remove(f"{model_dir}/{name}", f"{folder}/{name}")
        if options.cmvn_opts is not None:
            write_text(f"{folder}/cmvn_opts", f"{options.cmvn_opts}\n")
        copy_atomically(source, f"{folder}/final.mdl")
        logs = [log_name.replace("JOB", str(job)) for job in range(1, jobs + 1)]
        _report(folder, logs, likelihoods.used, data)
        _finish(folder, lang, jobs, model.num_pdfs, idle)


def align_equally(options: EqualAlignOptions, data: str, lang: str, folder: str) -> None:
    """Align ``data`` evenly with a monophone model of the language's topology; what ``steps/align_equal.py`` does.

    Raises:
        UserError: an option or a file is wrong, or a job has failed.
    """
    check_paths(options, {"<data-dir>": data, "<lang-dir>": lang, "<ali-dir>": folder})
    _need(*(f"{lang}/{name}" for name in ("L.fst", "words.txt", "phones.txt", "topo")), f"{data}/text")
    topology = read_topology(f"{lang}/topo")
    model = monophone_transition_model(topology)
    directory = DataDirectory(data)
    features = directory.features()
    used = DataUsed(list(features), directory.lengths())
    transcripts = _transcripts(data, lang)
    os.makedirs(f"{folder}/log", exist_ok=True)
    with (
        termination_interrupts(),
        locked(folder, "align_equal.py"),
        Engine(options.command, max_retries=options.max_retries, job_time_limit=options.job_time_limit) as engine,
    ):
        _start_over(folder)
        used.leave_out_empty()
        _leave_out_without_transcript(used, transcripts)
        with open_output(f"{folder}/final.mdl") as sink:
            write_header(sink, True)
            write_transition_model_to(sink, model, True)
        write_text(f"{folder}/tree", monophone_tree_text(topology))
        jobs = split_features(used.usable(features, data), folder, options.nj)
        _write_transcripts(folder, jobs, transcripts)
        command = [
            "align-equal-compiled",
            f"--srand={options.srand}",
            "ark,o:-",
            f"scp:{folder}/feats.JOB.scp",
            f"ark:| gzip -nc > {alignment_archives.part(folder, 'JOB')}",
        ]
        log_name = f"{folder}/log/align_equal.JOB.log"
        compiling = _compiling(lang, f"{folder}/tree", f"{folder}/final.mdl", folder)
        excused = had_nothing_to_do(folder, [log_name])
        idle = engine.run(log_name, pipeline(compiling, command), what="Aligning evenly", jobs=jobs, excused=excused)
        for name in alignment_archives.FROM_MODEL[1:]:
            _copy_or_remove("", f"{folder}/{name}")
        _report(folder, [log_name.replace("JOB", str(job)) for job in range(1, jobs + 1)], used, data)
        _finish(folder, lang, jobs, model.num_pdfs, idle)


def _need(*paths: str) -> None:
    for path in paths:
        if not os.path.isfile(path):
            raise UserError(f"There is no {path}, which alignment needs.")


def _copy_or_remove(source: str, target: str) -> None:
    """Copy what is there; what an earlier run has left of what is not, goes."""
    if source and os.path.isfile(source):
        copy_atomically(source, target)
    elif os.path.exists(target):
        os.unlink(target)


def _transcripts(data: str, lang: str) -> dict[str, str]:
    """Utterance -> its transcript as numbers of words.

    Raises:
        UserError: a word is not in the language's list, and nothing stands for such words.
    """
    _require_symbols(lang)
    numbers = read_symbols(f"{lang}/words.txt")
    unknown = _unknown_word(lang, numbers)
    found = {}
    for utterance, words in read_transcripts(f"{data}/text").items():
        for word in words:
            if word not in numbers and unknown is None:
                raise UserError(
                    f"Utterance {utterance}: the word {word!r} is not in {lang}/words.txt: add a pronunciation and "
                    "prepare the language directory again."
                )
        found[utterance] = " ".join(str(numbers.get(word, unknown)) for word in words)
    return found


def _require_symbols(lang: str) -> None:
    """Refuse a lexicon with labels that the language's phones.txt and words.txt do not have."""
    path = f"{lang}/L.fst"
    lexicon = read_transducer_file(path)
    require_labels(lexicon.ilabels, path, f"{lang}/phones.txt")
    require_labels(lexicon.olabels, path, f"{lang}/words.txt")


def _leave_out_without_transcript(used: DataUsed, transcripts: Mapping[str, str]) -> None:
    used.leave_out((each for each in used.utterances if each not in transcripts), "no transcript")


def _unknown_word(lang: str, numbers: dict[str, int]) -> int | None:
    """The number of the word that stands for words not in the list, where the language has one (Kaldi's oov.txt)."""
    path = f"{lang}/oov.txt"
    if not os.path.isfile(path):
        return None
    words = [word for line in read_lines(path) for word in fields(line)]
    if len(words) != 1 or words[0] not in numbers:
        raise UserError(f"{path}: expected one word of words.txt, found {' '.join(words)!r}.")
    return numbers[words[0]]


def _write_transcripts(folder: str, jobs: int, transcripts: Mapping[str, str]) -> None:
    """Write ``tra.N``, the transcripts of the utterances in ``feats.N.scp``."""
    for job in range(1, jobs + 1):
        utterances = utterances_of(folder, job)
        write_text(f"{folder}/tra.{job}", "".join(f"{each} {transcripts[each]}\n" for each in utterances))


def _compiling(lang: str, tree: str, model: str, folder: str) -> list[str]:
    """The command that compiles a job's graphs to its standard output."""
    disambiguation = f"{lang}/phones/disambig.int"
    options = [f"--read-disambig-syms={disambiguation}"] if os.path.isfile(disambiguation) else []
    return ["compile-train-graphs", *options, tree, model, f"{lang}/L.fst", f"ark,t:{folder}/tra.JOB", "ark:-"]


def _start_over(folder: str) -> None:
    """Remove what an earlier alignment left."""
    remove_unfinished(folder, "info")
    remove_parts(folder)
    alignment_archives.start_over(folder)


def _finish(folder: str, lang: str, jobs: int, num_pdfs: int, idle: Collection[int]) -> None:
    """Write what is said of the whole; ``idle`` jobs, which had nothing to align, get an archive without entries."""
    for job in idle:
        with replacing(f"{folder}/ali.{job}.gz") as temporary, open(temporary, "wb") as archive:
            archive.write(gzip.compress(b"", mtime=0))
    remove_parts(folder)
    copy_atomically(f"{lang}/phones.txt", f"{folder}/phones.txt")
    write_text(f"{folder}/num_pdfs", f"{num_pdfs}\n")
    alignment_archives.publish(folder, jobs)
    write_text(f"{folder}/.complete", "")


def _report(folder: str, logs: list[str], used: DataUsed, data: str) -> None:
    done = frames = 0
    total = 0.0
    for path in logs:
        text = read_text(path)
        done += sum(int(count) for count, _ in _COUNTS.findall(text)[-1:])
        for mean, count in _LOG_LIKELIHOOD.findall(text)[-1:]:
            frames += int(count)
            total += float(mean) * int(count)
    used.compare_number(done, logs)
    likelihood = f", log-likelihood {total / frames:.4f} a frame" if frames else ""
    log.log(f"Aligned {done} of {len(used.utterances)} utterances{likelihood}. Wrote {folder}.")
    used.report(folder)
    used.require_some(data)
