"""What was used and what was left out: of programs' logs, in one line, in files."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnet3py.driver.data_used import DataUsed, had_nothing_to_do, passed_over, read_data_used, said_in_logs, tell

KALDIS = [
    ("No normalization statistics available for key u1, producing no output for this utterance", "no normalisation"),
    ("No iVector available for utterance u1", "no iVectors"),
    ("No online iVector available for utterance u1", "no iVectors"),
    ("No iVectors for utterance u1", "no iVectors"),
    ("No features for utterance u1", "no features"),
    ("Not decoding utterance u1 because no features available.", "no features"),
    ("Not decoding utterance u1 because no loglikes available.", "no features"),
    ("Zero-length utterance: u1", "no frames"),
    ("Empty loglikes matrix utterance: u1", "no frames"),
    ("Empty loglikes matrix for utterance: u1", "no frames"),
    ("No fst for utterance u1", "no graph"),
    ("No transcript for utterance u1", "no graph"),
    ("Problem creating decoding graph for utterance u1 [serious error]", "no graph"),
    ("Empty decoding graph for utterance u1", "words that the lexicon cannot say"),
    ("Empty decoding graph for u1", "words that the lexicon cannot say"),
    ("Did not successfully decode file u1, len = 12", "no path"),
    ("Did not successfully decode utterance u1, len = 12", "no path"),
    ("Failed to decode utterance with id u1", "no path"),
    ("Not producing output for utterance u1 since no final-state reached and --allow-partial=false.", "no path"),
    ("AlignEqual: did not align utterence u1", "too short for its transcript"),
    ("Not producing egs for utterance u1 because it is too short: 3 frames.", "too short"),
    ("No pdf-level posterior for key u1", "no alignment"),
    ("No target matrix for key u1", "no alignment"),
    ("Supervision does not have expected length for utterance u1: expected length = 9, got 3", "another length"),
]
OURS = [
    ("Utterance u1: no path through the graph reaches its end; it is left out.", "no path"),
    ("No alignment for utterance u1: it is too short for its graph, 3 frames.", "too short for its transcript"),
    ("Empty graph for utterance u1: the lexicon cannot say its words.", "words that the lexicon cannot say"),
    ("u1: It has no frames.", "no frames"),
    ("u1: There are no features for it.", "no features"),
    ("Length difference between feats 60 and iVectors 2 exceeds tolerance 100 for utterance u1", "iVectors of another"),
]


@pytest.mark.parametrize(("said", "reason"), [*KALDIS, *OURS])
@pytest.mark.parametrize("utterance", ["s1-u1", "a:b,c", "à\u00a0\u3000b"])
def test_what_programs_say_of_an_utterance_is_understood(
    said: str, reason: str, utterance: str, tmp_path: Path
) -> None:
    log = tmp_path / "x.log"
    log.write_text(f"# program\nWARNING (program[5.5]:main():program.cc:99) {said.replace('u1', utterance)}\n")
    found = said_in_logs([str(log), str(tmp_path / "absent.log")], ["another", utterance])
    assert list(found) == [utterance]
    assert found[utterance].startswith(reason) or reason in found[utterance]


def test_a_program_that_goes_on_with_an_utterance_has_not_passed_over_it(tmp_path: Path) -> None:
    lines = ["Utterance u1: no final state reached; the words found are given.", "Retrying utterance u1 with beam 40"]
    (tmp_path / "x.log").write_text("".join(f"WARNING (a[1]:b():c:1) {line}\n" for line in lines))
    assert said_in_logs([str(tmp_path / "x.log")], ["u1"]) == {}


def test_a_job_had_nothing_to_do_if_its_logs_say_so_of_every_utterance(tmp_path: Path) -> None:
    (tmp_path / "feats.1.scp").write_text("a x:1\nb x:2\n")
    logs = [f"{tmp_path}/compute.JOB.log", f"{tmp_path}/decode.JOB.log"]
    (tmp_path / "compute.1.log").write_text("WARNING (a[1]:b():c:1) Zero-length utterance: a\n")
    assert not had_nothing_to_do(str(tmp_path), logs)(1)
    (tmp_path / "decode.1.log").write_text("WARNING (a[1]:b():c:1) Failed to decode utterance with id b\n")
    assert had_nothing_to_do(str(tmp_path), logs)(1)
    assert not passed_over([f"{tmp_path}/compute.1.log"], ["a", "b"])


def test_the_line_is_for_people_and_every_utterance_is_in_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    used = DataUsed([f"u{number}" for number in range(10)], {f"u{number}": 5 for number in range(10)})
    used.leave_out(["u3", "u2", "u7", "u1"], "no frames")
    used.leave_out(["u1", "u9"], "no alignment")
    used.report(str(tmp_path))
    line = (
        "Used 5 of 10 utterances, 25 of 50 frames; left out 5: no frames 4, 20 frames (u3, u2, u7, ...); "
        "no alignment 1, 5 frames (u9)."
    )
    assert read_data_used(str(tmp_path)) == line
    assert (tmp_path / "info/left_out").read_text() == (
        "u1 no frames\nu2 no frames\nu3 no frames\nu7 no frames\nu9 no alignment\n"
    )
    assert capsys.readouterr().err.startswith("WARNING")


@pytest.mark.parametrize(("lost", "kind"), [(5, "LOG"), (6, "WARNING")])
def test_more_than_five_percent_are_warned_of(lost: int, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    tell("So much.", lost, 100)
    assert capsys.readouterr().err.startswith(kind)
