"""Utterances in the order of their speakers, for normalisation that carries over from one utterance to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise


def spk2utt_text(utterances: Sequence[str], speaker_of: Mapping[str, str]) -> str:
    """Lines ``speaker utterance ...`` with the utterances as they come; a speaker has a line each time it begins."""
    groups = groupby(utterances, key=speaker_of.__getitem__)
    return "".join(f"{speaker} {' '.join(members)}\n" for speaker, members in groups)


def parts_by_speaker(utterances: Sequence[str], count: int, speaker_of: Mapping[str, str]) -> list[Sequence[str]]:
    """About ``count`` parts of about the same size, fewer if need be, none of which ends within a speaker."""
    bounds = [0]
    for number in range(1, count):
        bound = number * len(utterances) // count
        while 0 < bound < len(utterances) and speaker_of[utterances[bound]] == speaker_of[utterances[bound - 1]]:
            bound += 1
        bounds.append(bound)
    bounds.append(len(utterances))
    return [utterances[first:end] for first, end in pairwise(bounds) if first < end]
