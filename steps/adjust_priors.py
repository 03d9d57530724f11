#!/usr/bin/env python3
"""Set an acoustic model's priors to the mean of the network's posteriors."""

from __future__ import annotations

import sys
from typing import Any

from nnet3py.driver.options import PriorOptions, declares
from nnet3py.program import argument, program


@program(
    usage="adjust_priors.py [options] <exp-dir> <egs-dir>",
    example="steps/adjust_priors.py --iter=final --prior-subset-size=5000 exp/dnn exp/dnn/egs",
)
@declares(PriorOptions)
@argument("exp_dir", metavar="<exp-dir>")
@argument("egs_dir", metavar="<egs-dir>")
def main(exp_dir: str, egs_dir: str, **values: Any) -> None:
    """Set an acoustic model's priors to the mean of the network's posteriors over examples.

    Reads <exp-dir>/NAME.mdl (with --use-raw-nnet NAME.raw) and <egs-dir>/egs.*.ark, whose number is in
    <egs-dir>/info/num_archives. Writes <exp-dir>/post.NAME.vec, the summed posteriors, and, unless --use-raw-nnet is
    given, <exp-dir>/NAME_adj.mdl with the priors. What steps/train_dnn.py does at the end, for any model.

    Kaldi counterpart: steps/nnet3/adjust_priors.sh.
    """
    from nnet3py import log
    from nnet3py.driver.priors import adjust_priors

    written = adjust_priors(PriorOptions(**values), exp_dir, egs_dir)
    log.log(f"Wrote {written}.")


if __name__ == "__main__":
    sys.exit(main())
