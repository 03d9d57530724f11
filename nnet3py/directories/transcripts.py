"""Transcripts: Kaldi's ``text``, which a data directory has, and hypotheses in the same form."""

from __future__ import annotations

import os

from nnet3py.errors import UserError
from nnet3py.text.lines import fields, read_lines


def read_transcripts(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Lines ``utterance word word ...`` (Kaldi's ``text``): utterance -> words.

    Raises:
        UserError: the file cannot be read, is empty, or has an utterance twice.
    """
    transcripts: dict[str, list[str]] = {}
    for number, line in enumerate(read_lines(path), 1):
        words = fields(line)
        if not words:
            raise UserError(f"{path}:{number}: expected 'utterance word word ...', found an empty line.")
        if words[0] in transcripts:
            raise UserError(f"{path}:{number}: the utterance {words[0]!r} comes a second time.")
        transcripts[words[0]] = words[1:]
    if not transcripts:
        raise UserError(f"{path} is empty: expected lines 'utterance word word ...'.")
    return transcripts
