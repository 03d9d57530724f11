"""The calling convention that Kaldi's engines share: ``cmd [options] [JOB=1:N] log-file command...``.

``JOB=1:N`` (any name serves) runs the command N times, the name replaced by the job's number wherever it stands in
the log's name and in the command. An argument without white space goes to bash as it is, so that ``\\|``, ``\\&\\&``
and ``\\>file`` passed as arguments of their own join programs; any other argument is put in quotes: in single ones
where it contains a double one, in double ones otherwise, so that bash still expands ``$`` in it.

Source: Kaldi egs/wsj/s5/utils/parallel/run.pl.
"""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass, field

from nnet3py.errors import UserError
from nnet3py.text.lines import fields

_ARRAY = re.compile(r"([A-Za-z_]\w*)=(\d+)(?::(\d+))?", re.ASCII)
_RANGE_OF_NUMBERS = re.compile(r"[A-Za-z_]\w*=\d+:\d+", re.ASCII)
_MEANT_AS_RANGE = re.compile(r"\w+=[^/:]*:[^/]*|JOB=[^/]*", re.ASCII)
_PICKS = ("all", "failed", "incomplete")


@dataclass(frozen=True)
class JobArray:
    """``JOB=first:last``: the name that a job's number replaces, and the numbers."""

    name: str
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __str__(self) -> str:
        return f"{self.name}={self.first}:{self.last}"

    def numbers(self) -> range:
        """The jobs' numbers in order."""
        return range(self.first, self.last + 1)


@dataclass(frozen=True)
class Invocation:
    """What an engine's command line asks for.

    Attributes:
        log: the log's file name, with the array's name in it.
        command: the text that bash is to run, quoted, with the array's name in it.
        array: None for one job without a number.
        max_jobs_run: most jobs at once; None where the engine is to choose.
        num_threads: cores that one job keeps busy.
        gpus: GPUs that one job needs.
        pick: which jobs to run, by how their last run ended: ``all``, ``failed`` (or incomplete) or ``incomplete``.
        time_limit: seconds after which a job is ended and has failed; None for no limit.
        settings: every option that begins with ``--`` (and ``-tc``), in the order given, without the dashes and with
            ``_`` for ``-`` within: ``{"max_jobs_run": "4", "mem": "2G"}``. A queue's configuration gives them meaning.
        passed_on: the words of all other options, such as ``-q all.q``, which a queue gets as they are.
    """

    log: str
    command: str
    array: JobArray | None = None
    max_jobs_run: int | None = None
    num_threads: int = 1
    gpus: int = 0
    pick: str = "all"
    time_limit: float | None = None
    settings: dict[str, str] = field(default_factory=dict)
    passed_on: tuple[str, ...] = ()

    def numbers(self) -> list[int | None]:
        """The jobs' numbers; one job without a number is ``[None]``."""
        return [None] if self.array is None else list(self.array.numbers())

    def log_of(self, number: int | None) -> str:
        """The log of one job."""
        return self._of(self.log, number)

    def command_of(self, number: int | None) -> str:
        """The text that bash is to run for one job."""
        return self._of(self.command, number)

    def _of(self, text: str, number: int | None) -> str:
        return text if self.array is None else text.replace(self.array.name, str(number))


def quote(word: str) -> str:
    """One argument as bash is to see it (see the module's text)."""
    if fields(word) == [word]:
        return word
    if '"' not in word:
        return f'"{word}"'
    # run.pl would put single quotes around it even if it has some inside, which breaks the command.
    return f"'{word}'" if "'" not in word else shlex.quote(word)


