"""What Kaldi's readers take as optional: without it a component is read, computed with, averaged, copied and trained.

The tables below were read off the ``Read`` and ``Write`` functions in Kaldi's src/nnet3/; a type of component that is
in neither fails the first test. Cases follow from them and from the fields that the components declare.
"""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from component_examples import EXAMPLES
from tiny_minibatches import run, write_examples

import nnet3py.nnet.families  # noqa: F401  (registers every component type)
from nnet3py.egs.example import Example, NnetIo
from nnet3py.ensemble.average import average
from nnet3py.ensemble.progress import parameter_differences
from nnet3py.gpu.operations import HostOperations
from nnet3py.gpu.trainer import DeviceTrainer
from nnet3py.nnet.component import Component, Field, Kind, Phase, Role
from nnet3py.nnet.component_fields import ARRAY_KINDS, read_component
from nnet3py.nnet.computation import Computation
from nnet3py.nnet.configuration import ConfigLine
from nnet3py.nnet.description import network_info
from nnet3py.nnet.families import component_class
from nnet3py.nnet.model_file import read_network, write_network
from nnet3py.nnet.network import Network
from nnet3py.nnet.request import Request
from nnet3py.tables import basic_types, matrix
from nnet3py.tables.holders import MATRIX
from nnet3py.tables.sparse_matrix import SparseMatrix
from nnet3py.tables.streams import Sink, Source
from nnet3py.tables.table import TableWriter
from nnet3py.train.minibatch import Minibatch
from nnet3py.train.trainer import Trainer, TrainerOptions

Groups = tuple[tuple[str, ...], ...]
"""Tokens that may be absent, each group as a whole."""

_UPDATABLE: Groups = (
    ("<LearningRateFactor>",),
    ("<IsGradient>",),
    ("<MaxChange>",),
    ("<L2Regularize>",),
    ("<LearningRate>",),  # Kaldi itself goes on only for a ConstantFunctionComponent
)
_NONLINEAR: Groups = (
    ("<BlockDim>",),
    ("<OderivRms>", "<OderivCount>"),
    ("<NumDimsSelfRepaired>",),
    ("<NumDimsProcessed>",),
    ("<SelfRepairLowerThreshold>",),
    ("<SelfRepairUpperThreshold>",),
    ("<SelfRepairScale>",),
)
OPTIONAL: dict[str, Groups] = {
    "AffineComponent": (*_UPDATABLE, ("<OrthonormalConstraint>",)),
    "BatchNormComponent": (),
    "BlockAffineComponent": _UPDATABLE,
    "DropoutComponent": (("<DropoutPerFrame>",), ("<TestMode>",)),
    "ElementwiseProductComponent": (),
    "FixedAffineComponent": (),
    "FixedBiasComponent": (),
    "FixedScaleComponent": (),
    "GeneralDropoutComponent": (
        ("<SpecAugmentMaxProportion>", "<SpecAugmentMaxRegions>"),
        ("<SpecAugmentMaxRegions>",),
        ("<TestMode>",),
        ("<Continuous>",),
    ),
    "LinearComponent": (*_UPDATABLE, ("<OrthonormalConstraint>",)),
    "LogComponent": _NONLINEAR,  # not Kaldi's: it has the fields of the nonlinearities
    "LogSoftmaxComponent": _NONLINEAR,
    "NaturalGradientAffineComponent": (*_UPDATABLE, ("<OrthonormalConstraint>",)),
    "NaturalGradientPerElementScaleComponent": _UPDATABLE,
    "NaturalGradientRepeatedAffineComponent": _UPDATABLE,
    "NoOpComponent": (("<BackpropScale>",),),  # in Kaldi only in the form of when it was a nonlinearity
    "NormalizeComponent": (("<BlockDim>",), ("<TargetRms>",), ("<AddLogStddev>",)),
    "PerElementOffsetComponent": (*_UPDATABLE, ("<Dim>", "<UseNaturalGradient>")),
    "PerElementScaleComponent": _UPDATABLE,
    "PermuteComponent": (),
    "PnormComponent": (),
    "RectifiedLinearComponent": _NONLINEAR,
    "RepeatedAffineComponent": _UPDATABLE,
    "ScaleAndOffsetComponent": _UPDATABLE,
    "SigmoidComponent": _NONLINEAR,
    "SoftmaxComponent": _NONLINEAR,
    "SpecAugmentTimeMaskComponent": (("<TestMode>",),),
    "SumBlockComponent": (),
    "SumGroupComponent": (),
    "TanhComponent": _NONLINEAR,
    "TdnnComponent": _UPDATABLE,
}

