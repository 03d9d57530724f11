"""Changes to a network by lines such as ``set-learning-rate name=output* learning-rate=0.1``.

Source of the directives: Kaldi src/nnet3/nnet-utils.h, comment on ``ReadEditConfig``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from fnmatch import fnmatchcase

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.nnet.affine import AffineComponent
from nnet3py.nnet.batch_norm import BatchNormComponent
from nnet3py.nnet.block_affine import BlockAffineComponent, RepeatedAffineComponent
from nnet3py.nnet.component import Component
from nnet3py.nnet.configuration import ConfigLine, config_lines, read_config
from nnet3py.nnet.dropout import DropoutComponent, GeneralDropoutComponent, RandomComponent
from nnet3py.nnet.fixed import FixedAffineComponent
from nnet3py.nnet.low_rank import Bottleneck, reduce_ranks, split_layers
from nnet3py.nnet.network import Network
from nnet3py.nnet.nodes import ComponentNode, DimRangeNode, Node, OutputNode, is_valid_name
from nnet3py.text.lines import lines_of


def apply_edits(network: Network, text: str, where: str = "edits") -> None:
    """Apply the directives of ``text`` in order, one a line; each is done whole or not at all.

    Raises:
        UserError: a directive that is not known, lacks a value or cannot be carried out.
    """
    for line in config_lines(lines_of(text), where):
        directive = _DIRECTIVES.get(line.first_word)
        if directive is None:
            raise line.error(f"{line.first_word} is not one of the edits known here: {', '.join(_DIRECTIVES)}")
        directive(network, line)


def set_learning_rate(component: Component, learning_rate: float) -> None:
    """Set the rate before the component's own factor (Kaldi ``SetUnderlyingLearningRate``)."""
    component.learning_rate = learning_rate * component.learning_rate_factor


def set_learning_rates(network: Network, learning_rate: float) -> None:
    """:func:`set_learning_rate` for all trained components."""
    for component in network.updatable_components().values():
        set_learning_rate(component, learning_rate)


def set_batch_norm_test_mode(network: Network, test_mode: bool) -> None:
    """In test mode batch normalisation uses its stored statistics, also in training."""
    for component in network.components.values():
        if isinstance(component, BatchNormComponent):
            component.test_mode = test_mode


def set_dropout_test_mode(network: Network, test_mode: bool) -> None:
    """In test mode dropout and masks let everything through, also in training."""
    for component in network.components.values():
        if isinstance(component, RandomComponent):
            component.test_mode = test_mode


def convert_repeated_to_block(network: Network) -> None:
    """Give each block of a repeated affine layer its own parameters (Kaldi ``ConvertRepeatedToBlockAffine``)."""
    for name, component in network.components.items():
        if isinstance(component, RepeatedAffineComponent):
            network.components[name] = BlockAffineComponent.of_repeated(component)


def _matching(network: Network, pattern: str) -> dict[str, Component]:
    """Components whose name matches a pattern where ``*`` stands for any characters."""
    literal = pattern.replace("[", "[[]").replace("?", "[?]")
    return {name: component for name, component in network.components.items() if fnmatchcase(name, literal)}


def _convert_to_fixed_affine(network: Network, line: ConfigLine) -> None:
    pattern = line.text_value("name", "*")
    line.finish()
    changed = 0
    for name, component in _matching(network, pattern).items():
        if isinstance(component, AffineComponent):
            fixed = FixedAffineComponent()
            fixed.linear, fixed.bias = component.linear, component.bias
            network.components[name] = fixed
            changed += 1
    log.log(f"Converted {changed} components to FixedAffineComponent.")


def _remove_orphan_nodes(network: Network, line: ConfigLine) -> None:
    inputs_too = line.switch("remove-orphan-inputs", False)
    line.finish()
    inputs = {node.name for node in network.input_nodes()}
    orphans = {name for name in network.orphan_nodes() if inputs_too or name not in inputs}
    network.nodes = [node for node in network.nodes if node.name not in orphans]
    log.log(f"Removed {len(orphans)} orphan nodes.")


