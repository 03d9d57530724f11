"""Train a monophone GMM on transcripts alone, and align with it.

The first alignment divides each utterance evenly over the states of its transcript. Then pass after pass: the Gaussians
are re-estimated from the alignment and split up, and in the passes named the utterances are aligned again with them.

Source: Kaldi egs/wsj/s5/steps/train_mono.sh.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnet3py.alignment.gaussian_mixtures import GaussianMixtures
from nnet3py.alignment.language import Language
from nnet3py.alignment.paths import best_paths, equal_path
from nnet3py.alignment.recipe_library import import_recipe_library
from nnet3py.alignment.training_graph import Ints, TrainingGraph, training_graph, transition_costs
from nnet3py.errors import UserError
from nnet3py.nnet.transition_model import State, Topology, TransitionModel
from nnet3py.text.lines import encode, read_lines

_LARGEST_BATCH = 20_000_000  # frames * utterances * states aligned at once
_FIRST_MIN_OCCUPANCY, _MIN_OCCUPANCY = 3.0, 10.0  # fewer at first, or the rare phones are never estimated


@dataclass(frozen=True)
class Schedule:
    """Options of the training, with the names and values of Kaldi's train_mono.sh."""

    num_iters: int = 40
    max_iter_inc: int = 30
    totgauss: int = 1000
    realign_iters: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 23, 26, 29, 32, 35, 38)
    acoustic_scale: float = 0.1
    transition_scale: float = 1.0
    self_loop_scale: float = 0.1
    seed: int = 0


@dataclass
class Alignment:
    """``transitions[key]``: transition-ids, one a frame; ``too_short``: keys without; ``log_likelihood``: a frame's."""

    transition_model: TransitionModel
    mixtures: GaussianMixtures
    transitions: dict[str, Ints]
    too_short: list[str]
    log_likelihood: float


class MonophoneTrainer:
    """The data and the model between passes.

    ``features``: key -> (frames, dim) float32; ``transcripts``: key -> words; the two have the same keys.

    Raises:
        UserError: there is no utterance, or a transcript has a word that the lexicon lacks.
    """

    def __init__(
        self,
        features: dict[str, NDArray[np.float32]],
        transcripts: dict[str, tuple[str, ...]],
        language: Language,
        schedule: Schedule,
    ) -> None:
        if not features:
            raise UserError("There are no utterances to align: the features and the transcripts have no key in common.")
        self.schedule = schedule
        self.keys = sorted(features, key=encode)
        self.lengths = np.array([len(features[key]) for key in self.keys], np.int32)
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        self.features = np.concatenate([features[key] for key in self.keys])
        self._library = import_recipe_library("kaldi_hmm_gmm")
        self._start_model(language)
        self.graphs: dict[tuple[str, ...], TrainingGraph] = {}
        self.members: dict[tuple[str, ...], list[int]] = {}
        for number, key in enumerate(self.keys):
            words = transcripts[key]
            if words not in self.graphs:
                self.graphs[words] = self._graph(language, key, words)
            self.members.setdefault(words, []).append(number)
        self.paths: list[Ints | None] = [None] * len(self.keys)

    def _start_model(self, language: Language) -> None:
        topology = self._library.HmmTopology()
        topology.read("\n".join(read_lines(language.path("topo"))) + "\n")
        self.tree = self._library.monophone_context_dependency(topology.phones, topology.get_phone_to_num_pdf_classes())
        self._transitions = self._library.TransitionModel(self.tree, topology)
        self._topology = _topology(topology)
        mean = self.features.mean(axis=0, dtype=np.float64)
        variance = self.features.var(axis=0, dtype=np.float64)
        if not (variance > 0.0).all():
            raise UserError(f"Dimension {int(np.argmin(variance))} of the features is the same in all frames.")
        self.mixtures = GaussianMixtures(mean, variance, self._transitions.num_pdfs)

    def _graph(self, language: Language, key: str, words: Sequence[str]) -> TrainingGraph:
        language.word_numbers(key, words)
        ways = [[entry for entry in language.lexicon if entry.word == word] for word in words]
        return training_graph(
            ways,
            language.phones,
            self.transition_model(),
            silence_phone=language.optional_silence,
            silence_probability=language.silence_probability,
        )

    def transition_model(self) -> TransitionModel:
        """The transition model as it is now, in the form that reads and writes Kaldi's files."""
        tuples = np.array([each.__getstate__() for each in self._transitions.tuples], np.int32)
        return TransitionModel(self._topology, tuples, np.array(self._transitions.log_probs, np.float32))

    def align_equally(self) -> None:
        """The first alignment. The random choices of an utterance depend on its key and the seed alone."""
        for words, members in self.members.items():
            for number in members:
                seed = [self.schedule.seed, zlib.crc32(encode(self.keys[number]))]
                rng = np.random.default_rng(seed)
                self.paths[number] = equal_path(self.graphs[words], int(self.lengths[number]), rng)

    def align(self) -> None:
        """Align every utterance with the model as it is now."""
        costs = transition_costs(
            self.transition_model(),
            transition_scale=self.schedule.transition_scale,
            self_loop_scale=self.schedule.self_loop_scale,
        )
        for words, members in self.members.items():
            graph = self.graphs[words]
            for batch in self._batches(members, len(graph.pdfs)):
                frame_costs = self._frame_costs(graph, batch)
                found = best_paths(graph, costs, frame_costs, self.lengths[batch])
                for number, result in zip(batch, found, strict=True):
                    self.paths[number] = None if result is None else result[0]

    def _batches(self, members: list[int], num_nodes: int) -> list[list[int]]:
        """Utterances of like length together, so that little of the padded array is padding."""
        batches: list[list[int]] = []
        for number in sorted(members, key=lambda member: (int(self.lengths[member]), member)):
            size = (len(batches[-1]) + 1) * int(self.lengths[number]) * num_nodes if batches else 0
            if not batches or size > _LARGEST_BATCH:
                batches.append([])
            batches[-1].append(number)
        return batches

    def _frame_costs(self, graph: TrainingGraph, batch: list[int]) -> NDArray[np.float32]:
        """(frames of the longest, utterances, nodes); 0 after an utterance's end."""
        rows = np.concatenate([np.arange(self.offsets[n], self.offsets[n + 1]) for n in batch])
        times = np.concatenate([np.arange(self.lengths[n]) for n in batch])
        places = np.repeat(np.arange(len(batch)), self.lengths[batch])
        costs = np.zeros((int(self.lengths[batch].max()), len(batch), len(graph.pdfs)), np.float32)
        features = self.features[rows]
        for pdf in np.unique(graph.pdfs).tolist():
            nodes = np.flatnonzero(graph.pdfs == pdf)
            likelihoods = self.mixtures.log_likelihoods(features, pdf)
            costs[times[:, None], places[:, None], nodes[None, :]] = (
                -self.schedule.acoustic_scale * likelihoods[:, None]
            )
        return costs

    def reestimate(self, target: int, *, iteration: int, min_occupancy: float) -> float:
        """Re-estimate Gaussians and transitions from the alignment, split to ``target`` Gaussians; log-likelihood."""
        aligned = [number for number, path in enumerate(self.paths) if path is not None]
        if not aligned:
            raise UserError(
                "No utterance could be aligned: all have fewer frames than their transcripts have states. "
                "Are the features those of this text?"
            )
        transitions = np.concatenate([path for path in self.paths if path is not None])
        rows = np.concatenate([np.arange(self.offsets[n], self.offsets[n + 1]) for n in aligned])
        pdfs = self.transition_model().pdfs(transitions)
        log_likelihood = self.mixtures.reestimate(self.features[rows], pdfs, min_occupancy)
        counts = np.bincount(transitions, minlength=self._transitions.num_transition_ids + 1).astype(np.float64)
        self._transitions.mle_update(counts, self._library.MleTransitionUpdateConfig())
        occupancies = np.bincount(pdfs, minlength=self._transitions.num_pdfs)
        self.mixtures.split(occupancies, target, np.random.default_rng([self.schedule.seed, iteration]))
        return log_likelihood


