"""Which normalisation features have, decided in one place for whatever computes with a model.

A network has seen features that were normalised in one way, and is of use on no others. How is written beside the
model: ``cmvn_opts``, the options of apply-cmvn, and where the normalisation went by the frames before, ``online_cmvn``,
an empty file, with ``global_cmvn.stats``. Without ``cmvn_opts`` nothing is normalised. Options given on a command line
take the place of those beside the model.

Source: Kaldi egs/wsj/s5/steps/nnet3/decode.sh, align.sh, get_egs.sh; src/featbin/apply-cmvn.cc.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass

from nnet3py import log
from nnet3py.directories.dimensions import first_columns, matrix_columns
from nnet3py.errors import UserError
from nnet3py.text.lines import BLANKS, read_table, read_text

NONE = "--norm-means=false --norm-vars=false"
"""Options that normalise nothing, as Kaldi's scripts write them."""

_TRUE, _FALSE = ("true", "t", "1", ""), ("false", "f", "0")
_SWITCHES = {"--norm-means": True, "--norm-vars": False, "--reverse": False}
"""The switches of apply-cmvn and apply-cmvn-online that change what is done, and their defaults."""

_ONLINE = {"--cmn-window": "600", "--speaker-frames": "600", "--global-frames": "200"}
"""What apply-cmvn-online goes by besides, and its defaults."""

_PLACES_OF_DATA = ("--utt2spk", "--spk2utt", "--print-args", "--verbose")
"""Options that say where things are, not what is done."""


@dataclass(frozen=True)
class Normalisation:
    """What is done to features before a network sees them.

    Attributes:
        options: for apply-cmvn or, if ``online``, apply-cmvn-online; as they were written.
        online: whether it goes by the frames before and a directory's ``global_cmvn.stats``.
        source: where the options come from, for messages.
    """

    options: str
    online: bool = False
    source: str = "--cmvn-opts"

    def __post_init__(self) -> None:
        """Raise UserError for options that nothing could be done by."""
        effect = self.effect()
        if effect["--norm-vars"] is True and effect["--norm-means"] is False:
            raise UserError(
                f"The normalisation {self} asks for variances without means, which "
                "apply-cmvn does not do: leave out --norm-means=false."
            )

    def __str__(self) -> str:
        """The options, and where they are from."""
        return f"{self.options.strip()!r} ({self.source}{'' if self.options.strip() else '; means, by default'})"

    def effect(self) -> dict[str, str | bool]:
        """What the options really ask for, whatever their order and spelling: option -> value.

        Raises:
            UserError: they cannot be read.
        """
        try:
            words = shlex.split(self.options)
        except ValueError as problem:
            raise UserError(f"Cannot read the options {self.options!r} ({self.source}): {problem}.") from problem
        found: dict[str, str | bool] = {**_SWITCHES, **(_ONLINE if self.online else {})}
        position = 0
        while position < len(words):
            name, equals, value = words[position].partition("=")
            name = "--" + name[2:].replace("_", "-") if name.startswith("--") else name
            position += 1
            if not name.startswith("--"):
                raise UserError(f"Expected options of apply-cmvn in {self.source}, found {words[position - 1]!r}.")
            following = words[position] if position < len(words) else "--"
            if not equals and (following in ("true", "false") if name in _SWITCHES else following[:2] != "--"):
                value = following
                position += 1
            if name in _SWITCHES:
                if value.lower() not in (*_TRUE, *_FALSE):
                    raise UserError(f"Expected true or false for {name} in {self.source}, found {value!r}.")
                found[name] = value.lower() in _TRUE
            elif name not in _PLACES_OF_DATA:
                found[name] = value
        return found

    @property
    def does_nothing(self) -> bool:
        """Whether features stay as they are; apply-cmvn then reads no statistics."""
        return self.effect()["--norm-means"] is False

    def is_that_of(self, other: Normalisation) -> bool:
        """Whether features become the same, whatever the options look like."""
        if self.does_nothing or other.does_nothing:
            return self.does_nothing and other.does_nothing
        return self.online == other.online and self.effect() == other.effect()

    def require(self, data_dir: str, model_dir: str) -> None:
        """Look for what it needs: statistics and speakers of the data, or of the model's directory if online.

        Raises:
            UserError: a file is missing.
        """
        if self.does_nothing:
            return
        statistics = f"{model_dir}/global_cmvn.stats" if self.online else f"{data_dir}/cmvn.scp"
        for path in (statistics, f"{data_dir}/utt2spk"):
            if not os.path.isfile(path):
                advice = (
                    "compute-cmvn-stats makes the statistics of data"
                    if path.endswith("cmvn.scp")
                    else "copy it from the directory of the examples that the model was trained on"
                    if path.endswith(".stats")
                    else "it says which speaker's statistics are an utterance's"
                )
                raise UserError(f"There is no {path}, which the normalisation {self} needs: {advice}.")

    def require_dimension(self, dim: int | None, whose: str, data_dir: str, model_dir: str) -> None:
        """Compare the statistics that it needs, see :meth:`require`, with features of dimension ``dim``.

        ``whose`` names the features; None: their dimension is not known, nor compared. Statistics of the data are
        looked at where they can be read; of them the first, for the jobs look at all.

        Raises:
            UserError: the statistics are of another dimension, or the global ones cannot be read.
        """
        if dim is None or self.does_nothing:
            return
        path = f"{model_dir}/global_cmvn.stats" if self.online else f"{data_dir}/cmvn.scp"
        columns = matrix_columns(path) if self.online else first_columns(path)
        if columns is not None and columns != dim + 1:
            advice = "they are of another model" if self.online else "make them of these, with compute-cmvn-stats"
            raise UserError(
                f"The statistics in {path} are of features of dimension {columns - 1}, {whose} has dimension {dim}: "
                f"{advice}."
            )

    def command(self, features: str, *, data_dir: str, spk2utt: str = "", statistics: str = "") -> str:
        """The shell command that normalises a table, to its standard output; "" where nothing is to be done.

        Args:
            features: rspecifier.
            data_dir: with ``utt2spk`` and ``cmvn.scp``.
            spk2utt, statistics: if online, the file of the speakers' utterances in the table's order, and the global
                statistics.
        """
        if self.does_nothing:
            return ""
        if self.online:
            return f"apply-cmvn-online {self.options} --spk2utt=ark:{spk2utt} {statistics} {features} ark:-"
        speakers = f"--utt2spk=ark:{data_dir}/utt2spk scp:{data_dir}/cmvn.scp"
        return f"apply-cmvn {self.options} {speakers} {features} ark:-"

    def without_statistics(self, utterances: list[str], data_dir: str) -> dict[str, str]:
        """The utterances that cannot be normalised, and why: they have no speaker, or the speaker no statistics.

        Raises:
            UserError: a file of the data cannot be read.
        """
        if self.online or self.does_nothing:
            return {}
        speaker_of = read_table(f"{data_dir}/utt2spk")
        statistics = read_table(f"{data_dir}/cmvn.scp")
        lost = {}
        for utterance in utterances:
            speaker = speaker_of.get(utterance)
            if speaker is None:
                lost[utterance] = "no speaker in utt2spk"
            elif speaker not in statistics:
                lost[utterance] = "no statistics in cmvn.scp"
        return lost


