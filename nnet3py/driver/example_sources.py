"""What examples are made of: a data directory and its alignment, looked at before anything is made.

Numbers of pdfs, normalisation, iVectors and frame rates must go together.
"""

from __future__ import annotations

import dataclasses
import os
import re

from nnet3py.directories.belonging import require_whole_model
from nnet3py.directories.data import DataDirectory
from nnet3py.directories.dimensions import first_columns
from nnet3py.directories.normalisation import Normalisation
from nnet3py.driver import made_of
from nnet3py.driver.alignments import alignment_rspecifier, has_transition_ids
from nnet3py.driver.experiment import digest
from nnet3py.driver.options import EgsOptions
from nnet3py.errors import UserError
from nnet3py.nnet.transition_model import read_transition_model
from nnet3py.text.lines import read_lines, read_number, read_table

_NOT_RECORDED = ("command", "max_retries", "job_time_limit", "stage", "reuse")


class ExampleSources:
    """The data and alignments of one directory of examples.

    Attributes:
        features: utterance -> where its features are.
        normalisation: what is done to them.
        speaker_of: utterance -> speaker, where normalisation goes by the frames before.
        num_pdfs: classes.
        frames_per_eg: the length that most examples have.
        ivectors: utterance -> where its iVectors are.
    """

    def __init__(self, options: EgsOptions, data: str, ali_dir: str) -> None:
        """Look at what will be needed. Raises UserError for what is missing or does not go together."""
        self.options = options
        self.data = data
        self.ali_dir = ali_dir
        self.frames_per_eg = _principal_length(options.frames_per_eg)
        self.features = DataDirectory(data).features()
        self.normalisation = Normalisation(options.cmvn_opts, source="--cmvn-opts")
        self._check_normalisation()
        self.speaker_of: dict[str, str] = {}
        if options.online_cmvn:
            self.speaker_of = DataDirectory(data).speakers(self.features, "--online-cmvn")
        if options.stage <= 2 and alignment_rspecifier(ali_dir) is None:
            raise UserError(f"Expected alignments in {ali_dir}: ali.scp, ali.*.gz, ali.*.ark or ali.ark; found none.")
        self.num_pdfs = self._count_pdfs()
        self._check_subsampling()
        self.ivectors: dict[str, str] = {}
        if options.online_ivector_dir:
            read_number(f"{options.online_ivector_dir}/ivector_period", least=1)
            self.ivectors = read_table(f"{options.online_ivector_dir}/ivector_online.scp")
        if options.valid_uttlist:
            read_lines(options.valid_uttlist)

    def _check_normalisation(self) -> None:
        if not self.options.online_cmvn:
            self.normalisation.require(self.data, self.data)
            self._check_statistics()
            return
        if self.normalisation.does_nothing:
            raise UserError(
                "--online-cmvn needs options that normalise: give --cmvn-opts=--norm-means=true, say "
                "(--feat.cmvn-opts of train_dnn.py)."
            )
        if not os.path.isfile(f"{self.data}/cmvn.scp"):
            raise UserError(f"Expected {self.data}/cmvn.scp for --online-cmvn, found none.")
        self._check_statistics()

    def _check_statistics(self) -> None:
        script = f"{self.data}/feats.scp"
        self.normalisation.require_dimension(first_columns(script), script, self.data, self.data)

    def _count_pdfs(self) -> int:
        """The number of classes, by all that say it: the alignment's model, tree and num_pdfs, and the option."""
        found: dict[str, int] = {}
        if has_transition_ids(self.ali_dir):
            path = f"{self.ali_dir}/final.mdl"
            model = read_transition_model(path)
            require_whole_model(self.ali_dir, path, model)
            found[path] = model.num_pdfs
        if os.path.isfile(f"{self.ali_dir}/num_pdfs"):
            found[f"{self.ali_dir}/num_pdfs"] = read_number(f"{self.ali_dir}/num_pdfs")
        if self.options.num_pdfs:
            found["--num-pdfs"] = self.options.num_pdfs
        if not found:
            raise UserError(
                f"How many classes are there? Write the number into {self.ali_dir}/num_pdfs, or give --num-pdfs."
            )
        if len(set(found.values())) > 1:
            said = ", ".join(f"{number} by {place}" for place, number in found.items())
            raise UserError(f"The numbers of pdfs differ: {said}. These alignments, model and tree are not of one run.")
        return next(iter(found.values()))

    def _check_subsampling(self) -> None:
        path = f"{self.ali_dir}/frame_subsampling_factor"
        given = self.options.frame_subsampling_factor
        if os.path.isfile(path) and (stated := read_number(path, least=1)) != given:
            raise UserError(
                f"{path} says that the alignment has a label every {stated} frames, --frame-subsampling-factor is "
                f"{given}: give --frame-subsampling-factor={stated}."
            )

    def made_with(self) -> dict[str, object]:
        """The options and digests of the files that the examples depend on, for a record."""
        options: dict[str, object] = {
            declared.metadata["option"]: getattr(self.options, declared.name)
            for declared in dataclasses.fields(self.options)
            if declared.name not in _NOT_RECORDED
        }
        return {
            **options,
            "<data>": self.data,
            "<ali-dir>": self.ali_dir,
            **made_of.data_digests("<data>", self.data),
            **made_of.alignment_digests("<ali-dir>", self.ali_dir),
            "<ali-dir> final.mdl": digest(f"{self.ali_dir}/final.mdl"),
            **made_of.vector_digests("--online-ivector-dir", self.options.online_ivector_dir),
            **({"--valid-uttlist content": digest(self.options.valid_uttlist)} if self.options.valid_uttlist else {}),
        }


def _principal_length(text: str) -> int:
    """The first of the lengths of examples, the one that most have."""
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise UserError(f"Expected --frames-per-eg like 8 or 8,4, found {text!r}.")
    return int(text.split(",")[0])
