"""The average of an iteration's models in a tree of jobs."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from nnet3py.driver.averaging import Averaging, check
from nnet3py.driver.engine import Engine
from nnet3py.driver.options import TrainingOptions
from nnet3py.ensemble.average import average
from nnet3py.errors import UserError
from nnet3py.nnet.model_file import read_network, write_network
from nnet3py.nnet.network import Network

CONFIG = """\
input-node name=input dim=3
component name=affine type=NaturalGradientAffineComponent input-dim=3 output-dim=4
component-node name=affine component=affine input=input
output-node name=output input=affine
"""


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    names = [str(tmp_path / f"5.{job}.raw") for job in (1, 2, 4, 5, 7)]
    for seed, name in enumerate(names):
        write_network(name, Network.from_config(CONFIG, seed), True)
    return names


def parameters(name: str) -> np.ndarray:
    return np.concatenate([a.ravel() for a in read_network(name).components["affine"].parameters().values()])


def test_groups_of_groups_give_the_average_of_all_but_for_rounding(models: list[str], tmp_path: Path) -> None:
    options = TrainingOptions(dir=str(tmp_path), average_group_size=2)
    with Engine("run-local") as engine:
        averaging = Averaging(options, engine)
        assert averaging.run(4, models, str(tmp_path / "5.raw"), recover=lambda what: pytest.fail(what))
    expected = average(models, [0.2] * 5).components["affine"].parameters().values()
    np.testing.assert_allclose(
        parameters(str(tmp_path / "5.raw")), np.concatenate([a.ravel() for a in expected]), rtol=1e-5, atol=1e-7
    )
    logs = {path.name for path in (tmp_path / "log").iterdir()}
    assert logs == {"average_1.4.1.log", "average_1.4.2.log", "average_1.4.3.log", "average_2.4.1.log",
                    "average_2.4.2.log", "average.4.log"}  # fmt: skip
    averaging.experiment.remove_shard_models()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["5.raw", "log"]


def test_a_model_that_cannot_be_read_is_given_back(models: list[str], tmp_path: Path) -> None:
    Path(models[1]).write_bytes(Path(models[1]).read_bytes()[:100])
    asked = []

    def recover(what: str) -> bool:
        asked.append(what)
        return True

    with Engine("run-local") as engine:
        averaging = Averaging(TrainingOptions(dir=str(tmp_path), average_group_size=3), engine)
        assert not averaging.run(4, models, str(tmp_path / "5.raw"), recover)
        assert asked == ["Averaging in groups, iteration 4"]
        assert not (tmp_path / "5.raw").exists()
        shutil.copy(models[0], models[1])  # as if it had been trained again
        assert averaging.run(4, models, str(tmp_path / "5.raw"), recover)
    assert (tmp_path / "5.raw").exists()


def test_groups_of_one_are_refused() -> None:
    with pytest.raises(UserError, match="average-group-size=1"):
        check(TrainingOptions(average_group_size=1))
