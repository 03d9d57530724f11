"""How many frames of each pdf the alignments have, as a vector in a file of the training's directory."""

from __future__ import annotations

from nnet3py.driver.alignments import alignment_rspecifier, has_transition_ids
from nnet3py.driver.engine import Engine, pipeline
from nnet3py.driver.experiment import Experiment
from nnet3py.errors import UserError
from nnet3py.text.lines import fields, read_number, read_text

NAME = "pdf_counts"
"""The file: a vector in text, in which analyze-counts adds half a frame to each count and post-to-tacc does not."""


def count_pdfs(experiment: Experiment, engine: Engine, ali_dir: str, wanted_for: str) -> str:
    """Count, and return the file's path; ``wanted_for`` says in an error why.

    Raises:
        UserError: there are no alignments, or counting failed.
    """
    path = experiment.path(NAME)
    engine.run(experiment.log(NAME), _counting(ali_dir, path, wanted_for), what="Counting pdfs")
    return path


def _counting(ali_dir: str, counts: str, wanted_for: str) -> list[str]:
    """The command that counts the frames of each pdf."""
    alignments = alignment_rspecifier(ali_dir)
    if alignments is None:
        raise UserError(f"{wanted_for}, but {ali_dir} has no alignments to count pdfs in.")
    if not has_transition_ids(ali_dir):
        return ["analyze-counts", f"--counts-dim={_stated_num_pdfs(ali_dir)}", alignments, counts]
    return pipeline(
        ["ali-to-post", alignments, "ark:-"],
        ["post-to-tacc", "--per-pdf=true", "--binary=false", f"{ali_dir}/final.mdl", "ark:-", counts],
    )


def _stated_num_pdfs(ali_dir: str) -> int:
    """What <ali-dir>/num_pdfs says, or 0."""
    try:
        return read_number(f"{ali_dir}/num_pdfs")
    except UserError:
        return 0


def read_counts(path: str) -> list[float]:
    """The numbers of a vector in text.

    Raises:
        UserError: the file is not one.
    """
    try:
        words = fields(read_text(path))
        if words[:1] + words[-1:] != ["[", "]"]:
            raise ValueError("no brackets")
        return [float(word) for word in words[1:-1]]
    except (UserError, ValueError) as problem:
        raise UserError(f"Expected a vector in text in {path}, found none ({problem}).") from None
