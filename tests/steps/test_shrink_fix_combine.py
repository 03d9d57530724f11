"""Shrinking, fixing and combination by weights within the driver, on a tiny corpus with the real programs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tiny_corpus import LAYER2_CONFIG, final_config, make_corpus
from tiny_training import add_experiment, one_error, train

from nnet3py.nnet.model_file import read_network
from nnet3py.nnet.network import Network

pytestmark = pytest.mark.slow  # the driver many times over

SATURATED = (
    final_config()
    .replace("output-dim=24 max", "output-dim=24 param-stddev=4 max")
    .replace("type=PnormComponent input-dim=24 output-dim=8", "type=SigmoidComponent dim=24")
    .replace("type=NormalizeComponent dim=8", "type=NormalizeComponent dim=24")
    .replace("input-dim=8 output-dim=6", "input-dim=24 output-dim=6")
)
OPTIONS = ["--trainer.num-epochs=2", "--cleanup=false"]
CHANGES = ["--trainer.shrink-period=3", "--trainer.fix-period=2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, and two trainings with the same examples: ``plain``, and ``changed`` where averages are changed."""
    folder = tmp_path_factory.mktemp("trained")
    make_corpus(folder)
    add_experiment(folder, "plain", config=SATURATED)
    add_experiment(folder, "changed", config=SATURATED)
    for directory, more in (("plain", []), ("changed", [*CHANGES, "--egs.dir=plain/egs"])):
        done = train(folder, *OPTIONS, *more, directory=directory)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A copy of both to spoil."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True, symlinks=True)
    for path in (tmp_path / "data/feats.scp", tmp_path / "ali/ali.scp"):
        path.write_text(path.read_text().replace(str(trained), str(tmp_path)))
    return tmp_path


def _run(folder: Path, *words: str) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def _logs(folder: Path) -> set[str]:
    return {path.name for pattern in ("shrink.*", "fix.*") for path in (folder / "log").glob(pattern)}


def _flat(network: Network, component: str) -> np.ndarray:
    return np.concatenate([array.reshape(-1) for array in network.components[component].parameters().values()])


def test_changes_come_every_so_many_iterations_and_not_to_the_first(trained: Path) -> None:
    assert _logs(trained / "plain") == set()
    assert _logs(trained / "changed") == {"fix.2.log", "shrink.3.log", "fix.4.log"}
    for model in (1, 2):
        same = [(trained / name / f"{model}.raw").read_bytes() for name in ("plain", "changed")]
        assert same[0] == same[1]
    assert (trained / "plain/3.raw").read_bytes() != (trained / "changed/3.raw").read_bytes()
    assert not list((trained / "changed").glob("*.average.raw"))


def test_a_fixed_model_is_what_the_program_makes_of_the_average(trained: Path, tmp_path: Path) -> None:
    # Iteration 2 begins alike in both trainings.
    _run(tmp_path, "nnet-fix", str(trained / "plain/3.raw"), "fixed.raw")
    assert (tmp_path / "fixed.raw").read_bytes() == (trained / "changed/3.raw").read_bytes()
    changed = re.search(r"decreased parameters for (\d+) indexes", (trained / "changed/log/fix.2.log").read_text())
    assert changed is not None
    assert int(changed[1]) > 0


def test_shrinking_scales_whole_components_by_what_the_log_says(trained: Path, copy: Path) -> None:
    more = ["--egs.dir=plain/egs", "--trainer.fix-period=2", "--stage=3", "--exit-stage=4"]
    done = train(copy, *OPTIONS, *more, directory="changed")
    assert done.returncode == 0, done.stderr
    without, shrunk = (read_network(str(folder / "changed/4.raw")) for folder in (copy, trained))
    log = (trained / "changed/log/shrink.3.log").read_text()
    found = re.search(r"scale factors per component are \[ affine1:(\S+) final_affine:(\S+) \]", log)
    assert found is not None
    assert abs(float(found[2]) - 1.0) > 1e-3
    for component, factor in zip(("affine1", "final_affine"), found.groups(), strict=True):
        expected = float(factor) * _flat(without, component)
        np.testing.assert_allclose(_flat(shrunk, component), expected, rtol=1e-4, atol=1e-6)


