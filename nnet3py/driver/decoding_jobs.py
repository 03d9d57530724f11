"""Decoding of a data directory in jobs, each of them a chain of programs run through ``--cmd``.

Source: Kaldi egs/wsj/s5/steps/nnet3/decode.sh.
"""

from __future__ import annotations

import os
from pathlib import Path

from nnet3py.directories.transcripts import read_transcripts
from nnet3py.driver.directory_lock import locked
from nnet3py.driver.engine import Engine, require_plain_path
from nnet3py.driver.experiment import remove_unfinished, termination_interrupts
from nnet3py.driver.likelihood_jobs import (
    as_rspecifier,
    feature_lines,
    likelihood_command,
    normalises_online,
    split_features,
)
from nnet3py.driver.options import DecodeOptions
from nnet3py.errors import UserError
from nnet3py.program import reason
from nnet3py.text.lines import read_lines, write_text


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
        UserError: an input is missing, or a job failed.
    """
    for name, path in (("<graph-dir>", graph_dir), ("<data-dir>", data_dir), ("<decode-dir>", decode_dir)):
        require_plain_path(name, path)
    folder = Path(decode_dir)
    model = folder.resolve().parent / f"{options.iteration}.mdl"
    require_plain_path("The model", os.path.relpath(model))
    acoustic_scales = scales(options.acwt)
    _need(Path(graph_dir) / "HCLG.fst", "make the graph with steps/make_graph.py")
    _need(Path(graph_dir) / "words.txt", "make the graph with steps/make_graph.py")
    _need(model, "train the model, or name another with --iter")
    lines = feature_lines(data_dir)
    _make(folder)
    with (
        termination_interrupts(),
        locked(decode_dir, "decode.py"),
        Engine(options.command, max_retries=options.max_retries, job_time_limit=options.job_time_limit) as engine,
    ):
        _start_over(folder)
        by_speaker = normalises_online(model.parent)
        num_jobs = split_features(lines, data_dir, folder, options.nj, by_speaker=by_speaker)
        source = _likelihoods(engine, options, data_dir, folder, model, num_jobs, store=len(acoustic_scales) > 1)
        counts = []
        for scale in acoustic_scales:
            command = [
                "decode-faster-mapped",
                f"--acoustic-scale={scale}",
                f"--beam={options.beam:g}",
                f"--max-active={options.max_active}",
                f"--word-symbol-table={graph_dir}/words.txt",
                os.path.relpath(model),
                f"{graph_dir}/HCLG.fst",
                source,
                f"ark,t:{folder}/hyp_{scale}.JOB",
            ]
            engine.run(f"{folder}/log/decode_{scale}.JOB.log", command, what="Decoding", jobs=num_jobs)
            counts.append(_gather(folder, scale, num_jobs))
        for job in range(1, num_jobs + 1):
            for leftover in (folder / f"loglikes.{job}.ark", folder / f"feats.{job}.scp", folder / f"spk2utt.{job}"):
                leftover.unlink(missing_ok=True)
    return counts[0]


def _likelihoods(
    engine: Engine, options: DecodeOptions, data: str, folder: Path, model: Path, num_jobs: int, *, store: bool
) -> str:
    """Where a job reads its log-likelihoods: computed first, for several scales to ``store`` them, or in a pipe."""
    command = likelihood_command(data, folder, os.path.relpath(model), options, use_priors=options.use_priors)
    if not store:
        return as_rspecifier(command)
    stored = f"ark:{folder}/loglikes.JOB.ark"
    engine.run(f"{folder}/log/compute.JOB.log", [*command, stored], what="Computing likelihoods", jobs=num_jobs)
    return stored


def _need(path: Path, advice: str) -> None:
    if not path.is_file():
        raise UserError(f"There is no {path}: {advice}.")


def _make(folder: Path) -> None:
    try:
        (folder / "log").mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"Cannot write into {folder}: {reason(problem)}.") from problem


def _start_over(folder: Path) -> None:
    """Remove what an earlier decoding left, which would be scored beside this one's."""
    try:
        remove_unfinished(str(folder))
        for old in (*folder.glob("hyp_*"), *folder.glob("wer_*")):
            old.unlink()
    except OSError as problem:
        raise UserError(f"Cannot write into {folder}: {reason(problem)}.") from problem


def _gather(folder: Path, scale: str, num_jobs: int) -> int:
    """Join the jobs' hypotheses into ``hyp_X.txt``; returns how many there are."""
    parts = [folder / f"hyp_{scale}.{job}" for job in range(1, num_jobs + 1)]
    target = folder / f"hyp_{scale}.txt"
    write_text(target, "".join("".join(f"{line}\n" for line in read_lines(str(part))) for part in parts))
    for part in parts:
        part.unlink()
    return len(read_transcripts(target))