# What Kaldi's readers put in the place of what is absent; an attribute's name: what that is.
ABSENT: dict[str, Any] = {
    "<LearningRateFactor>": 1.0,
    "<IsGradient>": False,
    "<MaxChange>": 0.0,
    "<L2Regularize>": 0.0,
    "<LearningRate>": 0.001,
    "<OrthonormalConstraint>": 0.0,
    "<BlockDim>": "dim",
    "<OderivRms>": (),
    "<OderivCount>": 0.0,
    "<NumDimsSelfRepaired>": 0.0,
    "<NumDimsProcessed>": 0.0,
    "<SelfRepairLowerThreshold>": -1000.0,
    "<SelfRepairUpperThreshold>": -1000.0,
    "<SelfRepairScale>": 0.0,
    "<DropoutPerFrame>": False,
    "<TestMode>": False,
    "<SpecAugmentMaxProportion>": 0.0,
    "<SpecAugmentMaxRegions>": 1,
    "<Continuous>": False,
    "<BackpropScale>": 1.0,
    "<TargetRms>": 1.0,  # Kaldi leaves it undefined; before there was the field it was 1
    "<AddLogStddev>": False,
    "<Dim>": "block_dim",  # of the PerElementOffsetComponent: the number of offsets
    "<UseNaturalGradient>": True,
}

# Kaldi writes these only where they differ from the above; of other fields it writes all.
WRITTEN_WHERE_SET = {
    "<LearningRateFactor>",
    "<IsGradient>",
    "<MaxChange>",
    "<L2Regularize>",
    "<OrthonormalConstraint>",
    "<BlockDim>",
    "<SelfRepairLowerThreshold>",
    "<SelfRepairUpperThreshold>",
    "<SelfRepairScale>",
    "<SpecAugmentMaxProportion>",
    "<SpecAugmentMaxRegions>",
    "<Continuous>",
}

# Values that a full file has here, none of them that of an absent field.
OTHER: dict[str, Any] = {
    "<LearningRateFactor>": 0.5,
    "<IsGradient>": True,
    "<MaxChange>": 0.25,
    "<L2Regularize>": 0.125,
    "<LearningRate>": 0.0625,
    "<OrthonormalConstraint>": 0.75,
    "<OderivCount>": 8.0,
    "<NumDimsSelfRepaired>": 3.0,
    "<NumDimsProcessed>": 12.0,
    "<SelfRepairLowerThreshold>": 0.125,
    "<SelfRepairUpperThreshold>": 0.875,
    "<SelfRepairScale>": 0.03125,
    "<DropoutPerFrame>": True,
    "<TestMode>": True,
    "<SpecAugmentMaxProportion>": 0.5,
    "<SpecAugmentMaxRegions>": 2,
    "<Continuous>": True,
    "<BackpropScale>": 0.5,
    "<TargetRms>": 0.75,
    "<UseNaturalGradient>": False,
    "<Count>": 16.0,
}


def types() -> set[str]:
    """Every component type that nnet3py has, by the classes derived from Component."""
    found, left = set(), [Component]
    while left:
        for cls in left.pop().__subclasses__():
            left.append(cls)
            if cls.__dict__.get("type_name") and cls.__module__.startswith("nnet3py.nnet."):
                found.add(cls.type_name)
    return found


def may_be_absent(field: Field) -> bool:
    return not field.obsolete and (field.optional or field.kind is Kind.FLAG)


def full(config: str) -> dict[Field, Any]:
    """A component's fields with what a file has of them: optional ones and statistics other than at the start."""
    line = ConfigLine(f"component {config}")
    component: Any = component_class(line.text_value("type")).from_config(line, np.random.default_rng(1))
    found = {}
    for field in component.fields:
        if field.obsolete:
            continue
        value = getattr(component, field.attribute)
        if field.role is Role.STATISTIC and field.kind in ARRAY_KINDS:
            value = np.arange(1, 1 + (len(value) or component.dim), dtype=np.float32) / 16
        elif field.token == "<BlockDim>" and may_be_absent(field) and value == component.dim:
            value = component.dim // 2
        elif field.token in OTHER and (may_be_absent(field) or field.role is Role.STATISTIC):
            value = OTHER[field.token]
        found[field] = value
    return found


