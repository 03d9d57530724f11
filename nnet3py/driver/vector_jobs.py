"""A directory of per-utterance vectors in the form that Kaldi's scripts have iVectors in.

Files::

    ivector_online.scp ivector_online.N.ark    a matrix for each utterance, a row every ivector_period frames
    ivector_period
    final.ie.id                                tells vectors that were made otherwise: decoding refuses them
    global.stats                               the statistics that vectors are relative to, of the training data
    utterance_vectors.conf                     the options of compute-utterance-vectors
    per_speaker                                empty; there if a speaker's frames count together

``steps/get_egs.py``, ``steps/decode.py`` and ``steps/align.py`` read it as ``--online-ivector-dir``.

Source of the layout: Kaldi egs/wsj/s5/steps/online/nnet2/extract_ivectors_online.sh.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import fields

from nnet3py import log
from nnet3py.directories.belonging import require_dimension
from nnet3py.directories.data import DataDirectory
from nnet3py.directories.dimensions import first_columns, matrix_columns
from nnet3py.driver.data_used import DataUsed, had_nothing_to_do
from nnet3py.driver.directory_lock import locked
from nnet3py.driver.engine import Engine, check_paths
from nnet3py.driver.experiment import copy_atomically, digest, remove_unfinished, termination_interrupts
from nnet3py.driver.options import VectorOptions, option_name
from nnet3py.driver.split_data import remove_matching, remove_parts, split_features
from nnet3py.errors import UserError
from nnet3py.text.lines import encode, key_and_rest, read_lines, write_text

_STATISTICS, _SETTINGS, _PER_SPEAKER = "global.stats", "utterance_vectors.conf", "per_speaker"
_OF_THE_VECTORS = ("ivector_period", "online", "per_speaker", "prior_count", "deviations")

_PARTS = re.compile(r"ivector_online\.\d+\.(?:ark|scp)")


def make_vectors(options: VectorOptions, data: str, folder: str) -> None:
    """Make the vectors of ``data`` in ``folder``; what ``steps/compute_utterance_vectors.py`` does.

    Raises:
        UserError: an option or a file is wrong, or a job has failed.
    """
    check_paths(options, {"<data-dir>": data, "<vector-dir>": folder})
    if options.like:
        _check_like(options, folder)
    directory = DataDirectory(data)
    features = directory.features()
    if options.like:
        script, statistics = f"{data}/feats.scp", f"{options.like}/{_STATISTICS}"
        dim = matrix_columns(statistics) - 1
        require_dimension(first_columns(script), script, dim, f"{statistics} is of features")
    used = DataUsed(list(features), directory.lengths())
    used.leave_out_empty()
    features = used.usable(features, data)
    os.makedirs(f"{folder}/log", exist_ok=True)
    name = "compute_utterance_vectors.py"
    with (
        termination_interrupts(),
        locked(folder, name),
        Engine(options.command, max_retries=options.max_retries, job_time_limit=options.job_time_limit) as engine,
    ):
        _start_over(folder)
        speaker_of = None
        if options.like:
            for each in (_STATISTICS, _SETTINGS):
                copy_atomically(f"{options.like}/{each}", f"{folder}/{each}")
            per_speaker = os.path.exists(f"{options.like}/{_PER_SPEAKER}")
        else:
            per_speaker = options.per_speaker
            command = ["compute-cmvn-stats", f"scp:{data}/feats.scp", f"{folder}/{_STATISTICS}"]
            engine.run(f"{folder}/log/global_stats.log", command, what="Computing statistics of all data")
            write_text(f"{folder}/{_SETTINGS}", _settings(options))
        if per_speaker:
            write_text(f"{folder}/{_PER_SPEAKER}", "")
            speaker_of = directory.speakers(features, "counting a speaker's frames together")
            features = dict(sorted(features.items(), key=lambda pair: encode(speaker_of[pair[0]])))
        jobs = split_features(features, folder, options.nj, speaker_of)
        log_name = f"{folder}/log/vectors.JOB.log"
        idle = engine.run(
            log_name,
            [
                "compute-utterance-vectors",
                f"--config={folder}/{_SETTINGS}",
                f"--global-stats={folder}/{_STATISTICS}",
                *([f"--spk2utt=ark:{folder}/spk2utt.JOB"] if per_speaker else []),
                f"scp:{folder}/feats.JOB.scp",
                f"ark,scp:{folder}/ivector_online.JOB.ark,{folder}/ivector_online.JOB.scp",
            ],
            what="Computing vectors",
            jobs=jobs,
            excused=had_nothing_to_do(folder, [log_name]),
        )
        done = [job for job in range(1, jobs + 1) if job not in idle]
        made = _gather(folder, [f"{folder}/ivector_online.{job}.scp" for job in done])
        used.compare(made, [f"{folder}/log/vectors.{job}.log" for job in range(1, jobs + 1)])
        used.report(folder)
        used.require_some(data)
    log.log(f"Made vectors of {len(made)} of {len(used.utterances)} utterances in {folder}.")


def _check_like(options: VectorOptions, folder: str) -> None:
    for name in (_STATISTICS, _SETTINGS):
        if not os.path.isfile(f"{options.like}/{name}"):
            raise UserError(f"There is no {options.like}/{name}: --like names a directory that this program made.")
    if os.path.realpath(options.like) == os.path.realpath(folder):
        raise UserError(f"--like={options.like} is the directory to write: name that of the training data's vectors.")
    for declared in fields(options):
        if declared.name in _OF_THE_VECTORS and getattr(options, declared.name) != declared.default:
            raise UserError(
                f"{option_name(VectorOptions, declared.name)} cannot be given with --like, whose directory has it."
            )


def _settings(options: VectorOptions) -> str:
    """The options of compute-utterance-vectors, a line each."""
    values = {
        "ivector-period": options.ivector_period,
        "online": str(options.online).lower(),
        "prior-count": f"{options.prior_count:g}",
        "deviations": str(options.deviations).lower(),
    }
    return "".join(f"--{name}={value}\n" for name, value in values.items())


def _start_over(folder: str) -> None:
    """Remove what an earlier run left; ``ivector_online.scp``, the last file to appear, first."""
    remove_unfinished(folder, "info")
    for name in ("ivector_online.scp", _PER_SPEAKER, "final.ie.id"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{folder}/{name}")
    remove_matching(folder, _PARTS)
    remove_parts(folder)


def _gather(folder: str, scripts: Sequence[str]) -> dict[str, str]:
    """Join the jobs' scripts; the utterances that have vectors, and where these are."""
    vectors = dict(key_and_rest(line) for path in scripts for line in read_lines(path))
    settings = read_lines(f"{folder}/{_SETTINGS}")
    period = next(line.partition("=")[2] for line in settings if line.startswith("--ivector-period="))
    write_text(f"{folder}/ivector_period", f"{period}\n")
    statistics, made_by = (digest(f"{folder}/{name}")[:16] for name in (_STATISTICS, _SETTINGS))
    kind = "per-speaker" if os.path.exists(f"{folder}/{_PER_SPEAKER}") else "per-utterance"
    write_text(f"{folder}/final.ie.id", f"{statistics}-{made_by}-{kind}\n")
    remove_parts(folder)
    for path in scripts:
        os.unlink(path)
    write_text(f"{folder}/ivector_online.scp", "".join(f"{key} {place}\n" for key, place in vectors.items()))
    return vectors
