#!/usr/bin/env python3
"""Make training examples of a data directory and its alignment."""

from __future__ import annotations

import sys
from typing import Any

from nnet3py.driver.options import EgsOptions, declares
from nnet3py.program import argument, program


@program(
    usage="get_egs.py [options] <data> <ali-dir> <egs-dir>",
    example="get_egs.py --left-context=6 --right-context=6 data/train exp/ali exp/dnn/egs",
)
@declares(EgsOptions)
@argument("data", metavar="<data>")
@argument("ali_dir", metavar="<ali-dir>")
@argument("egs_dir", metavar="<egs-dir>")
def main(data: str, ali_dir: str, egs_dir: str, **values: Any) -> None:
    """Make training examples in shuffled archives, and small sets of them for diagnostics.

    Reads <data>/feats.scp (with utt2spk and cmvn.scp where --cmvn-opts normalises; utt2num_frames saves counting
    frames) and <ali-dir>/ali.scp, ali.*.gz, ali.*.ark or ali.ark: integer vectors of transition-ids where
    <ali-dir>/final.mdl is there to map them, else of pdf-ids, their number in <ali-dir>/num_pdfs.

    Writes <egs-dir>/egs.1.ark ..., valid_diagnostic.egs, train_diagnostic.egs, combine.egs and info/.

    Kaldi counterpart: steps/nnet3/get_egs.sh.
    """
    from nnet3py.driver.examples import make_examples

    make_examples(EgsOptions(**values), data, ali_dir, egs_dir)


if __name__ == "__main__":
    sys.exit(main())