_WRITERS: dict[Kind, Callable[[Sink, bool, Any], None]] = {
    Kind.FLOAT: basic_types.write_float,
    Kind.DOUBLE: basic_types.write_double,
    Kind.INT: basic_types.write_int,
    Kind.BOOL: basic_types.write_bool,
    Kind.INT_VECTOR: lambda sink, binary, value: matrix.write_int_vector(sink, value, binary),
    Kind.MATRIX: lambda sink, binary, value: matrix.write_matrix(sink, value, binary),
    Kind.INT_PAIR: lambda sink, binary, value: [basic_types.write_int(sink, binary, n) for n in value] and None,
    Kind.FLOAT_PAIR: lambda sink, binary, value: [basic_types.write_float(sink, binary, n) for n in value] and None,
    Kind.FLAG: lambda sink, binary, value: None,
}


def written(type_name: str, fields: dict[Field, Any], binary: bool) -> bytes:
    """A component as a file has it, of these fields alone."""
    memory = io.BytesIO()
    sink = Sink(memory, "memory")
    basic_types.write_token(sink, binary, f"<{type_name}>")
    for field, value in fields.items():
        if field.kind is Kind.FLAG and not value:
            continue
        basic_types.write_token(sink, binary, field.token)
        if field.kind in ARRAY_KINDS and field.kind is not Kind.MATRIX:
            matrix.write_vector(sink, value, binary)
        else:
            _WRITERS[field.kind](sink, binary, value)
    basic_types.write_token(sink, binary, f"</{type_name}>")
    return memory.getvalue()


def component_of(data: bytes, binary: bool) -> Any:
    return read_component(Source(io.BytesIO(data), "memory"), binary, "c")


def network_file(path: Path, component: bytes, binary: bool = False) -> Path:
    """A model file in which the component, as a file has it, stands between an affine layer and another.

    Raises:
        AssertionError: the component is not found where it was put.
    """
    shape = component_of(component, binary)
    around = Network.from_config(
        f"input-node name=input dim=4\n"
        f"component name=first type=AffineComponent input-dim=4 output-dim={shape.input_dim}\n"
        f"component-node name=first component=first input=input\n"
        f"component name=c type=NoOpComponent dim={shape.input_dim}\n"
        f"component-node name=c component=c input=first\n"
        f"component name=last type=AffineComponent input-dim={shape.input_dim} output-dim=3\n"
        f"component-node name=last component=last input=c\n"
        f"component name=out type=LogSoftmaxComponent dim=3\n"
        f"component-node name=out component=out input=last\n"
        f"output-node name=output input=out\n",
        2,
    )
    around.components["last"] = Network.from_config(
        f"input-node name=input dim={shape.output_dim}\n"
        f"component name=last type=AffineComponent input-dim={shape.output_dim} output-dim=3\n"
        f"component-node name=last component=last input=input\noutput-node name=output input=last\n",
        2,
    ).components["last"]
    write_network(str(path), around, binary)
    before, found, after = path.read_bytes().partition(b"<NoOpComponent>")
    end = b"</NoOpComponent> "
    assert found
    assert end in after
    path.write_bytes(before + component + after[after.index(end) + len(end) :])
    return path


class Case:
    """A component from whose file the fields of a group, or all that are optional, are missing."""

    def __init__(self, config: str, tokens: Iterable[str]) -> None:
        self.everything = full(config)
        self.type_name = config.split()[0].removeprefix("type=")
        self.removed = [field for field in self.everything if field.token in tokens and may_be_absent(field)]
        self.kept = {field: value for field, value in self.everything.items() if field not in self.removed}

    def data(self, binary: bool = False) -> bytes:
        return written(self.type_name, self.kept, binary)

    def path(self, folder: Path) -> Path:
        return network_file(folder / "old.raw", self.data())

    def absent_value(self, component: Any, field: Field) -> Any:
        """What Kaldi's reader puts there."""
        value = ABSENT[field.token]
        return getattr(component, value) if isinstance(value, str) else value


