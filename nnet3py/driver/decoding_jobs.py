"""Decoding of a data directory in jobs, each of them a chain of programs run through ``--cmd``.

Source: Kaldi egs/wsj/s5/steps/nnet3/decode.sh.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from nnet3py.directories.belonging import require_graph_of_model
from nnet3py.directories.transcripts import read_transcripts
from nnet3py.driver.data_used import had_nothing_to_do
from nnet3py.driver.directory_lock import locked
from nnet3py.driver.engine import Engine, check_paths, require_plain_path
from nnet3py.driver.experiment import remove_unfinished, termination_interrupts
from nnet3py.driver.likelihood_jobs import LikelihoodJobs
from nnet3py.driver.options import DecodeOptions
from nnet3py.driver.split_data import remove_matching, remove_parts
from nnet3py.errors import UserError, reason
from nnet3py.text.lines import read_text, write_text

_RESULTS = re.compile(r"(?:hyp|wer)_.*|best_acwt|loglikes\.\d+\.ark")
_LIKELIHOODS = re.compile(r"loglikes\.\d+\.ark")


def scales(text: str) -> list[str]:
    """Acoustic scales given as ``0.1,0.2``, as they were written.

    Raises:
        UserError: one is not a number above 0, or comes twice.
    """
    found = text.split(",")
    for word in found:
        try:
            value = float(word)
        except ValueError:
            value = 0.0
        if not 0.0 < value < float("inf") or word != word.strip():
            raise UserError(f"--acwt: expected numbers above 0 with commas between them, found {word!r} in {text!r}.")
    if len(set(map(float, found))) < len(found):
        raise UserError(f"--acwt: a number comes twice in {text!r}.")
    return found


def decode_data_dir(options: DecodeOptions, graph_dir: str, data_dir: str, decode_dir: str) -> int:
    """Decode a data directory; what ``steps/decode.py`` does.

    Returns:
        How many utterances have a hypothesis (for the first acoustic scale).

    Raises:
        UserError: an input is missing, or does not belong to the others, or a job failed.
    """
    check_paths(options, {"<graph-dir>": graph_dir, "<data-dir>": data_dir, "<decode-dir>": decode_dir})
    model_dir = os.path.dirname(os.path.realpath(decode_dir))
    model = require_plain_path("The model", os.path.relpath(f"{model_dir}/{options.iteration}.mdl"))
    acoustic_scales = scales(options.acwt)
    for name in ("HCLG.fst", "words.txt"):
        _need(f"{graph_dir}/{name}", "make the graph with steps/make_graph.py")
    _need(model, "train the model, or name another with --iter")
    likelihoods = LikelihoodJobs(options, data_dir, model, decode_dir, use_priors=options.use_priors)
    transitions = likelihoods.acoustic_model.transition_model
    require_graph_of_model(graph_dir, likelihoods.model_dir, model, transitions)
    _make(decode_dir)
    with (
        termination_interrupts(),
        locked(decode_dir, "decode.py"),
        Engine(options.command, max_retries=options.max_retries, job_time_limit=options.job_time_limit) as engine,
    ):
        _start_over(decode_dir)
        num_jobs = likelihoods.split()
        jobs = list(range(1, num_jobs + 1))
        store = len(acoustic_scales) > 1
        source = likelihoods.rspecifier()
        if store:  # computed once for all scales
            source = f"ark:{decode_dir}/loglikes.JOB.ark"
            log = f"{decode_dir}/log/compute.JOB.log"
            command = [*likelihoods.command(), source]
            idle = engine.run(
                log, command, what="Computing likelihoods", jobs=num_jobs, excused=had_nothing_to_do(decode_dir, [log])
            )
            jobs = [job for job in jobs if job not in idle]
        done: dict[str, list[int]] = {}
        for scale in acoustic_scales:
            command = [
                "decode-faster-mapped",
                f"--acoustic-scale={scale}",
                f"--beam={options.beam:g}",
                f"--max-active={options.max_active}",
                f"--min-active={options.min_active}",
                f"--word-symbol-table={graph_dir}/words.txt",
                model,
                f"{graph_dir}/HCLG.fst",
                source,
                f"ark,t:{decode_dir}/hyp_{scale}.JOB",
            ]
            log = f"{decode_dir}/log/decode_{scale}.JOB.log"
            logs = [log, *([f"{decode_dir}/log/compute.JOB.log"] if store else [])]
            idle = set()
            if jobs:
                excused = had_nothing_to_do(decode_dir, logs)
                idle = engine.run(log, command, what="Decoding", jobs=jobs, excused=excused)
            done[scale] = [job for job in jobs if job not in idle]
        found = [_gather(decode_dir, scale, part) for scale, part in done.items()]  # all or, as score.py sees, none
        remove_parts(decode_dir)
        remove_matching(decode_dir, _LIKELIHOODS)
        names = [f"decode_{acoustic_scales[0]}", *(["compute"] if store else [])]
        logs = [f"{decode_dir}/log/{name}.{job}.log" for name in names for job in range(1, num_jobs + 1)]
        likelihoods.used.compare(found[0], logs)
        likelihoods.used.report(decode_dir)
        likelihoods.used.require_some(data_dir)
    return len(found[0])


def _need(path: str, advice: str) -> None:
    if not os.path.isfile(path):
        raise UserError(f"There is no {path}: {advice}.")


def _make(folder: str) -> None:
    try:
        os.makedirs(f"{folder}/log", exist_ok=True)
    except OSError as problem:
        raise UserError(f"Cannot write into {folder}: {reason(problem)}.") from problem


def _start_over(folder: str) -> None:
    """Remove what an earlier decoding left, which would be scored beside this one's."""
    try:
        remove_unfinished(folder, "info")
        remove_parts(folder)
        remove_matching(folder, _RESULTS)
    except OSError as problem:
        raise UserError(f"Cannot write into {folder}: {reason(problem)}.") from problem


def _gather(folder: str, scale: str, jobs: Sequence[int]) -> set[str]:
    """Join the jobs' hypotheses into ``hyp_X.txt``; the utterances that have one."""
    parts = [f"{folder}/hyp_{scale}.{job}" for job in jobs]
    target = f"{folder}/hyp_{scale}.txt"
    write_text(target, "".join(map(read_text, parts)))
    for part in parts:
        os.unlink(part)
    return set(read_transcripts(target)) if os.path.getsize(target) else set()
