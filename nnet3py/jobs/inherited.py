"""What an engine that runs within a job of a queue has from that job, and what its own jobs are to have of it.

A driver may itself be a job, started by ``sbatch train.sh`` say. Its environment then describes that job: its number,
its place in an array, the memory and cores that it was given, how it is bound to them. Through ``sbatch --export=ALL``
or ``qsub -V`` all that would reach the jobs of its engine, and be read there by ``srun`` and others as if it were about
them (``SLURM_MEM_PER_CPU`` beside the ``SLURM_MEM_PER_NODE`` that Slurm sets is an error; ``SLURM_ARRAY_TASK_ID`` is
another job's number). So:

- A queue's jobs get no variable that describes the job that submits them. What says where the queue is
  (``SLURM_CONF``, ``SGE_ROOT``) stays, and so do the options that a user sets for all jobs (``SBATCH_ACCOUNT``,
  ``SBATCH_PARTITION``, any ``SBATCH_`` but those that the engine itself has to decide on).
- Jobs that run within the job, those of run-local, keep them, for they have its memory and cores. Only its place in
  an array is not theirs.

Source: sbatch(1), srun(1), squeue(1), scancel(1), qsub(1) of Grid Engine, qsub(1B) of PBS: environment variables.
"""

from __future__ import annotations

from collections.abc import Mapping

_OF_THE_SUBMITTER = ("SLURM_", "SRUN_", "SLURMD_", "PMI_", "PMIX_", "SALLOC_")
_SLURM_KEPT = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_TIME_FORMAT"}
_SBATCH_DECIDED = {
    "SBATCH_ARRAY_INX",
    "SBATCH_BATCH",
    "SBATCH_ERROR",
    "SBATCH_INPUT",
    "SBATCH_JOB_NAME",
    "SBATCH_OPEN_MODE",
    "SBATCH_OUTPUT",
    "SBATCH_WAIT",
}
"""Options that the engine depends on: a submission with an array of its own, or that waits, would be another thing."""
_SBATCH_OF_THE_JOB = ("SBATCH_CPU_BIND", "SBATCH_MEM_BIND")  # Slurm sets these in its jobs
_ANSWERS = ("SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_")  # what they print and do would not be what the engine asks

_SGE_KEPT = {
    "SGE_ARCH",
    "SGE_CELL",
    "SGE_CLUSTER_NAME",
    "SGE_EXECD_PORT",
    "SGE_QMASTER_PORT",
    "SGE_ROOT",
    "SGE_SINGLE_LINE",
}
_SGE_WITHOUT_PREFIX = {
    "ENVIRONMENT",
    "JOB_ID",
    "JOB_NAME",
    "JOB_SCRIPT",
    "NHOSTS",
    "NQUEUES",
    "NSLOTS",
    "PE",
    "PE_HOSTFILE",
    "QUEUE",
    "REQNAME",
    "REQUEST",
    "RESTARTED",
}
_PBS_KEPT = {"PBS_CONF_FILE", "PBS_DEFAULT", "PBS_EXEC", "PBS_HOME", "PBS_SERVER"}
_PBS_WITHOUT_PREFIX = {"NCPUS"}
_GPUS = {"CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"}
_PLACES_IN_ARRAYS = ("SLURM_ARRAY_", "SGE_TASK_", "PBS_ARRAY")


def in_slurm(environment: Mapping[str, str]) -> bool:
    """Whether this is the environment of one of Slurm's jobs."""
    return "SLURM_JOB_ID" in environment or "SLURM_JOBID" in environment


def in_grid_engine(environment: Mapping[str, str]) -> bool:
    """Whether this is the environment of one of Grid Engine's jobs."""
    return "SGE_TASK_ID" in environment or "SGE_O_HOST" in environment


def in_pbs(environment: Mapping[str, str]) -> bool:
    """Whether this is the environment of one of PBS's jobs."""
    return "PBS_JOBID" in environment


def for_a_queue(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a queue's commands, and by them for its jobs."""
    return {name: value for name, value in environment.items() if not _is_removed(name, environment)}


def for_jobs_within(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for jobs that run where the engine runs."""
    return {name: value for name, value in environment.items() if not name.startswith(_PLACES_IN_ARRAYS)}


def _is_removed(name: str, environment: Mapping[str, str]) -> bool:
    if name in _SBATCH_DECIDED or name.startswith(_ANSWERS):
        return True
    slurm, grid_engine, pbs = in_slurm(environment), in_grid_engine(environment), in_pbs(environment)
    if name in _GPUS:
        return slurm or grid_engine or pbs
    if slurm and name.startswith((*_OF_THE_SUBMITTER, *_SBATCH_OF_THE_JOB)):
        return name not in _SLURM_KEPT
    if grid_engine and (name.startswith("SGE_") or name in _SGE_WITHOUT_PREFIX):
        return name not in _SGE_KEPT
    return pbs and (name.startswith("PBS_") or name in _PBS_WITHOUT_PREFIX) and name not in _PBS_KEPT
