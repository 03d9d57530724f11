"""Tables of features to tables of network outputs.

Source: Kaldi src/nnet3bin/nnet3-compute.cc.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.nnet.acoustic_model import read_acoustic_model
from nnet3py.nnet.component import Array
from nnet3py.nnet.model_file import read_network
from nnet3py.nnet.network import Network
from nnet3py.nnet.parameter_file import read_vector_file
from nnet3py.nnet.utterance import UtteranceComputer, log_of_priors
from nnet3py.tables.holders import MATRIX, VECTOR
from nnet3py.tables.table import RandomAccessReader, RandomAccessReaderMapped, SequentialReader, TableWriter


@dataclass
class Done:
    """How many utterances succeeded and failed, and the input frames of the former."""

    succeeded: int = 0
    failed: int = 0
    frames: int = 0


def read_network_and_priors(rxfilename: str, use_priors: bool, priors: str) -> tuple[Network, Array | None]:
    """A network, and the log priors of its acoustic model (``use_priors``) or of the vector file ``priors``, if asked.

    Raises UserError if they cannot be read, if both are asked for, if a prior is not above zero, or there are not
    as many as the network has outputs.
    """
    if use_priors and priors:
        raise UserError("--use-priors=true takes the priors of the model: it excludes --priors.")
    if use_priors:
        model = read_acoustic_model(rxfilename)
        if model.priors.size == 0:
            log.warning(f"{rxfilename} has no priors: none are subtracted.")
            return model.network, None
        return model.network, log_of_priors(model.priors, rxfilename)
    network = read_network(rxfilename)
    if not priors:
        return network, None
    values = read_vector_file(priors)
    if len(values) != (dim := network.output_dim("output")):
        raise UserError(
            f"There are {len(values)} priors in {priors}, the network's output in {rxfilename} has dimension {dim}."
        )
    return network, log_of_priors(values, priors)


def compute_table(
    computer: UtteranceComputer,
    features: str,
    outputs: str,
    apply_exp: bool = False,
    ivectors: str = "",
    utt2spk: str = "",
    online_ivectors: str = "",
) -> Done:
    """Compute the utterances of the rspecifier ``features`` and write their outputs to the wspecifier ``outputs``.

    ``ivectors`` (vectors, by speaker if ``utt2spk`` is given) and ``online_ivectors`` (matrices) are rspecifiers, or
    empty. Raises UserError for bad data, and if no utterance could be computed; nothing is written then.
    """
    if ivectors and online_ivectors:
        raise UserError("--ivectors and --online-ivectors exclude each other.")
    done = Done()
    with ExitStack() as stack:
        per_utterance = per_frame = None
        if ivectors:
            per_utterance = stack.enter_context(RandomAccessReaderMapped(ivectors, utt2spk, VECTOR))
        if online_ivectors:
            per_frame = stack.enter_context(RandomAccessReader(online_ivectors, MATRIX))
        writer = stack.enter_context(TableWriter(outputs, MATRIX))
        for utterance, matrix in stack.enter_context(SequentialReader(features, MATRIX)):
            problem = ""
            if len(matrix) == 0:
                problem = f"Zero-length utterance: {utterance}"
            elif per_utterance is not None and utterance not in per_utterance:
                problem = f"No iVector available for utterance {utterance}"
            elif per_frame is not None and utterance not in per_frame:
                problem = f"No online iVector available for utterance {utterance}"
            if problem:
                log.warning(problem)
                done.failed += 1
                continue
            output = computer.compute(
                matrix,
                per_utterance[utterance] if per_utterance is not None else None,
                per_frame[utterance] if per_frame is not None else None,
                utterance,
            )
            writer.write(utterance, np.exp(output, out=output) if apply_exp else output)
            done.succeeded += 1
            done.frames += len(matrix)
        if done.succeeded == 0:  # raised here, it leaves an earlier output as it was
            what = f"None of the {done.failed} utterances in {features} could be computed" if done.failed else (
                f"There are no utterances in {features}"
            )  # fmt: skip
            raise UserError(f"{what}; nothing is written.")
    return done
