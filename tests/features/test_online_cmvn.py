"""Normalisation by what came before: against sums made frame by frame, and the program over tables."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnet3py.errors import UserError
from nnet3py.features.cmvn import accumulate, empty_statistics, normalise
from nnet3py.features.online_cmvn import OnlineNormalisation
from nnet3py.features.speakers import parts_by_speaker, spk2utt_text
from nnet3py.tables.holders import MATRIX
from nnet3py.tables.table import SequentialReader, TableWriter

Array = np.ndarray[Any, Any]


def features(rows: int = 60, seed: int = 0) -> Array:
    random = np.random.default_rng(seed)
    return (random.standard_normal((rows, 3)) * [1, 5, 0.1] + [10, -3, 0]).astype(np.float32)


def statistics_of(*matrices: Array) -> Array:
    statistics = empty_statistics(3)
    for matrix in matrices:
        accumulate(statistics, matrix)
    return statistics


def frame_by_frame(plan: OnlineNormalisation, matrix: Array, whole: Array, speaker: Array) -> Array:
    """The definition, literally: the sums for one frame after the other, each normalised as a whole utterance is."""
    out = []
    for frame in range(len(matrix)):
        sums = statistics_of(matrix[max(0, frame + 1 - plan.window) : frame + 1])
        for source, most in ((speaker, min(plan.speaker_frames, speaker[0, 3])), (whole, plan.global_frames)):
            lacking = min(plan.window - sums[0, 3], most)
            if lacking > 0:
                sums += source * (lacking / source[0, 3])
        out.append(normalise(sums, matrix[frame : frame + 1], plan.norm_vars))
    return np.concatenate(out)


@pytest.mark.parametrize("norm_vars", [False, True])
@pytest.mark.parametrize(
    ("window", "speaker_frames", "global_frames"), [(600, 600, 200), (20, 20, 5), (20, 7, 30), (5, 0, 2), (80, 30, 10)]
)
def test_each_frame_is_normalised_by_the_frames_before_it(
    window: int, speaker_frames: int, global_frames: int, norm_vars: bool
) -> None:
    plan = OnlineNormalisation(window, speaker_frames, global_frames, norm_vars=norm_vars)
    whole = statistics_of(features(500, seed=1) + np.float32(2))
    for speaker in (empty_statistics(3), statistics_of(features(25, seed=2))):
        found = plan(features(), whole, speaker)
        np.testing.assert_allclose(found, frame_by_frame(plan, features(), whole, speaker), rtol=1e-4, atol=1e-4)
        assert found.dtype == np.float32


def test_later_frames_make_no_difference() -> None:
    plan = OnlineNormalisation(window=30)
    whole, matrix = statistics_of(features(100, seed=1)), features()
    first = plan(matrix[:20], whole, empty_statistics(3))
    assert np.array_equal(first, plan(matrix, whole, empty_statistics(3))[:20])


def test_columns_can_be_left_alone() -> None:
    plan = OnlineNormalisation(norm_vars=True, skip=[0, 2])
    whole = statistics_of(features(100, seed=1))
    found = plan(features(), whole, empty_statistics(3))
    np.testing.assert_allclose(found[:, [0, 2]], features()[:, [0, 2]], rtol=1e-6)
    plain = OnlineNormalisation(norm_vars=True)(features(), whole, empty_statistics(3))
    assert np.array_equal(found[:, 1], plain[:, 1])


def test_what_makes_no_sense_is_refused() -> None:
    whole = statistics_of(features(100))
    for plan in (OnlineNormalisation(window=0), OnlineNormalisation(norm_means=False, norm_vars=True)):
        with pytest.raises(UserError):
            plan.check()
    with pytest.raises(UserError, match="columns from 0 to 2"):
        OnlineNormalisation(skip=[3])(features(), whole, empty_statistics(3))
    with pytest.raises(UserError, match="4 columns, found 2 by 3"):
        OnlineNormalisation()(features(), whole[:, :3], empty_statistics(3))
    with pytest.raises(UserError, match="2 rows"):
        OnlineNormalisation(norm_vars=True)(features(), whole[:1], empty_statistics(3))
    bad = features()
    bad[3, 1] = np.inf
    with pytest.raises(UserError, match="infinite"):
        OnlineNormalisation()(bad, whole, empty_statistics(3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with TableWriter(f"ark,scp:{tmp_path}/feats.ark,{tmp_path}/feats.scp", MATRIX) as writer:
        for number, key in enumerate(("a-1", "a-2", "b-1")):
            writer.write(key, features(20 + number, seed=number))
    (tmp_path / "spk2utt").write_text("a a-1 missing a-2\nb b-1\n")
    run(tmp_path, "compute-cmvn-stats --spk2utt=ark:spk2utt scp:feats.scp ark:cmvn.ark")
    run(tmp_path, "matrix-sum --binary=false ark:cmvn.ark global")
    return tmp_path


def run(folder: Path, command: str, status: int = 0) -> str:
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert done.stderr.count("ERROR (") == (status != 0), done.stderr
    return done.stderr


def read(path: Path) -> dict[str, Array]:
    with SequentialReader(f"ark:{path}", MATRIX) as reader:
        return dict(reader)


def test_an_utterance_without_frames_stays_so_and_the_speaker_goes_on(folder: Path) -> None:
    (folder / "spk2utt.some").write_text("a a-0 a-1 a-3 a-2\n")
    with TableWriter(f"ark,scp:{folder}/some.ark,{folder}/some.scp", MATRIX) as writer:
        for key in ("a-0", "a-3"):
            writer.write(key, np.zeros((0, 0), np.float32))
        for number, key in enumerate(("a-1", "a-2")):
            writer.write(key, features(20 + number, seed=number))
    run(folder, "apply-cmvn-online --spk2utt=ark:spk2utt global scp:feats.scp ark:whole")
    run(folder, "apply-cmvn-online --spk2utt=ark:spk2utt.some global scp:some.scp ark:some")
    whole, some = read(folder / "whole"), read(folder / "some")
    assert some["a-0"].shape == some["a-3"].shape == (0, 0)
    assert np.array_equal(some["a-1"], whole["a-1"])
    assert np.array_equal(some["a-2"], whole["a-2"])


def test_a_speakers_earlier_utterances_count_and_global_statistics_are_a_sum(folder: Path) -> None:
    whole = statistics_of(*(features(20 + number, seed=number) for number in range(3)))
    log = run(folder, "apply-cmvn-online --spk2utt=ark:spk2utt global scp:feats.scp ark:by-speaker")
    assert "No features for utterance missing" in log
    assert "3 files, or 63 frames" in log
    plan = OnlineNormalisation()
    found = read(folder / "by-speaker")
    earlier = {"a-1": empty_statistics(3), "a-2": statistics_of(features(20)), "b-1": empty_statistics(3)}
    for number, key in enumerate(earlier):
        expected = plan(features(20 + number, seed=number), whole, earlier[key])
        np.testing.assert_allclose(found[key], expected, rtol=1e-5, atol=1e-5)
    run(folder, "apply-cmvn-online global scp:feats.scp ark:alone")
    alone = read(folder / "alone")
    assert np.array_equal(alone["a-1"], found["a-1"])
    assert not np.allclose(alone["a-2"], found["a-2"])


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("apply-cmvn-online global ark:/dev/null ark:out", "was normalised; nothing is written"),
        ("apply-cmvn-online --cmn-window=0 global scp:feats.scp ark:out", "--cmn-window"),
        ("apply-cmvn-online --norm-means=false --norm-vars=true global scp:feats.scp ark:out", "--norm-means"),
        ("apply-cmvn-online --skip-dims=3 global scp:feats.scp ark:out", "'a-1'"),
        ("apply-cmvn-online ark:cmvn.ark scp:feats.scp ark:out", "ark:cmvn.ark"),
        ("apply-cmvn-online 'echo [ 1 2 ] |' scp:feats.scp ark:out", "columns"),
        ("apply-cmvn-online 'echo [ 0 0 0 0 ] |' scp:feats.scp ark:out", "at least one frame"),
    ],
)
def test_bad_input_is_one_error_line_and_no_output(command: str, says: str, folder: Path) -> None:
    assert says in run(folder, command, status=1)
    assert not (folder / "out").exists()


SPEAKERS = {"a1": "a", "a2": "a", "a3": "a", "b1": "b", "c1": "c", "c2": "c"}


def test_utterances_are_listed_by_speaker_in_their_order() -> None:
    assert spk2utt_text(["a1", "a3", "b1", "a2"], SPEAKERS) == "a a1 a3\nb b1\na a2\n"


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [["a1", "a2", "a3", "b1", "c1", "c2"]]),
        (2, [["a1", "a2", "a3"], ["b1", "c1", "c2"]]),
        (3, [["a1", "a2", "a3"], ["b1"], ["c1", "c2"]]),
        (6, [["a1", "a2", "a3"], ["b1"], ["c1", "c2"]]),
    ],
)
def test_no_part_ends_within_a_speaker(count: int, expected: list[list[str]]) -> None:
    assert parts_by_speaker(list(SPEAKERS), count, SPEAKERS) == expected
