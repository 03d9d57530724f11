"""The pronunciation lexicon, and the two transducers made of it, as ``steps/prepare_lang.py`` writes them.

A lexicon line is ``word phone phone ...`` or, if every line of the file has it, ``word probability phone phone ...``.

The transducer L takes phones to words and allows an optional silence before the first word and after each word, with a
given probability. L_disambig is the same with symbols #1, #2, ... after pronunciations that are alike or are the
beginning of another one, one more after the silence, and #0 (for the grammar's back-off arcs) passed through: with them
L o G can be determinised.

Source: Kaldi egs/wsj/s5/utils/lang/make_lexicon_fst.py, utils/add_lex_disambig.pl.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nnet3py import log
from nnet3py.alignment.recipe_library import import_recipe_library
from nnet3py.errors import UserError
from nnet3py.text.lines import fields, read_lines

if TYPE_CHECKING:
    import kaldifst

EPSILON = "<eps>"
_RESERVED_WORDS = ("#0", "<s>", "</s>", EPSILON)


@dataclass(frozen=True)
class Pronunciation:
    """One way to say a word. ``probability``: relative to the word's other ways, at most 1."""

    word: str
    probability: float
    phones: tuple[str, ...]


def read_lexicon(path: str) -> list[Pronunciation]:
    """The pronunciations in a lexicon file, in the file's order, a line said twice only once.

    Raises:
        UserError: the file cannot be read or is empty, a line has no phone, or a name is one that is reserved.
    """
    lines = []
    for number, line in enumerate(read_lines(path), 1):
        words = fields(line)
        if words:
            lines.append((number, words))
    if not lines:
        raise UserError(f"{path}: expected lines 'word phone phone ...', found none.")
    with_probabilities = all(len(words) > 2 and _probability(words[1]) is not None for _, words in lines)
    pronunciations: dict[tuple[str, tuple[str, ...]], Pronunciation] = {}
    repeated: list[int] = []
    for number, words in lines:
        word, phones = words[0], tuple(words[2:] if with_probabilities else words[1:])
        if not phones:
            raise UserError(f"{path}:{number}: expected 'word phone phone ...', found the word {word!r} alone.")
        if word in _RESERVED_WORDS:
            raise UserError(f"{path}:{number}: {word!r} is a reserved symbol: give the word another name.")
        for phone in phones:
            if phone == EPSILON or phone.startswith("#"):
                raise UserError(f"{path}:{number}: {phone!r} is a reserved symbol: give the phone another name.")
        probability = (_probability(words[1]) or 1.0) if with_probabilities else 1.0
        if (word, phones) in pronunciations:
            repeated.append(number)
        pronunciations[word, phones] = Pronunciation(word, probability, phones)
    if repeated:
        what = f"{path}: {len(repeated)} of {len(lines)} lines repeat a pronunciation (line {repeated[0]} is the first)"
        log.log(f"{what}; each counts once{', with its last probability' if with_probabilities else ''}.")
    return list(pronunciations.values())


def _probability(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0.0 < value <= 1.0 else None


def disambiguated(pronunciations: Iterable[Pronunciation]) -> tuple[list[tuple[Pronunciation, int]], int]:
    """Each pronunciation with the number k of the symbol #k that must follow it (0: none), and the highest k used."""
    listed = list(pronunciations)
    count = Counter(p.phones for p in listed)
    beginnings = {p.phones[:length] for p in listed for length in range(1, len(p.phones))}
    used: Counter[tuple[str, ...]] = Counter()
    marked = []
    for pronunciation in listed:
        phones = pronunciation.phones
        if count[phones] == 1 and phones not in beginnings:
            marked.append((pronunciation, 0))
        else:
            used[phones] += 1
            marked.append((pronunciation, used[phones]))
    return marked, max(used.values(), default=0)


def lexicon_transducer(
    marked: list[tuple[Pronunciation, int]],
    phones: dict[str, int],
    words: dict[str, int],
    *,
    silence_phone: str,
    silence_probability: float,
    silence_disambiguation: str | None = None,
) -> kaldifst.StdVectorFst:
    """L, or L_disambig if ``silence_disambiguation`` names the symbol after the silence; sorted by output label.

    Args:
        marked: pronunciations with the number of their disambiguation symbol, all 0 for L.
        phones: phone -> number, disambiguation symbols included.
        words: word -> number.
        silence_probability: of a silence at each place where one may be; 0 leaves silence out.
    """
    fst = import_recipe_library("kaldifst")
    graph = fst.StdVectorFst()
    start, between, silence = (graph.add_state() for _ in range(3))
    graph.start = start
    graph.set_final(between, fst.TropicalWeight(0.0))

    def arc(source: int, phone: int, word: int, cost: float, target: int) -> None:
        graph.add_arc(source, fst.StdArc(phone, word, fst.TropicalWeight(cost), target))

    no_silence_cost, silence_cost = 0.0, math.inf
    if silence_probability > 0.0:
        no_silence_cost, silence_cost = -math.log1p(-silence_probability), -math.log(silence_probability)
        after = between
        if silence_disambiguation is not None:
            after = graph.add_state()
            arc(after, phones[silence_disambiguation], 0, 0.0, between)
        arc(silence, phones[silence_phone], 0, 0.0, after)
        arc(start, 0, 0, silence_cost, silence)
    arc(start, 0, 0, no_silence_cost, between)
    for pronunciation, disambiguation in marked:
        labels = [phones[phone] for phone in pronunciation.phones]
        if disambiguation:
            labels.append(phones[f"#{disambiguation}"])
        place, word, cost = between, words[pronunciation.word], -math.log(pronunciation.probability)
        for label in labels[:-1]:
            following = graph.add_state()
            arc(place, label, word, cost, following)
            place, word, cost = following, 0, 0.0
        arc(place, labels[-1], word, cost + no_silence_cost, between)
        if silence_probability > 0.0 and pronunciation.phones != (silence_phone,):
            arc(place, labels[-1], word, cost + silence_cost, silence)
    if silence_disambiguation is not None:
        arc(between, phones["#0"], words["#0"], 0.0, between)
    fst.arcsort(graph, sort_type="olabel")
    return graph