def _cases() -> dict[str, Case]:
    found = {}
    for name, config in EXAMPLES.items():
        groups = OPTIONAL.get(config.split()[0].removeprefix("type="), ())
        for group in groups:
            found[f"{name} without {' and '.join(group)}"] = Case(config, group)
        found[f"{name} with nothing optional"] = Case(config, [token for group in groups for token in group])
    return found


def _enough(cases: dict[str, Case]) -> dict[str, Case]:
    """Of each component the case without anything optional, and of each field the first component that has it."""
    found, seen = {}, set()
    for name, case in cases.items():
        tokens = tuple(field.token for field in case.removed)
        if name.endswith("nothing optional") or tokens not in seen:
            found[name] = case
        seen.add(tokens)
    return found


CASES = _cases()
ENOUGH = _enough(CASES)
in_every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
in_enough_cases = pytest.mark.parametrize("case", ENOUGH.values(), ids=ENOUGH.keys())


def assert_same(one: Network, other: Network, tolerance: float = 0.0) -> None:
    for name, component in one.components.items():
        for field in component.fields:
            if field.attribute and not field.obsolete:
                expected = getattr(component, field.attribute)
                found = getattr(other.components[name], field.attribute)
                np.testing.assert_allclose(
                    found, expected, rtol=tolerance, atol=tolerance, err_msg=f"{name} {field.token}"
                )


def test_every_type_is_looked_at_and_declares_what_kaldi_takes_as_optional() -> None:
    assert types() == set(OPTIONAL), "Which of its tokens does Kaldi's Read take as optional, and Write write always?"
    assert types() == {config.split()[0].removeprefix("type=") for config in EXAMPLES.values()}
    for type_name, groups in OPTIONAL.items():
        declared = {field.token for field in component_class(type_name).fields if may_be_absent(field)}
        assert declared == {token for group in groups for token in group}, type_name


@in_every_case
@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_what_is_absent_has_the_value_that_kaldi_gives_it(case: Case, binary: bool) -> None:
    with_all = component_of(written(case.type_name, case.everything, binary), binary)
    found = component_of(case.data(binary), binary)
    attributes = {field.attribute for field in case.kept}
    for field in case.everything:
        value = getattr(found, field.attribute)
        if field.attribute in attributes:
            np.testing.assert_array_equal(value, getattr(with_all, field.attribute), err_msg=field.token)
        else:
            np.testing.assert_array_equal(value, case.absent_value(found, field), err_msg=field.token)
        if field.kind in ARRAY_KINDS:
            assert isinstance(value, np.ndarray)


@in_every_case
def test_a_copy_has_the_fields_that_kaldi_writes_today(case: Case, tmp_path: Path) -> None:
    network = read_network(str(case.path(tmp_path)))
    component = network.components["c"]
    write_network(str(tmp_path / "new.raw"), network, binary=False)
    text = (tmp_path / "new.raw").read_text().partition("<ComponentName> c ")[2]
    part = text[: text.index(f"</{case.type_name}>")]
    expected = []
    for field in case.everything:
        value = getattr(component, field.attribute)
        where_set = field.token in WRITTEN_WHERE_SET or field.kind is Kind.FLAG
        if not may_be_absent(field) or not where_set or value != case.absent_value(component, field):
            expected.append(field.token)
    assert [word for word in part.split() if word.startswith("<")] == [f"<{case.type_name}>", *expected]
    assert_same(network, read_network(str(tmp_path / "new.raw")), 1e-6)


@in_enough_cases
def test_every_form_of_file_keeps_what_an_old_one_says(case: Case, tmp_path: Path) -> None:
    network = read_network(str(case.path(tmp_path)))
    for name in ("new.raw", "new.h5"):
        write_network(str(tmp_path / name), network)
        again = read_network(str(tmp_path / name))
        assert_same(network, again, 1e-6)
        write_network(str(tmp_path / f"again-{name}"), again)
        assert (tmp_path / f"again-{name}").read_bytes() == (tmp_path / name).read_bytes()


