#!/usr/bin/env python3
"""Compute per-utterance vectors of a data directory, in the form that iVectors have."""

from __future__ import annotations

import sys
from typing import Any

from nnet3py.driver.options import VectorOptions, declares
from nnet3py.program import argument, program


@program(
    usage="compute_utterance_vectors.py [options] <data-dir> <vector-dir>",
    example="steps/compute_utterance_vectors.py --nj=4 --like=exp/vectors_train data/test exp/vectors_test",
)
@declares(VectorOptions)
@argument("data_dir", metavar="<data-dir>")
@argument("vector_dir", metavar="<vector-dir>")
def main(data_dir: str, vector_dir: str, **values: Any) -> None:
    """Compute a vector for each utterance of a data directory: a network's second input, in the place of iVectors.

    Reads feats.scp, features that are not normalised (and utt2spk, with --per-speaker). Writes <vector-dir>/
    ivector_online.scp, ivector_period and final.ie.id, which steps/get_egs.py, steps/train_dnn.py
    (--feat.online-ivector-dir), steps/align.py and steps/decode.py read (--online-ivector-dir), and the statistics of
    the data. First the training data, then, with --like, others: their vectors are relative to the training data's
    statistics. compute-utterance-vectors --help says what the vectors are.

    Kaldi counterpart: steps/online/nnet2/extract_ivectors_online.sh, with means and deviations for iVectors.
    """
    from nnet3py.driver.vector_jobs import make_vectors

    make_vectors(VectorOptions(**values), data_dir, vector_dir)


if __name__ == "__main__":
    sys.exit(main())
