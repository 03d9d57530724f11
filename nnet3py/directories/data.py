"""A data directory: which utterances it has, where their features are, whose they are and how long."""

from __future__ import annotations

import os
from collections.abc import Iterable

from nnet3py.errors import UserError
from nnet3py.text.lines import read_table


class DataDirectory:
    """The files of one data directory, each read when it is asked for."""

    def __init__(self, path: str) -> None:
        self.path = path

    def features(self) -> dict[str, str]:
        """``feats.scp``: utterance -> where its features are.

        Raises:
            UserError: there is no such file, or it has no utterances.
        """
        path = f"{self.path}/feats.scp"
        if not os.path.isfile(path):
            raise UserError(f"There is no {path}: make features of this data first.")
        if os.path.getsize(path) == 0:
            raise UserError(f"{path} is empty: make features of this data first.")
        return read_table(path)

    def speakers(self, utterances: Iterable[str], wanted_for: str) -> dict[str, str]:
        """``utt2spk``: utterance -> speaker, with all of ``utterances``; ``wanted_for`` says in an error why.

        Raises:
            UserError: the file cannot be read, or lacks one of them.
        """
        path = f"{self.path}/utt2spk"
        speaker_of = read_table(path)
        for utterance in utterances:
            if utterance not in speaker_of:
                raise UserError(f"{path} has no speaker for {utterance}, which {wanted_for} needs.")
        return speaker_of

    def lengths(self) -> dict[str, int]:
        """``utt2num_frames``: utterance -> frames; what it has of it, nothing where there is no such file.

        Raises:
            UserError: the file is malformed.
        """
        path = f"{self.path}/utt2num_frames"
        if not os.path.isfile(path):
            return {}
        lengths = {}
        for utterance, text in read_table(path).items():
            if not (text.isascii() and text.isdigit()):
                raise UserError(f"{path}: expected a number of frames for {utterance}, found {text!r}.")
            lengths[utterance] = int(text)
        return lengths
