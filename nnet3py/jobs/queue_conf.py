"""How a queue is told what a job needs: files in the manner of Kaldi's ``conf/queue.conf``.

A file says which command submits a job and what each of an engine's options adds to it::

    command sbatch --export=ALL        # the command, with what it always gets
    option mem=* --mem-per-cpu=$0      # --mem 2G on the engine's command line adds --mem-per-cpu=2G
    option mem=0                       # --mem 0 adds nothing
    default gpu=0                      # without --gpu, as if --gpu 0 had been given
    option gpu=0
    option gpu=* --gres=gpu:$0 -p gpu

Any name serves as an option; a dash in it is written ``_``. A line for one value goes before the line for ``*``,
whatever their order; of two lines for the same value the last counts. ``#`` begins a comment. The lines are split into
words as a shell does, with quotes, and ``$NAME`` or ``${NAME}`` is replaced by the environment variable; no shell sees
them, so that a value with spaces or ``;`` stays one word.

Source: Kaldi egs/wsj/s5/utils/parallel/queue.pl and slurm.pl.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field

from nnet3py.errors import UserError
from nnet3py.text.lines import BLANKS, key_and_rest, lines_of, read_text

ANY = "*"
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})")  # not $0, an option's value


@dataclass
class QueueConf:
    """A queue's configuration.

    Attributes:
        source: where it is from, for messages.
        command: the words that submit a job.
        options: by option and value (:data:`ANY` for all others), the words that it adds, ``$0`` being the value.
        defaults: values of options that are not given.
    """

    source: str
    command: list[str] = field(default_factory=list)
    options: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)

    def words(self, settings: dict[str, str]) -> list[str]:
        """What options add to the command; ``settings`` are those that were given, then come the defaults of others.

        Raises:
            UserError: the file does not describe an option, or not with that value.
        """
        given = {**settings, **{name: value for name, value in self.defaults.items() if name not in settings}}
        return [word for name, value in given.items() for word in self._words_of(name, value)]

    def describes(self, option: str) -> bool:
        """Whether there is a line for an option, with whatever value."""
        return any(name == option for name, _ in self.options)

    def _words_of(self, name: str, value: str) -> list[str]:
        for key in ((name, value), (name, ANY)):
            if key in self.options:
                return [_substitute(word, value) for word in self.options[key]]
        shown = f"--{name.replace('_', '-')}"
        values = sorted(known for option, known in self.options if option == name)
        if values:
            raise UserError(f"Option {shown} is {value!r}, but {self.source} has it with {', '.join(values)} only.")
        raise UserError(
            f"Option {shown} means nothing to {self.source}: add a line such as "
            f"'option {name}=* ...' that says what it adds to {self.command[0]}."
        )


def read(path: str) -> QueueConf:
    """Read a file.

    Raises:
        UserError: it cannot be read, or a line cannot; the message says which.
    """
    return parse(read_text(path), path)


def parse(text: str, source: str) -> QueueConf:
    """Read a configuration's text; ``source`` is its name in messages.

    Raises:
        UserError: a line cannot be read, or none says which command submits a job.
    """
    conf = QueueConf(source)
    for number, line in enumerate(lines_of(text), 1):
        # As in Kaldi, whatever follows a # is a comment, also within quotes.
        line = line.split("#", 1)[0].strip(BLANKS)
        if line:
            _read_line(conf, line, f"{source} line {number}")
    if not conf.command:
        raise UserError(f"{source} has no line 'command ...' that says how a job is submitted.")
    return conf


def _read_line(conf: QueueConf, line: str, place: str) -> None:
    kind, rest = key_and_rest(line)
    if kind == "command" and rest:
        conf.command = _split(rest, place)
        return
    subject, words = key_and_rest(rest)
    name, equals, value = subject.partition("=")
    if kind == "option" and name and equals and value:
        conf.options[name, value] = _split(words, place)
    elif kind == "default" and name and equals and value and not words:
        conf.defaults[name] = value
    else:
        raise UserError(
            f"{place}: expected 'command <words>', 'option <name>=<value or *> [<words>]' or "
            f"'default <name>=<value>', found {line!r}."
        )


def _split(text: str, place: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as problem:
        raise UserError(f"{place}: cannot split {text!r} into words: {problem}.") from problem
    return [_VARIABLE.sub(lambda found: _variable(found, place), word) for word in words]


def _variable(found: re.Match[str], place: str) -> str:
    name = found[1] or found[2]
    if name not in os.environ:
        raise UserError(f"{place}: the environment has no variable {name}.")
    return os.environ[name]


def _substitute(word: str, value: str) -> str:
    return word.replace("${0}", value).replace("$0", value)