def _remove_orphan_components(network: Network, line: ConfigLine) -> None:
    line.finish()
    orphans = network.orphan_components()
    for name in orphans:
        del network.components[name]
    log.log(f"Removing {len(orphans)} orphan components.")


def _remove_orphans(network: Network, line: ConfigLine) -> None:
    _remove_orphan_nodes(network, line)
    _remove_orphan_components(network, line)


def _set_learning_rate(network: Network, line: ConfigLine) -> None:
    found = _updatable(network, line, "learning-rate")
    for component in found:
        set_learning_rate(component, line.number("learning-rate"))
    log.log(f"Set learning rates for {len(found)} components.")


def _set_learning_rate_factor(network: Network, line: ConfigLine) -> None:
    found = _updatable(network, line, "learning-rate-factor")
    for component in found:
        component.learning_rate_factor = line.number("learning-rate-factor")
    log.log(f"Set learning rate factors for {len(found)} components.")


def _updatable(network: Network, line: ConfigLine, key: str) -> list[Component]:
    """The trained components that the line names, after a look at its value."""
    pattern = line.text_value("name", "*")
    if line.number(key) < 0.0:
        raise line.error(f"{key}={line.number(key):g} must not be negative")
    line.finish()
    return [component for component in _matching(network, pattern).values() if component.updatable]


def _set_dropout_proportion(network: Network, line: ConfigLine) -> None:
    pattern, proportion = line.text_value("name", "*"), line.number("proportion")
    line.finish()
    if not 0.0 <= proportion <= 1.0:
        raise line.error(f"proportion={proportion:g} is not within 0 and 1")
    changed = 0
    for component in _matching(network, pattern).values():
        if isinstance(component, (DropoutComponent, GeneralDropoutComponent)):
            component.proportion = proportion
            changed += 1
    log.log(f"Set dropout proportions for {changed} components.")


def _rename_node(network: Network, line: ConfigLine) -> None:
    old, new = line.text_value("old-name"), line.text_value("new-name")
    line.finish()
    names = [node.name for node in network.nodes]
    if old not in names:
        raise line.error(f"there is no node named {old}")
    if new in names:
        raise line.error(f"there is a node named {new} already")
    if not is_valid_name(new):
        raise line.error(f"{new!r} is not a valid name")
    changed = Network(network.components, [_renamed(node, old, new) for node in network.nodes])
    changed.check(line.where)
    network.nodes = changed.nodes


def _renamed(node: Node, old: str, new: str) -> Node:
    if node.name == old:
        node = dataclasses.replace(node, name=new)
    if isinstance(node, DimRangeNode) and node.input_node == old:
        return dataclasses.replace(node, input_node=new)
    if isinstance(node, (ComponentNode, OutputNode)) and old in node.input.node_names():
        return dataclasses.replace(node, input=node.input.renamed(old, new))
    return node


def _remove_output_nodes(network: Network, line: ConfigLine) -> None:
    literal = line.text_value("name").replace("[", "[[]").replace("?", "[?]")
    line.finish()
    outputs = [node.name for node in network.output_nodes()]
    removed = {name for name in outputs if fnmatchcase(name, literal)}
    if len(removed) == len(outputs):
        raise line.error("it would remove all outputs")
    network.nodes = [node for node in network.nodes if node.name not in removed]
    log.log(f"Removing {len(removed)} output nodes.")


