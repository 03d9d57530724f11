"""An engine within a job of a queue: what its jobs have of that job's environment, and how many cores it has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nnet3py.jobs import command_line, cores, gpus, local
from nnet3py.jobs.inherited import for_a_queue, for_jobs_within

OF_THE_USER = {
    "PATH": "/bin",
    "HOME": "/home/u",
    "JOB_NAME": "nightly",
    "QUEUE": "mine",
    "SLURM_CONF": "/etc/slurm.conf",
}
SLURM_JOB = {
    "SLURM_JOB_ID": "12",
    "SLURM_ARRAY_JOB_ID": "12",
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_MEM_PER_CPU": "100",
    "SLURM_CPUS_ON_NODE": "2",
    "SLURM_CPU_BIND": "quiet,mask_cpu:0x1",
    "SBATCH_MEM_BIND": "local",
    "SRUN_CPUS_PER_TASK": "2",
    "PMI_RANK": "0",
    "CUDA_VISIBLE_DEVICES": "1",
}
SGE_JOB = {
    "SGE_TASK_ID": "3",
    "SGE_O_HOST": "login",
    "SGE_STDOUT_PATH": "/x",
    "JOB_ID": "12",
    "NSLOTS": "2",
    "NHOSTS": "1",
    "PE": "smp",
    "PE_HOSTFILE": "/var/x",
    "RESTARTED": "0",
}
PBS_JOB = {"PBS_JOBID": "12.host", "PBS_ARRAY_INDEX": "3", "PBS_NODEFILE": "/var/x", "NCPUS": "2"}


def test_a_queues_jobs_know_nothing_of_the_job_that_submits_them() -> None:
    assert for_a_queue({**OF_THE_USER, **SLURM_JOB}) == OF_THE_USER
    here = {**SGE_JOB, "JOB_NAME": "train", "QUEUE": "all.q"}
    where = {"SGE_ROOT": "/sge", "SGE_CELL": "default", "SGE_QMASTER_PORT": "6444", "SGE_CLUSTER_NAME": "p1"}
    assert for_a_queue({"PATH": "/bin", **here, **where}) == {"PATH": "/bin", **where}
    assert for_a_queue({**OF_THE_USER, **PBS_JOB, "PBS_SERVER": "head"}) == {**OF_THE_USER, "PBS_SERVER": "head"}


def test_outside_a_job_the_variables_are_the_users() -> None:
    theirs = {**OF_THE_USER, "SLURM_HINT": "nomultithread", "CUDA_VISIBLE_DEVICES": "0", "NSLOTS": "4"}
    assert for_a_queue(theirs) == theirs


def test_options_that_a_user_sets_for_all_jobs_stay_but_those_that_the_engine_decides_on() -> None:
    chosen = {"SBATCH_ACCOUNT": "speech", "SBATCH_PARTITION": "cpu", "SBATCH_TIMELIMIT": "60"}
    in_the_way = {"SBATCH_ARRAY_INX": "1-4", "SBATCH_WAIT": "1", "SBATCH_OUTPUT": "x", "SQUEUE_STATES": "RUNNING"}
    assert for_a_queue({**chosen, **in_the_way}) == chosen
    assert for_a_queue({**chosen, **in_the_way, **SLURM_JOB}) == chosen


def test_jobs_within_a_job_keep_all_but_its_place_in_an_array() -> None:
    kept = for_jobs_within({**SLURM_JOB, **SGE_JOB, **PBS_JOB})
    assert set(SLURM_JOB | SGE_JOB | PBS_JOB) - set(kept) == {
        "SLURM_ARRAY_JOB_ID",
        "SLURM_ARRAY_TASK_ID",
        "SGE_TASK_ID",
        "PBS_ARRAY_INDEX",
    }


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """64 cores, no control groups, no queue; the folder takes the place of the control groups'."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SGE_", "PBS_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(cores, "CONTROL_GROUPS", str(tmp_path / "cgroup"))
    return tmp_path


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 64),
        ({"SLURM_JOB_ID": "1", "SLURM_CPUS_ON_NODE": "2"}, 2),
        ({"SLURM_JOB_ID": "1", "SLURM_CPUS_PER_TASK": "4"}, 4),
        ({"SLURM_JOB_ID": "1", "SLURM_CPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "4"}, 8),
        ({"SLURM_CPUS_ON_NODE": "2"}, 64),  # no job's
        ({"SGE_TASK_ID": "undefined", "NSLOTS": "2", "NHOSTS": "1"}, 2),
        ({"NSLOTS": "2"}, 64),
        ({"SGE_TASK_ID": "undefined", "NSLOTS": "12", "NHOSTS": "3", "PE_HOSTFILE": "hosts"}, 5),
        ({"PBS_JOBID": "1", "NCPUS": "3"}, 3),
        ({"SLURM_JOB_ID": "1", "SLURM_CPUS_ON_NODE": "many"}, 64),
        ({"SLURM_JOB_ID": "1", "SLURM_CPUS_ON_NODE": "128"}, 64),
    ],
)
def test_no_more_jobs_run_at_once_than_the_queue_has_given_cores(
    environment: dict[str, str], expected: int, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(machine)
    (machine / "hosts").write_text("n1 5 all.q@n1 UNDEFINED\nn2 7 all.q@n2 UNDEFINED\n")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert local.slot_count(command_line.parse(["JOB=1:1000", "x.JOB.log", "true"])) == expected


def test_the_share_of_control_groups_counts(machine: Path) -> None:
    (machine / "cgroup/cpu").mkdir(parents=True)
    (machine / "cgroup/cpu.max").write_text("max 100000\n")
    assert cores.usable_cores() == 64
    (machine / "cgroup/cpu.max").write_text("250000 100000\n")
    (machine / "cgroup/cpu/cpu.cfs_quota_us").write_text("-1\n")
    (machine / "cgroup/cpu/cpu.cfs_period_us").write_text("100000\n")
    of_version_2, of_version_1 = 3, 2
    groups = Path("/proc/self/cgroup").read_text()
    assert cores.usable_cores() == (of_version_2 if "0::" in groups else 64)
    (machine / "cgroup/cpu/cpu.cfs_quota_us").write_text("200000\n")
    if ":cpu" in groups:
        assert cores.usable_cores() == of_version_1


def test_a_slurm_job_without_gpus_sees_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "NoDevFiles")
    assert gpus.visible_gpus() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-1f,MIG-7,-1,3")
    assert gpus.visible_gpus() == ["2", "GPU-1f", "MIG-7"]