def train_monophone(
    trainer: MonophoneTrainer, report: Callable[[int, float, int], None] = lambda iteration, likelihood, gaussians: None
) -> Alignment:
    """Train, and align with the final model.

    Args:
        report: called after each pass with its number, the log-likelihood a frame before it, the Gaussians after it.

    Raises:
        UserError: no utterance can be aligned.
    """
    schedule = trainer.schedule
    target = start = trainer.mixtures.num_gaussians
    trainer.align_equally()
    likelihood = 0.0
    for iteration in range(schedule.num_iters):
        if iteration in schedule.realign_iters:
            trainer.align()
        if iteration <= schedule.max_iter_inc:
            target = start + (max(schedule.totgauss, start) - start) * iteration // max(schedule.max_iter_inc, 1)
        least = _FIRST_MIN_OCCUPANCY if iteration == 0 else _MIN_OCCUPANCY
        likelihood = trainer.reestimate(target, iteration=iteration, min_occupancy=least)
        report(iteration, likelihood, trainer.mixtures.num_gaussians)
    trainer.align()
    paths = dict(zip(trainer.keys, trainer.paths, strict=True))
    return Alignment(
        transition_model=trainer.transition_model(),
        mixtures=trainer.mixtures,
        transitions={key: path for key, path in paths.items() if path is not None},
        too_short=[key for key, path in paths.items() if path is None],
        log_likelihood=likelihood,
    )


def _topology(topology: object) -> Topology:
    """The library's topology in our form."""
    phones: list[int] = list(topology.phones)  # type: ignore[attr-defined]
    entries: list[list[State]] = []
    entry_of_phone = [-1] * (max(phones) + 1)
    for phone in phones:
        states = [
            State(state.forward_pdf_class, state.self_loop_pdf_class, list(state.transitions))
            for state in topology.topology_for_phone(phone)  # type: ignore[attr-defined]
        ]
        if states not in entries:
            entries.append(states)
        entry_of_phone[phone] = entries.index(states)
    return Topology(phones, entry_of_phone, entries)
