"""The alignments in an alignment directory: Kaldi's ``ali.*.gz``, archives that are not compressed, or a script."""

from __future__ import annotations

import glob
import os
import re

from nnet3py.driver.many_files import numbered_archives
from nnet3py.errors import UserError
from nnet3py.text.lines import read_number

_PROGRAMS = {"gz": "gunzip -c", "ark": "cat"}
_LONGEST_LIST = 100_000  # bytes: a pipe is one argument, which may have 131,072


def alignment_rspecifier(ali_dir: str) -> str | None:
    """A table of all the alignments; None if there are none.

    ``num_jobs`` says how many archives belong to the directory: those of higher numbers are left over from an earlier
    run with more jobs, and count for nothing.

    Raises:
        UserError: an archive is missing, or there are too many to name, and they are not numbered from 1 on.
    """
    files = alignment_archives(ali_dir)
    if not files:
        return None
    names = [os.path.basename(file) for file in files]
    ending = names[0].rpartition(".")[2]
    if names == ["ali.scp"]:
        return f"scp:{files[0]}"
    if names == ["ali.ark"]:
        return f"ark:{files[0]}"
    if names == [f"ali.{number}.{ending}" for number in range(1, len(files) + 1)]:
        return "ark:" + numbered_archives(_PROGRAMS[ending], f"{ali_dir}/ali.", f".{ending}", len(files))
    return f"ark:{_PROGRAMS[ending]} {_named(ali_dir, files)} |"


def alignment_archives(ali_dir: str) -> list[str]:
    """The files with the alignments, in the order of the jobs: archives, or ``ali.scp`` or ``ali.ark`` alone.

    Raises:
        UserError: an archive is missing.
    """
    if os.path.isfile(f"{ali_dir}/num_jobs"):
        stated = read_number(f"{ali_dir}/num_jobs", least=1)
        there = set(os.listdir(ali_dir))
        for ending in _PROGRAMS:
            if f"ali.1.{ending}" in there:
                for number in range(1, stated + 1):
                    if f"ali.{number}.{ending}" not in there:
                        raise UserError(
                            f"{ali_dir}/num_jobs says that there are {stated} archives of alignments, and "
                            f"{ali_dir}/ali.{number}.{ending} is missing: align again."
                        )
                return [f"{ali_dir}/ali.{number}.{ending}" for number in range(1, stated + 1)]
    if os.path.isfile(f"{ali_dir}/ali.scp"):
        return [f"{ali_dir}/ali.scp"]
    for ending in _PROGRAMS:
        if files := glob.glob(f"{glob.escape(ali_dir)}/ali.*.{ending}"):
            return sorted(files, key=_job_order)
    return [f"{ali_dir}/ali.ark"] if os.path.isfile(f"{ali_dir}/ali.ark") else []


def has_transition_ids(ali_dir: str) -> bool:
    """Whether the alignments are of transition ids, those of a model beside them, and not of pdf ids."""
    return os.path.isfile(f"{ali_dir}/final.mdl")


def _named(ali_dir: str, files: list[str]) -> str:
    names = " ".join(files)
    if len(names) > _LONGEST_LIST:
        first, *_, last = files
        raise UserError(
            f"{ali_dir} has {len(files)} alignment archives from {first} to {last}, more than a command line can name "
            f"unless their numbers are 1 to {len(files)} without a gap: number them so, or write {ali_dir}/ali.scp."
        )
    return names


def _job_order(path: str) -> tuple[int, str]:
    number = re.search(r"\.(\d+)\.", os.path.basename(path))
    return (int(number[1]) if number else 0, path)