@in_enough_cases
def test_an_old_file_is_averaged_with_a_newer_one(case: Case, tmp_path: Path) -> None:
    old = case.path(tmp_path)
    fields = {**case.everything}
    for field in case.removed:
        if field.token in ("<AddLogStddev>", "<BlockDim>", "<Dim>"):  # they decide dimensions, or how many statistics
            fields[field] = case.absent_value(component_of(case.data(), False), field)
    new = network_file(tmp_path / "newer.raw", written(case.type_name, fields, False))
    one, other = (read_network(str(path)).components["c"] for path in (old, new))
    for names in ([old, new], [new, old]):
        mean = average([str(name) for name in names], [0.5, 0.5]).components["c"]
        first = one if names[0] == old else other
        for field in case.everything:
            found = getattr(mean, field.attribute)
            mine, theirs = (getattr(component, field.attribute) for component in (one, other))
            if field.role is Role.SETTING:
                np.testing.assert_array_equal(found, getattr(first, field.attribute), err_msg=field.token)
            else:  # sums that one of the two does not have are zero
                sizes = max(np.size(mine), np.size(theirs))
                parts = [value if np.size(value) else np.zeros(sizes) for value in (mine, theirs)]
                np.testing.assert_allclose(found, 0.5 * parts[0] + 0.5 * parts[1], rtol=1e-6, err_msg=field.token)


@in_enough_cases
def test_an_old_file_is_computed_with_shown_and_scaled(case: Case, tmp_path: Path) -> None:
    network = read_network(str(case.path(tmp_path)))
    assert f"component name=c type={case.type_name}, " in network_info(network)
    assert all(norm == 0.0 for norm in parameter_differences(network, network.copy()).values())
    times = network.components["c"].input_times([0])
    computation = Computation(network, Request({"input": times}, {"output": [0]}, num_sequences=2))
    x = np.random.default_rng(5).standard_normal((2 * len(times), 4)).astype(np.float32)
    y = computation.forward({"input": x}, Phase.TEST, keep_trace=False)[0]["output"]
    np.testing.assert_allclose(np.exp(y).sum(axis=1), 1.0, rtol=1e-5)
    half = network.copy()
    half.scale(0.5)
    for field in case.everything:
        factor = 1.0 if field.role is Role.SETTING else 0.5
        expected = getattr(network.components["c"], field.attribute)
        if not isinstance(expected, bool) and field.kind is not Kind.INT_VECTOR:
            np.testing.assert_allclose(
                getattr(half.components["c"], field.attribute), factor * np.asarray(expected), rtol=1e-6
            )


FRAMES = 12


def _minibatch() -> Minibatch:
    random = np.random.default_rng(7)
    times, sequences, frames = range(-2, 8), 3, FRAMES // 3
    inputs = np.array([(n, t, 0) for n in range(sequences) for t in times], np.int32)
    outputs = np.array([(n, t, 0) for n in range(sequences) for t in range(frames)], np.int32)
    x = random.standard_normal((len(inputs), 4)).astype(np.float32)
    post = SparseMatrix.from_rows([[(int(label), 1.0)] for label in random.integers(3, size=len(outputs))], 3)
    return Minibatch.from_example(
        Example([NnetIo("input", inputs, x), NnetIo("output", outputs, post)]), ["input"], ["output"]
    )


@in_enough_cases
def test_an_old_file_is_trained_as_its_copy_with_todays_fields_is(case: Case, tmp_path: Path) -> None:
    write_network(str(tmp_path / "new.raw"), read_network(str(case.path(tmp_path))), binary=False)
    options = TrainerOptions(srand=3, zero_component_stats=False)
    trained: list[Network] = []
    for name in ("old.raw", "new.raw"):
        network = read_network(str(tmp_path / name))
        trainer = Trainer(network.copy(), options)
        device = DeviceTrainer(HostOperations(), copy.deepcopy(network), options)
        for _ in range(2):
            trainer.train(_minibatch())
            device.train(_minibatch())
        device.finish()
        trained += [trainer.network, device.network]
    assert_same(trained[0], trained[2], 1e-5)
    assert_same(trained[1], trained[3], 1e-5)
    for network in trained:
        assert network.components["c"].has_finite_statistics()
        component: Any = network.components["c"]
        if any(field.token == "<OderivCount>" for field in case.removed):  # the first minibatch is always counted
            assert len(component.oderiv_sumsq) == component.dim
            assert component.oderiv_count in (FRAMES, 2 * FRAMES)


