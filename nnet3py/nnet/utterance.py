"""The output of a network for a whole utterance, computed in chunks.

An utterance is cut into chunks of a fixed number of frames; each chunk is given the context that the network needs,
the first and last frame of the utterance repeated where it ends. The chunks of an utterance that have the same shape
are computed together; what an utterance gives does not depend on which others are in the data.

Source: Kaldi src/nnet3/nnet-am-decodable-simple.{h,cc} (``DecodableNnetSimple``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.nnet.component import Array, Phase
from nnet3py.nnet.component_fields import is_finite
from nnet3py.nnet.computation import ComputationCache, Computations
from nnet3py.nnet.network import Network
from nnet3py.nnet.request import Request
from nnet3py.nnet.times import network_context

_MOST_CHUNKS = 64
_MOST_PLANS = 256  # one for each number of chunks computed together, one for each length of a last chunk
_LARGEST_IVECTOR_GAP = 50


@dataclass(frozen=True)
class ChunkOptions:
    """How an utterance is cut: Kaldi's options and defaults.

    ``frames_per_chunk`` counts input frames. Contexts are in frames beyond what the network needs; those of the
    utterance's start and end are used if not negative.
    """

    frames_per_chunk: int = 50
    extra_left_context: int = 0
    extra_right_context: int = 0
    extra_left_context_initial: int = -1
    extra_right_context_final: int = -1
    frame_subsampling_factor: int = 1

    def check(self) -> None:
        """Raise UserError for values out of range."""
        if self.frames_per_chunk < 1 or self.frame_subsampling_factor < 1:
            raise UserError("--frames-per-chunk and --frame-subsampling-factor must be above zero.")
        if self.extra_left_context < 0 or self.extra_right_context < 0:
            raise UserError("--extra-left-context and --extra-right-context must not be negative.")


@dataclass(frozen=True)
class _Chunk:
    """Output frames ``first`` to ``last`` (input numbering), with context."""

    first: int
    last: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.last - self.first, self.left, self.right


class UtteranceComputer:
    """Computes the output named ``output`` of a network, one utterance after another.

    Args:
        log_priors: (output dim,) subtracted from every row of the output; None for nothing.
        acoustic_scale: what the result is multiplied by, after that.
        online_ivector_period: frames between the rows of an utterance's iVector matrix.
        computations: what computes; by default the network on the CPU.

    Raises:
        UserError: the network is not of an ``input``, perhaps an ``ivector``, and an ``output``; options out of range;
            priors of another dimension.
    """

    def __init__(
        self,
        network: Network,
        options: ChunkOptions | None = None,
        log_priors: Array | None = None,
        acoustic_scale: float = 1.0,
        online_ivector_period: int = 0,
        computations: Computations | None = None,
    ) -> None:
        options = options or ChunkOptions()
        options.check()
        self._network = network
        self._left, self._right = network_context(network)
        self._options = replace(options, frames_per_chunk=_rounded_chunk(options, network.modulus()))
        self._offset = _offset_of_priors(log_priors, network.output_dim("output"))
        self._scale = acoustic_scale
        self._period = online_ivector_period
        self._plans = computations or ComputationCache(network, _MOST_PLANS)

    def compute(
        self, features: Array, ivector: Array | None = None, online_ivectors: Array | None = None, name: str = ""
    ) -> Array:
        """The output (frames / subsampling factor rounded up, output dim) float32 of an utterance.

        Args:
            features: (frames, input dim), at least one frame.
            ivector: (iVector dim,) of the whole utterance; online_ivectors: (any, iVector dim), one each period.
            name: of the utterance, for messages.

        Raises:
            UserError: a dimension that is not the network's, numbers that are not finite, too few iVectors, or an
                output that is NaN or infinite (log-probabilities may be minus infinity).
        """
        self._check(features, ivector, online_ivectors, name)
        features = np.ascontiguousarray(features, dtype=np.float32)
        factor = self._options.frame_subsampling_factor
        out = np.empty(((len(features) + factor - 1) // factor, self._network.output_dim("output")), np.float32)
        for group in self._groups(len(features)):
            inputs = {"input": self._splice(features, group)}
            if online_ivectors is not None:
                rows = [self._ivector_row(chunk, len(online_ivectors), name) for chunk in group]
                inputs["ivector"] = online_ivectors[rows]
            elif ivector is not None:
                inputs["ivector"] = np.repeat(ivector[None, :], len(group), axis=0)
            self._compute_group(group, inputs, out)
        check_output(out, f"Utterance {name}")
        return out

    def _check(self, features: Array, ivector: Array | None, online_ivectors: Array | None, name: str) -> None:
        dim = self._network.input_dim("input")
        if features.ndim != 2 or len(features) == 0 or features.shape[1] != dim:
            raise UserError(
                f"Utterance {name}: the network expects features of dimension {dim} at its input node, found a matrix "
                f"of {' by '.join(map(str, features.shape))}."
            )
        expected = self._network.input_dim("ivector") if self._network.has_input("ivector") else 0
        given = online_ivectors if online_ivectors is not None else ivector
        found = 0 if given is None else given.shape[-1]
        if found != expected:
            raise UserError(
                f"Utterance {name}: the network expects iVectors of dimension {expected}, found dimension {found} "
                "(0 is none; give --ivectors or --online-ivectors, or neither, as the network needs)."
            )
        for what, numbers in (("features", features), ("iVectors", ivector), ("iVectors", online_ivectors)):
            if numbers is not None and not is_finite(numbers):
                raise UserError(f"Utterance {name}: the {what} contain a value that is not finite (NaN or infinite).")
        if online_ivectors is not None and (self._period <= 0 or len(online_ivectors) == 0):
            raise UserError(f"Utterance {name}: online iVectors need --online-ivector-period and at least one row.")

    def _groups(self, num_frames: int) -> list[list[_Chunk]]:
        """Chunks of equal shape, at most ``_MOST_CHUNKS`` together, in order."""
        groups: list[list[_Chunk]] = []
        for chunk in self._chunks(num_frames):
            if not groups or groups[-1][0].shape != chunk.shape or len(groups[-1]) == _MOST_CHUNKS:
                groups.append([])
            groups[-1].append(chunk)
        return groups

    def _chunks(self, num_frames: int) -> list[_Chunk]:
        options = self._options
        factor = options.frame_subsampling_factor
        last_frame = (num_frames - 1) // factor * factor
        chunks = []
        for first in range(0, num_frames, options.frames_per_chunk):
            last = min(last_frame, first + options.frames_per_chunk - factor)
            left, right = options.extra_left_context, options.extra_right_context
            if first == 0 and options.extra_left_context_initial >= 0:
                left = options.extra_left_context_initial
            if last == last_frame and options.extra_right_context_final >= 0:
                right = options.extra_right_context_final
            chunks.append(_Chunk(first, last, self._left + left, self._right + right))
        return chunks

    def _splice(self, features: Array, group: list[_Chunk]) -> Array:
        """The input rows of chunks of the same shape, time-major."""
        chunk = group[0]
        offsets = np.arange(-chunk.left, chunk.last - chunk.first + chunk.right + 1)
        frames = offsets[:, None] + np.array([other.first for other in group])
        return features[np.clip(frames, 0, len(features) - 1)].reshape(-1, features.shape[1])

    def _ivector_row(self, chunk: _Chunk, available: int, name: str) -> int:
        """The iVector that was the latest in the middle of a chunk."""
        frame = chunk.first + (chunk.last - chunk.first) // 2
        row = frame // self._period
        if (row - (available - 1)) * self._period > _LARGEST_IVECTOR_GAP:
            raise UserError(
                f"Utterance {name}: no iVector for frame {frame}: there are {available}, one every {self._period} "
                "frames (is --online-ivector-period right?)."
            )
        return min(row, available - 1)

    def _compute_group(self, group: list[_Chunk], inputs: dict[str, Array], out: Array) -> None:
        chunk, factor = group[0], self._options.frame_subsampling_factor
        span = chunk.last - chunk.first
        times = {"input": np.arange(-chunk.left, span + chunk.right + 1), "ivector": np.zeros(1, np.int64)}
        request = Request(
            {name: times[name] for name in inputs}, {"output": np.arange(0, span + 1, factor)}, len(group)
        )
        outputs, _ = self._plans.get(request).forward(inputs, Phase.TEST, keep_trace=False)
        block = outputs["output"].reshape(span // factor + 1, len(group), -1)
        if self._offset is not None:
            block = block - self._offset
        if self._scale != 1.0:
            block = block * np.float32(self._scale)
        for n, other in enumerate(group):
            out[other.first // factor : other.last // factor + 1] = block[:, n]


def check_output(output: Array, where: str) -> None:
    """Raise UserError if an output of a network has a NaN or an infinite number above zero."""
    if not output.max(initial=-np.inf) < np.inf:  # a NaN is the maximum, and not below
        raise UserError(
            f"{where}: the output of the network is not a number (NaN) or infinite: its parameters are damaged or have "
            "diverged, or the input is too large."
        )


def _rounded_chunk(options: ChunkOptions, modulus: int) -> int:
    multiple = math.lcm(options.frame_subsampling_factor, modulus)
    frames = multiple * -(-options.frames_per_chunk // multiple)
    if frames != options.frames_per_chunk:
        log.log(
            f"Increasing --frames-per-chunk from {options.frames_per_chunk} to {frames} to make it a multiple of "
            f"{multiple} (--frame-subsampling-factor={options.frame_subsampling_factor}, the network's modulus "
            f"{modulus})"
        )
    return frames


def _offset_of_priors(log_priors: Array | None, dim: int) -> Array | None:
    if log_priors is None or log_priors.size == 0:
        return None
    if log_priors.shape != (dim,):
        raise UserError(f"There are {log_priors.size} priors, but the network's output has dimension {dim}.")
    return log_priors.astype(np.float32)


def log_of_priors(priors: Array, where: str) -> Array:
    """Their logarithms, float32. Raises UserError, naming ``where``, unless all are positive and finite."""
    if not (np.isfinite(priors).all() and (priors > 0.0).all()):
        raise UserError(f"{where}: expected priors above zero, found some that are zero, negative or not finite.")
    return np.log(priors).astype(np.float32)
