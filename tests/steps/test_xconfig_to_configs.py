"""xconfig_to_configs.py as a process: the files it leaves, what nnet-init makes of them, what it does when it fails."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nnet3py.nnet.model_file import read_network
from nnet3py.nnet.parameter_file import read_matrix_file

PROGRAM = str(Path(__file__).resolve().parents[2] / "steps" / "xconfig_to_configs.py")

FACTORISED = """\
input name=ivector dim=5
input name=input dim=13
# the matrix is estimated later
fixed-affine-layer name=lda input=Append(-1,0,1,ReplaceIndex(ivector, t, 0)) affine-transform-file=configs/lda.mat

relu-batchnorm-dropout-layer name=tdnn1 dim=32 dropout-per-dim-continuous=true
tdnnf-layer name=tdnnf2 dim=32 bottleneck-dim=8 time-stride=1
tdnnf-layer name=tdnnf3 dim=32 bottleneck-dim=8 time-stride=3 dropout-proportion=0.0
linear-component name=prefinal-l dim=16 orthonormal-constraint=-1.0
prefinal-layer name=prefinal-chain big-dim=32 small-dim=16
output-layer name=output dim=20 include-log-softmax=false bottleneck-dim=12
prefinal-layer name=prefinal-xent input=prefinal-l big-dim=32 small-dim=16
output-layer name=output-xent dim=20 learning-rate-factor=5.0
"""

SMALL = """\
input name=input dim=4
relu-layer name=a dim=6 input=Append(-1,0,2)
output-layer name=output dim=3
"""

WRITTEN = ["final.config", "ref.config", "ref.raw", "vars", "xconfig", "xconfig.expanded.1", "xconfig.expanded.2"]


def run(folder: Path, *options: str, xconfig: str | None = None) -> subprocess.CompletedProcess[str]:
    if xconfig is not None:
        (folder / "n.xconfig").write_text(xconfig)
    words = [PROGRAM, "--xconfig-file", "n.xconfig", "--config-dir", "configs", *options]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True)


def content(path: Path) -> str:
    """A file without the comments at its top."""
    return path.read_text().split("\n\n", 1)[1]


def test_the_files_of_a_factorised_network(tmp_path: Path) -> None:
    done = run(tmp_path, xconfig=FACTORISED)
    assert done.returncode == 0, done.stderr
    configs = tmp_path / "configs"
    assert sorted(path.name for path in configs.iterdir()) == sorted([*WRITTEN, "init.config", "init.raw"])
    assert (configs / "vars").read_text() == "model_left_context=5\nmodel_right_context=5\n"
    assert content(configs / "xconfig") == FACTORISED
    source = "Append(Offset(input, -1), input, Offset(input, 1), ReplaceIndex(ivector, t, 0))"
    assert content(configs / "init.config") == (
        f"input-node name=ivector dim=5\ninput-node name=input dim=13\noutput-node name=output input={source}\n"
    )
    assert "tdnnf-layer name=tdnnf2 bottleneck-dim=8 bypass-scale=0.66 " in content(configs / "xconfig.expanded.1")
    assert "input=[-1]" not in content(configs / "xconfig.expanded.2")
    assert (configs / "final.config").read_text().startswith("# Made by:\n# ")


def test_nnet_init_makes_the_network_of_final_config(tmp_path: Path) -> None:
    assert run(tmp_path, xconfig=FACTORISED).returncode == 0
    matrix = np.random.default_rng(1).normal(size=(44, 45)).astype(np.float32)
    np.savetxt(tmp_path / "configs/lda.mat", matrix, header="[", footer="]", comments="")
    done = subprocess.run(["nnet-init", "configs/final.config", "0.raw"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    info = subprocess.run(["nnet-info", "0.raw"], cwd=tmp_path, capture_output=True, text=True).stdout
    assert info.startswith("left-context: 5\nright-context: 5\n")
    dims = dict(re.findall(r"^component-node name=(\S+) .*output-dim=(\d+)$", info, re.MULTILINE))
    assert {name: int(dims[name]) for name in ("lda", "tdnn1.dropout", "tdnnf3.noop", "prefinal-l")} == {
        "lda": 44,
        "tdnn1.dropout": 32,
        "tdnnf3.noop": 32,
        "prefinal-l": 16,
    }
    assert re.search(r"^output-node name=output input=output.affine dim=20 objective=linear$", info, re.MULTILINE)
    network = read_network(str(tmp_path / "0.raw"))
    assert np.allclose(network.components["lda"].linear, matrix[:, :-1])  # type: ignore[attr-defined]
    assert network.components["output.linear"].max_change == 0.75  # type: ignore[attr-defined]


EVERY_LAYER = """\
input name=input dim=4
no-op-component name=two input=Append(-1,0)
relu-batchnorm-so-layer name=a1 dim=6
sigmoid-layer name=a2 dim=6 input=two learning-rate-factor=0.5 l2-regularize=0.01 bias-stddev=0
tanh-layer name=a3 dim=6 input=two bottleneck-dim=3 ng-linear-options="rank-in=2"
affine-layer name=a4 dim=6 input=two ng-affine-options="rank-in=3 learning-rate-factor=0.5"
affine-component name=a5 dim=6 input=two orthonormal-constraint=1.0 param-stddev=0.1 bias-stddev=0
scale-component name=a6 input=two param-mean=0.5 param-stddev=0.1 l2-regularize=0.1
offset-component name=a7 input=two param-mean=0.5 param-stddev=0.1 learning-rate-factor=2
combine-feature-maps-layer name=a8 input=two height=2 num-filters1=1 num-filters2=3
channel-average-layer name=a9 input=two dim=2
spec-augment-layer name=a10 input=two
idct-layer name=a11 input=two affine-transform-file=idct.mat
renorm-component name=a12 input=two target-rms=0.5
dim-range-component name=a13 input=two dim=2 dim-offset=1
no-op-component name=a14 input=Sum(Scale(0.5, input@-1), IfDefined(input), Const(1.0, 4))
no-op-component name=a15 input=Append(Round(input@-1, 1), Failover(input@-1, input))
"""


def test_nnet_init_understands_every_layer(tmp_path: Path) -> None:
    inputs = ", ".join(f"a{number}" for number in range(1, 16))
    done = run(tmp_path, xconfig=f"{EVERY_LAYER}output-layer name=output dim=3 input=Append({inputs})\n")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "configs/vars").read_text() == "model_left_context=1\nmodel_right_context=0\n"
    dims = {name: c.input_dim for name, c in read_network(str(tmp_path / "configs/ref.raw")).components.items()}
    assert dims["output.affine"] == 5 * 6 + 2 * 8 + 8 + 2 + 8 + 8 + 8 + 2 + 4 + 8


def test_delta_features_need_two_frames_on_each_side(tmp_path: Path) -> None:
    text = "input name=input dim=4\ndelta-layer name=delta\noutput-layer name=output dim=3\n"
    assert run(tmp_path, xconfig=text).returncode == 0
    assert (tmp_path / "configs/vars").read_text() == "model_left_context=2\nmodel_right_context=2\n"


def test_the_idct_matrix_is_a_file_that_networks_can_read(tmp_path: Path) -> None:
    text = "input name=input dim=4\nidct-layer name=idct affine-transform-file=idct.mat\noutput name=output\n"
    assert run(tmp_path, xconfig=text).returncode == 0
    matrix = read_matrix_file(str(tmp_path / "idct.mat"))
    assert matrix.shape == (4, 5)
    assert np.allclose(matrix[:, 0], 0.5)
    assert not matrix[:, 4].any()


def test_layers_for_an_existing_model(tmp_path: Path) -> None:
    assert run(tmp_path, xconfig=SMALL).returncode == 0
    done = run(
        tmp_path,
        "--existing-model=configs/ref.raw",
        "--config-dir=more",
        xconfig="relu-layer name=b dim=5 input=Append(a.relu@-2, a.affine)\noutput-layer name=output dim=7\n",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "more/vars").read_text() == "model_left_context=3\nmodel_right_context=2\n"
    assert "input-dim=12 output-dim=5 " in (tmp_path / "more/final.config").read_text()
    dims = {n: (c.input_dim, c.output_dim) for n, c in read_network(str(tmp_path / "more/ref.raw")).components.items()}
    assert dims["b.affine"] == (12, 5)
    assert dims["output.affine"] == (5, 7)


def test_edits_say_which_output_the_context_is_of(tmp_path: Path) -> None:
    text = SMALL.replace("name=output", "name=output-0") + "output-layer name=output-1 dim=3 input=a@-7\n"
    done = run(tmp_path, xconfig=text)
    assert done.returncode == 1
    assert "n.xconfig: the network has no context, for it lacks an output called 'output'" in done.stderr
    assert not (tmp_path / "configs/vars").exists()
    done = run(tmp_path, "--nnet-edits=rename-node old-name=output-0 new-name=output")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "configs/vars").read_text() == "model_left_context=1\nmodel_right_context=2\n"
    assert "output-node name=output-0 " in (tmp_path / "configs/final.config").read_text()
    assert sorted(path.name for path in (tmp_path / "configs").iterdir()) == sorted(WRITTEN)


def test_a_delay_at_the_output_alone_leaves_the_fixed_layer_without_context(tmp_path: Path) -> None:
    text = """\