@pytest.mark.parametrize("config", [config for name, config in EXAMPLES.items() if name in ("relu", "sigmoid", "tanh")])
def test_statistics_without_numbers_begin_anew_with_their_count(config: str, tmp_path: Path) -> None:
    fields = full(config)
    for field in fields:
        if field.role is Role.STATISTIC and field.kind in ARRAY_KINDS:
            fields[field] = np.zeros(0, np.float32)
    path = network_file(tmp_path / "old.raw", written(config.split()[0].removeprefix("type="), fields, False))
    options = TrainerOptions(zero_component_stats=False)
    for trainer in (
        Trainer(read_network(str(path)), options),
        DeviceTrainer(HostOperations(), read_network(str(path)), options),
    ):
        trainer.train(_minibatch())
        if isinstance(trainer, DeviceTrainer):
            trainer.finish()
        component: Any = trainer.network.components["c"]
        assert component.oderiv_count == FRAMES
        assert len(component.oderiv_sumsq) == component.dim
        if len(component.value_sum):  # they are stored on a random half of the minibatches
            assert component.count == FRAMES
            assert len(component.deriv_sum) == component.dim


# Whole components as old versions of Kaldi wrote them, in text, and what today's Kaldi makes of them.
OLD_COMPONENTS = {
    "no-op of when it was a nonlinearity": (
        "<NoOpComponent> <Dim> 2 <ValueAvg>  [ 0.5 0.25 ]\n<DerivAvg>  [ 1 1 ]\n<Count> 8 <OderivRms>  [ 1 2 ]\n"
        "<OderivCount> 8 <NumDimsSelfRepaired> 0 <NumDimsProcessed> 0 </NoOpComponent> ",
        "<NoOpComponent> <Dim> 2 <BackpropScale> 1 </NoOpComponent> ",
    ),
    "no-op of before self-repair": (
        "<NoOpComponent> <Dim> 2 <ValueAvg>  [ ]\n<DerivAvg>  [ ]\n<Count> 0 </NoOpComponent> ",
        "<NoOpComponent> <Dim> 2 <BackpropScale> 1 </NoOpComponent> ",
    ),
    "normalisation of when it was a nonlinearity": (
        "<NormalizeComponent> <Dim> 2 <ValueAvg>  [ ]\n<DerivAvg>  [ ]\n<Count> 0 </NormalizeComponent> ",
        "<NormalizeComponent> <InputDim> 2 <TargetRms> 1 <AddLogStddev> F </NormalizeComponent> ",
    ),
    "natural gradient with all that was ever stored": (
        "<NaturalGradientAffineComponent> <LearningRate> 0.5 <LinearParams>  [\n  1 2 ]\n<BiasParams>  [ 3 ]\n"
        "<RankIn> 1 <RankOut> 1 <UpdatePeriod> 4 <NumSamplesHistory> 2000 <Alpha> 4 <MaxChangePerSample> 0.075 "
        "<IsGradient> F <UpdateCount> 5 <ActiveScalingCount> 1 <MaxChangeScaleStats> 0.5 "
        "<NaturalGradientAffineComponent> ",  # the token at the end is an opening one, too
        "<NaturalGradientAffineComponent> <LearningRate> 0.5 <LinearParams>  [\n  1 2 ]\n<BiasParams>  [ 3 ]\n"
        "<RankIn> 1 <RankOut> 1 <UpdatePeriod> 4 <NumSamplesHistory> 2000 <Alpha> 4 </NaturalGradientAffineComponent> ",
    ),
    "a gradient, said where it used to be": (
        "<AffineComponent> <AffineComponent> <LearningRate> 0.5 <LinearParams>  [\n  1 2 ]\n<BiasParams>  [ 3 ]\n"
        "<IsGradient> T </AffineComponent> ",
        "<AffineComponent> <IsGradient> T <LearningRate> 0.5 <LinearParams>  [\n  1 2 ]\n<BiasParams>  [ 3 ]\n"
        "</AffineComponent> ",
    ),
    "a gradient, said twice: the later one counts": (
        "<BlockAffineComponent> <IsGradient> T <LearningRate> 0.5 <NumBlocks> 1 <LinearParams>  [\n  1 2 ]\n"
        "<BiasParams>  [ 3 ]\n<IsGradient> F </BlockAffineComponent> ",
        "<BlockAffineComponent> <LearningRate> 0.5 <NumBlocks> 1 <LinearParams>  [\n  1 2 ]\n<BiasParams>  [ 3 ]\n"
        "</BlockAffineComponent> ",
    ),
    "scales with a limit of their own": (
        "<NaturalGradientPerElementScaleComponent> <LearningRate> 0.5 <Params>  [ 1 2 ]\n<IsGradient> F <Rank> 1 "
        "<UpdatePeriod> 4 <NumSamplesHistory> 2000 <Alpha> 4 <MaxChangePerMinibatch> 0.5 "
        "</NaturalGradientPerElementScaleComponent> ",
        "<NaturalGradientPerElementScaleComponent> <LearningRate> 0.5 <Params>  [ 1 2 ]\n<IsGradient> F <Rank> 1 "
        "<UpdatePeriod> 4 <NumSamplesHistory> 2000 <Alpha> 4 </NaturalGradientPerElementScaleComponent> ",
    ),
    "offsets without their number": (
        "<PerElementOffsetComponent> <LearningRate> 0.5 <Offsets>  [ 1 2 ]\n<IsGradient> F "
        "</PerElementOffsetComponent> ",
        "<PerElementOffsetComponent> <LearningRate> 0.5 <Offsets>  [ 1 2 ]\n<Dim> 2 <UseNaturalGradient> T "
        "</PerElementOffsetComponent> ",
    ),
    "one alpha for both sides": (
        "<TdnnComponent> <LearningRate> 0.5 <TimeOffsets> [ 0 ]\n<LinearParams>  [\n  1 2 ]\n<BiasParams>  [ 3 ]\n"
        "<OrthonormalConstraint> 0 <UseNaturalGradient> T <NumSamplesHistory> 2000 <Alpha> 3 <RankInOut> 1 1 "
        "</TdnnComponent> ",
        "<TdnnComponent> <LearningRate> 0.5 <TimeOffsets> [ 0 ]\n<LinearParams>  [\n  1 2 ]\n<BiasParams>  [ 3 ]\n"
        "<OrthonormalConstraint> 0 <UseNaturalGradient> T <NumSamplesHistory> 2000 <AlphaInOut> 3 3 <RankInOut> 1 1 "
        "</TdnnComponent> ",
    ),
    "sums whose last token is an opening one": (
        "<SumGroupComponent> <Sizes> [ 1 1 ]\n<SumGroupComponent> ",
        "<SumGroupComponent> <Sizes> [ 1 1 ]\n</SumGroupComponent> ",
    ),
    "statistics of no frames": (
        "<TanhComponent> <Dim> 2 <ValueAvg>  [ 0.5 0.25 ]\n<DerivAvg>  [ 1 1 ]\n<Count> 0 </TanhComponent> ",
        "<TanhComponent> <Dim> 2 <ValueAvg>  [ 0 0 ]\n<DerivAvg>  [ 0 0 ]\n<Count> 0 <OderivRms>  [ ]\n"
        "<OderivCount> 0 <NumDimsSelfRepaired> 0 <NumDimsProcessed> 0 </TanhComponent> ",
    ),
}


