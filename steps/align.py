#!/usr/bin/env python3
"""Align a data directory with a network, in jobs."""

from __future__ import annotations

import sys
from typing import Any

from nnet3py.driver.options import AlignOptions, declares
from nnet3py.program import argument, program


@program(
    usage="align.py [options] <data-dir> <lang-dir> <src-dir> <ali-dir>",
    example="steps/align.py --cmd=run-local --nj=4 data/train data/lang exp/dnn exp/dnn_ali",
)
@declares(AlignOptions)
@argument("data_dir", metavar="<data-dir>")
@argument("lang_dir", metavar="<lang-dir>")
@argument("src_dir", metavar="<src-dir>")
@argument("ali_dir", metavar="<ali-dir>")
def main(data_dir: str, lang_dir: str, src_dir: str, ali_dir: str, **values: Any) -> None:
    """Align a data directory's transcripts with a network: a transition-id for each frame.

    Reads feats.scp and text (and cmvn.scp, utt2spk) of the data directory, L.fst, words.txt, phones.txt and, if it is
    there, oov.txt of the language directory, and NAME.mdl and tree of <src-dir>, with cmvn_opts and the like beside
    them. Graphs of the transcripts are compiled (compile-train-graphs), and the best path of the network's
    log-likelihoods, divided by the model's priors, is found in each (nnet-compute, align-compiled-mapped). Features are
    normalised as in training. Writes <ali-dir>/ali.N.gz, num_jobs, final.mdl, tree, phones.txt, num_pdfs, which
    steps/get_egs.py and steps/train_dnn.py read.

    Kaldi counterpart: steps/nnet3/align.sh.
    """
    from nnet3py.driver.alignment_jobs import align_with_network

    align_with_network(AlignOptions(**values), data_dir, lang_dir, src_dir, ali_dir)


if __name__ == "__main__":
    sys.exit(main())
