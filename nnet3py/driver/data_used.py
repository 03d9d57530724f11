"""What a driver used of its data and what it left out, by reason: one line, kept in ``info/``, a warning if it is much.

Programs pass over an utterance that they cannot use and say so in a job's log, where nobody looks. A driver knows what
it gave its jobs and what came out; the difference is told with its reasons, seen by the driver or found in the logs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.text.lines import BLANKS, lines_of, read_text, write_text

NAME = "data_used"
"""The file in ``info/``."""

_MUCH = 0.05
_MOST_NAMED = 3
_UNKNOWN = "not in the results (see the logs)"
_SAID_IN_LOGS = (
    (r"No normalization statistics available for key KEY", "no normalisation statistics"),
    (r"No iVectors? (?:available )?for utterance KEY", "no iVectors"),
    (r"Length difference between feats .* for utterance KEY", "iVectors of another length"),
    (r"No features for utterance KEY", "no features"),
    (r"Zero-length utterance: KEY", "no frames"),
    (r"Empty loglikes matrix utterance: KEY", "no frames"),
    (r"No fst for utterance KEY", "no graph of its transcript"),
    (r"Empty graph for utterance KEY", "words that the lexicon cannot say"),
    (r"Did not successfully decode (?:file|utterance) KEY", "no path through the graph"),
    (r"Utterance KEY no path through the graph", "no path through the graph"),
    (r"No alignment for utterance KEY it is too short", "too short for its transcript"),
    (r"Not producing egs for utterance KEY because it is too short", "too short"),
    (r"No pdf-level posterior for key KEY", "no alignment"),
    (r"Supervision does not have expected length for utterance KEY", "an alignment of another length"),
)
"""What programs, ours and Kaldi's, say of an utterance ``KEY`` that they pass over."""


@dataclass
class DataUsed:
    """The account of one driver's run.

    Attributes:
        utterances: all that the data have.
        lengths: frames of an utterance, of those whose length is known.
        left_out: utterance -> reason.
        unnamed: how many more were left out, which ones is not known.
    """

    utterances: Collection[str]
    lengths: Mapping[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    unnamed: int = 0

    @property
    def lost(self) -> int:
        """How many utterances were left out."""
        return len(self.left_out) + self.unnamed

    def leave_out(self, utterances: Iterable[str], reason: str) -> None:
        """Utterances that are not used; of two reasons the first counts."""
        for utterance in utterances:
            self.left_out.setdefault(utterance, reason)

    def usable(self, table: Mapping[str, str], data: str) -> dict[str, str]:
        """The part of a table that is not left out.

        Raises:
            UserError: nothing of it is left; ``data`` says in the message what it was of.
        """
        left = {utterance: value for utterance, value in table.items() if utterance not in self.left_out}
        if not left:
            raise UserError(f"No utterance of {data} can be used. {self.line()}")
        return left

    def compare(self, results: Collection[str], logs: Iterable[str]) -> None:
        """Leave out what is not among the results, for the reasons that the jobs' logs give."""
        missing = [u for u in self.utterances if u not in results and u not in self.left_out]
        if missing:
            said = said_in_logs(logs, missing)
            for utterance in missing:
                self.left_out[utterance] = said.get(utterance, _UNKNOWN)

    def compare_number(self, results: int, logs: Iterable[str]) -> None:
        """As :meth:`compare`, where only their number is known."""
        missing = len(self.utterances) - len(self.left_out) - results
        if missing > 0:
            said = said_in_logs(logs, self.utterances)
            known = [u for u in self.utterances if u in said and u not in self.left_out][:missing]
            self.left_out |= {utterance: said[utterance] for utterance in known}
            self.unnamed += missing - len(known)

    def line(self) -> str:
        """All in one line: what was used, and what was left out by reason, most first."""
        lost = self.lost
        text = f"Used {len(self.utterances) - lost} of {len(self.utterances)} utterances"
        known = not self.unnamed and all(utterance in self.lengths for utterance in self.utterances)
        if known:
            total = sum(self.lengths[utterance] for utterance in self.utterances)
            used = total - sum(self.lengths[utterance] for utterance in self.left_out)
            text += f", {used} of {total} frames"
        if not lost:
            return f"{text}; left out none."
        reasons: dict[str, list[str]] = {}
        for utterance, reason in self.left_out.items():
            reasons.setdefault(reason, []).append(utterance)
        parts = []
        for reason, members in sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0])):
            frames = f", {sum(self.lengths[u] for u in members)} frames" if known else ""
            named = ", ".join(members[:_MOST_NAMED]) + (", ..." if len(members) > _MOST_NAMED else "")
            parts.append(f"{reason} {len(members)}{frames} ({named})")
        if self.unnamed:
            parts.append(f"{_UNKNOWN} {self.unnamed}")
        return f"{text}; left out {lost}: {'; '.join(parts)}."

    def report(self, folder: str) -> None:
        """Say it, as a warning where more than 5 % are lost, and write it into ``<folder>/info/data_used``."""
        line = self.line()
        os.makedirs(f"{folder}/info", exist_ok=True)
        write_text(f"{folder}/info/{NAME}", f"{line}\n")
        if self.lost > _MUCH * len(self.utterances):
            log.warning(line)
        else:
            log.log(line)


def said_in_logs(logs: Iterable[str], utterances: Iterable[str]) -> dict[str, str]:
    """Those of the utterances that programs said they passed over, and why; logs that do not exist say nothing."""
    key = f"([^{BLANKS}]+)"
    patterns = [(re.compile(pattern.replace("KEY", key)), reason) for pattern, reason in _SAID_IN_LOGS]
    called = {name: each for each in utterances for name in (log.escaped(each), each)}
    found: dict[str, str] = {}
    for path in logs:
        if not os.path.isfile(path):
            continue
        for line in lines_of(read_text(path)):
            if line.startswith("WARNING"):
                for pattern, reason in patterns:
                    if match := pattern.search(line):
                        word = match[1]
                        name = word if word in called else word[:-1]  # a comma, say
                        if name in called:
                            found.setdefault(called[name], reason)
    return found


def read_data_used(folder: str) -> str:
    """The line that :meth:`DataUsed.report` left in a directory; "" where there is none."""
    path = f"{folder}/info/{NAME}"
    return read_text(path).strip(BLANKS) if os.path.isfile(path) else ""
