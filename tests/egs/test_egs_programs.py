"""The programs that make and move examples, as processes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from nnet3py.egs.example import EXAMPLE
from nnet3py.tables.holders import MATRIX, POSTERIOR
from nnet3py.tables.posterior import Posterior
from nnet3py.tables.table import SequentialReader, TableWriter

CUT = "nnet-get-egs --num-pdfs=9 --num-frames=8 --left-context=2 --right-context=2"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    with TableWriter(f"ark:{tmp_path}/feats", MATRIX) as feats, TableWriter(f"ark:{tmp_path}/post", POSTERIOR) as post:
        for number, length in enumerate([60, 41, 100, 8]):
            feats.write(f"u{number}", random.normal(size=(length, 4)).astype(np.float32))
            post.write(f"u{number}", Posterior.of_alignment(random.integers(0, 9, length)))
    return tmp_path


def _run(command: str, folder: Path, status: int = 0) -> str:
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def _keys(path: Path) -> list[str]:
    with SequentialReader(f"ark:{path}", EXAMPLE) as reader:
        return [key for key, _ in reader]


def test_cutting_shuffling_and_merging_in_a_pipe(data: Path) -> None:
    log = _run(
        f"{CUT} ark:feats ark:post ark:- | nnet-shuffle-egs --srand=4 ark:- ark:- | "
        "nnet-merge-egs --minibatch-size=8,4 ark:- ark:merged",
        data,
    )
    assert "Split 4 utts, with total length 209 frames" in log
    assert "neural-network training examples" in log
    assert "Processed" in log
    keys = _keys(data / "merged")
    assert keys[0] == "merged-0-8"
    with SequentialReader(f"ark:{data}/merged", EXAMPLE) as reader:
        for _, example in reader:
            assert example.ios[0].features.shape[1] == 4


def test_the_same_seed_gives_the_same_bytes(data: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        _run(f"{CUT} --srand={seed} ark:feats ark:post ark:egs; "
             f"nnet-shuffle-egs --srand={seed} --buffer-size=5 ark:egs ark:{name}; "
             f"nnet-subset-egs --n=9 --srand={seed} ark:egs ark:{name}.subset", data)  # fmt: skip
    for suffix in ("", ".subset"):
        contents = [(data / (name + suffix)).read_bytes() for name in "abc"]
        assert contents[0] == contents[1] != contents[2]
    assert len(_keys(data / "a.subset")) == 9


def test_jobs_cut_as_one_job_does(data: Path) -> None:
    _run(f"{CUT} ark:feats ark:post ark:all", data)
    with SequentialReader(f"ark:{data}/feats", MATRIX) as reader, TableWriter(f"ark:{data}/last", MATRIX) as writer:
        for key, value in reader:
            if key == "u2":
                writer.write(key, value)
    _run(f"{CUT} ark:last ark:post ark:part", data)
    assert (data / "part").read_bytes() in (data / "all").read_bytes()


def test_missing_and_misfit_posteriors_are_counted(data: Path) -> None:
    with TableWriter(f"ark:{data}/few", POSTERIOR) as post:
        post.write("u0", Posterior.of_alignment([0] * 60))
        post.write("u1", Posterior.of_alignment([0] * 20))
    log = _run(f"{CUT} ark:feats ark:few ark:egs", data)
    assert "No pdf-level posterior for key u2" in log
    assert "Supervision does not have expected length for utterance u1: expected length = 41, got 20" in log
    assert "3 utterances had errors and could not be processed." in log
    assert {key[:2] for key in _keys(data / "egs")} == {"u0"}


def test_no_posteriors_at_all_is_status_1(data: Path) -> None:
    with TableWriter(f"ark:{data}/none", POSTERIOR):
        pass
    assert "4 utterances had errors" in _run(f"{CUT} ark:feats ark:none ark:egs", data, status=1)


def test_a_pdf_beyond_num_pdfs_names_the_utterance_and_leaves_no_file(data: Path) -> None:
    log = _run("nnet-get-egs --num-pdfs=5 ark:feats ark:post ark:egs", data, status=1)
    assert log.count("ERROR") == 1
    assert "utterance u0" in log
    assert "--num-pdfs" in log
    assert not (data / "egs").exists()


def test_num_pdfs_must_be_given(data: Path) -> None:
    assert "--num-pdfs" in _run("nnet-get-egs ark:feats ark:post ark:egs", data, status=1)


def test_ivectors_become_an_input(data: Path) -> None:
    with TableWriter(f"ark:{data}/ivectors", MATRIX) as writer:
        writer.write("u0", np.ones((6, 3), np.float32))
        writer.write("u1", np.ones((1, 3), np.float32))
    log = _run(
        f"{CUT} --online-ivectors=ark:ivectors --online-ivector-period=10 --length-tolerance=5 "
        "ark:feats ark:post ark:e",
        data,
    )
    assert "No iVectors for utterance u2" in log
    assert "Length difference between feats 41 and iVectors 1 exceeds tolerance 5" in log
    with SequentialReader(f"ark:{data}/e", EXAMPLE) as reader:
        assert {tuple(part.name for part in example.ios) for _, example in reader} == {("input", "ivector", "output")}


def test_dense_targets(data: Path) -> None:
    cut = "nnet-get-egs-dense-targets --num-frames=8 --compress=false"
    _run(f"{cut} --num-targets=4 ark:feats ark:feats ark:egs", data)
    with SequentialReader(f"ark:{data}/egs", EXAMPLE) as reader:
        for _, example in reader:
            assert (example.ios[0].features == example.ios[1].features).all()
    log = _run(f"{cut} --num-targets=5 ark:feats ark:feats ark:egs2", data, status=1)
    assert "--num-targets=5" in log
    assert "found 4" in log


@pytest.mark.parametrize(
    "program",
    [
        "nnet-copy-egs",
        "nnet-shuffle-egs",
        "nnet-shuffle-egs --buffer-size=5",
        "nnet-subset-egs",
        "nnet-merge-egs",
        "nnet-compute-from-egs net.raw",
    ],
)
def test_nothing_in_is_an_error_that_leaves_an_earlier_output_alone(data: Path, program: str) -> None:
    (data / "empty").touch()
    (data / "out").write_text("earlier")
    (data / "config").write_text("input-node name=input dim=4\noutput-node name=output input=input\n")
    _run("nnet-init config net.raw", data)
    for output in ("out", "-", "'| cat >pipe'"):
        log = _run(f"{program} ark:empty ark:{output}", data, status=1)
        assert log.count("ERROR (") == 1
        assert "There are no examples in ark:empty; nothing is written." in log
    assert (data / "out").read_text() == "earlier"


def test_nothing_left_is_an_error_that_says_why(data: Path) -> None:
    _run(f"{CUT} ark:feats ark:post ark:egs", data)
    (data / "out").write_text("earlier")
    log = _run("nnet-merge-egs --minibatch-size=1000 ark:egs ark:out", data, status=1)
    assert "examples in ark:egs could be merged" in log
    assert "--minibatch-size=1000" in log
    assert "none was kept" in _run("nnet-copy-egs --frame=99 ark:egs ark:out", data, status=1)
    assert (data / "out").read_text() == "earlier"


def test_one_of_several_shards_may_be_empty(data: Path) -> None:
    _run(f"{CUT} ark:feats ark:post ark:- | nnet-subset-egs --n=1 ark:- ark:one", data)
    _run("nnet-copy-egs ark:one ark:shard.1 ark:shard.2", data)
    assert len(_keys(data / "shard.1")) == 1
    assert _keys(data / "shard.2") == []


@pytest.mark.parametrize("program", ["nnet-copy-egs", "nnet-shuffle-egs", "nnet-subset-egs", "nnet-merge-egs"])
def test_a_damaged_archive_is_one_error_line_and_no_output(data: Path, program: str) -> None:
    _run(f"{CUT} ark:feats ark:post ark:egs", data)
    whole = (data / "egs").read_bytes()
    (data / "cut").write_bytes(whole[: len(whole) - 50])
    for name in ("cut", "no-such-file"):
        log = _run(f"{program} ark:{name} ark:out", data, status=1)
        assert log.count("ERROR (") == 1
        assert name in log
        assert not (data / "out").exists()


def test_text_and_back(data: Path) -> None:
    _run(f"{CUT} --compress=false ark:feats ark:post ark:egs; nnet-copy-egs ark:egs ark,t:text; "
         "nnet-copy-egs ark,t:text ark,t:text2", data)  # fmt: skip
    assert (data / "text").read_bytes() == (data / "text2").read_bytes()
    assert (data / "text").read_text().startswith("u0-")


def test_more_outputs_than_files_may_be_open_raise_the_limit_as_far_as_it_goes(data: Path) -> None:
    outputs = " ".join(f"ark,scp:o.{number}.ark,o.{number}.scp" for number in range(1, 41))
    _run(f"{CUT} ark:feats ark:post ark:egs; ulimit -Sn 40 && nnet-copy-egs ark:egs {outputs}", data)
    assert len(list(data.glob("o.*.ark"))) == 40
    errors = _run(f"ulimit -n 40 && nnet-copy-egs ark:egs {outputs.replace('o.', 'p.')}", data, status=1)
    assert "Too many open files" in errors
    assert not list(data.glob("p.*"))
