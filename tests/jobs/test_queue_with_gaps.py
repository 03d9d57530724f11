"""Jobs with gaps between their numbers in a scheduler's queue: what sbatch is told stays short."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from nnet3py.jobs import command_line, queue, slurm
from nnet3py.jobs.scheduler import State, Submission


class AtOnce(slurm.Slurm):
    """A Slurm whose jobs have succeeded as soon as they are submitted."""

    def __init__(self) -> None:
        self.tasks: list[list[int]] = []
        self.jobs: list[int] = []

    def most_tasks(self) -> int | None:
        return 100_000

    def submit(self, command: Sequence[str], submission: Submission) -> str:
        tasks = list(submission.tasks or ())
        script = Path(submission.script)
        listed = re.search(r"^nnet3py_numbers=\((.*)\)$", script.read_text(), re.MULTILINE)
        assert listed is not None
        numbers = [int(word) for word in listed[1].split()]
        jobs = [numbers[task - 1] for task in tasks] if numbers else tasks
        for job in jobs:
            Path(f"x.{job}.log").write_text("# Ended (code 0) at some time\n")
            (script.parent / "ended" / str(job)).write_text("0\n")
        self.tasks.append(tasks)
        self.jobs += jobs
        return "1"

    def states(self, job: str) -> dict[int | None, State]:
        return {}


@pytest.mark.parametrize("last", [20, 4000])
def test_every_second_job_is_run_again_by_an_argument_of_bounded_length(
    last: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for job in range(1, last + 1):
        Path(f"x.{job}.log").write_text(f"# Ended (code {job % 2}) at some time\n")
    scheduler = AtOnce()
    words = ["--pick", "failed", f"JOB=1:{last}", "x.JOB.log", "true"]
    assert queue.run(command_line.parse(words), scheduler) == 0
    assert scheduler.jobs == list(range(1, last + 1, 2))
    (tasks,) = scheduler.tasks
    assert len(slurm.ranges(tasks)) < 100
