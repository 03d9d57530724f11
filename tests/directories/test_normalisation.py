"""What normalisation options really ask for, whatever they look like, and what is needed for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from nnet3py.directories.normalisation import (
    NONE,
    Normalisation,
    normalisation_of,
    require_same_normalisation,
    warn_of_other_normalisation,
)
from nnet3py.errors import UserError
from nnet3py.tables.holders import MATRIX
from nnet3py.tables.table import SequentialReader, TableWriter

KEYS = ["s1-u1", "s1-u2", "s2-u1"]
DIM = 3


def effect(options: str) -> tuple[object, object]:
    found = Normalisation(options).effect()
    return found["--norm-means"], found["--norm-vars"]


@pytest.mark.parametrize(
    ("options", "means", "variances"),
    [
        ("", True, False),
        ("  \t ", True, False),
        ("--norm-means=false", False, False),
        ("--norm-vars=false --norm-means=false", False, False),
        ("--norm-means=false --norm-vars=false", False, False),
        ("--norm_means=false", False, False),
        ("--norm-means=F", False, False),
        ("--norm-means=0", False, False),
        ("--norm-means", True, False),
        ("--norm-means=", True, False),
        ("--norm_vars=true", True, True),
        ("--norm-vars true", True, True),
        ("--norm-vars true --norm-means=true", True, True),
        ("--norm-vars", True, True),
        ("--norm-vars --norm-means=t", True, True),
        ("--norm-vars=true --norm-vars=false", True, False),
        ("--norm-means=false --norm-means=true", True, False),
        ("--norm-means=true\n--norm-vars=true\n", True, True),
        ("'--norm-vars=true' \"--norm-means=true\"", True, True),
        ("--verbose=2 --norm-vars=true --print-args=false", True, True),
        ("--utt2spk ark:data/utt2spk --norm-means=false", False, False),
    ],
)
def test_the_order_and_spelling_of_options_make_no_difference(options: str, means: bool, variances: bool) -> None:
    assert effect(options) == (means, variances)
    assert Normalisation(options).does_nothing is not means


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("", "--norm-means=true", True),
        ("--norm-means=true --norm-vars=false", "--norm_vars=false", True),
        ("--norm-means=false", NONE, True),
        ("--norm-means=false --skip-dims=1", NONE, True),
        ("--skip-dims=1:2 --norm-vars=true", "--norm-vars --skip_dims=1:2", True),
        ("--skip-dims=1:2", "--skip-dims=1", False),
        ("--skip-dims=1:2", "", False),
        ("--norm-vars=true", "", False),
        ("--reverse=true", "", False),
        ("", NONE, False),
    ],
)
def test_options_are_the_same_where_features_become_the_same(first: str, second: str, same: bool) -> None:
    assert Normalisation(first).is_that_of(Normalisation(second)) is same
    assert Normalisation(second).is_that_of(Normalisation(first)) is same


def test_normalisation_by_what_came_before_is_another_but_where_nothing_is_normalised() -> None:
    assert not Normalisation("").is_that_of(Normalisation("", online=True))
    assert Normalisation(NONE).is_that_of(Normalisation(NONE, online=True))
    window = Normalisation("--cmn-window=600", online=True)  # the default
    assert window.is_that_of(Normalisation("", online=True))
    assert not window.is_that_of(Normalisation("--cmn-window=300", online=True))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--norm-means=perhaps", "Expected true or false for --norm-means in exp/cmvn_opts, found 'perhaps'"),
        ("--norm-vars=2", "Expected true or false for --norm-vars in exp/cmvn_opts, found '2'"),
        ("norm-vars=true", "Expected options of apply-cmvn in exp/cmvn_opts, found 'norm-vars=true'"),
        ("--norm-means=true cmvn.scp", "Expected options of apply-cmvn in exp/cmvn_opts, found 'cmvn.scp'"),
        ("--norm-means='true", "Cannot read the options .* \\(exp/cmvn_opts\\): No closing quotation"),
        ("--norm-vars=true --norm-means=false", "variances without means"),
    ],
)
def test_options_that_cannot_be_meant_are_one_error_that_says_where_they_are_from(options: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Normalisation(options, source="exp/cmvn_opts")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``data/`` with features of dimension 3 and their statistics, in the current directory."""
    folder = tmp_path / "data"
    folder.mkdir()
    random = np.random.default_rng(1)
    with TableWriter(f"ark,scp:{folder}/feats.ark,{folder}/feats.scp", MATRIX) as writer:
        for key in KEYS:
            writer.write(key, random.normal(5, 2, (20, DIM)).astype(np.float32))
    (folder / "utt2spk").write_text("".join(f"{key} {key[:2]}\n" for key in KEYS))
    (folder / "spk2utt").write_text("s1 s1-u1 s1-u2\ns2 s2-u1\n")
    monkeypatch.chdir(tmp_path)
    command = "compute-cmvn-stats --spk2utt=ark:data/spk2utt scp:data/feats.scp ark,scp:data/cmvn.ark,data/cmvn.scp"
    subprocess.run(command.split(), check=True, capture_output=True)
    return folder


def normalised(command: str) -> dict[str, np.ndarray]:
    with SequentialReader(f"ark:{command} |", MATRIX) as reader:
        return dict(reader)


