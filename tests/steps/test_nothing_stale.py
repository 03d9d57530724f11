"""Drivers in directories with files of earlier runs: with other data or options, stopped, or with models removed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tiny_corpus import final_config, make_corpus
from tiny_training import STEPS, add_experiment, one_error, train

pytestmark = pytest.mark.slow  # each starts drivers, which start jobs


def get_egs(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    words = [str(STEPS / "get_egs.py"), "--nj=1", "--left-context=1", "--right-context=1", "--max-retries=0"]
    return subprocess.run([*words, *options, "data", "ali", "egs"], cwd=folder, capture_output=True, text=True)


def compute_again(folder: Path) -> None:
    """Other features under the same names, at the same places."""
    archive = folder / "data/feats.ark"
    data = bytearray(archive.read_bytes())
    data[-2] ^= 1
    archive.write_bytes(data)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    make_corpus(tmp_path, utterances=12)
    return tmp_path


def test_examples_are_reused_where_they_are_of_the_same_and_made_again_where_not(corpus: Path) -> None:
    def written() -> int:
        done = get_egs(corpus, "--reuse=true", "--samples-per-iter=50")
        assert done.returncode == 0, done.stderr
        return (corpus / "egs/egs.1.ark").stat().st_mtime_ns

    first = written()
    assert len(list((corpus / "egs").glob("egs.*.ark"))) > 1
    assert written() == first
    compute_again(corpus)
    assert written() > first
    assert get_egs(corpus, "--reuse=true").returncode == 0
    assert [path.name for path in (corpus / "egs").glob("egs.*.ark")] == ["egs.1.ark"]


def test_a_run_that_fails_leaves_no_examples_of_an_earlier_one(corpus: Path) -> None:
    assert get_egs(corpus, "--samples-per-iter=50").returncode == 0
    (corpus / "data/feats.ark").write_bytes((corpus / "data/feats.ark").read_bytes()[:500])
    assert get_egs(corpus).returncode == 1
    assert not [
        path.name for pattern in ("*.ark", "*.egs") for path in (corpus / "egs").glob(pattern) if "ali" not in path.name
    ]
    add_experiment(corpus, "exp", config=final_config())
    done = train(corpus, "--egs.dir=egs")
    assert "The examples in egs are not finished" in one_error(done)


def test_a_later_stage_does_not_go_on_with_other_features(corpus: Path) -> None:
    assert get_egs(corpus).returncode == 0
    compute_again(corpus)
    done = get_egs(corpus, "--stage=5")
    assert done.returncode == 1
    assert "<data> feats.scp archives was" in done.stderr


def test_lengths_that_are_of_other_features_are_an_error(corpus: Path) -> None:
    keys = [line.split()[0] for line in (corpus / "data/feats.scp").read_text().splitlines()]
    (corpus / "data/utt2num_frames").write_text("".join(f"{key} 40\n" for key in keys))
    done = get_egs(corpus)
    assert done.returncode == 1
    assert f"utt2num_frames says that {keys[0]} has 40 frames, its features have" in done.stderr


def test_a_training_notices_features_that_were_computed_again(corpus: Path) -> None:
    add_experiment(corpus, "exp", config=final_config())
    begin = "--exit-stage=0"
    done = train(corpus, begin)
    assert done.returncode == 0, done.stderr
    assert train(corpus, begin).returncode == 0
    initial = (corpus / "exp/0.raw").read_bytes()
    compute_again(corpus)
    assert "--feat-dir feats.scp archives was file" in one_error(train(corpus, begin))
    assert "give --stage=-4" in one_error(train(corpus, begin, "--stage=-1"))
    assert "archives was file" in one_error(train(corpus, begin)), "the refused attempt was noted"
    done = train(corpus, begin, "--stage=-4")
    assert done.returncode == 0, done.stderr
    assert (corpus / "exp/0.raw").read_bytes() == initial
    assert train(corpus, begin).returncode == 0
    for name in ("data/feats.scp", "ali/ali.scp", "ali/ali.1.ark"):  # examples are made: what they are made of may go
        (corpus / name).unlink()
    assert train(corpus, begin).returncode == 0


def test_a_finished_training_notices_other_examples(corpus: Path) -> None:
    experiment = add_experiment(corpus, "exp", config=final_config())
    assert get_egs(corpus, "--samples-per-iter=50").returncode == 0
    assert train(corpus, "--egs.dir=egs", "--exit-stage=0").returncode == 0
    (experiment / "final.priors").write_text("[ 1 ]")
    done = train(corpus, "--egs.dir=egs")
    assert done.returncode == 0, done.stderr
    assert "already finished" in done.stderr
    assert get_egs(corpus, "--samples-per-iter=50", "--compress=false").returncode == 0
    assert "examples egs/egs.1.ark was file" in one_error(train(corpus, "--egs.dir=egs"))


def test_what_was_made_of_models_that_were_removed_is_made_anew(corpus: Path) -> None:
    experiment = add_experiment(corpus, "exp", config=final_config())
    assert train(corpus, "--exit-stage=0").returncode == 0
    untouched = (experiment / "valid_diagnostic.minibatches").read_bytes()
    (experiment / "0.raw").unlink()
    (experiment / "ali.3").mkdir()
    leftovers = ["ali.3/.complete", "3.velocity.raw", "3.1.state.h5", "3.mdl", "post.3.vec", "final.raw", "final.mdl"]
    leftovers += ["log/compute_prob_valid.0.log", "log/compute_prob_valid.final.log", "accuracy.report", "phones.txt"]
    for name in leftovers:
        (experiment / name).write_text("# Ended (code 0)\n")
    (experiment / "valid_diagnostic.minibatches").write_text("of other examples")
    (experiment / "faults.tsv").write_text(
        "iteration\tjob\tlog\tattempt\toutcome\treason\n0\t1\tlog/train.0.1.log\t3\tleft out\tlost\n"
    )
    done = train(corpus, "--exit-stage=0", "--cleanup=false")
    assert done.returncode == 0, done.stderr
    assert [name for name in leftovers if os.path.exists(experiment / name)] == []
    assert "left out" not in (experiment / "faults.tsv").read_text()
    assert (experiment / "valid_diagnostic.minibatches").read_bytes() == untouched


def test_two_configurations_to_begin_with_are_refused(corpus: Path) -> None:
    experiment = add_experiment(corpus, "exp", config=final_config())
    (experiment / "configs/layer1.config").write_text(final_config())
    message = one_error(train(corpus))
    assert "configs/final.config, a whole network, and configs/layer1.config" in message


def test_an_alignment_that_fails_leaves_none_of_an_earlier_one(tmp_path: Path) -> None:
    from tiny_language import make_language, make_spoken_corpus

    make_spoken_corpus(tmp_path, utterances=4)
    make_language(tmp_path)
    words = [str(STEPS / "align_equal.py"), "--nj=2", "--max-retries=0", "data", "lang", "ali"]
    run = {"cwd": tmp_path, "capture_output": True, "text": True}
    assert subprocess.run(words, **run).returncode == 0
    assert sorted(path.name for path in (tmp_path / "ali").glob("ali.*")) == ["ali.1.gz", "ali.2.gz"]
    second = (tmp_path / "data/feats.scp").read_text().splitlines()[3]
    (tmp_path / "data/feats.scp").write_text(
        (tmp_path / "data/feats.scp").read_text().replace(second, f"{second.split()[0]} nowhere.ark:5")
    )
    assert subprocess.run(words, **run).returncode == 1
    assert list((tmp_path / "ali").glob("ali.*.gz")) == []
    assert not (tmp_path / "ali/num_jobs").exists()