def parse(words: list[str]) -> Invocation:
    """Read an engine's arguments.

    ``-V`` has no value, ``-pe`` has two, ``--name=value`` has its own; any other option has the word after it as its
    value. What an engine does not know it passes over, for it may belong to another engine.

    Raises:
        UserError: a bad option value or range, or no log or command.
    """
    rest = list(words)
    settings: dict[str, str] = {}
    passed_on: list[str] = []
    array = None
    while len(rest) >= 2:
        if rest[0].startswith("-"):
            _take_option(rest, settings, passed_on)
        elif looks_like_range(rest[0]):
            if array is not None:
                raise UserError(f"The range of jobs is given twice: {array} and {rest[0]}; leave one of them out.")
            array = _parse_array(rest.pop(0))
        else:
            break
    if len(rest) < 2 or not rest[0]:
        raise UserError("Expected a log file and a command: [options] [JOB=1:N] <log-file> <command> ...")
    log = rest.pop(0)
    if _RANGE_OF_NUMBERS.fullmatch(rest[0]):
        raise UserError(f"Expected the range of jobs {rest[0]} before the log file {log}, found it after.")
    if array is not None and len(array) > 1 and array.name not in log:
        raise UserError(
            f"{len(array)} jobs cannot share the log {log}: put {array.name} into its name, "
            f"as in log/train.{array.name}.log."
        )
    return Invocation(
        log=log,
        command=" ".join(quote(word) for word in rest),
        array=array,
        max_jobs_run=_at_least_one("--max-jobs-run", settings.get("max_jobs_run")),
        num_threads=_at_least_one("--num-threads", settings.get("num_threads")) or 1,
        gpus=_count("--gpu", settings.get("gpu", "0")),
        pick=_pick(settings.get("pick", "all")),
        time_limit=_seconds("--time-limit", settings.get("time_limit")),
        settings=settings,
        passed_on=tuple(passed_on),
    )


def _take_option(rest: list[str], settings: dict[str, str], passed_on: list[str]) -> None:
    word = rest.pop(0)
    if word == "-V":
        passed_on.append(word)
        return
    if word != "-tc" and not word.startswith("--"):
        values = 2 if word == "-pe" else 0 if "=" in word else 1  # -pe smp 4
        passed_on += [word, *rest[:values]]
        del rest[:values]
        return
    name, equals, value = word.partition("=")
    if not equals:
        value = rest.pop(0) if rest else ""
        if _RANGE_OF_NUMBERS.fullmatch(value):
            raise UserError(f"Option {word} needs a value, found the range of jobs {value}.")
    name = {"-tc": "max_jobs_run"}.get(name, name.lstrip("-").replace("-", "_"))
    if name == "max_jobs_run" and name in settings:  # the smallest of several counts
        value = str(min(_count("--max-jobs-run", value), _count("--max-jobs-run", settings[name])))
    settings[name] = value


def after_options(words: list[str]) -> list[str]:
    """What is left of an engine's arguments after the options that they begin with."""
    rest = list(words)
    while rest and rest[0].startswith("-"):
        _take_option(rest, {}, [])
    return rest


def looks_like_range(word: str) -> bool:
    """Whether a word where the log's name may stand is meant as ``JOB=1:N``, well written or not.

    As in run.pl, which warns, a name, ``=`` and something with a colon is (``JOB=1:``, ``1=1:3``), and what begins with
    ``JOB=``; not what has a slash, a path such as ``lr=0.1/log/train.log``.
    """
    return bool(_ARRAY.fullmatch(word) or _MEANT_AS_RANGE.fullmatch(word))


def _parse_array(word: str) -> JobArray:
    match = _ARRAY.fullmatch(word)
    if match is not None:
        first, last = int(match[2]), int(match[3] or match[2])
        if 1 <= first <= last:
            return JobArray(match[1], first, last)
    name = match[1] if match else "JOB"
    raise UserError(f"Expected a range of jobs like {name}=1:4, counted from 1, found {word}.")


def _count(option: str, value: str) -> int:
    try:
        number = int(value)
    except ValueError:
        number = -1
    if number < 0:
        raise UserError(f"Option {option} needs a count, found {value!r}.")
    return number


def _at_least_one(option: str, value: str | None) -> int | None:
    if value is None:
        return None
    number = _count(option, value)
    if number < 1:
        raise UserError(f"Option {option} needs a count of at least 1, found {value!r}.")
    return number


def _seconds(option: str, value: str | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < math.inf:
        raise UserError(f"Option {option} needs a number of seconds above 0, found {value!r}.")
    return seconds


def _pick(value: str) -> str:
    if value not in _PICKS:
        raise UserError(f"Option --pick must be one of {', '.join(_PICKS)}, found {value!r}.")
    return value
