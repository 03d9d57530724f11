"""Word error rates against counts made by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nnet3py.decoding.score import error_rate, score_decode_dir
from nnet3py.directories.transcripts import read_transcripts
from nnet3py.errors import UserError

pytest.importorskip("kaldialign")
ROOT = Path(__file__).resolve().parents[2]


def test_errors_are_counted_by_kind() -> None:
    references = {"a": ["one", "two", "three"], "b": ["four"], "c": ["five", "six"]}
    hypotheses = {"a": ["one", "oh", "three", "nine"], "b": ["four"], "c": ["six"]}
    rate = error_rate(references, hypotheses)
    assert (rate.substitutions, rate.insertions, rate.deletions) == (1, 1, 1)
    assert str(rate) == "%WER 50.00 [ 3 / 6, 1 ins, 1 del, 1 sub ]\n%SER 66.67 [ 2 / 3 ]"


def test_an_absent_hypothesis_counts_as_deleted_words() -> None:
    rate = error_rate({"a": ["one", "two"], "b": ["three"]}, {"b": ["three"], "other": ["x"]})
    assert (rate.deletions, rate.errors, rate.absent, rate.wrong_utterances) == (2, 2, 1, 1)
    assert "[PARTIAL]" in str(rate)


def test_transcripts_that_share_no_utterance_are_refused() -> None:
    with pytest.raises(UserError, match="same data"):
        error_rate({"a": ["one"]}, {"b": ["one"]})


def test_references_without_a_word_are_refused() -> None:
    with pytest.raises(UserError, match="no word"):
        error_rate({"a": []}, {"a": []})


def test_an_utterance_that_comes_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a one\na two\n")
    with pytest.raises(UserError, match=r"text:2.*second time"):
        read_transcripts(tmp_path / "text")


def score(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "steps" / "score.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_program_scores_every_scale_and_prints_the_best(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a one two\nb three\n")
    decoded = tmp_path / "decode"
    decoded.mkdir()
    (decoded / "hyp_0.1.txt").write_text("a one\nb three\n")
    (decoded / "hyp_0.25.txt").write_text("a one two\nb three\n")
    (decoded / "hyp_0.3.txt").write_text("a one two\nb three\n")
    done = score(tmp_path, decoded)
    assert done.stdout == f"%WER 0.00 [ 0 / 3, 0 ins, 0 del, 0 sub ] {decoded}/wer_0.25\n"
    assert (decoded / "best_acwt").read_text() == "0.25\n"
    assert (decoded / "wer_0.1").read_text().startswith("%WER 33.33 [ 1 / 3, 0 ins, 1 del, 0 sub ]")


def test_the_program_says_what_to_do_without_hypotheses(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a one\n")
    done = score(tmp_path, tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("ERROR (") == 1
    assert "steps/decode.py" in done.stderr


def test_utterances_that_one_side_lacks_are_told_and_warned_of_where_they_are_many(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("".join(f"u{number:02d} one\n" for number in range(40)))
    decoded = tmp_path / "decode"
    decoded.mkdir()
    hypotheses = [f"u{number:02d} one\n" for number in range(4, 40)] + ["u99 one\n"]
    (decoded / "hyp_0.1.txt").write_text("".join(hypotheses))
    lines = score(tmp_path, decoded).stderr.splitlines()
    assert [line.split(" (")[0] for line in lines[-2:]] == ["WARNING", "LOG"]
    assert "4 of 40 utterances" in lines[-2]
    assert lines[-2].endswith("have no hypothesis (u00, u01, u02, ...): their words count as deleted.")
    assert lines[-1].endswith(f"1 hypotheses have no transcript in {tmp_path}/text (u99).")


def test_an_empty_hypothesis_is_one_and_an_empty_transcript_too(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a\nb three\n")
    (tmp_path / "hyp_0.1.txt").write_text("a\nb\n")
    done = score(tmp_path, tmp_path)
    assert done.stdout.startswith("%WER 100.00 [ 1 / 1, 0 ins, 1 del, 0 sub ]")
    assert "have no hypothesis" not in done.stderr
    (tmp_path / "hyp_0.1.txt").write_text("")
    done = score(tmp_path, tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("ERROR (") == 1
    assert "hyp_0.1.txt is empty" in done.stderr


def test_a_decoding_that_was_stopped_is_not_scored_and_old_scores_go(tmp_path: Path) -> None:
    decoded = tmp_path / "decode"
    decoded.mkdir()
    (tmp_path / "text").write_text("a one two\n")
    (decoded / "hyp_0.1.txt").write_text("a one two\n")
    (decoded / "wer_0.2").write_text("%WER 0.00 [ 0 / 2, 0 ins, 0 del, 0 sub ]\n")
    (decoded / "wer_details").mkdir()
    (decoded / "hyp_0.2.1").write_text("a one\n")
    with pytest.raises(UserError, match="was not finished"):
        score_decode_dir(str(tmp_path), str(decoded))
    (decoded / "hyp_0.2.1").unlink()
    score_decode_dir(str(tmp_path), str(decoded))
    names = ["best_acwt", "hyp_0.1.txt", "wer_0.1", "wer_details"]
    assert sorted(path.name for path in decoded.iterdir()) == names
