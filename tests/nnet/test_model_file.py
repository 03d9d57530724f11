"""Model files in Kaldi's forms: what is written is read, and what is damaged is refused with one line."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from nnet3py.errors import UserError
from nnet3py.nnet.acoustic_model import is_acoustic_model
from nnet3py.nnet.model_file import read_network, write_network
from nnet3py.nnet.network import Network

CONFIG = """\
input-node name=input dim=4
component name=a1 type=NaturalGradientAffineComponent input-dim=8 output-dim=6 max-change=0.5 learning-rate=0.002
component-node name=a1 component=a1 input=Append(Offset(input, -1), input)
component name=relu type=RectifiedLinearComponent dim=6
component-node name=relu component=relu input=a1
component name=bn type=BatchNormComponent dim=6
component-node name=bn component=bn input=relu
component name=linear type=LinearComponent input-dim=6 output-dim=4
component-node name=linear component=linear input=bn
component name=permute type=PermuteComponent column-map=3,2,1,0
component-node name=permute component=permute input=linear
output-node name=output input=permute objective=quadratic
"""


@pytest.fixture
def network() -> Network:
    net = Network.from_config(CONFIG, 3)
    random = np.random.default_rng(4)
    relu, norm = net.components["relu"], net.components["bn"]
    relu.count, relu.oderiv_count = 37.0, 11.0
    relu.value_sum, relu.deriv_sum = 37 * random.random(6), 37 * random.random(6)
    relu.oderiv_sumsq = 11 * random.random(6)
    norm.count = 53.0
    norm.stats_sum = 53 * random.normal(size=6)
    norm.stats_sumsq = np.square(norm.stats_sum) / 53 + 53 * random.random(6)
    return net


@pytest.fixture
def binary(network: Network, tmp_path: Path) -> Path:
    path = tmp_path / "net.raw"
    write_network(str(path), network)
    return path


def assert_same(one: Network, other: Network, tolerance: float) -> None:
    assert one.config_lines() == other.config_lines()
    assert list(one.components) == list(other.components)
    for name, component in one.components.items():
        rival = other.components[name]
        assert type(component) is type(rival)
        for field in component.fields:
            if not field.obsolete:
                np.testing.assert_allclose(
                    getattr(rival, field.attribute),
                    getattr(component, field.attribute),
                    rtol=tolerance,
                    atol=tolerance,
                    err_msg=f"{name} {field.token}",
                )


def test_binary_is_read_as_it_was_written(network: Network, binary: Path) -> None:
    again = read_network(str(binary))
    assert_same(network, again, 1e-6)
    assert np.array_equal(again.components["a1"].linear, network.components["a1"].linear)
    write_network(str(binary) + "2", again)
    assert Path(str(binary) + "2").read_bytes() == binary.read_bytes()


def test_text_is_read_as_it_was_written(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "net.txt"
    write_network(str(path), network, binary=False)
    assert path.read_bytes().startswith(b"<Nnet3> \ninput-node name=input dim=4\n")
    assert_same(network, read_network(str(path)), 2e-6)


def test_statistics_are_sums_in_memory_and_averages_in_the_file(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "net.txt"
    write_network(str(path), network, binary=False)
    words = path.read_text().split()
    relu, norm = network.components["relu"], network.components["bn"]
    place = words.index("<ValueAvg>")
    np.testing.assert_allclose(np.array(words[place + 2 : place + 8], float), relu.value_sum / 37, rtol=1e-6)
    place = words.index("<OderivRms>")
    np.testing.assert_allclose(
        np.array(words[place + 2 : place + 8], float), np.sqrt(relu.oderiv_sumsq / 11), rtol=1e-6
    )
    place = words.index("<StatsVar>")
    variance = norm.stats_sumsq / 53 - np.square(norm.stats_sum / 53)
    np.testing.assert_allclose(np.array(words[place + 2 : place + 8], float), variance, rtol=1e-5)


def test_a_network_comes_through_a_pipe(binary: Path, network: Network) -> None:
    assert_same(network, read_network(f"cat {binary} |"), 1e-6)


def test_fields_of_older_files_are_found_in_any_order(binary: Path, tmp_path: Path) -> None:
    data = binary.read_bytes()
    rate = b"<LearningRate> \4" + struct.pack("<f", np.float32(0.002))
    assert data.count(rate) == 1
    moved = data.replace(rate, b"").replace(
        b"</NaturalGradientAffineComponent>", rate + b"<IsGradient> F</NaturalGradientAffineComponent>"
    )
    path = tmp_path / "old.raw"
    path.write_bytes(moved)
    assert read_network(str(path)).components["a1"].learning_rate == pytest.approx(0.002)


def test_every_truncation_is_refused_and_names_the_file(binary: Path, tmp_path: Path) -> None:
    data = binary.read_bytes()
    path = tmp_path / "cut.raw"
    for size in range(0, len(data) - 1, 7):
        path.write_bytes(data[:size])
        with pytest.raises(UserError, match=r"cut\.raw"):
            read_network(str(path))


@pytest.mark.parametrize("text", [False, True])
def test_damage_anywhere_is_a_user_error_or_a_network(
    text: bool, network: Network, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "damaged"
    write_network(str(path), network, binary=not text)
    data = path.read_bytes()
    random = np.random.default_rng(5)
    refused = 0
    for _ in range(600):
        damaged = bytearray(data)
        for place in random.integers(0, len(data), 3):
            damaged[place] = random.integers(0, 256)
        path.write_bytes(bytes(damaged))
        try:
            read_network(str(path))
        except UserError:
            refused += 1
    assert refused > 50


def replaced(path: Path, old: bytes, new: bytes) -> str:
    data = path.read_bytes()
    assert data.count(old) >= 1, old
    path.write_bytes(data.replace(old, new, 1))
    return str(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"<Nnet3>", b"<Nnet2>", "which starts with <Nnet3>, found '<Nnet2>'"),
        (b"<RectifiedLinearComponent>", b"<LstmNonlinearityComponent>", r"LstmNonlinearityComponent.*Component relu"),
        (b"<BiasParams>", b"<BiasParameter>", r"expected <BiasParams>, found '<BiasParameter>'.*Component a1 of type"),
        (b"<NumComponents> \4\5\0\0\0", b"<NumComponents> \4\xff\xff\xff\xff", "number of components, found -1"),
        (b"<NumComponents> \4\5\0\0\0", b"<NumComponents> \4\6\0\0\0", "<ComponentName>"),
        (b"<ComponentName> relu ", b"<ComponentName> a1 ", "'a1' a second time"),
        (b"<ComponentName> relu ", b"<ComponentName> a/b ", "not a valid name"),
        (b"input=a1\n", b"input=bn\n", "recurrent"),
        (b"input=relu\n", b"input=input\n", "Node bn: its input input has dimension 4"),
        (b"component=relu ", b"component=rele ", "no component named rele"),
        (b"FM \4\6\0\0\0\4\x08\0\0\0", b"FM \4\xff\xff\xff\x7f\4\xff\xff\xff\x7f", "end too early"),
        (b"FM \4\6\0\0\0\4\x08\0\0\0", b"FM \4\4\0\0\0\4\x0c\0\0\0", "do not fit 6 bias parameters.*a1"),
        (b"FM \4\6\0\0\0\4\x08\0\0\0", b"FM \4\xfe\xff\xff\xff\4\x08\0\0\0", "size of a matrix, found -2 rows"),
    ],
)
def test_what_does_not_belong_is_named(old: bytes, new: bytes, message: str, binary: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_network(replaced(binary, old, new))
    assert "net.raw" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_file_cannot_make_components_or_start_commands(binary: Path, tmp_path: Path) -> None:
    component = f"component name=x type=FixedAffineComponent matrix='touch {tmp_path}/started |'"
    line = f"{component}\ninput-node name=input".encode()
    with pytest.raises(UserError, match="a model file defines nodes only"):
        read_network(replaced(binary, b"input-node name=input", line))
    assert not (tmp_path / "started").exists()


def test_parameters_that_are_not_finite_are_refused_unless_asked_for(network: Network, tmp_path: Path) -> None:
    path = str(tmp_path / "nan.raw")
    network.components["a1"].linear[2, 3] = np.nan
    network.components["a1"].linear[0, 0] = np.inf
    write_network(path, network)
    with pytest.raises(UserError, match=r"2 of the 48 numbers of <LinearParams> are not finite.*Component a1"):
        read_network(path)
    assert np.isnan(read_network(path, check_finite=False).components["a1"].linear[2, 3])


def test_large_parameters_are_finite(network: Network, tmp_path: Path) -> None:
    path = str(tmp_path / "large.raw")
    network.components["a1"].linear[:] = 3e38  # their squares overflow
    write_network(path, network)
    assert read_network(path).components["a1"].linear.max() == np.float32(3e38)


def test_other_files_are_told_apart(tmp_path: Path, binary: Path) -> None:
    assert not is_acoustic_model(str(binary))
    for content, message in ((b"", "empty file"), (b"[ 1 2 3 ]\n", "which starts with <Nnet3>"), (b"\0\0", "byte")):
        path = tmp_path / "other"
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_network(str(path))
    with pytest.raises(UserError, match="No such file"):
        read_network(str(tmp_path / "absent"))


def test_a_failed_write_leaves_the_earlier_file(network: Network, binary: Path) -> None:
    before = binary.read_bytes()
    network.components["a1"].bias = np.zeros((2, 2, 2), np.float32)  # cannot be written as a vector
    with pytest.raises(AssertionError):
        write_network(str(binary), network)
    assert binary.read_bytes() == before
    assert [path.name for path in binary.parent.iterdir()] == ["net.raw"]
