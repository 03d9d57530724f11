"""Decoding of a data directory in jobs, each of them a chain of programs run through ``--cmd``.

Source: Kaldi egs/wsj/s5/steps/nnet3/decode.sh.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from nnet3py.alignment.lexicon import read_text_lines
from nnet3py.decoding.likelihood_jobs import (
    Likelihoods,
    as_rspecifier,
    feature_lines,
    likelihood_command,
    normalises_online,
    split_features,
)
from nnet3py.decoding.score import read_transcripts, write_text
from nnet3py.errors import UserError
from nnet3py.program import reason


@dataclass(frozen=True)
class Decoding:
    """How to decode; the fields are the options of ``steps/decode.py``, those of the network's likelihoods together."""

    cmd: str
    num_jobs: int
    iteration: str
    acoustic_scales: list[str]
    beam: float
    max_active: int
    likelihoods: Likelihoods


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


def decode_data_dir(graph_dir: str, data_dir: str, decode_dir: str, settings: Decoding) -> int:
    """Decode a data directory; see ``steps/decode.py``.

    Returns:
        How many utterances have a hypothesis (for the first acoustic scale).

    Raises:
        UserError: an input is missing, or a job failed.
    """
    folder = Path(decode_dir)
    model = folder.resolve().parent / f"{settings.iteration}.mdl"
    _need(Path(graph_dir) / "HCLG.fst", "make the graph with steps/make_graph.py")
    _need(Path(graph_dir) / "words.txt", "make the graph with steps/make_graph.py")
    _need(model, "train the model, or name another with --iter")
    lines = feature_lines(data_dir)
    _start_over(folder)
    by_speaker = normalises_online(model.parent)
    num_jobs = split_features(lines, data_dir, folder, settings.num_jobs, by_speaker=by_speaker)
    likelihoods = likelihood_command(data_dir, folder, os.path.relpath(model), settings.likelihoods)
    stored = folder / "loglikes.JOB.ark"
    if len(settings.acoustic_scales) > 1:
        _run_jobs(settings.cmd, num_jobs, folder / "log" / "compute.JOB.log", [*likelihoods, f"ark:{stored}"])
        source = f"ark:{stored}"
    else:
        source = as_rspecifier(likelihoods)
    counts = []
    for scale in settings.acoustic_scales:
        command = [
            "decode-faster-mapped",
            f"--acoustic-scale={scale}",
            f"--beam={settings.beam:g}",
            f"--max-active={settings.max_active}",
            f"--word-symbol-table={graph_dir}/words.txt",
            os.path.relpath(model),
            f"{graph_dir}/HCLG.fst",
            source,
            f"ark,t:{folder}/hyp_{scale}.JOB",
        ]
        _run_jobs(settings.cmd, num_jobs, folder / "log" / f"decode_{scale}.JOB.log", command)
        counts.append(_gather(folder, scale, num_jobs))
    for job in range(1, num_jobs + 1):
        for leftover in (folder / f"loglikes.{job}.ark", folder / f"feats.{job}.scp", folder / f"spk2utt.{job}"):
            leftover.unlink(missing_ok=True)
    return counts[0]


def _need(path: Path, advice: str) -> None:
    if not path.is_file():
        raise UserError(f"There is no {path}: {advice}.")


def _start_over(folder: Path) -> None:
    """Make the directory; remove what an earlier decoding left, which would be scored beside this one's."""
    try:
        (folder / "log").mkdir(parents=True, exist_ok=True)
        for old in (*folder.glob("hyp_*"), *folder.glob("wer_*")):
            old.unlink()
    except OSError as problem:
        raise UserError(f"Cannot write into {folder}: {reason(problem)}.") from problem


def _run_jobs(cmd: str, num_jobs: int, log_file: Path, command: list[str]) -> None:
    done = subprocess.run([*shlex.split(cmd), f"JOB=1:{num_jobs}", str(log_file), *command])
    if done.returncode != 0:
        raise UserError(f"A decoding job failed: see {log_file} (JOB is 1 to {num_jobs}).")


def _gather(folder: Path, scale: str, num_jobs: int) -> int:
    """Join the jobs' hypotheses into ``hyp_X.txt``; returns how many there are."""
    parts = [folder / f"hyp_{scale}.{job}" for job in range(1, num_jobs + 1)]
    target = folder / f"hyp_{scale}.txt"
    write_text(target, "".join("".join(f"{line}\n" for line in read_text_lines(str(part))) for part in parts))
    for part in parts:
        part.unlink()
    return len(read_transcripts(target))
