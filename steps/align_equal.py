#!/usr/bin/env python3
"""Align a data directory evenly: a beginning without any model."""

from __future__ import annotations

import sys
from typing import Any

from nnet3py.driver.options import EqualAlignOptions, declares
from nnet3py.program import argument, program


@program(
    usage="align_equal.py [options] <data-dir> <lang-dir> <ali-dir>",
    example="steps/align_equal.py --nj=4 data/train data/lang exp/ali_equal",
)
@declares(EqualAlignOptions)
@argument("data_dir", metavar="<data-dir>")
@argument("lang_dir", metavar="<lang-dir>")
@argument("ali_dir", metavar="<ali-dir>")
def main(data_dir: str, lang_dir: str, ali_dir: str, **values: Any) -> None:
    """Align a data directory evenly: each utterance's frames shared out over the states of its transcript.

    Reads feats.scp and text of the data directory, L.fst, words.txt, phones.txt and topo of the language directory. A
    network trained on such labels, and realigned with itself while it trains (steps/train_dnn.py
    --trainer.realign-times), needs no Gaussian mixtures to begin with. Writes <ali-dir>/ali.N.gz, num_jobs, final.mdl
    (a monophone transition model with the topology's probabilities), tree, phones.txt and num_pdfs.

    Kaldi counterpart: the beginning of steps/train_mono.sh.
    """
    from nnet3py.driver.alignment_jobs import align_equally

    align_equally(EqualAlignOptions(**values), data_dir, lang_dir, ali_dir)


if __name__ == "__main__":
    sys.exit(main())
