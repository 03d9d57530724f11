"""Networks made of configuration lines, checked, extended and changed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from nnet3py.errors import UserError
from nnet3py.nnet.arithmetic import add_component, scale_component
from nnet3py.nnet.edits import Changes, apply_edits, change
from nnet3py.nnet.network import Network
from nnet3py.nnet.times import network_context

CONFIG = """\
input-node name=input dim=4
component name=a1 type=AffineComponent input-dim=12 output-dim=6
component-node name=a1 component=a1 input=Append(Offset(input, -1), input, Offset(input, 2))
component name=relu1 type=RectifiedLinearComponent dim=6
component-node name=relu1 component=relu1 input=a1
dim-range-node name=half input-node=relu1 dim-offset=3 dim=3
component name=a2 type=NaturalGradientAffineComponent input-dim=9 output-dim=5 learning-rate-factor=0.5
component-node name=a2 component=a2 input=Append(relu1, half)
component name=soft type=LogSoftmaxComponent dim=5
component-node name=soft component=soft input=a2
output-node name=output input=soft
"""


def network(seed: int = 0) -> Network:
    return Network.from_config(CONFIG, seed)


def test_dimensions_context_and_parameters_follow_from_the_lines() -> None:
    net = network()
    assert net.input_dim() == 4
    assert net.output_dim() == 5
    assert net.node_dim("half") == 3
    assert network_context(net) == (1, 2)
    assert net.num_parameters() == 6 * 12 + 6 + 5 * 9 + 5
    assert list(net.updatable_components()) == ["a1", "a2"]
    assert net.modulus() == 1


def test_config_lines_make_the_same_network_again() -> None:
    net = network()
    again = Network(net.components)
    again.apply_config("\n".join(net.config_lines()))
    assert again.config_lines() == net.config_lines()
    assert net.config_lines()[-1] == "output-node name=output input=soft objective=linear"
    assert "dim-range-node name=half input-node=relu1 dim-offset=3 dim=3" in net.config_lines()


def test_the_seed_decides_the_parameters() -> None:
    one, same, other = network(1), network(1), network(2)
    assert np.array_equal(one.components["a1"].linear, same.components["a1"].linear)
    assert not np.array_equal(one.components["a1"].linear, other.components["a1"].linear)


def test_initial_parameters_have_the_asked_spread() -> None:
    net = Network.from_config(
        "input-node name=input dim=400\n"
        "component name=a type=AffineComponent input-dim=400 output-dim=300 param-stddev=0.2 bias-stddev=0.5\n"
        "component-node name=a component=a input=input\noutput-node name=output input=a"
    )
    component = net.components["a"]
    assert np.std(component.linear) == pytest.approx(0.2, rel=0.01)
    assert np.std(component.bias) == pytest.approx(0.5, rel=0.15)
    assert abs(np.mean(component.linear)) < 0.002


def test_a_second_configuration_inserts_a_layer_and_keeps_the_rest() -> None:
    net = network()
    kept = net.components["a1"].linear.copy()
    net.apply_config(
        "component name=a1b type=AffineComponent input-dim=6 output-dim=6\n"
        "component-node name=a1b component=a1b input=relu1\n"
        "component name=a2 type=AffineComponent input-dim=6 output-dim=5\n"
        "component-node name=a2 component=a2 input=a1b\n"
    )
    assert np.array_equal(net.components["a1"].linear, kept)
    assert list(net.components) == ["a1", "relu1", "a2", "soft", "a1b"]
    assert [node.name for node in net.nodes] == ["input", "a1", "relu1", "half", "soft", "output", "a1b", "a2"]
    assert net.components["a2"].input_dim == 6
    assert net.orphan_nodes() == ["half"]


def test_a_failed_configuration_leaves_the_network_as_it_was() -> None:
    net = network()
    lines = net.config_lines()
    with pytest.raises(UserError, match="dimension 6"):
        net.apply_config(
            "component name=a2 type=AffineComponent input-dim=7 output-dim=5\n"
            "component-node name=a2 component=a2 input=relu1"
        )
    assert net.config_lines() == lines
    assert net.components["a2"].input_dim == 9


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("input-dim=12", "input-dim=13", "Node a1: its input .* has dimension 12, but the component a1 .*expects 13"),
        ("input=soft", "input=sft", "Node output: its input names sft, but there is no such node"),
        ("component=relu1", "component=relu7", "Node relu1: there is no component named relu7"),
        ("dim-offset=3", "dim-offset=4", "Node half: columns 4 to 7 are not within the 6 of relu1"),
        ("input-node name=input dim=4", "input-node name=input dim=0", "dim=0 must be above zero"),
        ("output-node name=output input=soft", "", "no output-node"),
        ("name=half", "name=a1_input", "taken by the input of the node a1"),
        ("name=half", "name=9half", "is not a name"),
        ("type=LogSoftmaxComponent", "type=LstmNonlinearityComponent", "LstmNonlinearityComponent.*does not support"),
        ("input=Append(Offset(input, -1), input, Offset(input, 2))", "input=Append(a1, relu1)", "recurrent"),
        ("input=soft", "input=soft objective=cubic", "objective=cubic is neither"),
        ("input=a2", "input=a2 speed=3", "speed= is not understood"),
        ("name=soft type=LogSoftmaxComponent dim=5", "name=soft type=LogSoftmaxComponent dim=5 wrong=1", "wrong="),
        ("output-node name=output input=soft", "output-node name=output input=Append(soft", "output"),
        ("component name=soft", "component name=a2", "component a2 is defined twice"),
        ("dim-range-node", "dim-ranges-node", "expected a line that starts with"),
    ],
)
def test_a_wrong_line_is_named_with_what_is_wrong(old: str, new: str, message: str) -> None:
    assert old in CONFIG
    with pytest.raises(UserError, match=message):
        Network.from_config(CONFIG.replace(old, new), where="n.config")


def test_unknown_names_are_answered_with_those_there_are() -> None:
    net = network()
    with pytest.raises(UserError, match=r"no input named ivector \(its inputs: input\)"):
        net.input_dim("ivector")
    with pytest.raises(UserError, match="no output named output-2"):
        net.output_dim("output-2")
    with pytest.raises(UserError, match="no node named x"):
        net.node("x")


def test_scaling_and_adding_act_on_parameters_and_statistics_only() -> None:
    net, other = network(1), network(2)
    net.components["a1"].learning_rate = 0.25
    relu, other_relu = net.components["relu1"], other.components["relu1"]
    relu.count, relu.value_sum = 4.0, np.arange(6.0)
    other_relu.count, other_relu.value_sum = 2.0, np.ones(6)
    expected = 0.5 * net.components["a1"].linear + 0.25 * other.components["a1"].linear
    net.scale(0.5)
    net.add(0.25, other)
    np.testing.assert_allclose(net.components["a1"].linear, expected, rtol=1e-6)
    assert net.components["a1"].learning_rate == 0.25
    assert relu.count == 2.5
    np.testing.assert_allclose(relu.value_sum, 0.5 * np.arange(6.0) + 0.25)


def test_statistics_that_only_one_model_has_count_as_zero_in_the_other() -> None:
    net, other = network(1), network(2)
    mine, theirs = net.components["relu1"], other.components["relu1"]
    mine.value_sum = np.zeros(0)
    theirs.value_sum = np.full(6, 2.0)
    add_component(mine, 0.5, theirs)
    np.testing.assert_array_equal(mine.value_sum, np.ones(6))
    theirs.value_sum = np.zeros(0)
    add_component(mine, 0.5, theirs)
    np.testing.assert_array_equal(mine.value_sum, np.ones(6))


def test_a_scale_of_zero_removes_what_is_not_finite() -> None:
    component = network().components["a1"]
    component.linear[0, 0] = np.nan
    component.bias[:] = np.inf
    scale_component(component, 0.0)
    assert not component.linear.any()
    assert not component.bias.any()


def test_a_copy_has_its_own_parameters() -> None:
    net = network()
    twin = net.copy()
    twin.components["a1"].linear += 1
    assert not np.array_equal(net.components["a1"].linear, twin.components["a1"].linear)
    assert net.difference(twin) == ""


def test_networks_of_another_structure_do_not_add() -> None:
    net = network()
    wider = Network.from_config(
        CONFIG.replace("output-dim=6", "output-dim=7").replace("dim=6", "dim=7").replace("input-dim=9", "input-dim=10")
    )
    with pytest.raises(UserError, match="differ in structure: component a1 has parameters of the shapes"):
        net.add(1.0, wider)
    with pytest.raises(UserError, match="component soft is LogSoftmaxComponent in one, SoftmaxComponent"):
        net.add(1.0, Network.from_config(CONFIG.replace("LogSoftmax", "Softmax")))


def test_edits_set_rates_and_factors_by_pattern() -> None:
    net = network()
    apply_edits(net, "set-learning-rate learning-rate=0.2\nset-learning-rate-factor name=a1* learning-rate-factor=3")
    assert net.components["a1"].learning_rate == 0.2
    assert net.components["a2"].learning_rate == 0.1  # its factor is 0.5
    assert net.components["a1"].learning_rate_factor == 3.0
    assert net.components["a2"].learning_rate_factor == 0.5


def test_edits_rename_a_node_wherever_it_is_used() -> None:
    net = network()
    apply_edits(net, "rename-node old-name=relu1 new-name=hidden")
    lines = "\n".join(net.config_lines())
    assert "component-node name=hidden component=relu1 input=a1" in lines
    assert "input-node=hidden" in lines
    assert "Append(hidden, half)" in lines
    assert not re.search(r"name=relu1\b", lines)
    net.check()


def test_edits_remove_outputs_and_what_only_they_needed() -> None:
    net = network()
    net.apply_config("output-node name=output-2 input=a1")
    apply_edits(net, "remove-output-nodes name=output\nremove-orphans")
    assert [node.name for node in net.nodes] == ["input", "a1", "output-2"]
    assert list(net.components) == ["a1"]


def test_edits_make_layers_fixed() -> None:
    net = network()
    parameters = net.components["a1"].linear
    apply_edits(net, "convert-to-fixed-affine name=a1")
    assert net.components["a1"].type_name == "FixedAffineComponent"
    assert net.components["a1"].linear is parameters
    assert list(net.updatable_components()) == ["a2"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("add-layer name=a1", "add-layer is not one of the edits known here"),
        ("set-learning-rate name=a1", "learning-rate= is missing"),
        ("set-learning-rate learning-rate=-1", "must not be negative"),
        ("rename-node old-name=nobody new-name=x", "no node named nobody"),
        ("rename-node old-name=a1 new-name=a2", "a node named a2 already"),
        ("rename-node old-name=a1 new-name=a,b", "not a valid name"),
        ("rename-node old-name=half new-name=a2_input", "taken by the input"),
        ("remove-output-nodes name=*", "would remove all outputs"),
        ("set-dropout-proportion proportion=2", "not within 0 and 1"),
        ("remove-orphans wrong=1", "wrong= is not understood"),
    ],
)
def test_an_edit_that_cannot_be_done_is_refused(edit: str, message: str) -> None:
    net = network()
    lines = net.config_lines()
    with pytest.raises(UserError, match=message):
        apply_edits(net, edit)
    assert net.config_lines() == lines


def test_test_mode_reaches_batch_norm_and_dropout() -> None:
    net = Network.from_config(
        "input-node name=input dim=4\n"
        "component name=bn type=BatchNormComponent dim=4\ncomponent-node name=bn component=bn input=input\n"
        "component name=drop type=DropoutComponent dim=4 dropout-proportion=0.3\n"
        "component-node name=drop component=drop input=bn\noutput-node name=output input=drop"
    )
    change(net, Changes(prepare_for_test=True, edits="set-dropout-proportion proportion=0.1"))
    assert net.components["bn"].test_mode is True
    assert net.components["drop"].test_mode is True
    assert net.components["drop"].proportion == 0.1
    change(net, Changes(batch_norm_test_mode=False))
    assert net.components["bn"].test_mode is False


def test_changes_by_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UserError, match="--scale=nan"):
        change(network(), Changes(scale=float("nan")))


def test_a_layer_larger_than_any_memory_is_refused_in_a_line(tmp_path: Path) -> None:
    dims = "input-dim=2000000000 output-dim=2000000000"
    (tmp_path / "final.config").write_text(
        f"input-node name=input dim=2000000000\ncomponent name=l type=AffineComponent {dims}\n"
        "component-node name=l component=l input=input\noutput-node name=output input=l\n"
    )
    done = subprocess.run(["nnet-init", "final.config", "0.raw"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ERROR (nnet-init")
    assert "memory" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
