"""Jobs that compute a network's log-likelihoods for a data directory: what decoding and alignment begin with.

Source: Kaldi egs/wsj/s5/steps/nnet3/decode.sh, steps/nnet3/align.sh.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from pathlib import Path

from nnet3py.driver.options import NetworkJobOptions
from nnet3py.errors import UserError
from nnet3py.features.speakers import parts_by_speaker, spk2utt_text
from nnet3py.text.lines import read_lines, write_text


def normalises_online(model_dir: Path) -> bool:
    """Whether the training's features were normalised by what came before."""
    return (model_dir / "online_cmvn").is_file()


def feature_lines(data_dir: str) -> list[str]:
    """The lines of the data directory's script of features.

    Raises:
        UserError: there are none.
    """
    lines = [line for line in read_lines(os.path.join(data_dir, "feats.scp")) if line.strip()]
    if not lines:
        raise UserError(f"{data_dir}/feats.scp is empty: make features of this data first.")
    return lines


def split_features(lines: list[str], data_dir: str, folder: Path, num_jobs: int, *, by_speaker: bool) -> int:
    """Write ``feats.N.scp``, contiguous parts of the script of features; returns how many, at most one an utterance.

    With ``by_speaker``, no part ends within a speaker, and ``spk2utt.N`` are written.

    Raises:
        UserError: an utterance has no speaker.
    """
    num_jobs = min(num_jobs, len(lines))
    if by_speaker:
        return _split_by_speaker(data_dir, folder, lines, num_jobs)
    for job in range(1, num_jobs + 1):
        first, end = (job - 1) * len(lines) // num_jobs, job * len(lines) // num_jobs
        write_text(folder / f"feats.{job}.scp", "".join(f"{line}\n" for line in lines[first:end]))
    return num_jobs


def _split_by_speaker(data_dir: str, folder: Path, lines: list[str], num_jobs: int) -> int:
    line_of = {line.split()[0]: line for line in lines}
    path = os.path.join(data_dir, "utt2spk")
    pairs = [line.split() for line in read_lines(path) if line.strip()]
    speaker_of = {pair[0]: pair[-1] for pair in pairs}
    for utterance in line_of:
        if utterance not in speaker_of:
            raise UserError(f"{path} has no speaker for {utterance}, which normalisation as in training needs.")
    parts = parts_by_speaker(list(line_of), num_jobs, speaker_of)
    for job, utterances in enumerate(parts, 1):
        write_text(folder / f"feats.{job}.scp", "".join(f"{line_of[utterance]}\n" for utterance in utterances))
        write_text(folder / f"spk2utt.{job}", spk2utt_text(utterances, speaker_of))
    return len(parts)


def likelihood_command(
    data_dir: str, folder: Path, model: str, settings: NetworkJobOptions, *, use_priors: bool = True
) -> list[str]:
    """The command that computes the log-likelihoods of job ``JOB``, but for its output.

    ``folder`` has what :func:`split_features` wrote. ``use_priors``: whether the priors in the model are divided by.

    Raises:
        UserError: the iVectors are not those of the model, or a file beside it is bad.
    """
    model_dir = Path(model).parent
    options = settings.cmvn_opts
    with contextlib.suppress(OSError):
        options = options or (model_dir / "cmvn_opts").read_text().strip()
    features = f"scp:{folder}/feats.JOB.scp"
    if normalises_online(model_dir):
        speakers = f"--spk2utt=ark:{folder}/spk2utt.JOB {model_dir}/global_cmvn.stats"
        features = f"ark,s,cs:apply-cmvn-online {options} {speakers} {features} ark:- |"
    elif (Path(data_dir) / "cmvn.scp").exists():
        features = (
            f"ark,s,cs:apply-cmvn {options} --utt2spk=ark:{data_dir}/utt2spk scp:{data_dir}/cmvn.scp {features} ark:- |"
        )
    return [
        "nnet-compute",
        f"--use-priors={'true' if use_priors else 'false'}",
        f"--use-gpu={settings.use_gpu}",
        f"--frames-per-chunk={settings.frames_per_chunk}",
        f"--extra-left-context={settings.extra_left_context}",
        f"--extra-right-context={settings.extra_right_context}",
        f"--extra-left-context-initial={settings.extra_left_context_initial}",
        f"--extra-right-context-final={settings.extra_right_context_final}",
        *_subsampling(model_dir),
        *_ivectors(settings.online_ivector_dir, model_dir),
        model,
        features,
    ]


def as_rspecifier(command: list[str]) -> str:
    """What a command of :func:`likelihood_command` writes, as a table to read."""
    return f"ark:{' '.join(map(_in_pipe, command))} ark:- |"


def _in_pipe(word: str) -> str:
    return shlex.quote(word) if any(c in word for c in " |&;<>()$`\"'") else word


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
    text = "".join(read_lines(str(path))).strip()
    if not text.isdigit() or int(text) == 0:
        raise UserError(f"{path}: expected a number above 0, found {text[:40]!r}.")
    return int(text)
