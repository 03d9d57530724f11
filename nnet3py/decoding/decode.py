"""The best path through a graph for the log-likelihoods of an utterance: a beam search, by kaldi-decoder.

Source: Kaldi src/decoder/faster-decoder.h, src/bin/decode-faster-mapped.cc.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnet3py import log
from nnet3py.alignment.recipe_library import import_recipe_library
from nnet3py.decoding.library_transducer import const_transducer
from nnet3py.directories.belonging import require_labels, require_order_of_transitions
from nnet3py.errors import UserError
from nnet3py.nnet.transition_model import read_transition_model
from nnet3py.tables.holders import INT_VECTOR, MATRIX, TOKEN_VECTOR
from nnet3py.tables.table import SequentialReader, TableWriter
from nnet3py.tables.transducer import Transducer, read_transducer_file
from nnet3py.text.symbols import read_symbols


@dataclass(frozen=True)
class BestPath:
    """What a search found.

    Attributes:
        words: ids of the words.
        alignment: a transition-id for each frame.
        cost: of the path, graph and scaled acoustics together (negative log-likelihood).
        complete: the path ends in a final state; if false, it is the best that the utterance broke off in.
    """

    words: list[int]
    alignment: list[int]
    cost: float
    complete: bool


class GraphDecoder:
    """A graph whose input labels are transition-ids, and how wide to search it."""

    def __init__(
        self,
        graph: Transducer,
        pdf_of_transition: NDArray[np.int32],
        *,
        acoustic_scale: float = 0.1,
        beam: float = 16.0,
        max_active: int = 2147483647,
        min_active: int = 20,
        beam_delta: float = 0.5,
        hash_ratio: float = 2.0,
    ) -> None:
        """
        Args:
            graph: HCLG.
            pdf_of_transition: (transition-ids + 1,), entry 0 unused: the pdf of each transition-id.
            acoustic_scale: what log-likelihoods are multiplied by, against the graph's costs.
            beam, max_active, min_active: how many hypotheses survive a frame.
            beam_delta: how much wider the next frame's beam is, where max_active or min_active decided.
            hash_ratio: buckets of the table of hypotheses for each; changes speed only.

        Raises:
            UserError: the graph is empty or has labels that the model lacks; a search without hypotheses is asked for;
                kaldi-decoder is not installed.
        """
        if max_active < 2 or not 0 <= min_active < max_active or not beam > 0.0:
            raise UserError(
                "Expected a beam above 0, at least 2 as --max-active and fewer than that as --min-active, found "
                f"--beam={beam:g} --max-active={max_active} --min-active={min_active}."
            )
        if not (hash_ratio >= 1.0 and beam_delta >= 0.0 and math.isfinite(hash_ratio) and math.isfinite(beam_delta)):
            raise UserError(
                "Expected 1 or more as --hash-ratio and 0 or more as --beam-delta, found "
                f"--hash-ratio={hash_ratio:g} --beam-delta={beam_delta:g}."
            )
        self._library: Any = import_recipe_library("kaldi_decoder")
        self._fst: Any = import_recipe_library("kaldifst")
        if graph.num_states == 0 or graph.start < 0:
            raise UserError("The decoding graph is empty: make it again.")
        highest = int(graph.ilabels.max(initial=0))
        if highest >= len(pdf_of_transition):
            raise UserError(
                f"The graph has the transition-id {highest}, but the model has {len(pdf_of_transition) - 1}: "
                "make the graph with this model's transitions."
            )
        self._graph = const_transducer(graph)
        self._columns = np.asarray(pdf_of_transition[1:], dtype=np.intp)
        self._num_pdfs = int(self._columns.max()) + 1
        self._scale = np.float32(acoustic_scale)
        self._options = self._library.FasterDecoderOptions(
            beam=beam, max_active=max_active, min_active=min_active, beam_delta=beam_delta, hash_ratio=hash_ratio
        )

    def decode(self, log_likelihoods: NDArray[np.float32]) -> BestPath | None:
        """The best path, or None if no path is as long as the utterance.

        Args:
            log_likelihoods: (frames, pdfs) float32.

        Raises:
            UserError: no frames, another number of pdfs than the model's, or a value that is not a number.
        """
        if log_likelihoods.ndim != 2 or log_likelihoods.shape[0] == 0:
            raise UserError(f"expected a matrix with at least one frame, found the shape {log_likelihoods.shape}.")
        if log_likelihoods.shape[1] != self._num_pdfs:
            raise UserError(
                f"expected {self._num_pdfs} log-likelihoods a frame, one for each pdf of the model, found "
                f"{log_likelihoods.shape[1]}: are they of another network?"
            )
        if np.isnan(log_likelihoods).any() or np.isposinf(log_likelihoods).any():
            raise UserError("a log-likelihood is NaN or infinite: the network or its priors are bad.")
        # Label i of the graph reads column i - 1: with a column for each transition-id, no other decodable is needed.
        scores = np.ascontiguousarray((log_likelihoods * self._scale)[:, self._columns], dtype=np.float32)
        decoder = self._library.FasterDecoder(self._graph, self._options)
        decoder.decode(self._library.DecodableCtc(scores))
        found, lattice = decoder.get_best_path()
        if not found:
            return None
        _, alignment, words, weight = self._fst.get_linear_symbol_sequence(lattice)
        return BestPath(words, alignment, float(weight.value1 + weight.value2), bool(decoder.reached_final()))


def decode_table(
    model: str,
    graph: str,
    loglikes_rspecifier: str,
    words_wspecifier: str,
    alignment_wspecifier: str | None = None,
    *,
    word_symbol_table: str = "",
    allow_partial: bool = True,
    **search: Any,
) -> int:
    """Decode every utterance of a table of log-likelihoods; what the program ``decode-faster-mapped`` does.

    Args:
        model: a file that begins with a transition model.
        graph: HCLG.fst, in OpenFst's vector or const form.
        word_symbol_table: words by number; if empty, words are written as numbers.
        allow_partial: also write what was found of an utterance whose best path is not complete.
        search: the options of :class:`GraphDecoder`.

    Returns:
        How many utterances have been decoded.

    Raises:
        UserError: a file or table is bad, or they do not fit each other; the message names the utterance.
    """
    transitions = read_transition_model(model)
    symbols = {number: word for word, number in read_symbols(word_symbol_table).items()} if word_symbol_table else None
    transducer = read_transducer_file(graph)
    require_order_of_transitions(transducer, graph, model, transitions)
    if word_symbol_table:
        require_labels(transducer.olabels, graph, word_symbol_table)
    try:
        decoder = GraphDecoder(transducer, transitions.pdf_of_transition, **search)
    except UserError as problem:
        raise UserError(f"Cannot decode with {graph} and {model}: {problem}") from problem
    decoded, failed, frames, cost = 0, 0, 0, 0.0
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(SequentialReader(loglikes_rspecifier, MATRIX))
        words_out = stack.enter_context(TableWriter(words_wspecifier, INT_VECTOR if symbols is None else TOKEN_VECTOR))
        alignment_out = (
            stack.enter_context(TableWriter(alignment_wspecifier, INT_VECTOR)) if alignment_wspecifier else None
        )
        for key, log_likelihoods in reader:
            if not len(log_likelihoods):
                log.warning(f"Zero-length utterance: {key}")
                failed += 1
                continue
            try:
                path = decoder.decode(np.asarray(log_likelihoods, np.float32))
            except UserError as problem:
                raise UserError(f"{loglikes_rspecifier}: utterance {key}: {problem}") from problem
            if path is None or not (path.complete or allow_partial):
                log.warning(f"Utterance {key}: no path through the graph reaches its end; it is left out.")
                failed += 1
                continue
            if not path.complete:
                log.warning(f"Utterance {key}: no final state reached; the words found are given.")
            words_out.write(key, path.words if symbols is None else [symbols[word] for word in path.words])
            if alignment_out is not None:
                alignment_out.write(key, np.array(path.alignment, np.int32))
            decoded, frames, cost = decoded + 1, frames + len(log_likelihoods), cost + path.cost
    log.log(f"Done {decoded} utterances, failed for {failed}")
    if frames:
        log.log(f"Overall log-likelihood per frame is {-cost / frames:.6g} over {frames} frames.")
    return decoded
