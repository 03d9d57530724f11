"""Writing an alignment directory so that it never holds alignments that are not whole, or not of its model.

What an earlier alignment left goes first: of other jobs, or in another form, it would count as this one's.
Archives are written as ``ali.N.gz.part``; when all are there, and the model beside them, ``num_jobs`` is written, and
they get their names. Whoever reads the directory before that finds no alignments, or that an archive is missing.
"""

from __future__ import annotations

import contextlib
import os
import re

from nnet3py.text.lines import write_text

RESULTS = re.compile(
    r"\.complete|num_jobs|ali\.\d+\.gz(?:\.part)?|ali\.(?:scp|ark|\d+\.ark)|(?:pdf|trans)\.(?:scp|ark)"
)
"""What an alignment's results are called, in all forms."""

FROM_MODEL = ("tree", "cmvn_opts", "online_cmvn", "global_cmvn.stats", "frame_subsampling_factor", "final.ie.id")
"""What a model has beside it and alignments keep."""


def start_over(folder: str) -> None:
    """Remove the results of an earlier alignment."""
    for name in os.listdir(folder):
        if RESULTS.fullmatch(name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{folder}/{name}")


def part(folder: str, job: int | str) -> str:
    """Where the archive of a job (``JOB``: of each) is written."""
    return f"{folder}/ali.{job}.gz.part"


def publish(folder: str, jobs: int) -> None:
    """Give the archives of all jobs their names; everything else must be there."""
    write_text(f"{folder}/num_jobs", f"{jobs}\n")
    for job in range(1, jobs + 1):
        os.replace(part(folder, job), f"{folder}/ali.{job}.gz")