input name=input dim=4
fixed-affine-layer name=lda input=Append(-1,0,1) affine-transform-file=configs/lda.mat
output-layer name=output dim=3 output-delay=5
"""
    done = run(tmp_path, xconfig=text)
    assert done.returncode == 1
    assert "needs 1 frames on the left and 1 on the right, the whole network only 0 and 6" in done.stderr
    assert list((tmp_path / "configs").iterdir()) == []
    assert run(tmp_path, xconfig=text.replace("lda.mat", "lda.mat delay=5")).returncode == 0


def test_layers_that_no_output_needs_are_warned_of(tmp_path: Path) -> None:
    done = run(tmp_path, xconfig=SMALL.replace("dim=3", "dim=3 input=input"))
    assert done.returncode == 0
    assert re.findall(r"WARNING \(.*?\) (.*)", done.stderr) == ["n.xconfig:2: a is never used to compute an output."]


def test_files_of_an_earlier_network_do_not_stay(tmp_path: Path) -> None:
    assert run(tmp_path, xconfig=FACTORISED).returncode == 0
    assert run(tmp_path, xconfig=SMALL).returncode == 0
    assert sorted(path.name for path in (tmp_path / "configs").iterdir()) == sorted(WRITTEN)


@pytest.mark.parametrize(
    ("xconfig", "message"),
    [
        (SMALL.replace("dim=6", "dims=6"), "n.xconfig:2: relu-layer has no key dims= (is it dim=?)"),
        (SMALL.replace("relu", "lstm"), "n.xconfig:2: lstm-layer is not supported"),
        (SMALL.replace("dim=6", 'dim=6 ng-affine-options="rank=3"'), "n.xconfig:2: rank= is not understood here"),
        (SMALL.replace("dim=6", "self-repair-scale=0.5"), "n.xconfig:2: self-repair-scale must be from 0 to below 0.1"),
        (
            SMALL + "affine-component name=a.affine dim=3 input=input\n",
            "n.xconfig:4: the component a.affine is defined twice",
        ),
        (
            SMALL.replace("output-", "fixed-affine-layer name=lda affine-transform-file=lda.mat\noutput-"),
            "n.xconfig:3: Node output: its input names a.relu, but there is no such node (what comes before",
        ),
        ("input name=input dim=4\n", "n.xconfig: no line makes an output"),
    ],
)
def test_an_error_is_one_line_and_leaves_what_was_there(tmp_path: Path, xconfig: str, message: str) -> None:
    assert run(tmp_path, xconfig=FACTORISED).returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "configs").iterdir()}
    done = run(tmp_path, xconfig=xconfig)
    assert done.returncode == 1
    assert done.stderr.count("ERROR (") == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert {path: path.read_bytes() for path in (tmp_path / "configs").iterdir()} == before


def test_nothing_is_made_for_an_xconfig_that_cannot_be_read(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 1
    assert "Cannot read the xconfig file n.xconfig: No such file or directory." in done.stderr
    (tmp_path / "n.xconfig").write_bytes(b"input name=\xff\n")
    done = run(tmp_path)
    assert done.returncode == 1
    assert "n.xconfig:1: '\\xff' cannot stand in an xconfig file: take it out" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["n.xconfig"]


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    (tmp_path / "n.xconfig").write_text(SMALL)
    words = [sys.executable, PROGRAM, "--xconfig-file=n.xconfig", "--config-dir=configs"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env={"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert "Cannot start nnet-init: No such file or directory. The programs of bin/ must be on PATH." in done.stderr
    assert list((tmp_path / "configs").iterdir()) == []


def test_termination_leaves_no_unfinished_files(tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "nnet-init").write_text("#!/bin/sh\nexec sleep 60\n")
    (programs / "nnet-init").chmod(0o755)
    (tmp_path / "n.xconfig").write_text(SMALL)
    words = [PROGRAM, "--xconfig-file=n.xconfig", "--config-dir=configs"]
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment)
    configs = tmp_path / "configs"
    deadline = time.monotonic() + 20
    while not list(configs.glob(".final.config.*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, messages = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Interrupted" in messages
    assert list(configs.iterdir()) == []


def test_the_example_of_the_help_works(tmp_path: Path) -> None:
    text = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True).stdout
    assert text.startswith("Usage: xconfig_to_configs.py")
    example = text.split("\ne.g.: ", 1)[1].strip()
    (tmp_path / "exp/dnn/configs").mkdir(parents=True)
    (tmp_path / "exp/dnn/configs/network.xconfig").write_text(SMALL)
    (tmp_path / "steps").symlink_to(Path(PROGRAM).parent)
    done = subprocess.run(["bash", "-c", example], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "exp/dnn/configs/vars").exists()
