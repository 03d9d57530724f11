#!/usr/bin/env python3
"""Decode a data directory with a network and a graph, in jobs."""

from __future__ import annotations

import sys
from typing import Any

from nnet3py.driver.options import DecodeOptions, declares
from nnet3py.program import argument, program


@program(
    usage="decode.py [options] <graph-dir> <data-dir> <decode-dir>",
    example="steps/decode.py --cmd=run-local --nj=4 --acwt=0.1,0.2 exp/graph data/dev exp/dnn/decode_dev",
)
@declares(DecodeOptions)
@argument("graph_dir", metavar="<graph-dir>")
@argument("data_dir", metavar="<data-dir>")
@argument("decode_dir", metavar="<decode-dir>")
def main(graph_dir: str, data_dir: str, decode_dir: str, **values: Any) -> None:
    """Decode a data directory: features through the network (nnet-compute), the best path through the graph.

    Reads feats.scp (and cmvn.scp, utt2spk) of the data directory, HCLG.fst and words.txt of the graph, and the model
    NAME.mdl in the parent of <decode-dir>, with cmvn_opts and frame_subsampling_factor beside it if they are there.
    Features are normalised as in training: where online_cmvn is beside the model, by apply-cmvn-online and
    global_cmvn.stats. Writes <decode-dir>/hyp_X.txt for each acoustic scale X, in the form of Kaldi's text, and logs.
    steps/score.py scores them.

    Kaldi counterpart: steps/nnet3/decode.sh, with the best path instead of lattices.
    """
    from nnet3py import log
    from nnet3py.driver.decoding_jobs import decode_data_dir

    count = decode_data_dir(DecodeOptions(**values), graph_dir, data_dir, decode_dir)
    log.log(f"Decoded {count} utterances of {data_dir} into {decode_dir}.")


if __name__ == "__main__":
    sys.exit(main())
