"""All component classes: each is registered where its file is imported, which is done here, and found by its name."""

from __future__ import annotations

import nnet3py.nnet.affine
import nnet3py.nnet.batch_norm
import nnet3py.nnet.block_affine
import nnet3py.nnet.dropout
import nnet3py.nnet.fixed
import nnet3py.nnet.no_op
import nnet3py.nnet.nonlinear
import nnet3py.nnet.normalize
import nnet3py.nnet.pnorm
import nnet3py.nnet.product
import nnet3py.nnet.scale
import nnet3py.nnet.sum_group
import nnet3py.nnet.tdnn  # noqa: F401
from nnet3py.errors import UserError
from nnet3py.nnet.component import REGISTRY, Component


def component_class(type_name: str) -> type[Component]:
    """The class of a component by Kaldi's type name. Raises UserError for one that nnet3py does not have."""
    try:
        return REGISTRY[type_name]
    except KeyError:
        raise UserError(
            f"This network has a component of type {type_name}, which nnet3py does not support "
            f"(supported: {', '.join(sorted(REGISTRY))})."
        ) from None
