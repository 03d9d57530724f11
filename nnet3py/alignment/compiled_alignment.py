"""The best path of an utterance's log-likelihoods through its compiled training graph (Viterbi), and an equal one.

With a state's cost so far v_t(s), the cost w of an arc (the graph's, and that of its transition) and the acoustic
log-likelihood l_t of its transition-id's pdf, scaled by a,

    v_{t+1}(s') = min over arcs s -> s' of v_t(s) + w - a l_t,     v_0 = 0 at the start,

and the best path ends where v_T plus the cost of ending is least. Exact: every path is looked at, none is pruned.

Source: Kaldi src/bin/align-compiled-mapped.cc, src/decoder/decoder-wrappers.cc (``AlignUtteranceWrapper``), which
search with a beam; src/bin/align-equal-compiled.cc, src/fstext/fstext-utils-inl.h (``EqualAlign``).
"""

from __future__ import annotations

import contextlib
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnet3py import log
from nnet3py.directories.belonging import require_order_of_transitions
from nnet3py.errors import UserError
from nnet3py.nnet.transition_model import TransitionModel
from nnet3py.tables.holders import FLOAT, GENERAL_MATRIX, INT_VECTOR, MATRIX
from nnet3py.tables.table import RandomAccessReader, SequentialReader, TableWriter
from nnet3py.tables.transducer import EPSILON, NO_STATE, TRANSDUCER, Ints, Transducer
from nnet3py.text.lines import encode

_ATTEMPTS = 10


@dataclass(frozen=True)
class AlignedPath:
    """Transition-ids, (frames,) int32, and the cost of the whole path: graph, transitions and scaled acoustics."""

    transitions: Ints
    cost: float


def best_path(
    graph: Transducer,
    model: TransitionModel,
    log_likelihoods: NDArray[np.float32],
    transition_costs: NDArray[np.float64],
    acoustic_scale: float,
) -> AlignedPath | None:
    """The cheapest path that has a transition-id for each frame and ends where one may end; None if there is none.

    Args:
        graph: with transition-ids as input labels; arcs without a label are passed over between frames.
        log_likelihoods: (frames, pdfs), at least one frame.
        transition_costs: (transition-ids + 1,), see :func:`nnet3py.alignment.training_graph.transition_costs`.

    Raises:
        UserError: the graph has a transition-id that the model lacks, or goes in circles without a label at a gain;
            there are not as many pdfs as the model has, or a log-likelihood is not a number.
    """
    _check_log_likelihoods(log_likelihoods, model)
    if graph.num_arcs and int(graph.ilabels.max()) > model.num_transition_ids:
        raise UserError(
            f"the graph has the transition-id {int(graph.ilabels.max())}, the model 1 to {model.num_transition_ids}: "
            "compile the graph with this model"
        )
    graph = without_silent_arcs(graph)
    order = np.argsort(graph.targets, kind="stable")
    sources, labels = graph.sources[order], graph.ilabels[order]
    if graph.start == NO_STATE or not len(order):
        return None
    arc_costs = graph.weights[order].astype(np.float64) + transition_costs[labels]
    pdfs = model.pdf_of_transition[labels]
    reached, groups, group_of = np.unique(graph.targets[order], return_index=True, return_inverse=True)
    numbers = np.arange(len(order), dtype=np.int32)
    num_frames = len(log_likelihoods)
    arrived_by = np.zeros((num_frames, graph.num_states), np.int32)
    costs = np.full(graph.num_states, np.inf)
    costs[graph.start] = 0.0
    frame_costs = -acoustic_scale * log_likelihoods.astype(np.float64)
    for frame in range(num_frames):
        candidates = costs[sources] + arc_costs + frame_costs[frame, pdfs]
        best = np.minimum.reduceat(candidates, groups)
        # Of equally cheap arcs the first one.
        is_best = np.where(candidates <= best[group_of], numbers, len(numbers))
        arrived_by[frame, reached] = np.minimum.reduceat(is_best, groups)
        costs = np.full(graph.num_states, np.inf)
        costs[reached] = best
    ending = costs + graph.finals
    state = int(np.argmin(ending))
    if not np.isfinite(ending[state]):
        return None
    transitions = np.zeros(num_frames, np.int32)
    for frame in range(num_frames - 1, -1, -1):
        arc = arrived_by[frame, state]
        transitions[frame] = labels[arc]
        state = int(sources[arc])
    return AlignedPath(transitions, float(ending.min()))


