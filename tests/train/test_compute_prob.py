"""Objective and derivative on examples: what is random in them, and what must not be."""

from __future__ import annotations

import numpy as np
from tiny_minibatches import minibatch

from nnet3py.nnet.network import Network
from nnet3py.train.compute_prob import ComputeProb, set_test_modes

CONFIG = """
input-node name=input dim=5
component name=affine1 type=AffineComponent input-dim=5 output-dim=12
component-node name=affine1 component=affine1 input=input
component name=sigmoid1 type=SigmoidComponent dim=12 self-repair-scale={repair}
component-node name=sigmoid1 component=sigmoid1 input=affine1
component name=dropout1 type=DropoutComponent dim=12 dropout-proportion=0.3
component-node name=dropout1 component=dropout1 input=sigmoid1
component name=affine2 type=AffineComponent input-dim=12 output-dim=3
component-node name=affine2 component=affine2 input=dropout1
component name=log-softmax type=LogSoftmaxComponent dim=3
component-node name=log-softmax component=log-softmax input=affine2
output-node name=output input=log-softmax
"""


def _computed(repair: float, dropout_test_mode: bool, count: int = 6) -> ComputeProb:
    """Of a network all of whose sigmoids are saturated by their statistics: self-repair acts wherever it may."""
    network = Network.from_config(CONFIG.format(repair=repair), 1)
    sigmoid = network.components["sigmoid1"]
    sigmoid.count = 100.0  # type: ignore[attr-defined]
    sigmoid.value_sum, sigmoid.deriv_sum = np.full(12, 99.0), np.full(12, 0.1)  # type: ignore[attr-defined]
    set_test_modes(network, batchnorm=False, dropout=dropout_test_mode)
    prob = ComputeProb(network, compute_derivative=True)
    for seed in range(count):
        prob.compute(minibatch(seed))
    return prob


def test_the_derivative_is_without_self_repair_with_and_without_dropout() -> None:
    for test_mode in (False, True):
        plain, repairing = (_computed(repair, test_mode) for repair in (0.0, 0.09))
        assert plain.gradient is not None
        assert repairing.gradient is not None
        assert np.abs(plain.gradient.flat).max() > 0.0
        np.testing.assert_array_equal(repairing.gradient.flat, plain.gradient.flat)


def test_dropout_that_is_not_in_test_mode_is_random_and_the_same_again() -> None:
    first, again, without = (_computed(0.0, test_mode).average_objective() for test_mode in (False, False, True))
    assert first == again
    assert first != without
