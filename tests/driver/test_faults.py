"""The record of lost jobs, and the question whether there is space."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nnet3py.driver.engine import Fault
from nnet3py.driver.experiment import Experiment
from nnet3py.driver.faults import FaultRecord, fault_report
from nnet3py.driver.space import free_bytes, require_space
from nnet3py.errors import UserError


@pytest.fixture
def record(tmp_path: Path) -> FaultRecord:
    faults = FaultRecord(Experiment(str(tmp_path)))
    faults.note(Fault("exp/log/train.1.2.log", 1, "ended by SIGKILL", True))
    faults.note(Fault("exp/log/compute_prob_valid.1.log", 1, "exit status 1,\ttabs and\nlines", True))
    faults.note(Fault("exp/log/train.3.4.log", 1, "x", True))
    faults.note(Fault("exp/log/train.3.4.log", 2, "x", False))
    faults.leave_out("exp/log/train.3.4.log", 2, "x")
    return faults


def test_what_was_left_out_is_known_again(record: FaultRecord, tmp_path: Path) -> None:
    assert record.left_out(1) == set()
    assert FaultRecord(Experiment(str(tmp_path))).left_out(3) == {4}
    assert record.rows()[1].reason == "exit status 1, tabs and lines"
    assert (record.rows()[1].iteration, record.rows()[0].job) == (None, 2)


def test_going_back_forgets_the_iterations_that_run_again(record: FaultRecord) -> None:
    record.forget(3)
    assert record.left_out(3) == set()
    assert len(record.rows()) == 2
    record.forget(-1)
    assert record.rows() == []


def test_the_report_counts(record: FaultRecord) -> None:
    lines = fault_report(record.rows()).splitlines()
    assert lines[1:] == ["%Iter\tstarted_again\tleft_out", "other\t1\t-", "1\t1\t-", "3\t1\t4"]
    assert fault_report([]) == ""


@pytest.mark.parametrize("text", ["", "iteration\tjob\n", None])
def test_a_damaged_record_is_an_error(text: str | None, record: FaultRecord, tmp_path: Path) -> None:
    path = tmp_path / "faults.tsv"
    path.write_text(path.read_text() + "1\t2\n" if text is None else text)
    with pytest.raises(UserError, match=r"faults\.tsv"):
        record.rows()


def test_too_little_space_is_told_in_amounts(tmp_path: Path) -> None:
    require_space(str(tmp_path), 1, "A byte")
    with pytest.raises(UserError) as problem:
        require_space(str(tmp_path), free_bytes(str(tmp_path)) + 2 * 10**13, "Iteration 3")
    assert re.match(
        rf"Iteration 3 needs \S+ TB on the disk of {tmp_path}, where \S+ .B are free: \S+ TB are missing\. ",
        str(problem.value),
    )
