"""The state of the optimizer that the next iteration's job has when a job was lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnet3py.driver.engine import Engine
from nnet3py.driver.optimizer_states import OptimizerStates
from nnet3py.driver.options import TrainingOptions
from nnet3py.driver.schedule import Iteration
from nnet3py.errors import UserError


def test_the_next_job_that_was_not_lost_stands_in_and_after_the_last_the_first(tmp_path: Path) -> None:
    states = OptimizerStates(TrainingOptions(dir=str(tmp_path), carry_natural_gradient=True), Engine("run-local"))
    for job in (2, 4):
        (tmp_path / f"8.{job}.state.h5").write_text(f"state {job}")
    with pytest.raises(UserError, match=r"8\.1\.state\.h5 is not there"):
        states.require(8)
    states.stand_in(8, lost=[1, 3, 5], ready=[2, 4])
    found = {job: (tmp_path / f"8.{job}.state.h5").read_text() for job in range(1, 6)}
    assert found == {1: "state 2", 2: "state 2", 3: "state 4", 4: "state 4", 5: "state 2"}
    states.require(8)
    iteration = Iteration(index=8, jobs=7, archives_before=0, epoch=0.0, share=0.0, learning_rate=0.1)
    assert states.words(iteration)[-1] == f"--optimizer-state-in={tmp_path}/8.$(((JOB-1)%5+1)).state.h5"
