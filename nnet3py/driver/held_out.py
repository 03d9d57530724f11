"""Which utterances are held out for validation, and which of the others serve for diagnostics."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable

from nnet3py.driver.data_used import DataUsed
from nnet3py.driver.options import EgsOptions
from nnet3py.errors import UserError
from nnet3py.text.lines import encode, fields, read_lines, read_table

_USUAL_SUBSET = 300


def choose(options: EgsOptions, data: str, usable: list[str], used: DataUsed) -> tuple[list[str], list[str], list[str]]:
    """Utterances for validation, for diagnostics (part of the training data), and for training.

    Args:
        data: the data directory; with ``utt2uniq``, all versions of an utterance are held out together.
        usable: what can be drawn from; ``used`` says in an error what cannot.

    Raises:
        UserError: too few can be used.
    """
    if options.valid_uttlist:
        valid = _listed(options, set(usable))
        count = len(valid)
    else:
        count = _subset_size(options, len(usable))
        valid = _with_copies(data, drawn(usable, count, options.srand), usable)
    held_out = set(valid)
    train = [utterance for utterance in usable if utterance not in held_out]
    if not train:
        raise UserError(
            f"Nothing is left to train on: of {len(usable)} utterances that can be used {len(valid)} are for "
            f"validation. Two at least are needed. {used.line()}"
        )
    subset = drawn(train, count, options.srand + 1)
    return sorted(valid, key=encode), sorted(subset, key=encode), sorted(train, key=encode)


def _subset_size(options: EgsOptions, utterances: int) -> int:
    wanted = options.num_utts_subset
    if not wanted:
        return max(1, min(_USUAL_SUBSET, utterances // 10))
    if utterances <= 4 * wanted:
        raise UserError(
            f"{utterances} utterances are too few to set {wanted} aside: --num-utts-subset must be less than a "
            f"quarter of them. {f'Give {most} at most' if (most := (utterances - 1) // 4) else 'Leave it out'}."
        )
    return wanted


def _listed(options: EgsOptions, usable: set[str]) -> list[str]:
    path = options.valid_uttlist
    listed = [fields(line)[0] for line in read_lines(path) if fields(line)]
    found = [utterance for utterance in dict.fromkeys(listed) if utterance in usable]
    if not found:
        raise UserError(f"{path}: none of its {len(listed)} utterances has features and an alignment that fit.")
    return found


def _with_copies(data: str, chosen: list[str], usable: list[str]) -> list[str]:
    """With ``utt2uniq`` (augmented data): also every other version of the chosen utterances."""
    path = f"{data}/utt2uniq"
    if not os.path.isfile(path):
        return chosen
    original = read_table(path)
    wanted = {original.get(utterance, utterance) for utterance in chosen}
    return [utterance for utterance in usable if original.get(utterance, utterance) in wanted]


def drawn(utterances: Iterable[str], count: int, seed: int) -> list[str]:
    """So many utterances chosen by chance, the same for the same seed whatever their order and the Python version."""

    def chance(utterance: str) -> bytes:
        return hashlib.sha256(encode(f"{seed} {utterance}")).digest()

    return sorted(utterances, key=chance)[:count]
