"""Which chunks an utterance is cut into: how many, how long, and where they start.

Chunks have the principal length (the first of ``--num-frames``) or, at most two of them in an utterance, one of the
other lengths. A *split* is a sorted list of lengths. Its default duration is their sum less the wished overlaps, and
the cost of using it for an utterance is the difference of the two durations, counted double where the split is shorter
(frames in no chunk are worse than frames in two). Of the splits within 2 of the least cost one is drawn at random; it
is put in rising or falling order, and what is missing or too much is spread over the gaps or overlaps.

Kaldi draws from one generator for the whole run (and from an unseeded one for the gaps); here each utterance has its
own, seeded by ``--srand`` and its name, so that the cut does not depend on how the data are divided into jobs.

Source: Kaldi src/nnet3/nnet-example-utils.cc, UtteranceSplitter.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.text.lines import encode

Split = tuple[int, ...]
TARGETS_LENGTH_TOLERANCE = 2
"""Targets by which an utterance may have more or fewer than its frames need, unless a program is told otherwise."""

_LONGEST_CHUNK = 100_000
_COST_THRESHOLD = np.float32(1.9999)


@dataclass(frozen=True)
class ChunkConfig:
    """What is asked of the chunks. ``num_frames`` None: the whole utterance is one chunk.

    Contexts in frames; the initial and final ones are -1 where they are as the others.
    """

    num_frames: tuple[int, ...] | None = (1,)
    num_frames_overlap: int = 0
    left_context: int = 0
    right_context: int = 0
    left_context_initial: int = -1
    right_context_final: int = -1
    frame_subsampling_factor: int = 1

    def __post_init__(self) -> None:
        if self.frame_subsampling_factor < 1:
            raise UserError(f"Invalid value --frame-subsampling-factor={self.frame_subsampling_factor}.")
        if min(self.left_context, self.right_context) < 0:
            raise UserError("--left-context and --right-context cannot be negative.")
        if self.num_frames is not None and not 0 <= self.num_frames_overlap < self.num_frames[0]:
            raise UserError(
                f"--num-frames-overlap={self.num_frames_overlap} must be at least 0 and less than the chunk's length, "
                f"{self.num_frames[0]}."
            )
        if self.num_frames is not None and max(self.num_frames) > _LONGEST_CHUNK:
            raise UserError(
                f"Chunks of {max(self.num_frames)} frames are too long (--num-frames, --frame-subsampling-factor): the "
                f"most is {_LONGEST_CHUNK}, and --num-frames=-1 does not split utterances."
            )

    @staticmethod
    def parse_num_frames(text: str, frame_subsampling_factor: int = 1) -> tuple[int, ...] | None:
        """``8`` or ``40,25,50`` (principal length first), rounded up to multiples of the factor; ``-1`` is None."""
        if text.strip() == "-1":
            return None
        words = text.split(",")
        if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
            raise UserError(f"Invalid option (expected comma-separated list of integers): --num-frames={text}")
        lengths = tuple(int(word) for word in words)
        factor = max(1, frame_subsampling_factor)
        rounded = tuple(-(-length // factor) * factor for length in lengths)
        if rounded != lengths:
            log.log(
                f"Rounding up --num-frames={text} to multiples of --frame-subsampling-factor={factor}, to: "
                + ",".join(map(str, rounded))
            )
        return rounded


class Chunk(NamedTuple):
    """A stretch of an utterance: ``num_frames`` from ``first_frame`` on, and the context around it.

    output_weights: (num_frames / frame_subsampling_factor,) float32, 1 / (number of chunks that have the frame).
    """

    first_frame: int
    num_frames: int
    left_context: int
    right_context: int
    output_weights: np.ndarray


@dataclass
class SplitterCounts:
    """What has been cut so far."""

    utterances: int = 0
    input_frames: int = 0
    overlap_frames: int = 0
    chunks: int = 0
    chunk_frames: int = 0
    by_length: dict[int, int] = field(default_factory=dict)


class UtteranceSplitter:
    """Cuts utterances and keeps counts."""

    def __init__(self, config: ChunkConfig, seed: int = 0) -> None:
        self.config = config
        self.counts = SplitterCounts()
        self._seed = seed
        self._splits_for_length = [] if config.num_frames is None else _tabulate_splits(config)

    def generator(self, utterance: str) -> random.Random:
        """The utterance's own random numbers."""
        return random.Random(encode(f"{self._seed}:{utterance}"))

    def lengths_match(self, utterance: str, num_frames: int, num_targets: int, tolerance: int) -> bool:
        """Whether there are as many targets as frames need, within ``tolerance``; warns if not."""
        factor = self.config.frame_subsampling_factor
        if targets_fit(num_frames, num_targets, factor, tolerance):
            return True
        expected = _targets_of(num_frames, factor)
        if factor == 1:
            log.warning(
                f"Supervision does not have expected length for utterance {utterance}: "
                f"expected length = {num_frames}, got {num_targets}"
            )
        else:
            log.warning(
                f"Supervision does not have expected length for utterance {utterance}: expected length = "
                f"({num_frames} + {factor} - 1) / {factor} = {expected}, got: {num_targets} "
                f"(note: --frame-subsampling-factor={factor})"
            )
        return False

    def can_split(self, num_frames: int) -> bool:
        """Whether an utterance of this length is long enough for a chunk."""
        return num_frames > 0 and (self.config.num_frames is None or bool(self._possible_splits(num_frames)))

    def split(self, num_frames: int, generator: random.Random) -> list[Chunk]:
        """The chunks of an utterance of this length, from its start to its end; none if it is too short."""
        config = self.config
        if config.num_frames is None:
            spans = [(0, num_frames)] if num_frames else []
        else:
            lengths = self._chunk_lengths(num_frames, generator)
            gaps = _gaps(num_frames, lengths, config.frame_subsampling_factor, generator)
            spans, frame = [], 0
            for length, gap in zip(lengths, gaps, strict=True):
                spans.append((frame + gap, length))
                frame += gap + length
        chunks = self._with_context_and_weights(num_frames, spans)
        self._count(num_frames, chunks)
        return chunks

    def _chunk_lengths(self, num_frames: int, generator: random.Random) -> list[int]:
        assert self.config.num_frames is not None
        principal = self.config.num_frames[0]
        possible = self._possible_splits(num_frames)
        if not possible:
            return []
        repeats = self._repeats(num_frames)
        lengths = sorted([*generator.choice(possible), *[principal] * repeats])
        return lengths if generator.random() < 0.5 else lengths[::-1]

    def _repeats(self, num_frames: int) -> int:
        """How many chunks of the principal length come before the table settles the rest."""
        assert self.config.num_frames is not None
        step = self.config.num_frames[0] - self.config.num_frames_overlap
        return max(0, -(-(num_frames - len(self._splits_for_length) + 1) // step))

    def _possible_splits(self, num_frames: int) -> list[Split]:
        assert self.config.num_frames is not None
        step = self.config.num_frames[0] - self.config.num_frames_overlap
        return self._splits_for_length[num_frames - self._repeats(num_frames) * step]

    def _with_context_and_weights(self, num_frames: int, spans: list[tuple[int, int]]) -> list[Chunk]:
        config = self.config
        factor = config.frame_subsampling_factor
        initial = config.left_context_initial if config.left_context_initial >= 0 else config.left_context
        final = config.right_context_final if config.right_context_final >= 0 else config.right_context
        # A chunk may go past the end of the utterance by less than the subsampling factor.
        extents = [(first // factor, -(-(first + length) // factor)) for first, length in spans]
        uses = np.zeros(max((end for _, end in extents), default=0), dtype=np.int32)
        for begin, end in extents:
            uses[begin:end] += 1
        weights = (1.0 / np.maximum(uses, 1)).astype(np.float32)
        return [
            Chunk(
                first,
                length,
                initial if position == 0 else config.left_context,
                final if position == len(spans) - 1 else config.right_context,
                weights[begin:end],
            )
            for position, ((first, length), (begin, end)) in enumerate(zip(spans, extents, strict=True))
        ]

    def _count(self, num_frames: int, chunks: list[Chunk]) -> None:
        counts = self.counts
        counts.utterances += 1
        counts.input_frames += num_frames
        last_end = 0
        for chunk in chunks:
            counts.overlap_frames += max(0, last_end - chunk.first_frame)
            last_end = chunk.first_frame + chunk.num_frames
            counts.chunks += 1
            counts.chunk_frames += chunk.num_frames
            counts.by_length[chunk.num_frames] = counts.by_length.get(chunk.num_frames, 0) + 1

    def log_counts(self) -> None:
        """Log what was cut, in Kaldi's words."""
        counts = self.counts
        log.log(
            f"Split {counts.utterances} utts, with total length {counts.input_frames} frames "
            f"({counts.input_frames / 360000.0:g} hours assuming 100 frames per second) into {counts.chunks} chunks."
        )
        if not counts.chunks:
            return
        overlap = counts.overlap_frames * 100.0 / counts.input_frames
        output = counts.chunk_frames * 100.0 / counts.input_frames
        log.log(
            f"Average chunk length was {counts.chunk_frames / counts.chunks:g} frames; overlap between adjacent chunks "
            f"was {overlap:g}% of input length; length of output was {output:g}% of input length (minus overlap = "
            f"{output - overlap:g}%)."
        )
        if len(counts.by_length) > 1:
            shares = (
                f"{length} = {length * number * 100.0 / counts.chunk_frames:.4g}%"
                for length, number in sorted(counts.by_length.items())
            )
            log.log(f"Output frames are distributed among chunk-sizes as follows: {', '.join(shares)}")


def targets_fit(num_frames: int, num_targets: int, factor: int, tolerance: int = TARGETS_LENGTH_TOLERANCE) -> bool:
    """Whether there are as many targets as frames need at one every ``factor`` frames, within ``tolerance``."""
    return abs(num_targets - _targets_of(num_frames, factor)) <= tolerance


def _targets_of(num_frames: int, factor: int) -> int:
    return (num_frames + factor - 1) // factor


def _default_duration(split: Split, config: ChunkConfig) -> np.float32:
    assert config.num_frames is not None
    proportion = np.float32(config.num_frames_overlap) / np.float32(config.num_frames[0])
    duration = np.float32(sum(split))
    for first, second in itertools.pairwise(split):
        duration -= proportion * np.float32(min(first, second))
    return duration


def _all_splits(config: ChunkConfig, ceiling: int) -> list[Split]:
    """Up to two alternative lengths and any number of the principal one, up to a duration; sorted."""
    assert config.num_frames is not None
    principal, *others = config.num_frames
    splits = set()
    for first in [None, *others]:
        for second in [None, *others]:
            split = tuple(sorted(length for length in (first, second) if length is not None))
            while _default_duration(split, config) <= ceiling:
                if split:
                    splits.add(split)
                split = tuple(sorted((*split, principal)))
    return sorted(splits)


def _tabulate_splits(config: ChunkConfig) -> list[list[Split]]:
    """For each length up to one where repeating the principal chunk settles the rest: the splits to draw from."""
    assert config.num_frames is not None
    principal = config.num_frames[0]
    longest = 2 * max(config.num_frames) + principal
    splits = _all_splits(config, longest + principal)
    durations = np.array([_default_duration(split, config) for split in splits], dtype=np.float32)
    longest_chunks = np.array([max(split) for split in splits])
    table = []
    for length in range(longest + 1):
        differences = durations - np.float32(length)
        costs = np.where(differences > 0, differences, -2 * differences)
        costs[longest_chunks > length] = np.inf
        least = costs.min()
        near_least = np.isfinite(least) & (costs < least + _COST_THRESHOLD)
        table.append([splits[index] for index in np.flatnonzero(near_least)])
    return table


def _gaps(num_frames: int, lengths: list[int], factor: int, generator: random.Random) -> list[int]:
    """The frames left out before each chunk; negative where it overlaps the one before. Multiples of ``factor``."""
    if not lengths:
        return []
    reduced = [length // factor for length in lengths]
    missing = -(-num_frames // factor) - sum(reduced)
    if missing >= 0:
        gaps = _spread_evenly(missing, len(lengths) + 1, generator)[:-1]
    else:
        magnitudes = [min(pair) for pair in itertools.pairwise(reduced)]
        gaps = [0, *(-overlap for overlap in _spread_in_proportion(-missing, magnitudes))]
    return [factor * gap for gap in gaps]


def _spread_evenly(total: int, parts: int, generator: random.Random) -> list[int]:
    """Shares of ``total`` that differ by at most one, in random order."""
    share, more = divmod(total, parts)
    shares = [share + 1] * more + [share] * (parts - more)
    generator.shuffle(shares)
    return shares


def _spread_in_proportion(total: int, magnitudes: list[int]) -> list[int]:
    """Shares of ``total`` in proportion to ``magnitudes``, rounded down, the first ones getting what is left over.

    Float32 as in Kaldi; there the remainders are meant to decide who gets more, but are rounded to zero.
    """
    whole = np.float32(sum(magnitudes))
    shares = [int(np.float32(total) * np.float32(magnitude) / whole) for magnitude in magnitudes]
    for position in range(total - sum(shares)):
        shares[position] += 1
    return shares
