"""Word error rate, in Kaldi's words: ``%WER 10.00 [ 10 / 100, 1 ins, 2 del, 7 sub ]``.

Source: Kaldi src/bin/compute-wer.cc.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnet3py import log
from nnet3py.alignment.recipe_library import import_recipe_library
from nnet3py.directories.transcripts import read_transcripts
from nnet3py.errors import UserError
from nnet3py.text.lines import write_text

_SCORE = re.compile(r"wer_[\d.e+-]+|best_acwt")
_PART = re.compile(r"hyp_[\d.e+-]+\.\d+")
"""A job's hypotheses, which steps/decode.py joins when all are there."""


@dataclass(frozen=True)
class ErrorRate:
    """Errors of hypotheses against references, counted in words and in utterances.

    Attributes:
        words: words in the references.
        insertions, deletions, substitutions: errors of a minimum edit distance.
        utterances: number of references.
        wrong_utterances: references that their hypothesis does not equal.
        absent: references without a hypothesis; their words count as deleted.
    """

    words: int
    insertions: int
    deletions: int
    substitutions: int
    utterances: int
    wrong_utterances: int
    absent: int = 0

    @property
    def errors(self) -> int:
        """All word errors."""
        return self.insertions + self.deletions + self.substitutions

    @property
    def wer(self) -> float:
        """Word error rate in percent."""
        return 100.0 * self.errors / self.words

    @property
    def ser(self) -> float:
        """Sentence error rate in percent."""
        return 100.0 * self.wrong_utterances / self.utterances

    def __str__(self) -> str:
        """The two lines (and a third if hypotheses are absent) that Kaldi's scripts look for."""
        lines = [
            f"%WER {self.wer:.2f} [ {self.errors} / {self.words}, {self.insertions} ins, "
            f"{self.deletions} del, {self.substitutions} sub ]" + (" [PARTIAL]" if self.absent else ""),
            f"%SER {self.ser:.2f} [ {self.wrong_utterances} / {self.utterances} ]",
        ]
        if self.absent:
            lines.append(f"Scored {self.utterances} sentences, {self.absent} not present in hyp.")
        return "\n".join(lines)


def error_rate(references: Mapping[str, list[str]], hypotheses: Mapping[str, list[str]]) -> ErrorRate:
    """Compare transcripts, utterance by utterance.

    Args:
        references: utterance -> words.
        hypotheses: utterance -> words; those of no reference are left out.

    Raises:
        UserError: there is no reference word, or no hypothesis for any reference, or kaldialign is not installed.
    """
    edit_distance = import_recipe_library("kaldialign").edit_distance
    insertions = deletions = substitutions = words = wrong = absent = 0
    for key, reference in references.items():
        hypothesis = hypotheses.get(key)
        absent += hypothesis is None
        errors = edit_distance(reference, hypothesis or [])
        insertions += errors["ins"]
        deletions += errors["del"]
        substitutions += errors["sub"]
        words += len(reference)
        wrong += hypothesis is None or errors["total"] > 0
    if words == 0:
        raise UserError("The reference transcripts have no word: there is nothing to score against.")
    if absent == len(references):
        raise UserError("No utterance of the references has a hypothesis: are these transcripts of the same data?")
    return ErrorRate(words, insertions, deletions, substitutions, len(references), wrong, absent)


@dataclass(frozen=True)
class Scored:
    """What scoring a decoding directory gave.

    Attributes:
        best: the error rate of fewest errors.
        path: its ``wer_X``.
        without_hypothesis, without_reference: the utterances that only one side has, in that decoding.
    """

    best: ErrorRate
    path: str
    without_hypothesis: list[str]
    without_reference: list[str]


def score_decode_dir(data_dir: str, decode_dir: str) -> Scored:
    """Score every ``hyp_X.txt`` of a decoding directory against ``text`` of a data directory.

    Writes ``wer_X`` beside each and ``best_acwt`` with the X of fewest errors, of equals the smallest; those of an
    earlier run are removed.

    Raises:
        UserError: there are no hypotheses, or not all, or no transcripts, or they do not fit each other.
    """
    folder = Path(decode_dir)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if any(_PART.fullmatch(name) for name in names):
        raise UserError(f"Decoding into {decode_dir} was not finished: run steps/decode.py again, to its end.")
    for name in names:
        if _SCORE.fullmatch(name):
            (folder / name).unlink()
    references = read_transcripts(Path(data_dir) / "text")
    rates: list[tuple[int, float, str, ErrorRate]] = []
    for path in folder.glob("hyp_*.txt"):
        name = path.name[len("hyp_") : -len(".txt")]
        hypotheses = read_transcripts(path)
        try:
            rate = error_rate(references, hypotheses)
        except UserError as problem:
            raise UserError(f"{path} against {data_dir}/text: {problem}") from problem
        if strange := [key for key in hypotheses if key not in references]:
            log.warning(
                f"{len(strange)} of the {len(hypotheses)} utterances in {path} are not in {data_dir}/text "
                f"({strange[0]}, say) and do not count: is it the text of the data that were decoded?"
            )
        rates.append((rate.errors, float(name), name, rate))
    if not rates:
        raise UserError(f"{decode_dir} has no hypotheses hyp_X.txt: run steps/decode.py first.")
    for _, _, name, rate in rates:
        write_text(folder / f"wer_{name}", f"{rate}\n")
    _, _, name, best = min(rates, key=lambda r: r[:2])
    write_text(folder / "best_acwt", f"{name}\n")
    hypotheses = read_transcripts(folder / f"hyp_{name}.txt")
    return Scored(
        best,
        str(folder / f"wer_{name}"),
        [utterance for utterance in references if utterance not in hypotheses],
        [utterance for utterance in hypotheses if utterance not in references],
    )
