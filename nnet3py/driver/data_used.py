"""What a driver used of its data and what it left out, by reason: one line, kept in ``info/``, a warning if it is much.

Programs pass over an utterance that they cannot use and say so in a job's log, where nobody looks. A driver knows what
it gave its jobs and what came out; the difference is told with its reasons, seen by the driver or found in the logs.
The line is for people, and names a few of the utterances; ``info/left_out`` has them all, for programs.

A program fails if it could use nothing of what it got, ours and Kaldi's alike, which is right for a whole corpus and
wrong for one job's part of it: where a job's log says of every utterance why it was passed over, the job had nothing
to do (:func:`passed_over`), and its utterances are left out as others are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from nnet3py import log
from nnet3py.driver.split_data import utterances_of
from nnet3py.errors import UserError
from nnet3py.text.lines import BLANKS, encode, joined, lines_of, read_text, write_text

NAME = "data_used"
"""The file in ``info/`` with the line."""

LEFT_OUT = "left_out"
"""The file in ``info/`` with every utterance that is not used: ``utterance reason``, reasons being of several words."""

_MUCH = 0.05
_MOST_NAMED = 3
_UNKNOWN = "not in the results (see the logs)"
_KEY = f"([^{BLANKS}]+)"
_SAID_IN_LOGS = tuple(
    (re.compile(pattern.replace("KEY", _KEY)), reason)
    for pattern, reason in (
        (r"No normalization statistics available for key KEY", "no normalisation statistics"),
        (r"No (?:online )?iVectors? (?:available )?for utterance KEY", "no iVectors"),
        (r"Length difference between feats .* for utterance KEY", "iVectors of another length"),
        (r"No features for utterance KEY", "no features"),
        (r"Not decoding utterance KEY because no (?:features|loglikes) available", "no features"),
        (r"\) KEY There are no features for it\.", "no features"),
        (r"\) KEY It has no frames\.", "no frames"),
        (r"Zero-length utterance: KEY", "no frames"),
        (r"Empty loglikes matrix (?:for )?utterance: KEY", "no frames"),
        (r"No (?:fst|transcript) for utterance KEY", "no graph of its transcript"),
        (r"Problem creating decoding graph for utterance KEY", "no graph of its transcript"),
        (r"Empty (?:decoding )?graph for (?:utterance )?KEY", "words that the lexicon cannot say"),
        (r"Did not successfully decode (?:file|utterance) KEY", "no path through the graph"),
        (r"Failed to decode utterance with id KEY", "no path through the graph"),
        (r"Not producing output for utterance KEY since no final-state reached", "no path through the graph"),
        (r"Utterance KEY no path through the graph", "no path through the graph"),
        (r"AlignEqual: did not align utterence KEY", "too short for its transcript"),
        (r"No alignment for utterance KEY it is too short", "too short for its transcript"),
        (r"Not producing egs for utterance KEY because it is too short", "too short"),
        (r"No (?:pdf-level posterior|target matrix) for key KEY", "no alignment"),
        (r"Supervision does not have expected length for utterance KEY", "an alignment of another length"),
    )
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

    def leave_out_empty(self) -> None:
        """Leave out what is known to have no frames, before a program meets it: Kaldi's apply-cmvn would fail."""
        self.leave_out((each for each in self.utterances if self.lengths.get(each) == 0), "no frames")

    def usable(self, table: Mapping[str, str], data: str, advice: str = "") -> dict[str, str]:
        """The part of a table that is not left out.

        Raises:
            UserError: nothing of it is left; ``data`` says in the message what it was of, ``advice`` what to do.
        """
        left = {utterance: value for utterance, value in table.items() if utterance not in self.left_out}
        if not left:
            raise UserError(f"No utterance of {data} can be used. {self.line()}{f' {advice}' if advice else ''}")
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
            parts.append(f"{reason} {len(members)}{frames} ({some(members)})")
        if self.unnamed:
            parts.append(f"{_UNKNOWN} {self.unnamed}")
        return f"{text}; left out {lost}: {'; '.join(parts)}."

    def report(self, folder: str) -> None:
        """Say it, as a warning where more than 5 % are lost, and write it into ``<folder>/info/data_used``."""
        line = self.line()
        os.makedirs(f"{folder}/info", exist_ok=True)
        lost = sorted(self.left_out.items(), key=lambda pair: encode(pair[0]))
        write_text(f"{folder}/info/{LEFT_OUT}", joined(f"{utterance} {reason}" for utterance, reason in lost))
        write_text(f"{folder}/info/{NAME}", f"{line}\n")
        tell(line, self.lost, len(self.utterances))

    def require_some(self, data: str) -> None:
        """Raise UserError if nothing was used of ``data``."""
        if self.lost >= len(self.utterances):
            raise UserError(f"No utterance of {data} could be used. {self.line()}")


def is_much(lost: float, of: float) -> bool:
    """Whether so much is lost that a warning is due."""
    return lost > _MUCH * of


def tell(line: str, lost: float, of: float) -> None:
    """Say a line about what is lost, as a warning where that is much."""
    if is_much(lost, of):
        log.warning(line)
    else:
        log.log(line)


def some(names: Sequence[str]) -> str:
    """The first of some names, for a message."""
    return ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")


def passed_over(logs: Iterable[str], utterances: Iterable[str]) -> bool:
    """Whether a job's logs say of every one of its utterances that it was passed over, and why."""
    wanted = list(utterances)
    return len(said_in_logs(logs, wanted)) == len(set(wanted))


def had_nothing_to_do(folder: str, logs: Sequence[str]) -> Callable[[int], bool]:
    """Says of a job (:meth:`nnet3py.driver.engine.Engine.start`, ``excused``) whether it had nothing to do.

    Args:
        folder: where :func:`nnet3py.driver.split_data.split_features` has left the jobs' parts.
        logs: names of a job's logs, with ``JOB`` in them.
    """
    return lambda job: passed_over([log.replace("JOB", str(job)) for log in logs], utterances_of(folder, job))


def said_in_logs(logs: Iterable[str], utterances: Iterable[str]) -> dict[str, str]:
    """Those of the utterances that programs said they passed over, and why; logs that do not exist say nothing."""
    called = {name: each for each in utterances for name in (log.escaped(each), each)}
    found: dict[str, str] = {}
    for path in logs:
        if not os.path.isfile(path):
            continue
        for line in lines_of(read_text(path)):
            if line.startswith("WARNING"):
                for pattern, reason in _SAID_IN_LOGS:
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
