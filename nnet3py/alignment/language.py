"""The language directory (Kaldi's ``lang``): the symbols, the phones' topology and the lexicon's transducers.

Files, all but the transducers in text::

    phones.txt words.txt        symbol tables; phones end with the disambiguation symbols #0 #1 ...
    lexicon.txt                 word probability phone ...
    topo                        states of each phone
    L.fst L_disambig.fst        the lexicon as transducers (OpenFst's binary form)
    silprob.txt                 "overall P": probability of a silence at each place where one may be
    phones/{silence,nonsilence,optional_silence,disambig}.{txt,int,csl}    phones/sets.{txt,int}

Source: Kaldi egs/wsj/s5/utils/prepare_lang.sh.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nnet3py.alignment.lexicon import EPSILON, Pronunciation, disambiguated, lexicon_transducer, read_lexicon
from nnet3py.alignment.topology import topology_text
from nnet3py.errors import UserError, reason
from nnet3py.temporary_files import replacing
from nnet3py.text.lines import BLANKS, encode, key_and_rest, read_lines, read_text, write_text
from nnet3py.text.symbols import read_symbols

_NUMBERED = re.compile(r".*\.(?:fst|int|csl|carpa|fa)|oov\.txt")
"""Files that hold numbers of words or phones, or a word that must be in the list."""


@dataclass(frozen=True)
class Language:
    """What a language directory says, apart from its transducers. ``silence_phones``: numbers of phones."""

    directory: str
    phones: dict[str, int]
    words: dict[str, int]
    lexicon: list[Pronunciation]
    silence_phones: list[int]
    optional_silence: int
    silence_probability: float
    disambiguation_phones: list[int]

    def path(self, name: str) -> str:
        """The path of one file of the directory."""
        return os.path.join(self.directory, name)

    def phone_names(self) -> dict[int, str]:
        """Number of a phone -> its name."""
        return {number: name for name, number in self.phones.items()}

    def word_numbers(self, utterance: str, words: Sequence[str]) -> list[int]:
        """The numbers of a transcript's words.

        Raises:
            UserError: a word is not in the lexicon.
        """
        spoken = {pronunciation.word for pronunciation in self.lexicon}
        for word in words:
            if word not in spoken:
                raise UserError(
                    f"Utterance {utterance}: the word {word!r} is not in {self.path('lexicon.txt')}: "
                    "add a pronunciation and prepare the language directory again."
                )
        return [self.words[word] for word in words]


def read_language(directory: str) -> Language:
    """Read a language directory.

    Raises:
        UserError: a file is missing or malformed, or the symbol tables lack something the lexicon has.
    """
    phones = read_symbols(os.path.join(directory, "phones.txt"))
    words = read_symbols(os.path.join(directory, "words.txt"))
    lexicon_path = os.path.join(directory, "lexicon.txt")
    lexicon = read_lexicon(lexicon_path)
    for pronunciation in lexicon:
        if pronunciation.word not in words:
            raise UserError(f"{lexicon_path}: the word {pronunciation.word!r} is not in words.txt beside it.")
        for phone in pronunciation.phones:
            if phone not in phones:
                raise UserError(f"{lexicon_path}: the phone {phone!r} is not in phones.txt beside it.")
    return Language(
        directory=directory,
        phones=phones,
        words=words,
        lexicon=lexicon,
        silence_phones=sorted(read_symbols_of(os.path.join(directory, "phones", "silence.txt"), phones)),
        optional_silence=_optional_silence(os.path.join(directory, "phones", "optional_silence.txt"), phones),
        silence_probability=_silence_probability(os.path.join(directory, "silprob.txt")),
        disambiguation_phones=[number for name, number in phones.items() if name.startswith("#")],
    )


def read_symbols_of(path: str, table: dict[str, int]) -> list[int]:
    """The numbers of the symbols a file lists, one a line.

    Raises:
        UserError: the file cannot be read, or a symbol is not in the table.
    """
    numbers = []
    for line, text in enumerate(read_lines(path), 1):
        name = text.strip(BLANKS)
        if name not in table:
            raise UserError(f"{path}:{line}: the symbol {name!r} is not in the symbol table.")
        numbers.append(table[name])
    return numbers


def _optional_silence(path: str, phones: dict[str, int]) -> int:
    numbers = read_symbols_of(path, phones)
    if len(numbers) != 1:
        raise UserError(f"{path}: expected one phone, found {len(numbers)}.")
    return numbers[0]


def _silence_probability(path: str) -> float:
    for line in read_lines(path):
        name, value = key_and_rest(line)
        if name == "overall":
            try:
                probability = float(value)
            except ValueError:
                break
            if 0.0 <= probability < 1.0:
                return probability
    raise UserError(f"{path}: expected a line 'overall P' with a probability of at least 0 and less than 1.")


def prepare_language(
    lexicon_path: str,
    directory: str,
    *,
    silence_phone: str = "SIL",
    silence_probability: float = 0.5,
    num_states: int = 3,
    num_silence_states: int = 5,
) -> Language:
    """Make a language directory of a lexicon.

    Args:
        lexicon_path: see :mod:`nnet3py.alignment.lexicon`.
        silence_phone: the phone between words; the lexicon need not name it.
        silence_probability: of a silence at each place where one may be; 0 <= p < 1.
        num_states: emitting states of a phone.
        num_silence_states: those of the silence phone.

    Raises:
        UserError: the lexicon is bad, an option is out of range, or the directory cannot be written, or has files that
            go by other words or phones.
    """
    if not 0.0 <= silence_probability < 1.0:
        raise UserError(f"--sil-prob must be at least 0 and less than 1, not {silence_probability}.")
    for name, value in (("--num-nonsil-states", num_states), ("--num-sil-states", num_silence_states)):
        if not 1 <= value <= 100:
            raise UserError(f"{name} must be from 1 to 100, not {value}.")
    lexicon = read_lexicon(lexicon_path)
    marked, highest = disambiguated(lexicon)
    after_silence = f"#{highest + 1}"
    spoken = sorted({phone for entry in lexicon for phone in entry.phones} - {silence_phone}, key=encode)
    if not spoken:
        raise UserError(f"{lexicon_path}: no phone but the silence phone {silence_phone}.")
    extra = [f"#{k}" for k in range(highest + 2)]
    phones = {name: number for number, name in enumerate([EPSILON, silence_phone, *spoken, *extra])}
    vocabulary = sorted({entry.word for entry in lexicon}, key=encode)
    words = {name: number for number, name in enumerate([EPSILON, *vocabulary, "#0", "<s>", "</s>"])}

    texts = {
        "phones.txt": _table_text(phones),
        "words.txt": _table_text(words),
        "lexicon.txt": "".join(f"{e.word} {e.probability:.7g} {' '.join(e.phones)}\n" for e in lexicon),
        "silprob.txt": f"overall {silence_probability:.7g}\n",
        "topo": topology_text([phones[p] for p in spoken], [phones[silence_phone]], num_states, num_silence_states),
    }
    groups = {"silence": [silence_phone], "nonsilence": spoken, "optional_silence": [silence_phone], "disambig": extra}
    for name, members in [*groups.items(), ("sets", [silence_phone, *spoken])]:
        numbers = [str(phones[member]) for member in members]
        texts[f"phones/{name}.txt"] = "".join(f"{member}\n" for member in members)
        texts[f"phones/{name}.int"] = "".join(f"{number}\n" for number in numbers)
        if name in groups:
            texts[f"phones/{name}.csl"] = ":".join(numbers) + "\n"
    unmarked = [(entry, 0) for entry in lexicon]
    common: dict[str, Any] = {"silence_phone": silence_phone, "silence_probability": silence_probability}
    transducers = {
        "L.fst": lexicon_transducer(unmarked, phones, words, **common),
        "L_disambig.fst": lexicon_transducer(marked, phones, words, silence_disambiguation=after_silence, **common),
    }
    _refuse_foreign_files(directory, texts, {*texts, *transducers})
    try:
        os.makedirs(os.path.join(directory, "phones"), exist_ok=True)
        for name in transducers:  # first to go, last to come: a transducer has the words and phones beside it
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, name))
        for name, text in texts.items():
            write_text(os.path.join(directory, name), text)
        for name, transducer in transducers.items():
            with replacing(os.path.join(directory, name)) as temporary:
                transducer.write(temporary)
    except OSError as problem:
        raise UserError(f"Cannot write the language directory {directory}: {reason(problem)}.") from problem
    return read_language(directory)


def _refuse_foreign_files(directory: str, texts: dict[str, str], own: set[str]) -> None:
    """Refuse to put other words or phones beside files, a grammar say, whose numbers are those of the earlier ones."""
    changed = []
    for name in ("words.txt", "phones.txt"):
        path = os.path.join(directory, name)
        if os.path.isfile(path) and read_text(path) != texts[name]:
            changed.append(name)
    if not changed:
        return
    phones = os.path.join(directory, "phones")
    there = os.listdir(directory)
    there += [f"phones/{name}" for name in os.listdir(phones)] if os.path.isdir(phones) else []
    foreign = sorted(name for name in there if name not in own and _NUMBERED.fullmatch(name))
    if foreign:
        raise UserError(
            f"{directory} has {', '.join(foreign)}, made for its present {' and '.join(changed)}, which will be "
            "others: remove what was made for them, or choose another directory."
        )


def _table_text(symbols: dict[str, int]) -> str:
    return "".join(f"{name} {number}\n" for name, number in symbols.items())
