"""A data directory's utterances in parts, a job each: what jobs read, and its removal when they are done."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Mapping

from nnet3py.features.speakers import parts_by_speaker, spk2utt_text
from nnet3py.text.lines import key_and_rest, read_lines, write_text

_PARTS = re.compile(r"(?:feats\.\d+\.scp|spk2utt\.\d+|tra\.\d+)")


def split_features(
    features: Mapping[str, str], folder: str, num_jobs: int, speaker_of: Mapping[str, str] | None = None
) -> int:
    """Write ``feats.N.scp``, parts of a script of features in its order; returns how many, at most one an utterance.

    With ``speaker_of`` no part ends within a speaker, and ``spk2utt.N`` are written.
    """
    utterances = list(features)
    num_jobs = min(num_jobs, len(utterances))
    if speaker_of is not None:
        parts = parts_by_speaker(utterances, num_jobs, speaker_of)
    else:
        bounds = [job * len(utterances) // num_jobs for job in range(num_jobs + 1)]
        parts = [utterances[first:end] for first, end in itertools.pairwise(bounds)]
    for job, part in enumerate(parts, 1):
        write_text(f"{folder}/feats.{job}.scp", "".join(f"{each} {features[each]}\n" for each in part))
        if speaker_of is not None:
            write_text(f"{folder}/spk2utt.{job}", spk2utt_text(part, speaker_of))
    return len(parts)


def utterances_of(folder: str, job: int) -> list[str]:
    """The utterances of a job's part, as :func:`split_features` wrote it."""
    return [key_and_rest(line)[0] for line in read_lines(f"{folder}/feats.{job}.scp")]


def remove_parts(folder: str) -> None:
    """Remove what :func:`split_features` and its callers wrote for jobs, of this run or an earlier one."""
    remove_matching(folder, _PARTS)


def remove_matching(folder: str, pattern: re.Pattern[str]) -> None:
    """Remove the files of a folder whose whole name matches."""
    for name in os.listdir(folder):
        if pattern.fullmatch(name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{folder}/{name}")