def _check_log_likelihoods(log_likelihoods: NDArray[np.float32], model: TransitionModel) -> None:
    if log_likelihoods.shape[1] != model.num_pdfs:
        raise UserError(
            f"expected {model.num_pdfs} log-likelihoods a frame, one for each pdf of the model, found "
            f"{log_likelihoods.shape[1]}: are they of another network"
        )
    bad = np.isnan(log_likelihoods) | np.isposinf(log_likelihoods)
    if bad.any():
        frame, pdf = np.argwhere(bad)[0].tolist()
        raise UserError(f"the log-likelihood of pdf {pdf} at frame {frame} is not a number, or infinite")


def without_silent_arcs(graph: Transducer) -> Transducer:
    """The same graph without arcs that have no input label: each is joined to the arcs that follow it.

    Raises:
        UserError: it can be gone round in circles without a label for a cost below 0.
    """
    silent = graph.ilabels == EPSILON
    if not silent.any():
        return graph
    following: dict[int, list[tuple[int, float]]] = {}
    for arc in np.flatnonzero(silent).tolist():
        following.setdefault(int(graph.sources[arc]), []).append((int(graph.targets[arc]), float(graph.weights[arc])))
    spoken: dict[int, list[int]] = {}
    for arc in np.flatnonzero(~silent).tolist():
        spoken.setdefault(int(graph.sources[arc]), []).append(arc)
    finals = graph.finals.astype(np.float64)
    arcs = [
        (source, target, ilabel, olabel, weight)
        for source, target, ilabel, olabel, weight in zip(
            graph.sources[~silent].tolist(),
            graph.targets[~silent].tolist(),
            graph.ilabels[~silent].tolist(),
            graph.olabels[~silent].tolist(),
            graph.weights[~silent].tolist(),
            strict=True,
        )
    ]
    for state in following:
        for place, cost in _silent_costs(state, following).items():
            finals[state] = min(finals[state], cost + float(graph.finals[place]))
            if place != state:
                for arc in spoken.get(place, []):
                    weight = cost + float(graph.weights[arc])
                    ilabel, olabel = int(graph.ilabels[arc]), int(graph.olabels[arc])
                    arcs.append((state, int(graph.targets[arc]), ilabel, olabel, weight))
    return Transducer.of(graph.start, finals, arcs)


def _silent_costs(state: int, following: dict[int, list[tuple[int, float]]]) -> dict[int, float]:
    """The least cost of going from a state to others without a label."""
    costs = {state: 0.0}
    changed = {state}
    for _ in range(len(following) + 2):  # a way that is no circle has at most as many arcs as there are sources
        if not changed:
            return costs
        found = set()
        for place in changed:
            for target, weight in following.get(place, []):
                cost = costs[place] + weight
                if cost < costs.get(target, np.inf):
                    costs[target] = cost
                    found.add(target)
        changed = found
    raise UserError("the graph can be gone round in circles without a label for a cost below 0")


