"""Networks in HDF5."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from nnet3py.errors import UserError
from nnet3py.nnet.hdf5_file import read_hdf5_parameter
from nnet3py.nnet.model_file import read_network, write_network
from nnet3py.nnet.network import Network

CONFIG = """\
input-node name=input dim=4
component name=tdnn1.affine type=NaturalGradientAffineComponent input-dim=4 output-dim=6 max-change=0.5
component-node name=tdnn1.affine component=tdnn1.affine input=input
component name=bn type=BatchNormComponent dim=6
component-node name=bn component=bn input=tdnn1.affine
component name=linear type=LinearComponent input-dim=6 output-dim=4
component-node name=linear component=linear input=bn
component name=permute type=PermuteComponent column-map=3,2,1,0
component-node name=permute component=permute input=linear
output-node name=output input=permute
"""


@pytest.fixture
def network() -> Network:
    net = Network.from_config(CONFIG, 3)
    norm = net.components["bn"]
    norm.count, norm.stats_sum, norm.stats_sumsq = 7.0, np.arange(6.0), np.arange(6.0) ** 2 + 1
    return net


@pytest.fixture
def path(network: Network, tmp_path: Path) -> Path:
    file = tmp_path / "net.h5"
    write_network(str(file), network)
    return file


def test_it_becomes_the_same_kaldi_file_as_without_the_detour(network: Network, path: Path, tmp_path: Path) -> None:
    write_network(str(tmp_path / "direct.raw"), network)
    write_network(str(tmp_path / "detour.raw"), read_network(str(path)))
    assert (tmp_path / "direct.raw").read_bytes() == (tmp_path / "detour.raw").read_bytes()


def test_the_same_network_gives_the_same_bytes(network: Network, path: Path, tmp_path: Path) -> None:
    write_network(str(tmp_path / "again.hdf5"), network)
    assert (tmp_path / "again.hdf5").read_bytes() == path.read_bytes()


def test_it_is_recognised_by_content_and_comes_through_a_pipe(network: Network, path: Path) -> None:
    other = path.with_name("no-suffix")
    path.rename(other)
    assert read_network(str(other)).config_lines() == network.config_lines()
    assert read_network(f"cat {other} |").num_parameters() == network.num_parameters()


def test_h5py_alone_finds_lines_settings_and_parameters(network: Network, path: Path) -> None:
    with h5py.File(path) as file:
        assert file.attrs["config"].splitlines() == network.config_lines()
        group = file["components/tdnn1.affine"]
        assert group.attrs["type"] == "NaturalGradientAffineComponent"
        assert group.attrs["MaxChange"] == 0.5
        np.testing.assert_array_equal(group["LinearParams"][:], network.components["tdnn1.affine"].linear)
        np.testing.assert_allclose(file["components/bn/StatsMean"][:], np.arange(6) / 7)


def test_one_parameter_is_read_alone(network: Network, path: Path) -> None:
    linear = network.components["linear"].params
    np.testing.assert_array_equal(read_hdf5_parameter(str(path), "linear", "Params"), linear)
    with pytest.raises(UserError, match="component linear has no Bias"):
        read_hdf5_parameter(str(path), "linear", "Bias")
    with pytest.raises(UserError, match="expected a group nobody"):
        read_hdf5_parameter(str(path), "nobody", "Bias")


def test_long_configurations_are_kept(tmp_path: Path) -> None:
    sources = ", ".join(f"Offset(input, {shift})" for shift in range(5000))
    net = Network.from_config(f"input-node name=input dim=1\noutput-node name=output input=Append({sources})")
    write_network(str(tmp_path / "long.h5"), net)
    assert read_network(str(tmp_path / "long.h5")).config_lines() == net.config_lines()


def test_truncation_is_refused_and_names_the_file(path: Path) -> None:
    data = path.read_bytes()
    for part in (5, 9, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:part])
        with pytest.raises(UserError, match=r"net\.h5"):
            read_network(str(path))


def spoiled(path: Path, change: object) -> str:
    with h5py.File(path, "r+") as file:
        change(file)  # type: ignore[operator]
    return str(path)


def put(name: str, **options: object) -> object:
    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, **options)

    return change


def link(name: str, target: object) -> object:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = target

    return change


def attribute(place: str, name: str, value: object) -> object:
    def change(file: h5py.File) -> None:
        file[place].attrs[name] = value

    return change


LINEAR = "components/tdnn1.affine/LinearParams"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (attribute("/", "format", "weights"), "not a network"),
        (attribute("/", "version", 99), "expected version 1 of the layout, found 99"),
        (attribute("components/bn", "type", "LstmComponent"), "LstmComponent"),
        (attribute("components/bn", "Speed", 1), "Speed is not a field of this type"),
        (attribute("components/linear", "RankInOut", [1, 2, 3]), "expected two numbers in RankInOut"),
        (put(LINEAR, shape=(1 << 20, 1 << 20), dtype="f4", chunks=(64, 64)), "the file holds 0 bytes"),
        (put(LINEAR, data=np.zeros((6, 5), np.float32)), r"expects 5\b"),
        (put(LINEAR, data=np.zeros(24, np.float32)), "expected LinearParams to have 2 dimensions"),
        (put(LINEAR, data=np.full((6, 4), np.nan, np.float32)), "not finite"),
        (put(LINEAR, data=np.array([b"x"])), "expected numbers in LinearParams"),
        (link(LINEAR, h5py.ExternalLink("/etc/passwd", "/x")), "expected a data set LinearParams within the file"),
        (link(LINEAR, h5py.SoftLink("/components/bn/StatsMean")), "expected a data set LinearParams within the file"),
        (lambda file: file.__delitem__(LINEAR), "LinearParams is missing"),
        (lambda file: file.__delitem__("components/bn"), "no component named bn"),
        (lambda file: file["components"].move("bn", "a b"), "not a valid name"),
        (attribute("/", "config", "component name=x type=FixedScaleComponent scales='false |'"), "defines nodes only"),
    ],
)
def test_a_hostile_or_foreign_file_is_refused(change: object, message: str, path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_network(spoiled(path, change))
    assert "net.h5" in str(caught.value)


def test_an_hdf5_file_of_something_else_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(UserError, match=r"other\.h5: an HDF5 file, but not a network"):
        read_network(str(tmp_path / "other.h5"))
