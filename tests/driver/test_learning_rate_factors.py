"""Factors of the learning rate by layer, as an option and as edits."""

from __future__ import annotations

import pytest

from nnet3py.driver.learning_rate_factors import edits, parse_learning_rate_factors, require_matches
from nnet3py.errors import UserError
from nnet3py.nnet.description import network_info
from nnet3py.nnet.edits import Changes, change
from nnet3py.nnet.network import Network

CONFIG = """
input-node name=input dim=3
component name=shift type=FixedBiasComponent dim=3
component-node name=shift component=shift input=input
component name=affine1 type=AffineComponent input-dim=3 output-dim=5
component-node name=affine1 component=affine1 input=shift
component name=output.affine type=AffineComponent input-dim=5 output-dim=4 learning-rate-factor=3
component-node name=output.affine component=output.affine input=affine1
output-node name=output input=output.affine objective=quadratic
"""


def rates(network: Network) -> dict[str, float]:
    return {name: component.learning_rate for name, component in network.updatable_components().items()}


def test_rates_are_the_iterations_times_the_last_factor_that_matches() -> None:
    network = Network.from_config(CONFIG)
    factors = parse_learning_rate_factors("*=0.5 affine1=0.25")
    change(network, Changes(learning_rate=0.1, edits=";".join(edits(factors, 0.02))))
    assert rates(network) == {"affine1": pytest.approx(0.005), "output.affine": pytest.approx(0.01)}


def test_a_component_that_no_pattern_matches_keeps_its_own_factor() -> None:
    network = Network.from_config(CONFIG)
    change(network, Changes(edits=";".join(edits(parse_learning_rate_factors("aff*1=0"), 0.02))))
    assert rates(network) == {"affine1": 0.0, "output.affine": pytest.approx(0.06)}


def test_without_factors_there_are_no_edits() -> None:
    assert edits(parse_learning_rate_factors(" "), 0.02) == []


@pytest.mark.parametrize(
    "text", ["affine1", "=2", "affine1=", "affine1=x", "a=1 b=-1", "a=nan", "a=inf", "a b=1", "a;b=1"]
)
def test_what_is_no_pattern_and_number_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--trainer\.learning-rate-factors"):
        parse_learning_rate_factors(text)


def test_a_pattern_must_match_a_trained_component_of_now_or_later() -> None:
    info = network_info(Network.from_config(CONFIG))
    added = [
        "# component name=affine9\n  component  type=AffineComponent name=affine2 input-dim=3\ncomponent-node name=n"
    ]
    require_matches(parse_learning_rate_factors("*=1 affine1=0 affine2=2 output.*=3"), info, added)
    for text in ("afine1=0", "shift=0", "input=0", "affine9=0", "n=0"):
        with pytest.raises(UserError, match=f"{text[:-2]!r}; the model has affine1, output.affine"):
            require_matches(parse_learning_rate_factors(text), info, added)