def equal_path(graph: Transducer, num_frames: int, rng: np.random.Generator) -> Ints | None:
    """A random path, its self-loops spread evenly over its states, (frames,) int32; None if there are too few frames.

    Every way on from a state is as probable as any other, whatever its cost.

    Raises:
        UserError: the graph has arcs without a label that go in circles at a gain.
    """
    graph = without_silent_arcs(graph)
    if graph.start == NO_STATE:
        return None
    bounds = np.searchsorted(graph.sources, np.arange(graph.num_states + 1))
    for _ in range(_ATTEMPTS):
        arcs = _random_arcs(graph, bounds, num_frames, rng)
        if arcs is not None:
            break
    else:
        return None
    loops = graph.sources == graph.targets
    loop_of = np.zeros(graph.num_states, np.int32)
    loop_of[graph.sources[loops]] = graph.ilabels[loops]
    staying = loop_of[graph.targets[arcs]]
    can_stay = np.flatnonzero(staying)
    left = num_frames - len(arcs)
    if left and not len(can_stay):
        return None
    durations = np.ones(len(arcs), np.int64)
    if left:
        durations[can_stay] += np.diff(np.arange(len(can_stay) + 1) * left // len(can_stay))
    path = np.repeat(staying, durations)
    path[np.cumsum(durations) - durations] = graph.ilabels[arcs]
    return path.astype(np.int32)


def _random_arcs(
    graph: Transducer, bounds: NDArray[np.int64], most: int, rng: np.random.Generator
) -> NDArray[np.int64] | None:
    """The arcs of a random path without self-loops; None if there are more than ``most``, or it does not end."""
    state, arcs = graph.start, list[int]()
    while len(arcs) <= most:
        onward = np.arange(bounds[state], bounds[state + 1])
        onward = onward[graph.targets[onward] != state]
        choices = len(onward) + bool(np.isfinite(graph.finals[state]))
        if not choices:
            return None
        choice = int(rng.integers(choices))
        if choice == len(onward):
            return np.array(arcs, np.int64) if arcs else None
        arcs.append(int(onward[choice]))
        state = int(graph.targets[arcs[-1]])
    return None


@dataclass
class AlignmentCounts:
    """Utterances aligned and not; frames of the former and their log-likelihood, over the acoustic scale."""

    done: int = 0
    failed: int = 0
    frames: int = 0
    log_likelihood: float = 0.0


def align_table(
    model: TransitionModel,
    graphs: str,
    log_likelihoods: str,
    alignments: str,
    scores: str = "",
    *,
    transition_costs: NDArray[np.float64],
    acoustic_scale: float,
    model_name: str = "the model",
) -> AlignmentCounts:
    """Align every utterance of a table of log-likelihoods; what the program ``align-compiled-mapped`` does.

    ``graphs``, ``log_likelihoods``: rspecifiers. ``alignments``, ``scores`` (or empty): wspecifiers. Errors call the
    model ``model_name``.

    Raises:
        UserError: no utterance could be aligned, data are bad, or they do not fit each other.
    """
    counts = AlignmentCounts()
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(SequentialReader(log_likelihoods, MATRIX))
        table = stack.enter_context(RandomAccessReader(graphs, TRANSDUCER))
        writer = stack.enter_context(TableWriter(alignments, INT_VECTOR))
        score_writer = stack.enter_context(TableWriter(scores, FLOAT)) if scores else None
        for utterance, matrix in reader:
            if utterance not in table:
                log.warning(f"No fst for utterance {utterance}")
                counts.failed += 1
                continue
            if not len(matrix):
                log.warning(f"Empty loglikes matrix utterance: {utterance}")
                counts.failed += 1
                continue
            graph = table[utterance]
            source = f"The graph of utterance {utterance} in {graphs}"
            require_order_of_transitions(graph, source, model_name, model)
            try:
                path = best_path(graph, model, np.asarray(matrix), transition_costs, acoustic_scale)
            except UserError as problem:
                raise UserError(f"Cannot align utterance {utterance}: {problem}.") from problem
            if path is None:
                log.warning(f"Did not successfully decode file {utterance}, len = {len(matrix)}")
                counts.failed += 1
                continue
            writer.write(utterance, path.transitions)
            if score_writer is not None:
                score_writer.write(utterance, -path.cost)
            counts.done += 1
            counts.frames += len(matrix)
            counts.log_likelihood -= path.cost / acoustic_scale
        _require_some(counts, log_likelihoods)
    return counts


def align_table_equally(graphs: str, features: str, alignments: str, seed: int) -> AlignmentCounts:
    """An equal path for every utterance that has a graph; what the program ``align-equal-compiled`` does.

    An utterance's random choices depend on its key and the seed alone. ``graphs``, ``features``: rspecifiers.
    ``alignments``: wspecifier.

    Raises:
        UserError: no utterance could be aligned, or data are bad.
    """
    counts = AlignmentCounts()
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(SequentialReader(features, GENERAL_MATRIX))
        table = stack.enter_context(RandomAccessReader(graphs, TRANSDUCER))
        writer = stack.enter_context(TableWriter(alignments, INT_VECTOR))
        for utterance, matrix in reader:
            if utterance not in table:
                log.warning(f"No fst for utterance {utterance}")
                counts.failed += 1
                continue
            frames = matrix.shape[0]
            rng = np.random.default_rng([seed, zlib.crc32(encode(utterance))])
            path = equal_path(table[utterance], frames, rng)
            if path is None:
                log.warning(f"No alignment for utterance {utterance}: it is too short for its graph, {frames} frames.")
                counts.failed += 1
                continue
            writer.write(utterance, path)
            counts.done += 1
            counts.frames += frames
        _require_some(counts, features)
    return counts


def _require_some(counts: AlignmentCounts, source: str) -> None:
    if counts.done == 0:  # raised while the outputs are open, it leaves earlier ones as they were
        what = f"None of the {counts.failed} utterances in {source} could be aligned" if counts.failed else (
            f"There are no utterances in {source}"
        )  # fmt: skip
        raise UserError(f"{what}; nothing is written.")