def test_stopped_between_an_average_and_its_change_training_ends_with_the_same_bytes(trained: Path, copy: Path) -> None:
    experiment = copy / "changed"
    models = sorted(path.name for path in experiment.glob("*.raw"))
    for name in ["final.priors", *models]:
        if name not in ("0.raw", "1.raw", "2.raw", "3.raw"):
            (experiment / name).unlink()
    shutil.copy(experiment / "2.raw", experiment / "4.average.raw")
    done = train(copy, *OPTIONS, *CHANGES, "--egs.dir=plain/egs", directory="changed")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in experiment.glob("*.raw")) == models
    for name in ["final.priors", *models]:
        assert (experiment / name).read_bytes() == (trained / "changed" / name).read_bytes(), name


def test_fixing_and_shrinking_in_one_iteration_fixes_first(copy: Path) -> None:
    periods = ["--trainer.fix-period=2", "--trainer.shrink-period=2"]
    done = train(copy, *OPTIONS, *periods, "--egs.dir=plain/egs", "--stage=2", "--exit-stage=3", directory="changed")
    assert done.returncode == 0, done.stderr
    log = (copy / "changed/log/shrink.2.log").read_text()
    assert log.index("nnet-fix") < log.index("decreased parameters") < log.index("Shrinking nnet")
    _run(copy, "nnet-fix", "plain/3.raw", "fixed.raw")
    examples = re.search(r"nnet-shrink .*?(nnet-subset-egs --n=\d+ --srand=2 \S+)", log)
    assert examples is not None
    merged = f"ark:{examples[1]} ark:- | nnet-merge-egs --minibatch-size=1:64 ark:- ark:- |"
    _run(copy, "nnet-shrink", "fixed.raw", merged, "shrunk.raw")
    assert (copy / "shrunk.raw").read_bytes() == (copy / "changed/3.raw").read_bytes()


def test_changes_are_left_out_where_a_layer_is_added(copy: Path) -> None:
    experiment = add_experiment(copy, "growing", config=SATURATED)
    layer = LAYER2_CONFIG.replace("input-dim=8 output-dim=24", "input-dim=24 output-dim=24")
    (experiment / "configs/layer2.config").write_text(layer)
    more = ["--trainer.add-layers-period=2", "--trainer.fix-period=1", "--egs.dir=plain/egs", "--exit-stage=4"]
    done = train(copy, *OPTIONS, *more, directory="growing")
    assert done.returncode == 0, done.stderr
    assert _logs(experiment) == {"fix.1.log", "fix.3.log"}


def test_the_last_models_are_combined_with_weights(trained: Path, copy: Path) -> None:
    last = max(int(path.stem) for path in (copy / "plain").glob("[0-9].raw"))
    done = train(copy, *OPTIONS, "--trainer.optimization.combine-method=weights", f"--stage={last}", directory="plain")
    assert done.returncode == 0, done.stderr
    log = (copy / "plain/log/combine.log").read_text()
    used = re.search(r"^# nnet-combine-fast .*? ((?:plain/\d+\.raw )+)", log, re.MULTILINE)
    assert used is not None
    models = [read_network(str(copy / name)) for name in used[1].split()]
    assert used[1].split()[0] == f"plain/{last}.raw"
    assert len(models) > 1
    final = read_network(str(copy / "plain/final.raw"))
    for component in ("affine1", "final_affine"):
        found = re.search(rf"Scale parameters of {component} are \[ (.*) \]", log)
        assert found is not None
        weights = [float(word) for word in found[1].split()]
        assert len(weights) == len(models)
        expected = sum(weight * _flat(model, component) for weight, model in zip(weights, models, strict=True))
        np.testing.assert_allclose(_flat(final, component), expected, atol=1e-3 * np.abs(expected).max())
    changed = re.search(r"objf per frame changed from (\S+) to (\S+) in", log)
    assert changed is not None
    assert float(changed[2]) > float(changed[1])
    before = (copy / "plain/final.raw").read_bytes()
    assert before != (trained / "plain/final.raw").read_bytes()
    (copy / "plain/final.priors").unlink()
    (copy / "plain/final.raw").unlink()
    done = train(copy, *OPTIONS, "--trainer.optimization.combine-method=weights", directory="plain")
    assert done.returncode == 0, done.stderr
    assert (copy / "plain/final.raw").read_bytes() == before


def test_another_method_of_combining_is_another_training(copy: Path) -> None:
    (copy / "plain/final.priors").unlink()
    text = one_error(train(copy, *OPTIONS, "--trainer.optimization.combine-method=weights", directory="plain"))
    assert "--trainer.optimization.combine-method was running-average, is weights" in text
