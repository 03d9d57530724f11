"""Networks written by Kaldi: read and written again to the byte, initialised alike, described alike."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from nnet3py.nnet.component import Role
from nnet3py.nnet.model_file import read_network, write_network
from nnet3py.nnet.network import Network

MODELS = ("pnorm", "sgd", "sigmoid_mixtures", "tdnn_relu", "tdnnf")
TRAINED = (*MODELS, "pnorm_momentum")
NUMBER = re.compile(r"-?[0-9.]+(?:e[-+]?[0-9]+)?")


def run(*command: str | Path, folder: Path | None = None) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("model", MODELS)
def test_binary_is_written_as_kaldi_wrote_it(model: str, kaldi_reference: Path, tmp_path: Path) -> None:
    path = kaldi_reference / "models" / f"{model}.raw"
    write_network(str(tmp_path / "copy"), read_network(str(path)))
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("model", MODELS)
def test_text_is_written_as_kaldi_wrote_it_from_either_form(model: str, kaldi_reference: Path, tmp_path: Path) -> None:
    expected = (kaldi_reference / "models" / f"{model}.txt").read_bytes()
    for suffix in ("raw", "txt"):
        network = read_network(str(kaldi_reference / "models" / f"{model}.{suffix}"))
        write_network(str(tmp_path / "copy"), network, binary=False)
        assert (tmp_path / "copy").read_bytes() == expected


@pytest.mark.parametrize("model", MODELS)
def test_text_holds_the_values_of_the_binary(model: str, kaldi_reference: Path) -> None:
    binary = read_network(str(kaldi_reference / "models" / f"{model}.raw"))
    text = read_network(str(kaldi_reference / "models" / f"{model}.txt"))
    assert binary.difference(text) == ""
    for name, component in binary.components.items():
        for key, array in component.parameters().items():
            np.testing.assert_allclose(text.components[name].parameters()[key], array, rtol=1e-6)


@pytest.mark.parametrize("model", TRAINED)
def test_trained_models_with_statistics_are_written_as_kaldi_wrote_them(
    model: str, kaldi_reference: Path, tmp_path: Path
) -> None:
    path = kaldi_reference / "train" / f"{model}.final.raw"
    network = read_network(str(path))
    write_network(str(tmp_path / "copy"), network)
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()
    write_network(str(tmp_path / "copy.h5"), network)
    write_network(str(tmp_path / "again"), read_network(str(tmp_path / "copy.h5")))
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("model", MODELS)
def test_nnet_info_prints_what_kaldi_prints(model: str, kaldi_reference: Path) -> None:
    folder = kaldi_reference / "models"
    assert run("nnet-info", folder / f"{model}.raw") == (folder / f"{model}.info").read_text()


@pytest.mark.parametrize("model", MODELS)
def test_initialising_a_configuration_gives_kaldis_structure(model: str, kaldi_reference: Path, tmp_path: Path) -> None:
    folder = kaldi_reference / "models"
    made = tmp_path / "made.raw"
    run("nnet-init", "--srand=3", f"{model}.config", made, folder=folder)  # matrix=lda.mat is beside it
    ours, theirs = read_network(str(made)), read_network(str(folder / f"{model}.raw"))
    assert ours.config_lines() == theirs.config_lines()
    assert ours.difference(theirs) == ""
    for name, component in ours.components.items():
        for field in component.fields_with_role(Role.SETTING):
            mine, kaldis = (getattr(net.components[name], field.attribute, None) for net in (ours, theirs))
            if field.obsolete or (field.attribute in ("scales", "bias") and name in ("scale", "shift")):  # random ones
                continue
            np.testing.assert_allclose(mine, kaldis, rtol=1e-6, err_msg=f"{name} {field.token}")
    words = (NUMBER.sub("#", run("nnet-info", made)), NUMBER.sub("#", (folder / f"{model}.info").read_text()))
    assert words[0] == words[1]
    again = tmp_path / "again.raw"
    run("nnet-init", "--srand=3", f"{model}.config", again, folder=folder)
    assert again.read_bytes() == made.read_bytes()


@pytest.mark.parametrize("model", MODELS)
def test_initial_parameters_are_distributed_as_kaldis(model: str, kaldi_reference: Path) -> None:
    """Means and standard deviations within 4.5 standard errors of the difference of two samples."""
    folder = kaldi_reference / "models"
    text = (folder / f"{model}.config").read_text().replace("matrix=lda.mat", f"matrix={folder / 'lda.mat'}")
    ours, theirs = Network.from_config(text, 1), read_network(str(folder / f"{model}.raw"))
    compared = 0
    for name, component in ours.components.items():
        for key, mine in component.parameters().items():
            kaldis = theirs.components[name].parameters()[key]
            if mine.size < 10:
                continue
            spread = max(float(np.std(kaldis)), 1e-30)
            assert abs(np.mean(mine) - np.mean(kaldis)) < 4.5 * spread * (2 / mine.size) ** 0.5, (name, key)
            assert abs(np.std(mine) - np.std(kaldis)) < 4.5 * spread * mine.size**-0.5, (name, key)
            compared += 1
    assert compared >= 6


def test_a_scaled_copy_is_kaldis(kaldi_reference: Path, tmp_path: Path) -> None:
    folder = kaldi_reference / "average"
    run("nnet-copy", "--scale=0.5", "--learning-rate=0.123", folder / "1.raw", tmp_path / "scaled.raw")
    assert (tmp_path / "scaled.raw").read_bytes() == (folder / "scaled.raw").read_bytes()


def test_formats_are_converted_in_pipes(kaldi_reference: Path, tmp_path: Path) -> None:
    raw = kaldi_reference / "models" / "pnorm.raw"
    command = f"nnet-copy --binary=false {raw} - | nnet-copy - {tmp_path / 'a.h5'} && nnet-copy {tmp_path / 'a.h5'} -"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    text = read_network(str(kaldi_reference / "models" / "pnorm.txt"))
    write_network(str(tmp_path / "b.raw"), text)
    assert done.stdout == (tmp_path / "b.raw").read_bytes()


def test_an_added_layer_and_edits_keep_the_trained_parameters(kaldi_reference: Path, tmp_path: Path) -> None:
    (tmp_path / "more.config").write_text(
        "component name=affine3 type=NaturalGradientAffineComponent input-dim=20 output-dim=20\n"
        "component-node name=affine3 component=affine3 input=renorm2\n"
        "component-node name=final_affine component=final_affine input=affine3\n"
    )
    trained = kaldi_reference / "train" / "pnorm.final.raw"
    run("nnet-init", trained, tmp_path / "more.config", tmp_path / "more.raw")
    run(
        "nnet-copy",
        "--edits=rename-node old-name=affine3 new-name=added; remove-orphans",
        tmp_path / "more.raw",
        tmp_path / "edited.raw",
    )
    before, after = read_network(str(trained)), read_network(str(tmp_path / "edited.raw"))
    assert "component-node name=added component=affine3 input=renorm2" in after.config_lines()
    assert "component-node name=final_affine component=final_affine input=added" in after.config_lines()
    np.testing.assert_array_equal(before.components["affine1"].linear, after.components["affine1"].linear)


def test_programs_name_a_wrong_file_in_one_line_and_leave_the_target(kaldi_reference: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.raw"
    cut.write_bytes((kaldi_reference / "models" / "pnorm.raw").read_bytes()[:30000])
    target = tmp_path / "target.raw"
    target.write_bytes(b"earlier")
    for command in (["nnet-copy", cut, target], ["nnet-init", cut, os.devnull, target], ["nnet-info", cut]):
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.count("ERROR (") == 1
        assert "cut.raw, byte" in done.stderr
        assert "Component affine1" in done.stderr
        assert "Traceback" not in done.stderr
    assert target.read_bytes() == b"earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.raw", "target.raw"]


def test_info_describes_a_diverged_model_that_copy_refuses(kaldi_reference: Path, tmp_path: Path) -> None:
    network = read_network(str(kaldi_reference / "models" / "pnorm.raw"))
    network.components["affine1"].linear[0, 0] = np.nan
    path = tmp_path / "nan.raw"
    write_network(str(path), network)
    done = subprocess.run(["nnet-info", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" in done.stderr
    assert "affine1 has parameters that are not finite" in done.stderr
    done = subprocess.run(["nnet-copy", str(path), str(tmp_path / "copy.raw")], capture_output=True, text=True)
    assert done.returncode == 1
    assert "not finite" in done.stderr
