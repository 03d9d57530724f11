"""The alignments in an alignment directory: Kaldi's ``ali.*.gz``, archives that are not compressed, or a script."""

from __future__ import annotations

import glob
import os
import re

_ARCHIVES = (("gunzip -c", "ali.*.gz"), ("cat", "ali.*.ark"), ("cat", "ali.ark"))


def alignment_rspecifier(ali_dir: str) -> str | None:
    """A table of all the alignments; None if there are none."""
    if os.path.isfile(f"{ali_dir}/ali.scp"):
        return f"scp:{ali_dir}/ali.scp"
    for program, pattern in _ARCHIVES:
        files = sorted(glob.glob(f"{ali_dir}/{pattern}"), key=_job_order)
        if files:
            return f"ark:{program} {' '.join(files)} |"
    return None


def has_transition_ids(ali_dir: str) -> bool:
    """Whether the alignments are of transition ids, those of a model beside them, and not of pdf ids."""
    return os.path.isfile(f"{ali_dir}/final.mdl")


def _job_order(path: str) -> tuple[int, str]:
    number = re.search(r"\.(\d+)\.", os.path.basename(path))
    return (int(number[1]) if number else 0, path)
