"""The files of component classes: importing this module registers them all (see component.component_class)."""

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