def _apply_svd(network: Network, line: ConfigLine) -> None:
    pattern = line.text_value("name")
    bottleneck = Bottleneck(
        line.integer("bottleneck-dim", -1), line.number("energy-threshold", -1.0), line.number("shrinkage-threshold", 1)
    )
    line.finish()
    if bottleneck.dim <= 0 and bottleneck.energy <= 0.0:
        raise line.error("bottleneck-dim above zero or energy-threshold within 0 and 1 is missing")
    if bottleneck.energy >= 1.0:
        raise line.error(f"energy-threshold={bottleneck.energy:g} must be below 1")
    if not 0.0 < bottleneck.shrinkage <= 1.0:
        raise line.error(f"shrinkage-threshold={bottleneck.shrinkage:g} must be above 0 and not above 1")
    try:
        changed = split_layers(network, list(_matching(network, pattern)), bottleneck)
    except UserError as problem:
        raise line.error(str(problem).rstrip(".")) from problem
    log.log(f"Decomposed {changed} components with SVD.")


def _reduce_rank(network: Network, line: ConfigLine) -> None:
    pattern, rank = line.text_value("name"), line.positive("rank")
    line.finish()
    changed = reduce_ranks(network, list(_matching(network, pattern)), rank)
    log.log(f"Reduced rank of parameters of {changed} components.")


_DIRECTIVES: dict[str, Callable[[Network, ConfigLine], None]] = {
    "convert-to-fixed-affine": _convert_to_fixed_affine,
    "remove-orphan-nodes": _remove_orphan_nodes,
    "remove-orphan-components": _remove_orphan_components,
    "remove-orphans": _remove_orphans,
    "set-learning-rate": _set_learning_rate,
    "set-learning-rate-factor": _set_learning_rate_factor,
    "rename-node": _rename_node,
    "remove-output-nodes": _remove_output_nodes,
    "set-dropout-proportion": _set_dropout_proportion,
    "apply-svd": _apply_svd,
    "reduce-rank": _reduce_rank,
}


@dataclasses.dataclass(frozen=True)
class Changes:
    """What ``nnet-copy`` and ``nnet-am-copy`` are asked to change; the defaults change nothing.

    Attributes:
        learning_rate: of all trained components, if not negative.
        nnet_config, edits_config: rxfilenames, empty for none; ``seed`` is for new components' parameters.
        edits: directives separated by semicolons.
        scale_last: scale after the edits (``nnet3-am-copy``), not before them (``nnet3-copy``).
        batch_norm_test_mode: set to this; None leaves it.
        convert_repeated_to_block: :func:`convert_repeated_to_block`, after the configuration lines.
    """

    learning_rate: float = -1.0
    scale: float = 1.0
    nnet_config: str = ""
    seed: int = 0
    edits_config: str = ""
    edits: str = ""
    scale_last: bool = False
    prepare_for_test: bool = False
    batch_norm_test_mode: bool | None = None
    convert_repeated_to_block: bool = False


def change(network: Network, changes: Changes) -> None:
    """Apply the changes in the order of Kaldi's nnet3-copy, or of nnet3-am-copy with ``scale_last``.

    Raises UserError if one cannot be made.
    """
    for option, value in (("--learning-rate", changes.learning_rate), ("--scale", changes.scale)):
        if not math.isfinite(value):
            raise UserError(f"{option}={value}: expected a finite number.")
    if changes.nnet_config:
        network.apply_config(read_config(changes.nnet_config), changes.seed, changes.nnet_config)
    if changes.convert_repeated_to_block:
        convert_repeated_to_block(network)
    if changes.learning_rate >= 0.0:
        set_learning_rates(network, changes.learning_rate)
    if changes.scale != 1.0 and not changes.scale_last:
        network.scale(changes.scale)
    if changes.edits_config:
        apply_edits(network, read_config(changes.edits_config), changes.edits_config)
    if changes.edits:
        apply_edits(network, changes.edits.replace(";", "\n"), "--edits")
    if changes.scale != 1.0 and changes.scale_last:
        network.scale(changes.scale)
    if changes.prepare_for_test:
        set_batch_norm_test_mode(network, True)
        set_dropout_test_mode(network, True)
    elif changes.batch_norm_test_mode is not None:
        set_batch_norm_test_mode(network, changes.batch_norm_test_mode)
