"""Averaging, as a library and as nnet-average."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nnet3py.ensemble.average import average, parse_weights
from nnet3py.errors import UserError
from nnet3py.nnet.model_file import read_network, write_network
from nnet3py.nnet.network import Network

CONFIG = """
input-node name=input dim=4
component name=affine type=NaturalGradientAffineComponent input-dim=4 output-dim={dim}
component-node name=affine component=affine input=input
component name=batchnorm type=BatchNormComponent dim={dim}
component-node name=batchnorm component=batchnorm input=affine
component name=out type=AffineComponent input-dim={dim} output-dim=3
component-node name=out component=out input=batchnorm
output-node name=output input=out
"""


def _models(folder: Path, count: int, dim: int = 6) -> list[str]:
    names = [str(folder / f"{seed}.raw") for seed in range(count)]
    for seed, name in enumerate(names):
        network = Network.from_config(CONFIG.format(dim=dim), seed)
        batchnorm = network.components["batchnorm"]
        random = np.random.default_rng(seed)
        batchnorm.count = 100.0 * (seed + 1)  # type: ignore[attr-defined]
        batchnorm.stats_sum = random.standard_normal(dim)  # type: ignore[attr-defined]
        batchnorm.stats_sumsq = 50 + random.random(dim)  # type: ignore[attr-defined]
        write_network(name, network)
    return names


def test_parameters_and_statistics_are_the_weighted_mean(tmp_path: Path) -> None:
    names = _models(tmp_path, 3)
    weights = [0.5, 0.3, 0.2]
    found = average(names, weights)
    networks = [read_network(name) for name in names]
    for key in ("affine", "out"):
        for field, array in found.components[key].parameters().items():
            expected = sum(w * n.components[key].parameters()[field] for w, n in zip(weights, networks, strict=True))
            np.testing.assert_allclose(array, expected, atol=1e-6)
    assert found.components["batchnorm"].count == pytest.approx(50 + 60 + 60)  # type: ignore[attr-defined]


def test_one_model_is_its_own_average(tmp_path: Path) -> None:
    names = _models(tmp_path, 1)
    out = tmp_path / "average.raw"
    assert subprocess.run(["nnet-average", names[0], str(out)], timeout=60).returncode == 0
    assert out.read_bytes() == Path(names[0]).read_bytes()


def test_weights_are_scaled_to_a_sum_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_weights("", 4) == [0.25] * 4
    assert parse_weights("2:1:1", 3) == [0.5, 0.25, 0.25]
    assert "sum was 4" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0.5:0.5", "a:b:c", "1:-1:0", "nan:1:1", "1:1:1:"])
def test_impossible_weights_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--weights"):
        parse_weights(text, 3)


def test_models_that_differ_are_named_with_the_first_component_that_does(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first, second = _models(tmp_path, 1)[0], _models(tmp_path / "other", 1, dim=7)[0]
    out = tmp_path / "average.raw"
    ended = subprocess.run(["nnet-average", first, second, str(out)], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    errors = [line for line in ended.stderr.splitlines() if line.startswith("ERROR")]
    assert len(errors) == 1
    assert first in errors[0]
    assert second in errors[0]
    assert "component affine" in errors[0]
    assert not out.exists()


_PEAK = """
import resource, sys
from nnet3py.ensemble.average import average, parse_weights
names = sys.argv[1:]
average(names, parse_weights("", len(names)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_number_of_models(tmp_path: Path) -> None:
    names = []
    config = CONFIG.format(dim=6).replace("input-dim=4 output-dim=6", "input-dim=4 output-dim=500000", 1)
    config = "\n".join(line for line in config.splitlines() if "batchnorm" not in line and "=out" not in line)
    config = config.replace("input=out", "input=affine") + "\noutput-node name=output input=affine"
    for seed in range(8):  # 10 MB each
        names.append(str(tmp_path / f"{seed}.raw"))
        write_network(names[-1], Network.from_config(config, seed))
    peaks = []
    for count in (2, 8):
        ended = subprocess.run(
            [sys.executable, "-c", _PEAK, *names[:count]], capture_output=True, text=True, timeout=60
        )
        assert ended.returncode == 0, ended.stderr
        peaks.append(int(ended.stdout))  # KiB
    assert peaks[1] - peaks[0] < 10_000


def test_thousands_of_models_with_long_names_need_few_open_files_and_the_memory_of_two(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    (source,) = _models(folder, 1, dim=600)
    count = 2000
    for number in range(1, count):
        (folder / f"{number}.raw").hardlink_to(source)
    names = [str(folder / f"{number}.raw") for number in range(count)]
    peaks = {}
    for some in (2, count):
        peak, out = tmp_path / f"peak.{some}", tmp_path / f"average.{some}.raw"
        script = (
            "import resource, runpy, sys; sys.argv = sys.argv[1:]\n"
            "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
            f"finally: open({str(peak)!r}, 'w').write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))"
        )
        program = str(Path(__file__).parents[2] / "bin/nnet-average")
        words = [sys.executable, "-c", script, program, *names[:some], str(out)]
        limited = ["bash", "-c", 'ulimit -n 64 && exec "$@"', "bash", *words]
        done = subprocess.run(limited, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        peaks[some] = int(peak.read_text())
    assert sum(map(len, names)) > 2 * 128 * 1024
    assert peaks[count] < 1.2 * peaks[2]
    found, expected = (read_network(name).components["affine"].parameters() for name in (str(out), source))
    for field, array in found.items():
        np.testing.assert_allclose(array, expected[field], atol=1e-4)