@pytest.mark.parametrize(("old", "new"), OLD_COMPONENTS.values(), ids=OLD_COMPONENTS.keys())
def test_a_component_of_an_old_version_becomes_todays(old: str, new: str, tmp_path: Path) -> None:
    network = read_network(str(network_file(tmp_path / "old.raw", old.encode())))
    write_network(str(tmp_path / "new.raw"), network, binary=False)
    text = (tmp_path / "new.raw").read_text().partition("<ComponentName> c ")[2]
    assert text[: len(new)] == new


def test_a_permutation_stored_as_numbers_is_rounded_and_ends_with_the_last_column() -> None:
    numbers = np.array([1.9999, 0.0001, 1.0, 0.0], np.float32)  # the last is what a defect left there
    memory = io.BytesIO()
    basic_types.write_token(Sink(memory, "memory"), True, "<PermuteComponent>")
    basic_types.write_token(Sink(memory, "memory"), True, "<ColumnMap>")
    matrix.write_vector(Sink(memory, "memory"), numbers, True)
    basic_types.write_token(Sink(memory, "memory"), True, "</PermuteComponent>")
    assert component_of(memory.getvalue(), True).column_map == [2, 0, 1, 3]


def test_regions_without_a_proportion_are_not_written_for_kaldi_could_not_read_them(tmp_path: Path) -> None:
    network = Network.from_config(
        "input-node name=input dim=4\ncomponent name=c type=GeneralDropoutComponent dim=4 specaugment-max-regions=3\n"
        "component-node name=c component=c input=input\noutput-node name=output input=c\n"
    )
    write_network(str(tmp_path / "new.raw"), network, binary=False)
    assert "<SpecAugment" not in (tmp_path / "new.raw").read_text()


