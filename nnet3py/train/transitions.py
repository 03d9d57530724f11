"""What alignments and posteriors say about a transition model: counts, probabilities of transitions, priors of pdfs.

The probabilities of a state's transitions are the shares of its frames that each was taken in, but at least the floor.

Source: Kaldi src/hmm/transition-model.cc, ``MleUpdate``; src/nnet3bin/nnet3-am-train-transitions.cc, ``SetPriors``;
src/bin/post-to-tacc.cc.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.nnet.component import Array
from nnet3py.nnet.transition_model import TransitionModel
from nnet3py.tables.holders import INT_VECTOR, POSTERIOR
from nnet3py.tables.table import SequentialReader

Counts = NDArray[np.float64]
"""A (soft) count for each transition id, (transition ids + 1,); element 0 is unused."""

_ROUNDS = 3  # flooring makes the sum more than one, scaling it back the least less than the floor


class BrokenPaths:
    """The alignments that are no path through a model's HMMs, which those of another model soon are not.

    A warning, for Kaldi's programs take any transition-ids that the model has.
    """

    def __init__(self, model: TransitionModel) -> None:
        self._model = model
        self._first = ""
        self._broken = self._all = 0

    def look_at(self, utterance: str, alignment: Array) -> None:
        """Count one alignment, of known transition-ids."""
        self._all += 1
        place = self._model.first_break(alignment)
        if place is not None:
            self._broken += 1
            self._first = self._first or f"{alignment[place]} after {alignment[place - 1]} in utterance {utterance}"

    def warn(self, alignments: str, model: str) -> None:
        """Say so, if there are any."""
        if self._broken:
            log.warning(
                f"{self._broken} of {self._all} alignments in {alignments} are no path through the HMMs of {model}, "
                f"which has nowhere the transition-id {self._first}: were they made with another model?"
            )


def counts_of_alignments(model: TransitionModel, rspecifier: str) -> tuple[Counts, int]:
    """How often each transition was taken, and in how many utterances.

    Raises:
        UserError: the table cannot be read, is empty, or has a transition id that the model lacks.
    """
    counts, utterances = np.zeros(model.num_transition_ids + 1), 0
    broken = BrokenPaths(model)
    with SequentialReader(rspecifier, INT_VECTOR) as reader:
        for key, alignment in reader:
            try:
                np.add.at(counts, model.known(alignment), 1.0)
            except UserError as problem:
                raise UserError(f"{rspecifier}, utterance {key}: {problem}.") from problem
            broken.look_at(key, alignment)
            utterances += 1
    if not utterances:
        raise UserError(f"There are no alignments in {rspecifier}; nothing is written.")
    broken.warn(rspecifier, "the model")
    return counts, utterances


def counts_of_posteriors(model: TransitionModel, rspecifier: str) -> tuple[Counts, int]:
    """The sum of the weights of each transition, and the number of utterances. Raises UserError as for alignments."""
    counts, utterances = np.zeros(model.num_transition_ids + 1), 0
    with SequentialReader(rspecifier, POSTERIOR) as reader:
        for key, posterior in reader:
            try:
                ids = model.known(posterior.classes)
            except UserError as problem:
                raise UserError(f"{rspecifier}, utterance {key}: {problem}.") from problem
            np.add.at(counts, ids, posterior.weights)
            utterances += 1
    if not utterances:
        raise UserError(f"There are no posteriors in {rspecifier}; nothing is written.")
    if not np.isfinite(counts).all():
        raise UserError(f"{rspecifier}: a weight is not finite; nothing is written.")
    return counts, utterances


def counts_of_pdfs(model: TransitionModel, counts: Counts) -> NDArray[np.float64]:
    """The counts of each pdf's transitions, (pdfs,)."""
    sums = np.zeros(model.num_pdfs)
    np.add.at(sums, model.pdf_of_transition[1:], counts[1:])
    return sums


def priors_of(counts: NDArray[np.float64], floor: float) -> Array:
    """Counts of pdfs as priors (pdfs,) float32 that sum to one, each about ``floor`` or more.

    Raises:
        UserError: there is nothing to count.
    """
    values = counts.astype(np.float32)
    if not values.any():
        raise UserError("The alignments have no frames: priors cannot be set.")
    priors = np.maximum(_scaled_to_one(values), np.float32(floor))
    return _scaled_to_one(priors)


def _scaled_to_one(values: Array) -> Array:
    total = np.float32(values.sum(dtype=np.float64))
    scaled: Array = values * np.float32(1.0 / float(total))
    return scaled


@dataclass(frozen=True)
class UpdateReport:
    """What an update of transitions did.

    Attributes:
        improvement: of the log-likelihood, summed over ``frames``.
        frames: those of states that have a choice of transitions.
        floored: probabilities that the floor was put in place of.
        skipped: states, or pdfs if they share, that had too few frames and stay as they were.
    """

    improvement: float
    frames: float
    floored: int
    skipped: int


def update_transitions(
    model: TransitionModel,
    counts: Counts,
    *,
    floor: float = 0.01,
    min_count: float = 5.0,
    share_for_pdfs: bool = False,
) -> UpdateReport:
    """Estimate the probabilities of transitions from how often they were taken.

    Args:
        counts: see :data:`Counts`.
        floor: the least that a probability may be.
        min_count: states with fewer frames stay as they are.
        share_for_pdfs: states with the same pdf get the same probabilities.

    Raises:
        UserError: states that are to share do not have equally many transitions, or a probability would be 0.
    """
    improvement = frames = 0.0
    floored = skipped = 0
    least = np.float32(floor)
    for ids in _states_by_pdf(model) if share_for_pdfs else _states(model):
        taken = counts[ids].sum(axis=0)
        if len(taken) == 1:
            continue
        total = float(taken.sum())
        frames += total
        if total < min_count:
            skipped += 1
            continue
        probabilities = (taken / total).astype(np.float32)
        for _ in range(_ROUNDS):
            probabilities = np.maximum(_scaled_to_one(probabilities), least)
        if not probabilities.all():
            raise UserError("A transition is never taken: its probability needs a floor above 0.")
        floored += int((probabilities == least).sum())
        log_probs = np.array([math.log(min(value, 1.0)) for value in probabilities.tolist()], np.float32)
        improvement += float(taken @ (log_probs - model.log_probs[ids[0]]).astype(np.float64))
        model.log_probs[ids] = log_probs
    return UpdateReport(improvement, frames, floored, skipped)


def _states(model: TransitionModel) -> list[Array]:
    """The transition ids of each transition state, (1, its transitions)."""
    found, first = [], 1
    for phone, state, _, _ in model.tuples.tolist():
        following = first + len(model.topology.states(phone)[state].transitions)
        found.append(np.arange(first, following)[None])
        first = following
    return found


def _states_by_pdf(model: TransitionModel) -> list[Array]:
    """For each pdf, in order, the transition ids of its states, (states, transitions of each)."""
    groups: dict[int, list[Array]] = defaultdict(list)
    for ids, (_, _, forward, self_loop) in zip(_states(model), model.tuples.tolist(), strict=True):
        for pdf in {forward, self_loop}:
            groups[pdf].append(ids)
    for pdf, members in groups.items():
        if len({ids.size for ids in members}) > 1:
            raise UserError(
                f"The states of pdf {pdf} have different numbers of transitions: they cannot share probabilities "
                "(leave out --share-for-pdfs)."
            )
    return [np.concatenate(groups[pdf]) for pdf in sorted(groups)]