def normalisation_of(directory: str, given: str | None = None) -> Normalisation:
    """The normalisation that goes with what is in a directory: a model, examples or alignments.

    ``given``: options from a command line, which count instead of ``cmvn_opts``; None for none.

    Raises:
        UserError: the options cannot be read.
    """
    online = os.path.isfile(f"{directory}/online_cmvn")
    if given is not None:
        return Normalisation(given, online)
    path = f"{directory}/cmvn_opts"
    if not os.path.isfile(path):
        return Normalisation(NONE, online, source=f"there is no {path}")
    return Normalisation(" ".join(read_text(path).strip(BLANKS).split("\n")), online, source=path)


def require_same_normalisation(first: str, second: str, advice: str) -> None:
    """Compare two directories, where both say how their features are normalised.

    Raises:
        UserError: they say different things.
    """
    if not all(os.path.isfile(f"{each}/cmvn_opts") for each in (first, second)):
        return
    ours, theirs = normalisation_of(first), normalisation_of(second)
    if not ours.is_that_of(theirs):
        raise UserError(
            f"The features of {first} and {second} are not normalised alike: {_shown(ours)} in {first}, "
            f"{_shown(theirs)} in {second}. {advice}"
        )


def warn_of_other_normalisation(model_dir: str, examples_dir: str) -> None:
    """Warn where a model goes on training on examples that are normalised otherwise than those it has seen."""
    try:
        require_same_normalisation(model_dir, examples_dir, "It has to learn the difference.")
    except UserError as problem:
        log.warning(str(problem))


def _shown(normalisation: Normalisation) -> str:
    return f"{normalisation.options!r}{' online' if normalisation.online else ''}"