def test_the_command_does_what_the_options_say(data: Path) -> None:
    source = "scp:data/feats.scp"
    assert Normalisation("--norm-means=false").command(source, data_dir="data") == ""
    with SequentialReader(source, MATRIX) as reader:
        plain = dict(reader)
    of_speaker = np.vstack([plain["s1-u1"], plain["s1-u2"]]).astype(np.float64)
    for options, deviation in (("", np.ones(DIM)), ("--norm-vars=true", of_speaker.std(axis=0))):
        made = normalised(Normalisation(options).command(source, data_dir="data"))
        expected = (plain["s1-u1"] - of_speaker.mean(axis=0)) / deviation
        np.testing.assert_allclose(made["s1-u1"], expected, atol=1e-4)


def test_the_command_of_normalisation_by_what_came_before_reads_the_global_statistics(data: Path) -> None:
    subprocess.run("matrix-sum scp:data/cmvn.scp global_cmvn.stats", shell=True, check=True, capture_output=True)
    online = Normalisation("--cmn-window=10", online=True)
    words = online.command(
        "scp:data/feats.scp", data_dir="data", spk2utt="data/spk2utt", statistics="global_cmvn.stats"
    )
    assert words.startswith("apply-cmvn-online --cmn-window=10 --spk2utt=ark:data/spk2utt global_cmvn.stats scp:")
    assert list(normalised(words)) == KEYS


def test_what_normalisation_needs_is_named_with_where_its_options_are_from(data: Path) -> None:
    (data.parent / "exp").mkdir()
    (data.parent / "exp/cmvn_opts").write_text("--norm-vars=true\n")
    given = normalisation_of("exp")
    given.require("data", "exp")
    (data / "cmvn.scp").unlink()
    with pytest.raises(UserError, match=r"no data/cmvn.scp, which .* '--norm-vars=true' \(exp/cmvn_opts\) needs"):
        given.require("data", "exp")
    Normalisation("--norm-means=false").require("data", "exp")
    (data.parent / "exp/online_cmvn").write_text("")
    with pytest.raises(UserError, match=r"no exp/global_cmvn.stats.* copy it from"):
        normalisation_of("exp").require("data", "exp")
    (data.parent / "exp/global_cmvn.stats").write_text("")
    normalisation_of("exp").require("data", "exp")
    (data / "utt2spk").unlink()
    with pytest.raises(UserError, match=r"no data/utt2spk"):
        normalisation_of("exp").require("data", "exp")


def test_statistics_of_another_dimension_are_refused_where_they_are_used(data: Path) -> None:
    Normalisation("").require_dimension(DIM, "exp/final.mdl", "data", "exp")
    with pytest.raises(UserError, match=r"data/cmvn.scp are of features of dimension 3, exp/final.mdl has dimension 4"):
        Normalisation("").require_dimension(4, "exp/final.mdl", "data", "exp")
    Normalisation(NONE).require_dimension(4, "exp/final.mdl", "data", "exp")
    Normalisation("").require_dimension(None, "exp/final.mdl", "data", "exp")
    (data.parent / "exp").mkdir()
    (data.parent / "exp/global_cmvn.stats").write_text(" [\n 1 2 9\n 3 4 0 ]\n")
    online = Normalisation("", online=True)
    online.require_dimension(2, "its input", "data", "exp")
    with pytest.raises(UserError, match=r"exp/global_cmvn.stats are of features of dimension 2, its input has .* 3"):
        online.require_dimension(DIM, "its input", "data", "exp")


def test_utterances_that_cannot_be_normalised_are_told_with_the_reason(data: Path) -> None:
    (data / "utt2spk").write_text("s1-u1 s1\ns2-u1 s3\n")
    lost = Normalisation("").without_statistics(KEYS, "data")
    assert lost == {"s1-u2": "no speaker in utt2spk", "s2-u1": "no statistics in cmvn.scp"}
    assert Normalisation(NONE).without_statistics(KEYS, "data") == {}


def test_without_options_beside_a_model_nothing_is_normalised_and_given_ones_count(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert normalisation_of(folder).does_nothing
    assert str(normalisation_of(folder)).endswith(f"(there is no {folder}/cmvn_opts)")
    assert not normalisation_of(folder, "--norm-means=true").does_nothing
    (tmp_path / "cmvn_opts").write_text("--norm-vars=true\n  --norm-means=true \n\n")
    assert normalisation_of(folder).effect()["--norm-vars"] is True
    assert normalisation_of(folder, "--norm-means=false").does_nothing
    assert not normalisation_of(folder, "").does_nothing  # given, and means by default
    (tmp_path / "cmvn_opts").write_text("\n")  # as Kaldi's scripts leave it where no options were given
    assert not normalisation_of(folder).does_nothing


def test_two_directories_are_compared_where_both_say_how(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "exp", tmp_path / "egs"
    first.mkdir()
    second.mkdir()
    (first / "cmvn_opts").write_text("--norm-vars=true\n")
    require_same_normalisation(str(first), str(second), "Make them anew.")
    (second / "cmvn_opts").write_text("--norm_vars=true --norm-means\n")
    require_same_normalisation(str(first), str(second), "Make them anew.")
    (second / "cmvn_opts").write_text("--norm-means=false\n")
    with pytest.raises(UserError, match=f"of {first} and {second} are not normalised alike: .* Make them anew."):
        require_same_normalisation(str(first), str(second), "Make them anew.")
    capfd.readouterr()
    warn_of_other_normalisation(str(first), str(second))
    said = capfd.readouterr().err
    assert said.startswith("WARNING")
    assert "not normalised alike" in said