OLD_NETWORK = """\
input-node name=input dim=5
component name=affine1 type=NaturalGradientAffineComponent input-dim=15 output-dim=6 learning-rate=0.02
component-node name=affine1 component=affine1 input=Append(Offset(input, -1), input, Offset(input, 1))
component name=relu1 type=RectifiedLinearComponent dim=6 self-repair-scale=1e-05
component-node name=relu1 component=relu1 input=affine1
component name=affine2 type=NaturalGradientAffineComponent input-dim=6 output-dim=3 learning-rate=0.02
component-node name=affine2 component=affine2 input=relu1
component name=log-softmax type=LogSoftmaxComponent dim=3
component-node name=log-softmax component=log-softmax input=affine2
output-node name=output input=log-softmax
"""
NEW_TOKENS = re.compile(r"<OderivRms>[^<]*<OderivCount>[^<]*|<NumDims[A-Za-z]*> [0-9]* ")
COMMANDS = {
    "nnet-info": "nnet-info old.raw",
    "nnet-copy": "nnet-copy --learning-rate=0.1 --scale=0.5 old.raw out.raw && nnet-info out.raw",
    "nnet-average": "nnet-average old.raw new.raw out.raw && nnet-average new.raw old.raw out.h5 && nnet-info out.h5",
    "nnet-show-progress": "nnet-show-progress old.raw new.raw ark:egs.ark",
    "nnet-compute": "nnet-compute old.raw ark:feats.ark ark,t:-",
    "nnet-compute-prob": "nnet-compute-prob old.raw ark:egs.ark",
    "nnet-compute-from-egs": "nnet-compute-from-egs old.raw ark:egs.ark ark,t:-",
    "nnet-train-shard": "nnet-train-shard --zero-component-stats=false old.raw ark:egs.ark out.raw",
    "nnet-combine": "nnet-combine new.raw old.raw ark:egs.ark out.raw",
    "nnet-combine-fast": "nnet-combine-fast --num-lbfgs-iters=2 old.raw new.raw ark:egs.ark out.raw",
    "nnet-shrink": "nnet-shrink --num-bfgs-iters=2 old.raw ark:egs.ark out.raw",
    "nnet-fix": "nnet-fix old.raw out.raw && nnet-info out.raw",
    "nnet-mix-up": "nnet-mix-up --num-mixtures=5 --counts='echo [ 5 3 2 ] |' old.raw out.raw && nnet-info out.raw",
}


@pytest.fixture(scope="module")
def old_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with old.raw, as Kaldi wrote networks in 2015, new.raw, which was trained from it, and data for them."""
    folder = tmp_path_factory.mktemp("old")
    write_examples(folder / "egs.ark", range(4))
    write_network(str(folder / "start.raw"), Network.from_config(OLD_NETWORK, 5))
    for command in (
        "nnet-train-shard start.raw ark:egs.ark first.raw",
        "nnet-train-shard first.raw ark:egs.ark new.raw",
        "nnet-copy --binary=false first.raw first.txt",
    ):
        assert run(*command.split(), cwd=folder).returncode == 0
    text, count = NEW_TOKENS.subn("", (folder / "first.txt").read_text())
    assert count == 6, "two nonlinearities, with three pieces each"
    (folder / "old.raw").write_text(text)
    with TableWriter(f"ark:{folder}/feats.ark", MATRIX) as writer:
        writer.write("u", np.random.default_rng(6).standard_normal((9, 5)).astype(np.float32))
    return folder


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_every_program_takes_a_network_of_2015(command: str, old_model: Path) -> None:
    done = run("bash", "-c", command, cwd=old_model)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "ERROR" not in done.stderr
