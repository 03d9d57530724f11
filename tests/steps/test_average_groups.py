"""The driver averaging in a tree of jobs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_corpus import final_config, make_corpus
from tiny_training import add_experiment, train

from nnet3py.nnet.model_file import read_network


@pytest.mark.slow
def test_groups_make_the_same_model_but_for_rounding_and_are_removed(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    options = ("--trainer.num-epochs=3", "--trainer.optimization.num-jobs-initial=3",
               "--trainer.optimization.num-jobs-final=3", "--cleanup=false")  # fmt: skip
    found = {}
    for directory, more in (("plain", ()), ("tree", ("--trainer.optimization.average-group-size=2",))):
        add_experiment(tmp_path, directory, config=final_config())
        done = train(tmp_path, *options, *more, directory=directory)
        assert done.returncode == 0, done.stderr
        network = read_network(str(tmp_path / directory / "2.raw"))
        parameters = [a for c in network.updatable_components().values() for a in c.parameters().values()]
        found[directory] = np.concatenate([array.ravel() for array in parameters])
    assert (tmp_path / "tree/log/average_1.1.2.log").exists()
    assert not list((tmp_path / "tree").glob("*group*"))
    np.testing.assert_allclose(found["tree"], found["plain"], rtol=1e-5, atol=1e-6)
