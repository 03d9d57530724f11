"""What directories are made of: data and alignments that are computed again are known, those that are moved are not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_corpus import make_corpus

from nnet3py.directories import alignment_archives
from nnet3py.driver.alignments import alignment_rspecifier
from nnet3py.driver.experiment import Experiment
from nnet3py.driver.made_of import alignment_digests, data_digests, require_complete
from nnet3py.errors import UserError


def test_features_computed_again_under_the_same_names_are_others(tmp_path: Path) -> None:
    make_corpus(tmp_path, utterances=4)
    data, archive = f"{tmp_path}/data", tmp_path / "data/feats.ark"
    before, script = data_digests("d", data), (tmp_path / "data/feats.scp").read_bytes()
    changed = bytearray(archive.read_bytes())
    changed[-3] ^= 1
    archive.write_bytes(changed)
    after = data_digests("d", data)
    assert (tmp_path / "data/feats.scp").read_bytes() == script
    assert {key for key in before if before[key] != after[key]} == {"d feats.scp archives"}


def test_data_that_were_moved_are_the_same(tmp_path: Path) -> None:
    make_corpus(tmp_path, utterances=4)
    before = data_digests("d", f"{tmp_path}/data"), alignment_digests("a", f"{tmp_path}/ali")
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    shutil.move(tmp_path / "ali", tmp_path / "other")
    for script in (tmp_path / "elsewhere/feats.scp", tmp_path / "other/ali.scp"):
        text = script.read_text().replace("/data/", "/elsewhere/").replace("/ali/", "/other/")
        script.write_text(text)
    assert (data_digests("d", f"{tmp_path}/elsewhere"), alignment_digests("a", f"{tmp_path}/other")) == before
    assert all(value for key, value in before[0].items() if "cmvn" not in key)
    assert all(before[1].values())


def test_what_is_not_there_now_or_was_not_then_differs_from_nothing(tmp_path: Path) -> None:
    experiment = Experiment(str(tmp_path))
    assert experiment.record("r", {"a": "1", "b": None}, force=False) == {}
    assert experiment.record("r", {"a": None, "b": "2"}, force=False) == {}
    assert experiment.record("r", {"a": "3", "b": "4"}, force=False) == {"a": ("1", "3"), "b": ("2", "4")}


def test_only_what_num_jobs_says_is_noted_of_alignments(tmp_path: Path) -> None:
    for job in (1, 2):
        (tmp_path / f"ali.{job}.gz").write_text(f"archive {job}")
    (tmp_path / "num_jobs").write_text("1\n")
    before = alignment_digests("a", str(tmp_path))
    (tmp_path / "ali.2.gz").write_text("of another run")
    assert alignment_digests("a", str(tmp_path)) == before
    (tmp_path / "num_jobs").write_text("2\n")
    assert alignment_digests("a", str(tmp_path)) != before


def test_an_alignment_that_was_stopped_is_none(tmp_path: Path) -> None:
    for name in ("ali.1.gz", "ali.2.gz", "ali.3.gz", "ali.scp", "ali.ark", "pdf.scp", ".complete", "tree"):
        (tmp_path / name).write_text("of an earlier run")
    (tmp_path / "num_jobs").write_text("3\n")
    folder = str(tmp_path)
    alignment_archives.start_over(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]
    for job in (1, 2):
        Path(alignment_archives.part(folder, job)).write_text("new")
    assert alignment_rspecifier(folder) is None
    with pytest.raises(FileNotFoundError):
        alignment_archives.publish(folder, 3)
    with pytest.raises(UserError, match=r"3 archives .* ali.3.gz is missing".replace(" ali", " .*ali")):
        alignment_rspecifier(folder)


def test_examples_that_were_not_finished_are_refused_and_those_of_others_are_not(tmp_path: Path) -> None:
    require_complete(str(tmp_path))
    (tmp_path / "made_with.json").write_text("{}")
    with pytest.raises(UserError, match="not finished"):
        require_complete(str(tmp_path))
    (tmp_path / ".complete").write_text("")
    require_complete(str(tmp_path))
