"""Decoding of a data directory in jobs, each of them a chain of programs run through ``--cmd``.

Source: Kaldi egs/wsj/s5/steps/nnet3/decode.sh.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from nnet3py.alignment.lexicon import read_text_lines
from nnet3py.decoding.score import read_transcripts, write_text
from nnet3py.errors import UserError
from nnet3py.features.speakers import parts_by_speaker, spk2utt_text
from nnet3py.program import reason


@dataclass(frozen=True)
class Decoding:
    """How to decode; the fields are the options of ``steps/decode.py``."""

    cmd: str
    num_jobs: int
    iteration: str
    acoustic_scales: list[str]
    beam: float
    max_active: int
    use_priors: bool
    cmvn_options: str
    ivector_dir: str
    chunk_options: dict[str, int]
    use_gpu: str


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
    online_cmvn = (model.parent / "online_cmvn").is_file()
    num_jobs = _split_features(data_dir, folder, settings.num_jobs, by_speaker=online_cmvn)
    likelihoods = _likelihoods(data_dir, folder, os.path.relpath(model), settings)
    stored = folder / "loglikes.JOB.ark"
    if len(settings.acoustic_scales) > 1:
        _run_jobs(settings.cmd, num_jobs, folder / "log" / "compute.JOB.log", [*likelihoods, f"ark:{stored}"])
        source = f"ark:{stored}"
    else:
        source = f"ark:{' '.join(map(_in_pipe, likelihoods))} ark:- |"
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


def _split_features(data_dir: str, folder: Path, num_jobs: int, *, by_speaker: bool) -> int:
    """Write ``feats.N.scp``, contiguous parts of the script of features; returns how many, at most one an utterance.

    With ``by_speaker``, no part ends within a speaker, and ``spk2utt.N`` are written.
    """
    lines = [line for line in read_text_lines(os.path.join(data_dir, "feats.scp")) if line.strip()]
    if not lines:
        raise UserError(f"{data_dir}/feats.scp is empty: make features of this data first.")
    if num_jobs < 1:
        raise UserError(f"--nj must be at least 1, not {num_jobs}.")
    num_jobs = min(num_jobs, len(lines))
    try:
        (folder / "log").mkdir(parents=True, exist_ok=True)
        # What an earlier decoding left would be scored beside this one's.
        for old in (*folder.glob("hyp_*"), *folder.glob("wer_*")):
            old.unlink()
    except OSError as problem:
        raise UserError(f"Cannot write into {folder}: {reason(problem)}.") from problem
    if by_speaker:
        return _split_by_speaker(data_dir, folder, lines, num_jobs)
    for job in range(1, num_jobs + 1):
        first, end = (job - 1) * len(lines) // num_jobs, job * len(lines) // num_jobs
        write_text(folder / f"feats.{job}.scp", "".join(f"{line}\n" for line in lines[first:end]))
    return num_jobs


def _split_by_speaker(data_dir: str, folder: Path, lines: list[str], num_jobs: int) -> int:
    line_of = {line.split()[0]: line for line in lines}
    path = os.path.join(data_dir, "utt2spk")
    pairs = [line.split() for line in read_text_lines(path) if line.strip()]
    speaker_of = {pair[0]: pair[-1] for pair in pairs}
    for utterance in line_of:
        if utterance not in speaker_of:
            raise UserError(f"{path} has no speaker for {utterance}, which normalisation as in training needs.")
    parts = parts_by_speaker(list(line_of), num_jobs, speaker_of)
    for job, utterances in enumerate(parts, 1):
        write_text(folder / f"feats.{job}.scp", "".join(f"{line_of[utterance]}\n" for utterance in utterances))
        write_text(folder / f"spk2utt.{job}", spk2utt_text(utterances, speaker_of))
    return len(parts)


def _likelihoods(data_dir: str, folder: Path, model: str, settings: Decoding) -> list[str]:
    """The command that computes log-likelihoods, but for its output."""
    options = settings.cmvn_options
    with contextlib.suppress(OSError):
        options = options or (Path(model).parent / "cmvn_opts").read_text().strip()
    features = f"scp:{folder}/feats.JOB.scp"
    if (Path(model).parent / "online_cmvn").is_file():
        speakers = f"--spk2utt=ark:{folder}/spk2utt.JOB {Path(model).parent}/global_cmvn.stats"
        features = f"ark,s,cs:apply-cmvn-online {options} {speakers} {features} ark:- |"
    elif (Path(data_dir) / "cmvn.scp").exists():
        features = (
            f"ark,s,cs:apply-cmvn {options} --utt2spk=ark:{data_dir}/utt2spk scp:{data_dir}/cmvn.scp {features} ark:- |"
        )
    return [
        "nnet-compute",
        f"--use-priors={'true' if settings.use_priors else 'false'}",
        f"--use-gpu={settings.use_gpu}",
        *(f"--{name}={value}" for name, value in settings.chunk_options.items()),
        *_subsampling(Path(model).parent),
        *_ivectors(settings.ivector_dir, Path(model).parent),
        model,
        features,
    ]


def _subsampling(model_dir: Path) -> list[str]:
    path = model_dir / "frame_subsampling_factor"
    return [f"--frame-subsampling-factor={_number(path)}"] if path.is_file() else []


def _ivectors(folder: str, model_dir: Path) -> list[str]:
    """The options for iVectors, which must be of the extractor that the training's were of."""
    if not folder:
        return []
    identities = [Path(directory) / "final.ie.id" for directory in (folder, model_dir)]
    if all(path.is_file() for path in identities):
        ours, theirs = (path.read_text().strip() for path in identities)
        if ours != theirs:
            raise UserError(
                f"The iVectors in {folder} are not of the extractor that {model_dir} was trained with (final.ie.id "
                "differs): extract iVectors with that one."
            )
    period = _number(Path(folder) / "ivector_period")
    return [f"--online-ivectors=scp:{folder}/ivector_online.scp", f"--online-ivector-period={period}"]


def _number(path: Path) -> int:
    text = "".join(read_text_lines(str(path))).strip()
    if not text.isdigit() or int(text) == 0:
        raise UserError(f"{path}: expected a number above 0, found {text[:40]!r}.")
    return int(text)


def _in_pipe(word: str) -> str:
    return shlex.quote(word) if any(c in word for c in " |&;<>()$`\"'") else word


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
