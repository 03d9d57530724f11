"""The lexicon, its disambiguation symbols, and the transducer made of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from nnet3py.alignment.language import prepare_language, read_language
from nnet3py.alignment.lexicon import Pronunciation, disambiguated, read_lexicon
from nnet3py.decoding.library_transducer import read_vector_transducer
from nnet3py.errors import UserError


def _written(folder: Path, text: str) -> str:
    path = folder / "lexicon.txt"
    path.write_text(text)
    return str(path)


def test_a_lexicon_without_probabilities_gives_each_pronunciation_probability_one(tmp_path: Path) -> None:
    found = read_lexicon(_written(tmp_path, "one W AH N\neight EY T\none W AH N\n"))
    assert found == [Pronunciation("one", 1.0, ("W", "AH", "N")), Pronunciation("eight", 1.0, ("EY", "T"))]


def test_lines_that_repeat_a_pronunciation_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _written(tmp_path, "a 0.25 X\na 0.75 Y Z\na 0.5 X\na 0.5 X\n")
    assert read_lexicon(path) == [Pronunciation("a", 0.5, ("X",)), Pronunciation("a", 0.75, ("Y", "Z"))]
    assert "2 of 4 lines repeat a pronunciation (line 3 is the first); each counts once" in capsys.readouterr().err


def test_probabilities_are_read_only_if_every_line_has_one(tmp_path: Path) -> None:
    assert read_lexicon(_written(tmp_path, "a 0.25 X\na 0.75 Y Z\n"))[0] == Pronunciation("a", 0.25, ("X",))
    assert read_lexicon(_written(tmp_path, "a 1 X\nb Y Z\n"))[0] == Pronunciation("a", 1.0, ("1", "X"))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "found none"),
        ("one W\ntwo\n", ":2: expected 'word phone phone"),
        ("#0 W\n", "reserved symbol: give the word"),
        ("one #1\n", "reserved symbol: give the phone"),
    ],
)
def test_a_bad_lexicon_is_refused_with_its_line(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(UserError, match=r"lexicon\.txt") as refused:
        read_lexicon(_written(tmp_path, text))
    assert part in str(refused.value)


def test_homophones_and_beginnings_of_others_get_disambiguation_symbols() -> None:
    def entry(word: str, *phones: str) -> Pronunciation:
        return Pronunciation(word, 1.0, phones)

    marked, highest = disambiguated(
        [entry("to", "T", "UW"), entry("two", "T", "UW"), entry("tool", "T", "UW", "L"), entry("see", "S", "IY")]
    )
    assert [number for _, number in marked] == [1, 2, 0, 0]
    assert highest == 2


def test_the_transducer_accepts_words_with_and_without_silence_at_the_cost_of_its_probability(tmp_path: Path) -> None:
    fst = pytest.importorskip("kaldifst", reason="kaldifst is not installed")
    language = prepare_language(
        _written(tmp_path, "a X Y\nb Y\n"), str(tmp_path / "lang"), silence_probability=0.2, num_silence_states=3
    )
    lexicon = read_vector_transducer(language.path("L.fst"))
    phones, words = language.phones, language.words

    def cost(phone_names: str, expected: str) -> float:
        spoken = fst.make_linear_acceptor([phones[name] for name in phone_names.split()])
        best = fst.shortest_path(fst.compose(spoken, lexicon))
        if best.num_states == 0:
            return math.inf
        _, _, said, weight = fst.get_linear_symbol_sequence(best)
        assert said == [words[word] for word in expected.split()]
        return float(weight.value)

    silence, none = -math.log(0.2), -math.log(0.8)
    assert cost("X Y", "a") == pytest.approx(2 * none, rel=1e-5)
    assert cost("SIL X Y Y", "a b") == pytest.approx(silence + 2 * none, rel=1e-5)
    assert cost("X Y SIL Y SIL", "a b") == pytest.approx(none + 2 * silence, rel=1e-5)
    assert cost("X X", "") == math.inf
    assert cost("SIL SIL X Y", "") == math.inf


def test_a_language_directory_reads_back_as_it_was_prepared(tmp_path: Path) -> None:
    pytest.importorskip("kaldifst", reason="kaldifst is not installed")
    made = prepare_language(_written(tmp_path, "a X Y\nb Y\nc Y\n"), str(tmp_path / "lang"), silence_probability=0.2)
    assert read_language(str(tmp_path / "lang")) == made
    assert made.silence_probability == 0.2
    assert made.phone_names()[made.optional_silence] == "SIL"
    assert [made.phone_names()[number] for number in made.disambiguation_phones] == ["#0", "#1", "#2", "#3"]
    before = {path: path.read_bytes() for path in (tmp_path / "lang").rglob("*") if path.is_file()}
    prepare_language(str(tmp_path / "lexicon.txt"), str(tmp_path / "lang"), silence_probability=0.2)
    assert before == {path: path.read_bytes() for path in (tmp_path / "lang").rglob("*") if path.is_file()}


def test_a_word_that_the_lexicon_lacks_is_named_with_its_utterance(tmp_path: Path) -> None:
    pytest.importorskip("kaldifst", reason="kaldifst is not installed")
    language = prepare_language(_written(tmp_path, "a X\n"), str(tmp_path / "lang"))
    with pytest.raises(UserError, match="utt7: the word 'oh' is not in"):
        language.word_numbers("utt7", ["a", "oh"])


def test_a_lexicon_with_a_phone_that_phones_txt_lacks_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("kaldifst", reason="kaldifst is not installed")
    prepare_language(_written(tmp_path, "a X\n"), str(tmp_path / "lang"))
    (tmp_path / "lang" / "lexicon.txt").write_text("a 1 Q\n")
    with pytest.raises(UserError, match=r"the phone 'Q' is not in phones\.txt"):
        read_language(str(tmp_path / "lang"))


def test_something_else_in_place_of_a_transducer_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("kaldifst", reason="kaldifst is not installed")
    (tmp_path / "L.fst").write_bytes(b"0 1 2 3\n")
    with pytest.raises(UserError, match=r"L\.fst, byte 0: expected a transducer"):
        read_vector_transducer(str(tmp_path / "L.fst"))


def test_other_words_are_not_put_beside_a_grammar_of_the_earlier_ones(tmp_path: Path) -> None:
    pytest.importorskip("kaldifst", reason="kaldifst is not installed")
    lang = tmp_path / "lang"
    prepare_language(_written(tmp_path, "a X\nb Y\n"), str(lang))
    (lang / "G.fst").write_bytes(b"a grammar of a and b")
    (lang / "phones/word_boundary.int").write_text("2 nonword\n")
    prepare_language(_written(tmp_path, "a X\nb Y\n"), str(lang), silence_probability=0.3)
    before = {path: path.read_bytes() for path in lang.rglob("*") if path.is_file()}
    with pytest.raises(
        UserError, match=r"has G\.fst, phones/word_boundary\.int, made for its present words\.txt, which"
    ):
        prepare_language(_written(tmp_path, "a X\nc Y\n"), str(lang))
    assert {path: path.read_bytes() for path in lang.rglob("*") if path.is_file()} == before
