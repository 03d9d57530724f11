"""The driver with momentum from iteration to iteration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_corpus import final_config, make_corpus
from tiny_training import add_experiment, one_error, train

from nnet3py.nnet.model_file import read_network

MOMENTUM = (
    "--trainer.num-epochs=3",
    "--trainer.optimization.num-jobs-initial=2",
    "--trainer.optimization.outer-momentum=0.5",
    "--cleanup=false",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the corpus and an experiment trained with outer momentum whose models are all kept."""
    folder = tmp_path_factory.mktemp("momentum")
    make_corpus(folder)
    add_experiment(folder, "exp", config=final_config())
    done = train(folder, *MOMENTUM)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_first_step_with_momentum_goes_beyond_the_average(trained: Path) -> None:
    exp = trained / "exp"
    assert not (exp / "1.velocity.raw").exists()  # the best job's model was kept: no step to remember
    start, after, velocity = (read_network(str(exp / f"{name}.raw")) for name in ("1", "2", "2.velocity"))
    for name, component in start.updatable_components().items():
        for field, before in component.parameters().items():
            moved = after.components[name].parameters()[field] - before
            # From rest the velocity is the average's change, and the step 1.5 times that.
            np.testing.assert_allclose(moved, 1.5 * velocity.components[name].parameters()[field], atol=1e-5)
    assert "--velocity-in" not in (exp / "log/average.1.log").read_text().splitlines()[0]
    assert "--velocity-in" in (exp / "log/average.2.log").read_text().splitlines()[0]


@pytest.mark.slow
def test_going_on_from_a_stage_takes_up_the_velocity(trained: Path) -> None:
    exp = trained / "exp"
    before = {name: (exp / name).read_bytes() for name in ("final.raw", "3.raw", "3.velocity.raw")}
    done = train(trained, *MOMENTUM, "--stage=2")
    assert done.returncode == 0, done.stderr
    assert {name: (exp / name).read_bytes() for name in before} == before


@pytest.mark.slow
def test_momentum_that_makes_no_sense_is_refused_before_anything_runs(trained: Path) -> None:
    add_experiment(trained, "refused", config=final_config())
    for option in ("--trainer.optimization.outer-momentum=1", "--trainer.optimization.outer-learning-rate=0"):
        assert option in one_error(train(trained, *MOMENTUM, option, directory="refused"))
    assert not (trained / "refused/0.raw").exists()
