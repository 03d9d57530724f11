"""Alignments from phones whose times are known: a transition-id for every frame.

Where a corpus says when each phone was spoken, no model need align it. A frame belongs to the phone that is spoken at
the middle of its window; a phone's frames are shared out evenly among the states of its HMM, in order. A phone too
short for its states takes frames of its neighbours, since a path through an HMM of three states is three frames long.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from nnet3py.errors import UserError
from nnet3py.nnet.component import Array
from nnet3py.nnet.transition_model import Topology, TransitionModel

TimedPhone = tuple[str, float, float]
"""A phone's name, when it begins and how long it lasts, in seconds."""


def monophone_transition_model(topology: Topology) -> TransitionModel:
    """A model in which every state of every phone has a pdf of its own, numbered phone by phone; Kaldi's gmm-init-mono.

    Transitions have the topology's probabilities.
    """
    tuples, log_probs, first_pdf = [], [0.0], 0
    for phone in topology.phones:
        states = topology.states(phone)[:-1]
        for index, state in enumerate(states):
            tuples.append([phone, index, first_pdf + state.forward_pdf_class, first_pdf + state.self_loop_pdf_class])
            log_probs += [math.log(min(probability, 1.0)) for _, probability in state.transitions]
        first_pdf += 1 + max(max(state.forward_pdf_class, state.self_loop_pdf_class) for state in states)
    return TransitionModel(topology, np.array(tuples, np.int32), np.array(log_probs, np.float32))


def monophone_tree_text(topology: Topology) -> str:
    """The tree that goes with :func:`monophone_transition_model`, in Kaldi's text form (file ``tree``)."""
    branches, first_pdf = ["NULL"] * (max(topology.phones) + 1), 0
    for phone in topology.phones:
        classes = [s.forward_pdf_class for s in topology.states(phone)[:-1]]
        leaves = " ".join(f"CE {first_pdf + number}" for number in range(max(classes) + 1))
        branches[phone] = f"TE -1 {max(classes) + 1} ( {leaves} )"
        first_pdf += max(classes) + 1
    return f"ContextDependency 1 0 ToPdf TE 0 {len(branches)} ( {' '.join(branches)} )\nEndContextDependency "


def align_timed_phones(
    phones: Sequence[TimedPhone],
    num_frames: int,
    numbers: dict[str, int],
    model: TransitionModel,
    *,
    frame_shift: float = 0.010,
    frame_length: float = 0.025,
) -> Array:
    """A transition-id for each frame, (num_frames,) int32.

    Args:
        phones: in order of time, the first from time 0.
        numbers: phone -> number.
        frame_shift, frame_length: in seconds; frame t's window begins at t * frame_shift.

    Raises:
        UserError: a phone is not in the model, times overlap or have gaps, or there are too few frames for the phones.
    """
    paths = [_path(model, _number(name, numbers)) for name, _, _ in phones]
    lengths = [len(path) for path in paths]
    if sum(lengths) > num_frames:
        raise UserError(f"{len(phones)} phones have {sum(lengths)} states, more than the {num_frames} frames.")
    for (name, start, duration), (following, start_of_following, _) in itertools.pairwise(phones):
        if duration < 0 or abs(start + duration - start_of_following) > 0.001:
            raise UserError(
                f"{name} ends at {start + duration:.3f} s, but {following} begins at {start_of_following:.3f} s."
            )
    bounds = [math.ceil((start - frame_length / 2) / frame_shift - 1e-6) for _, start, _ in phones[1:]]
    bounds = _long_enough([0, *bounds, num_frames], lengths)
    alignment = []
    for path, first, end in zip(paths, bounds, bounds[1:], strict=False):
        cuts = [round(part * (end - first) / len(path)) for part in range(len(path) + 1)]
        for (stay, leave), begin, stop in zip(path, cuts, cuts[1:], strict=False):
            alignment += [stay] * (stop - begin - 1) + [leave]
    return np.array(alignment, np.int32)


def _number(name: str, numbers: dict[str, int]) -> int:
    if name not in numbers:
        raise UserError(f"the phone {name!r} is not in phones.txt.")
    return numbers[name]


def _path(model: TransitionModel, phone: int) -> list[tuple[int, int]]:
    """For each state on the way 0, 1, ... to the end: the transition-ids of staying and of going on."""
    path, transition_id = [], 1
    for owner, state, _, _ in model.tuples.tolist():
        targets = [target for target, _ in model.topology.states(owner)[state].transitions]
        if owner == phone:
            if state not in targets or state + 1 not in targets:
                raise UserError(f"state {state} of phone {phone} has no loop, or no way to the next state.")
            path.append((transition_id + targets.index(state), transition_id + targets.index(state + 1)))
        transition_id += len(targets)
    if len(path) != len(model.topology.states(phone)) - 1:
        raise UserError(
            f"phone {phone} has {len(path)} states with pdfs in the model, not one for each of its topology."
        )
    return path


def _long_enough(bounds: list[int], lengths: list[int]) -> list[int]:
    """Move the bounds between segments as little as makes segment i at least ``lengths[i]`` long."""
    bounds = list(bounds)
    for index, length in enumerate(lengths[:-1]):
        bounds[index + 1] = max(bounds[index + 1], bounds[index] + length)
    for index in range(len(lengths) - 1, 0, -1):
        bounds[index] = min(bounds[index], bounds[index + 1] - lengths[index])
    return bounds
