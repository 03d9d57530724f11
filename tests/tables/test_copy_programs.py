"""The programs that copy, measure and convert tables, run as a user runs them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from nnet3py.tables.compressed_matrix import CompressedMatrix
from nnet3py.tables.holders import GENERAL_MATRIX, INT_VECTOR, MATRIX, POSTERIOR, VECTOR
from nnet3py.tables.posterior import Posterior
from nnet3py.tables.table import SequentialReader, TableWriter


@pytest.fixture(autouse=True)
def _tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    with TableWriter("ark,scp:feats.ark,feats.scp", MATRIX) as writer:
        for name, rows in (("u1", 12), ("u2", 5)):
            writer.write(name, random.standard_normal((rows, 4)).astype(np.float32))
    with TableWriter("ark:ali.ark", INT_VECTOR) as writer:
        writer.write("u1", np.arange(3, dtype=np.int32))
    with TableWriter("ark:empty.ark", MATRIX):
        pass


def run(command: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_copy_feats_copies_bytes_and_counts_frames() -> None:
    done = run("copy-feats --write-num-frames=ark,t:utt2num_frames scp:feats.scp ark:copy.ark")
    assert Path("copy.ark").read_bytes() == Path("feats.ark").read_bytes()
    assert Path("utt2num_frames").read_text() == "u1 12 \nu2 5 \n"
    assert "Copied 2 feature matrices." in done.stderr
    assert done.stdout == ""


def test_copy_feats_compresses_and_expands() -> None:
    run("copy-feats --compress --compression-method=5 ark:feats.ark ark:packed.ark")
    packed = dict(SequentialReader("ark:packed.ark", GENERAL_MATRIX))
    assert all(isinstance(matrix, CompressedMatrix) for matrix in packed.values())
    run("copy-feats ark:packed.ark ark:plain.ark")
    plain = dict(SequentialReader("ark:plain.ark", GENERAL_MATRIX))
    for key, matrix in SequentialReader("ark:feats.ark", MATRIX):
        np.testing.assert_allclose(plain[key], matrix, atol=0.05)


def test_copy_feats_works_in_the_middle_of_a_pipe_and_on_single_files() -> None:
    done = run("cat feats.ark | copy-feats --print-args=false ark:- ark,t:- | head -n 2")
    assert done.stdout.startswith("u1  [\n  ")
    run("tail -c +4 feats.ark > one.mat; copy-feats --binary=false one.mat one.txt")
    assert Path("one.txt").read_text().startswith(" [\n  ")


def test_an_empty_table_is_an_error_and_leaves_the_earlier_output() -> None:
    Path("earlier.ark").write_text("precious")
    for command in ("copy-feats ark:empty.ark ark:earlier.ark", "copy-int-vector ark:empty.ark ark:earlier.ark"):
        done = run(command, 1)
        assert done.stderr.count("ERROR (") == 1
        assert "nothing is written" in done.stderr
    assert Path("earlier.ark").read_text() == "precious"


def test_a_truncated_table_is_one_error_line_and_leaves_nothing() -> None:
    run("head -c 200 feats.ark > cut.ark")
    done = run("copy-feats ark:cut.ark ark,scp:out.ark,out.scp", 1)
    assert done.stderr.count("ERROR (") == 1
    assert "key 'u1'" in done.stderr
    assert not Path("out.ark").exists()
    assert not Path("out.scp").exists()


def test_what_cannot_be_compressed_names_the_key() -> None:
    with TableWriter("ark:nan.ark", MATRIX) as writer:
        writer.write("bad", np.full((3, 3), np.nan, np.float32))
    done = run("copy-feats --compress ark:nan.ark ark:out.ark", 1)
    assert "Key 'bad': A matrix with a NaN" in done.stderr


def test_copy_matrix_scales_and_takes_exponentials() -> None:
    run("copy-matrix --scale=2 --apply-exp ark:feats.ark ark:exp.ark")
    exponentials = dict(SequentialReader("ark:exp.ark", MATRIX))
    for key, matrix in SequentialReader("ark:feats.ark", MATRIX):
        np.testing.assert_allclose(exponentials[key], np.exp(2 * matrix), rtol=1e-5)


def test_copy_matrix_takes_logarithms_powers_and_softmax_as_kaldi_does() -> None:
    run("printf 'm [ 4 -1\\n0 1 ]\\n' > m.txt; copy-matrix --apply-log ark:m.txt ark:log.ark")
    (logarithms,) = dict(SequentialReader("ark:log.ark", MATRIX)).values()
    np.testing.assert_allclose(logarithms, np.log([[4, 1e-20], [1e-20, 1]]), rtol=1e-6)
    run("copy-matrix --scale=2 --apply-softmax-per-row --apply-power=2 ark:m.txt ark:softmax.ark")
    (powers,) = dict(SequentialReader("ark:softmax.ark", MATRIX)).values()
    exponentials = np.exp([[8.0, -2.0], [0.0, 2.0]])
    np.testing.assert_allclose(powers, (exponentials / exponentials.sum(1, keepdims=True)) ** 2, rtol=1e-5)
    done = run("copy-matrix --apply-power=0.5 ark:m.txt ark:log.ark", 1)
    assert "Key 'm': The number -1 in a matrix cannot be raised to the power 0.5." in done.stderr
    run("copy-matrix --apply-log --apply-exp ark:m.txt ark:log.ark", 1)


def test_copy_vector_cuts_off_and_pads() -> None:
    command = "echo 'v [ 1 2 3 ]' | copy-vector --change-dim={} --scale=2 ark:- ark,t:-"
    assert run(command.format(2)).stdout == "v  [ 2 4 ]\n"
    assert run(command.format(4)).stdout == "v  [ 2 4 6 0 ]\n"
    assert run("echo '[ 1 2 3 ]' | copy-vector --change_dim=1 --binary=false - -").stdout == " [ 1 ]\n"


def test_copy_vector_and_copy_int_vector_change_form() -> None:
    run("echo 'v [ 1 2.5 ]' | copy-vector --scale=2 ark:- ark:v.ark")
    assert [value.tolist() for _, value in SequentialReader("ark:v.ark", VECTOR)] == [[2, 5]]
    run("echo ' [ 0.5 0.25 ]' | copy-vector - v.vec")
    assert Path("v.vec").read_bytes().startswith(b"\0BFV \x04\x02")
    assert run("copy-int-vector ark:ali.ark ark,t:-").stdout == "u1 0 1 2 \n"
    assert run("echo '[ 4 5 ]' | copy-int-vector - - | copy-int-vector --binary=false - -").stdout == "[ 4 5 ]\n"


def test_ali_to_post_gives_each_frame_its_class() -> None:
    run("ali-to-post ark:ali.ark ark:post.ark")
    assert dict(SequentialReader("ark:post.ark", POSTERIOR)) == {"u1": Posterior.of_alignment([0, 1, 2])}


def test_feat_to_dim_and_feat_to_len_measure() -> None:
    assert run("feat-to-dim scp:feats.scp -").stdout == "4\n"
    assert run("feat-to-dim scp:feats.scp ark,t:-").stdout == "u1 4 \nu2 4 \n"
    assert run("feat-to-len scp:feats.scp").stdout == "17\n"
    assert run("feat-to-len scp:feats.scp ark,t:-").stdout == "u1 12 \nu2 5 \n"
    assert "dimension is not known" in run("feat-to-dim ark:empty.ark -", 1).stderr


def test_ali_to_len_counts_labels_in_any_form_and_writes_nothing_of_nothing() -> None:
    Path("more").write_text("a 5 5 5 7\nb\nc 1\n")
    assert run("ali-to-len ark:more ark,t:-").stdout == "a 4 \nb 0 \nc 1 \n"
    assert run("ali-to-len ark:ali.ark ark,t:-").stdout == "u1 3 \n"
    Path("lengths").write_text("as before")
    assert "There are no vectors of int32 in ark:empty.ark" in run("ali-to-len ark:empty.ark ark,t:lengths", 1).stderr
    assert "an archive of matrices" in run("ali-to-len ark:feats.ark ark,t:lengths", 1).stderr
    assert Path("lengths").read_text() == "as before"
