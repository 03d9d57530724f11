"""Whole utterances through nnet-compute and nnet-compute-from-egs: chunks, context, iVectors, priors, bad input."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from nnet3py.egs.example import EXAMPLE, Example, NnetIo
from nnet3py.errors import UserError
from nnet3py.nnet.model_file import write_network
from nnet3py.nnet.network import Network
from nnet3py.nnet.times import network_context
from nnet3py.nnet.utterance import ChunkOptions, UtteranceComputer, log_of_priors
from nnet3py.tables.holders import MATRIX, TOKEN, VECTOR
from nnet3py.tables.matrix import write_vector
from nnet3py.tables.streams import open_output
from nnet3py.tables.table import SequentialReader, TableWriter

CONFIG = """
input-node name=input dim=3
component name=tdnn type=TdnnComponent input-dim=3 output-dim=8 time-offsets=-3,0,1
component-node name=tdnn component=tdnn input=input
component name=relu type=RectifiedLinearComponent dim=8
component-node name=relu component=relu input=tdnn
component name=affine type=AffineComponent input-dim=16 output-dim=5
component-node name=affine component=affine input=Append(Offset(relu, -1), Offset(relu, 2))
component name=softmax type=LogSoftmaxComponent dim=5
component-node name=softmax component=softmax input=affine
output-node name=output input=softmax
"""
IVECTOR_CONFIG = """
input-node name=input dim=3
input-node name=ivector dim=2
component name=noop type=NoOpComponent dim=5
component-node name=noop component=noop input=Append(input, ReplaceIndex(ivector, t, 0))
output-node name=output input=noop
"""


def frames(count: int, dim: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def write(path: Path, holder: object, table: dict[str, object]) -> str:
    with TableWriter(f"ark:{path}", holder) as writer:
        for key, value in table.items():
            writer.write(key, value)
    return f"ark:{path}"


def read(path: Path) -> dict[str, np.ndarray]:
    with SequentialReader(f"ark:{path}", MATRIX) as reader:
        return dict(reader)


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_network(str(tmp_path / "model.raw"), Network.from_config(CONFIG, seed=1))
    return tmp_path / "model.raw"


@pytest.mark.parametrize("num_frames", [1, 2, 19, 20, 21, 47])
@pytest.mark.parametrize("chunk", [1, 7, 20])
def test_the_length_of_chunks_does_not_change_the_output(num_frames: int, chunk: int) -> None:
    network = Network.from_config(CONFIG, seed=1)
    whole = UtteranceComputer(network, ChunkOptions(frames_per_chunk=1000)).compute(frames(num_frames))
    cut = UtteranceComputer(network, ChunkOptions(frames_per_chunk=chunk)).compute(frames(num_frames))
    assert whole.shape == (num_frames, 5)
    np.testing.assert_allclose(cut, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_frames", [1, 3, 30, 31, 32])
def test_subsampling_keeps_every_third_frame_of_the_output(num_frames: int) -> None:
    network = Network.from_config(CONFIG, seed=1)
    every = UtteranceComputer(network).compute(frames(num_frames))
    options = ChunkOptions(frames_per_chunk=10, frame_subsampling_factor=3)  # rounded up to 12
    third = UtteranceComputer(network, options).compute(frames(num_frames))
    np.testing.assert_allclose(third, every[::3], rtol=1e-5, atol=1e-6)


def test_the_first_and_last_frame_are_repeated_for_context() -> None:
    network = Network.from_config(CONFIG, seed=1)
    assert network_context(network) == (4, 3)
    x = frames(6)
    computer = UtteranceComputer(network)
    padded = np.vstack([x[:1]] * 9 + [x] + [x[-1:]] * 9)
    np.testing.assert_allclose(computer.compute(x), computer.compute(padded)[9:-9], rtol=1e-5, atol=1e-6)


def test_extra_context_is_taken_and_changes_nothing_without_recurrence() -> None:
    network = Network.from_config(CONFIG, seed=1)
    plain = UtteranceComputer(network, ChunkOptions(20)).compute(frames(50))
    extra = UtteranceComputer(network, ChunkOptions(20, 5, 6, 0, 0)).compute(frames(50))
    np.testing.assert_allclose(extra, plain, rtol=1e-5, atol=1e-6)


def test_each_chunk_gets_the_ivector_of_its_middle() -> None:
    network = Network.from_config(IVECTOR_CONFIG)
    online = np.arange(10, dtype=np.float32).reshape(5, 2)
    computer = UtteranceComputer(network, ChunkOptions(20), online_ivector_period=10)
    out = computer.compute(frames(50), online_ivectors=online)
    np.testing.assert_array_equal(out[:, :3], frames(50))
    # Middles 9, 29 and 40 + 9 // 2 = 44, divided by the period.
    np.testing.assert_array_equal(out[:, 3], np.repeat([online[0, 0], online[2, 0], online[4, 0]], [20, 20, 10]))


def test_missing_ivectors_at_the_end_are_replaced_by_the_last_up_to_half_a_second() -> None:
    computer = UtteranceComputer(Network.from_config(IVECTOR_CONFIG), ChunkOptions(20), online_ivector_period=10)
    online = np.array([[1, 2], [3, 4]], np.float32)
    out = computer.compute(frames(60), online_ivectors=online)
    assert out[-1, 3] == 3
    with pytest.raises(UserError, match=r"Utterance u1: no iVector for frame 89: there are 2"):
        computer.compute(frames(100), online_ivectors=online, name="u1")


def test_one_ivector_serves_the_whole_utterance() -> None:
    out = UtteranceComputer(Network.from_config(IVECTOR_CONFIG)).compute(frames(120), ivector=np.array([7.0, 8.0]))
    np.testing.assert_array_equal(out[:, 3:], np.tile([7.0, 8.0], (120, 1)))


def test_dimensions_that_differ_name_the_utterance_and_both_dimensions() -> None:
    computer = UtteranceComputer(Network.from_config(CONFIG))
    with pytest.raises(UserError, match=r"u7: the network expects features of dimension 3 .* 10 by 4"):
        computer.compute(frames(10, 4), name="u7")
    with pytest.raises(UserError, match="iVectors of dimension 0, found dimension 2"):
        computer.compute(frames(10), ivector=np.zeros(2, np.float32))
    with pytest.raises(UserError, match="iVectors of dimension 2, found dimension 0"):
        UtteranceComputer(Network.from_config(IVECTOR_CONFIG)).compute(frames(10))


def test_priors_are_subtracted_as_logarithms_and_the_result_scaled() -> None:
    network = Network.from_config(CONFIG, seed=1)
    priors = np.array([0.1, 0.2, 0.3, 0.2, 0.2], np.float32)
    plain = UtteranceComputer(network).compute(frames(10))
    likelihoods = UtteranceComputer(network, None, log_of_priors(priors, "p"), 0.1).compute(frames(10))
    np.testing.assert_allclose(likelihoods, 0.1 * (plain - np.log(priors)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("priors", [[0.5, 0.0], [0.5, -1.0], [np.nan, 1.0]])
def test_priors_that_are_not_positive_are_refused(priors: list[float]) -> None:
    with pytest.raises(UserError, match="above zero"):
        log_of_priors(np.array(priors, np.float32), "p.vec")


def test_what_an_utterance_gives_does_not_depend_on_its_neighbours(model: Path, tmp_path: Path) -> None:
    table = {f"u{i}": frames(30 + 17 * i, seed=i) for i in range(4)}
    together = write(tmp_path / "all.ark", MATRIX, table)
    alone = write(tmp_path / "one.ark", MATRIX, {"u2": table["u2"]})
    for features, out in ((together, "all.out"), (alone, "one.out"), (together, "again.out")):
        assert run("nnet-compute", model, features, f"ark:{tmp_path / out}").returncode == 0
    np.testing.assert_array_equal(read(tmp_path / "all.out")["u2"], read(tmp_path / "one.out")["u2"])
    assert (tmp_path / "all.out").read_bytes() == (tmp_path / "again.out").read_bytes()


def test_priors_of_a_vector_file_serve_a_raw_model(model: Path, tmp_path: Path) -> None:
    features = write(tmp_path / "feats.ark", MATRIX, {"u": frames(10)})
    with open_output(str(tmp_path / "priors.vec")) as sink:
        sink.write(b"\0B")
        write_vector(sink, np.full(5, 0.2, np.float32), True)
    assert run("nnet-compute", model, features, f"ark:{tmp_path / 'plain'}").returncode == 0
    done = run("nnet-compute", f"--priors={tmp_path / 'priors.vec'}", model, features, f"ark:{tmp_path / 'likely'}")
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(read(tmp_path / "likely")["u"], read(tmp_path / "plain")["u"] - np.log(0.2), rtol=1e-5)


def test_ivectors_may_be_those_of_speakers(tmp_path: Path) -> None:
    write_network(str(tmp_path / "model"), Network.from_config(IVECTOR_CONFIG))
    done = run(
        "nnet-compute",
        "--ivectors=" + write(tmp_path / "iv", VECTOR, {"s1": np.float32([1, 2]), "s2": np.float32([3, 4])}),
        "--utt2spk=" + write(tmp_path / "utt2spk", TOKEN, {"a": "s2", "b": "s1"}),
        tmp_path / "model",
        write(tmp_path / "feats", MATRIX, {"a": frames(3), "b": frames(4)}),
        f"ark:{tmp_path / 'out'}",
    )
    assert done.returncode == 0, done.stderr
    found = read(tmp_path / "out")
    assert found["a"][0, 3:].tolist() == [3, 4]
    assert found["b"][3, 3:].tolist() == [1, 2]


def test_empty_utterances_and_those_without_ivector_are_left_out_and_counted(tmp_path: Path) -> None:
    write_network(str(tmp_path / "model"), Network.from_config(IVECTOR_CONFIG))
    ivectors = "--ivectors=" + write(tmp_path / "iv", VECTOR, {"a": np.float32([1, 2])})
    empty = np.zeros((0, 0), np.float32)
    features = write(tmp_path / "feats", MATRIX, {"a": frames(3), "b": frames(4), "c": empty})
    done = run("nnet-compute", ivectors, tmp_path / "model", features, f"ark:{tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert "No iVector available for utterance b" in done.stderr
    assert "Zero-length utterance: c" in done.stderr
    assert "Done 1 utterances, failed for 2" in done.stderr
    assert list(read(tmp_path / "out")) == ["a"]
    nothing = write(tmp_path / "nothing", MATRIX, {"c": empty})
    assert run("nnet-compute", ivectors, tmp_path / "model", nothing, f"ark:{tmp_path / 'out2'}").returncode == 1


@pytest.mark.parametrize(
    ("options", "dim", "complaint"),
    [
        ([], 4, "expects features of dimension 3"),
        (["--use-gpu=yes"], 3, "no NVIDIA GPU that may be used"),
        (["--use-gpu=perhaps"], 3, "is not one of"),
        (["--frames-per-chunk=0"], 3, "above zero"),
        (["--frame-subsampling-factor=0"], 3, "above zero"),
        (["--extra-left-context=-1"], 3, "not be negative"),
        (["--use-priors=true"], 3, "model.raw"),
        (["--priors=no-such-file"], 3, "no-such-file"),
        (["--ivectors=ark:/dev/null", "--online-ivectors=ark:/dev/null"], 3, "exclude"),
    ],
)
def test_bad_input_is_one_error_line_and_leaves_an_earlier_output_alone(
    options: list[str], dim: int, complaint: str, model: Path, tmp_path: Path
) -> None:
    features = write(tmp_path / "feats.ark", MATRIX, {"u": frames(10, dim)})
    (tmp_path / "out").write_text("earlier")
    done = run("nnet-compute", *options, model, features, f"ark:{tmp_path / 'out'}")
    assert done.returncode == 1
    assert done.stderr.count("ERROR (") == 1
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out").read_text() == "earlier"


def example(num_sequences: int, num_frames: int, dim: int = 3) -> Example:
    """Sequences of ``num_frames`` output frames, in Kaldi's order: all frames of sequence 0 first."""

    def indexes(times: range) -> np.ndarray:
        return np.array([(n, t, 0) for n in range(num_sequences) for t in times], np.int32)

    inputs, outputs = indexes(range(-4, num_frames + 3)), indexes(range(num_frames))
    return Example(
        [NnetIo("input", inputs, frames(len(inputs), dim)), NnetIo("output", outputs, frames(len(outputs), 5))]
    )


def test_outputs_for_examples_have_the_rows_of_their_supervision(model: Path, tmp_path: Path) -> None:
    egs = write(tmp_path / "egs", EXAMPLE, {"one": example(3, 6)})
    done = run("nnet-compute-from-egs", model, egs, f"ark:{tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert "Processed 1 examples." in done.stderr
    computer = UtteranceComputer(Network.from_config(CONFIG, seed=1))
    sequences = frames(3 * 13).reshape(3, 13, 3)
    expected = np.vstack([computer.compute(sequence)[4:10] for sequence in sequences])
    np.testing.assert_allclose(read(tmp_path / "out")["one"], expected, rtol=1e-5, atol=1e-6)


def test_examples_that_do_not_fit_the_network_are_named(model: Path, tmp_path: Path) -> None:
    egs = write(tmp_path / "egs", EXAMPLE, {"good": example(1, 6), "bad": example(1, 6, dim=4)})
    done = run("nnet-compute-from-egs", model, egs, f"ark:{tmp_path / 'out'}")
    assert done.returncode == 1
    assert "bad" in done.stderr
    assert "dimension 3" in done.stderr
    assert not (tmp_path / "out").exists()
    done = run("nnet-compute-from-egs", "--output-name=other", model, egs, f"ark:{tmp_path / 'out'}")
    assert done.returncode == 1
    assert "other" in done.stderr
