"""What each layer type generates, its defaults, and what is said about values that are wrong.

The expected lines were written by hand from the description of each layer; blanks, also at the ends of lines, are those
of Kaldi's script.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.fft import dct

from nnet3py.errors import UserError
from nnet3py.xconfig.config_directory import config_files
from nnet3py.xconfig.fixed_layers import idct_matrix
from nnet3py.xconfig.layer_types import LAYER_TYPES, UNSUPPORTED
from nnet3py.xconfig.xconfig_file import nodes_of, parse_xconfig

INPUT = "input name=input dim=40\n"
OUTPUT = "\noutput name=output\n"


def generated(text: str, file: str = "final") -> list[str]:
    return [line.text for line in config_files(parse_xconfig(text, "n.xconfig"), "n.xconfig")[file]]


def between(layer: str) -> list[str]:
    """The lines of one layer between an input of dimension 40 and an output."""
    assert generated(INPUT + layer + OUTPUT, "ref") == generated(INPUT + layer + OUTPUT)
    return generated(INPUT + layer + OUTPUT)[1:-1]


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (
            "relu-layer name=a",
            """\
component name=a.affine type=NaturalGradientAffineComponent input-dim=40 output-dim=40  max-change=0.75
component-node name=a.affine component=a.affine input=input
component name=a.relu type=RectifiedLinearComponent dim=40 self-repair-scale=1e-05
component-node name=a.relu component=a.relu input=a.affine
""",
        ),
        (
            "relu-renorm-layer name=a dim=11 add-log-stddev=true target-rms=0.5 max-change=1",
            """\
component name=a.affine type=NaturalGradientAffineComponent input-dim=40 output-dim=10  max-change=1.0
component-node name=a.affine component=a.affine input=input
component name=a.relu type=RectifiedLinearComponent dim=10 self-repair-scale=1e-05
component-node name=a.relu component=a.relu input=a.affine
component name=a.renorm type=NormalizeComponent dim=10 target-rms=0.5 add-log-stddev=true
component-node name=a.renorm component=a.renorm input=a.relu
""",
        ),
        (
            'relu-batchnorm-dropout-layer name=a dim=8 input=Append(-1,1) ng-affine-options="update-period=2" '
            "l2-regularize=1e-3 learning-rate-factor=.50 bias-stddev=0 dropout-proportion=0",
            """\
component name=a.affine type=NaturalGradientAffineComponent input-dim=80 output-dim=8 update-period=2 max-change=0.75 \
learning-rate-factor=.50 bias-stddev=0 l2-regularize=1e-3
component-node name=a.affine component=a.affine input=Append(Offset(input, -1), Offset(input, 1))
component name=a.relu type=RectifiedLinearComponent dim=8 self-repair-scale=1e-05
component-node name=a.relu component=a.relu input=a.affine
component name=a.batchnorm type=BatchNormComponent dim=8 target-rms=1.0
component-node name=a.batchnorm component=a.batchnorm input=a.relu
component name=a.dropout type=DropoutComponent dim=8 dropout-proportion=0.0
component-node name=a.dropout component=a.dropout input=a.batchnorm
""",
        ),
        (
            "relu-dropout-layer name=a dim=8 bottleneck-dim=4 dropout-per-dim=true learning-rate-factor=2",
            """\
component name=a.linear type=LinearComponent input-dim=40 orthonormal-constraint=1.0 output-dim=4  max-change=0.75 \
learning-rate-factor=2
component-node name=a.linear component=a.linear input=input
component name=a.affine type=NaturalGradientAffineComponent input-dim=4 output-dim=8  max-change=0.75 \
learning-rate-factor=2
component-node name=a.affine component=a.affine input=a.linear
component name=a.relu type=RectifiedLinearComponent dim=8 self-repair-scale=1e-05
component-node name=a.relu component=a.relu input=a.affine
component name=a.dropout type=GeneralDropoutComponent dim=8 dropout-proportion=0.5 \n\
component-node name=a.dropout component=a.dropout input=a.relu
""",
        ),
        (
            "batchnorm-so-relu-layer name=a dim=8 self-repair-scale=0",
            """\
component name=a.affine type=NaturalGradientAffineComponent input-dim=40 output-dim=8  max-change=0.75
component-node name=a.affine component=a.affine input=input
component name=a.batchnorm type=BatchNormComponent dim=8 target-rms=1.0
component-node name=a.batchnorm component=a.batchnorm input=a.affine
component name=a.so type=ScaleAndOffsetComponent dim=8 max-change=0.5 \n\
component-node name=a.so component=a.so input=a.batchnorm
component name=a.relu type=RectifiedLinearComponent dim=8 self-repair-scale=0.0
component-node name=a.relu component=a.relu input=a.so
""",
        ),
        (
            "sigmoid-layer name=a dim=8",
            """\
component name=a.affine type=NaturalGradientAffineComponent input-dim=40 output-dim=8  max-change=0.75
component-node name=a.affine component=a.affine input=input
component name=a.sigmoid type=SigmoidComponent dim=8 self-repair-scale=1e-05
component-node name=a.sigmoid component=a.sigmoid input=a.affine
""",
        ),
        (
            'affine-layer name=a dim=8 input=Append(-1,0,1,2,3,4,5,6,7,8) ng-affine-options="rank-in=3"',
            """\
component name=a type=NaturalGradientAffineComponent input-dim=400 output-dim=8  param-stddev=0.05 bias-stddev=1.0 \
bias-mean=0.0 max-change=0.75 l2-regularize=0.0 rank-in=3
component-node name=a component=a input=Append(Offset(input, -1), input, Offset(input, 1), Offset(input, 2), \
Offset(input, 3), Offset(input, 4), Offset(input, 5), Offset(input, 6), Offset(input, 7), Offset(input, 8))
""",
        ),
        (
            "linear-component name=a dim=8 orthonormal-constraint=-1.0 l2-regularize=0.01",
            """\
component name=a type=LinearComponent input-dim=40 output-dim=8  orthonormal-constraint=-1.0 max-change=0.75 \
l2-regularize=0.01
component-node name=a component=a input=input
""",
        ),
        (
            "affine-component name=a dim=8 bias-stddev=0",
            """\
component name=a type=NaturalGradientAffineComponent input-dim=40 output-dim=8  max-change=0.75 bias-stddev=0
component-node name=a component=a input=input
""",
        ),
        (
            "scale-component name=a param-mean=0.5",
            """\
component name=a type=NaturalGradientPerElementScaleComponent dim=40  max-change=0.75 param-mean=0.5 \n\
component-node name=a component=a input=input
""",
        ),
        (
            "offset-component name=a learning-rate-factor=2",
            """\
component name=a type=PerElementOffsetComponent dim=40  learning-rate-factor=2 max-change=0.75 \n\
component-node name=a component=a input=input
""",
        ),
        (
            "renorm-component name=a target-rms=2",
            """\
component name=a type=NormalizeComponent dim=40 target-rms=2.0
component-node name=a component=a input=input
""",
        ),
        (
            "batchnorm-component name=a input=Append(0,3)",
            """\
component name=a type=BatchNormComponent dim=80 target-rms=1.0
component-node name=a component=a input=Append(input, Offset(input, 3))
""",
        ),
        (
            "no-op-component name=a input=Sum(input, Scale(2, input@1))",
            """\
component name=a type=NoOpComponent dim=40
component-node name=a component=a input=Sum(input, Scale(2.0, Offset(input, 1)))
""",
        ),
        (
            "dim-range-component name=a dim=3 dim-offset=37",
            "dim-range-node name=a input-node=input dim=3 dim-offset=37\n",
        ),
        (
            "combine-feature-maps-layer name=a height=2 num-filters1=1 num-filters2=2 num-filters3=1 "
            "input=Append(Const(0,2),Const(1,4),Const(2,2))",
            """\
component name=a type=PermuteComponent column-map=0,2,3,6,1,4,5,7 \n\
component-node name=a component=a input=Append(Const(0.0, 2), Const(1.0, 4), Const(2.0, 2))
""",
        ),
        (
            "channel-average-layer name=a dim=10",
            """\
component name=a type=SumBlockComponent input-dim=40 output-dim=10 scale=0.25
component-node name=a component=a input=input
""",
        ),
        (
            "tdnnf-layer name=a dim=40 bottleneck-dim=8 time-stride=3 dropout-proportion=0.0 l2-regularize=0.01",
            """\
component name=a.linear type=TdnnComponent input-dim=40 output-dim=8 l2-regularize=0.01 max-change=0.75 use-bias=false \
time-offsets=-3,0 orthonormal-constraint=-1.0
component-node name=a.linear component=a.linear input=input
component name=a.affine type=TdnnComponent input-dim=8 output-dim=40 l2-regularize=0.01 max-change=0.75 \
time-offsets=0,3
component-node name=a.affine component=a.affine input=a.linear
component name=a.relu type=RectifiedLinearComponent dim=40 self-repair-scale=1e-05
component-node name=a.relu component=a.relu input=a.affine
component name=a.batchnorm type=BatchNormComponent dim=40
component-node name=a.batchnorm component=a.batchnorm input=a.relu
component name=a.dropout type=GeneralDropoutComponent dim=40 dropout-proportion=0.0 continuous=true
component-node name=a.dropout component=a.dropout input=a.batchnorm
component name=a.noop type=NoOpComponent dim=40
component-node name=a.noop component=a.noop input=Sum(Scale(0.66, input), a.dropout)
""",
        ),
        (
            "prefinal-layer name=a big-dim=16 small-dim=8",
            """\
component name=a.affine type=NaturalGradientAffineComponent input-dim=40 output-dim=16 l2-regularize=0.0 max-change=0.75
component-node name=a.affine component=a.affine input=input
component name=a.relu type=RectifiedLinearComponent dim=16 self-repair-scale=1e-05
component-node name=a.relu component=a.relu input=a.affine
component name=a.batchnorm1 type=BatchNormComponent dim=16
component-node name=a.batchnorm1 component=a.batchnorm1 input=a.relu
component name=a.linear type=LinearComponent input-dim=16 output-dim=8 l2-regularize=0.0 max-change=0.75 \
orthonormal-constraint=-1 \n\
component-node name=a.linear component=a.linear input=a.batchnorm1
component name=a.batchnorm2 type=BatchNormComponent dim=8
component-node name=a.batchnorm2 component=a.batchnorm2 input=a.linear
""",
        ),
        (
            "delta-layer name=a",
            """\
dim-range-node name=input_copy1 input-node=input dim=40 dim-offset=0
dim-range-node name=input_copy2 input-node=input dim=40 dim-offset=0
component name=input_2 type=NoOpComponent dim=120
component-node name=input_2 component=input_2 input=Append(Offset(input,0), Sum(Offset(Scale(-1.0,input_copy1),-1), \
Offset(input,1)), Sum(Offset(input,-2), Offset(input,2), Offset(Scale(-2.0,input_copy2),0)))
component name=a type=BatchNormComponent dim=120
component-node name=a component=a input=input_2
""",
        ),
        (
            "spec-augment-layer name=a time-mask-max-frames=10",
            """\
component name=a.freq-mask type=GeneralDropoutComponent dim=40 specaugment-max-proportion=0.5
component-node name=a.freq-mask component=a.freq-mask input=input
component name=a.time-mask type=SpecAugmentTimeMaskComponent dim=40 zeroed-proportion=0.2 time-mask-max-frames=10
component-node name=a.time-mask component=a.time-mask input=a.freq-mask
""",
        ),
        (
            "idct-layer name=a affine-transform-file=idct.mat",
            """\
component name=a type=FixedAffineComponent matrix=idct.mat
component-node name=a component=a input=input
""",
        ),
    ],
    ids=lambda value: value.split()[0] if "=" in value and "\n" not in value else "",
)
def test_a_layer_generates_its_components(layer: str, expected: str) -> None:
    assert between(layer) == expected.splitlines()


@pytest.mark.parametrize(
    ("options", "offsets", "output"),
    [
        ("", ["-1,0", "0,1"], "a.noop"),
        ("time-stride=0", ["0", "0"], "a.noop"),
        ("context=none time-stride=3", ["0", "0"], "a.noop"),
        ("context=left-only time-stride=3", ["-3,0", "0"], "a.noop"),
        ("context=shift-left time-stride=3", ["-3,0", "-3,0"], "a.noop"),
        ("time-stride=-2", ["2,0", "0,-2"], "a.noop"),
        ("bypass-scale=0", ["-1,0", "0,1"], "a.batchnorm"),
        ("bypass-scale=0 dropout-proportion=0.1", ["-1,0", "0,1"], "a.dropout"),
    ],
)
def test_context_and_output_of_a_factorised_layer(options: str, offsets: list[str], output: str) -> None:
    lines = generated(f"{INPUT}tdnnf-layer name=a dim=40 bottleneck-dim=8 {options}{OUTPUT}")
    assert re.findall(r"time-offsets=(\S+)", "\n".join(lines)) == offsets
    assert lines[-1] == f"output-node name=output input={output} objective=linear"


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (
            "output-layer name=output dim=9",
            """\
component name=output.affine type=NaturalGradientAffineComponent input-dim=40 output-dim=9  max-change=1.5 \
param-stddev=0.0 bias-stddev=0.0
component-node name=output.affine component=output.affine input=input
component name=output.log-softmax type=LogSoftmaxComponent dim=9
component-node name=output.log-softmax component=output.log-softmax input=output.affine
output-node name=output input=output.log-softmax objective=linear
""",
        ),
        (
            "output-layer name=output dim=9 include-log-softmax=false output-delay=5 objective-type=quadratic "
            "bottleneck-dim=4 input=Append(-1,0,1,2,3,4,5,6,7,8) learning-rate-factor=5.0",
            """\
component name=output.linear type=LinearComponent orthonormal-constraint=1.0 param-stddev=0.05 input-dim=400 \
output-dim=4 max-change=0.75  learning-rate-factor=5.0 max-change=1.5
component-node name=output.linear component=output.linear input=Append(Offset(input, -1), input, Offset(input, 1), \
Offset(input, 2), Offset(input, 3), Offset(input, 4), Offset(input, 5), Offset(input, 6), Offset(input, 7), \
Offset(input, 8))
component name=output.affine type=NaturalGradientAffineComponent input-dim=4 output-dim=9  learning-rate-factor=5.0 \
max-change=1.5 param-stddev=0.0 bias-stddev=0.0
component-node name=output.affine component=output.affine input=output.linear
output-node name=output input=Offset(output.affine, 5) objective=quadratic
""",
        ),
        (
            "output name=output output-delay=-2",
            "output-node name=output input=Offset(input, -2) objective=linear\n",
        ),
    ],
)
def test_an_output_layer_generates_its_components(layer: str, expected: str) -> None:
    assert generated(INPUT + layer) == ["input-node name=input dim=40", *expected.splitlines()]


def test_a_fixed_affine_layer_is_estimated_from_the_network_of_init() -> None:
    text = """\
input name=ivector dim=10
input name=input dim=4
idct-layer name=idct affine-transform-file=idct.mat include-in-init=true
batchnorm-component name=norm include-in-init=true
fixed-affine-layer name=lda input=Append(-1,0,ReplaceIndex(ivector, t, 0)) affine-transform-file=lda.mat delay=5
output name=output
"""
    source = "Append(Offset(norm, -1), norm, ReplaceIndex(ivector, t, 0))"
    before = [
        "input-node name=ivector dim=10",
        "input-node name=input dim=4",
        "component name=idct type=FixedAffineComponent matrix=idct.mat",
        "component-node name=idct component=idct input=input",
        "component name=norm type=BatchNormComponent dim=4 target-rms=1.0",
        "component-node name=norm component=norm input=idct",
    ]
    after = [
        f"component-node name=lda component=lda input={source}",
        "output-node name=output input=lda objective=linear",
    ]
    assert generated(text, "init") == [
        *before,
        "component name=lda.delayed type=NoOpComponent dim=18",
        f"component-node name=lda.delayed component=lda.delayed input={source}",
        "output-node name=output input=Offset(lda.delayed, 5)",
    ]
    assert generated(text, "ref") == [
        *before,
        "component name=lda type=FixedAffineComponent input-dim=18 output-dim=18",
        *after,
    ]
    assert generated(text, "final") == [*before, "component name=lda type=FixedAffineComponent matrix=lda.mat", *after]
    assert generated(text.replace(" delay=5", ""), "init")[6:] == [f"output-node name=output input={source}"]


def test_there_is_no_init_without_a_layer_to_estimate() -> None:
    text = INPUT + "fixed-affine-layer name=lda affine-transform-file=lda.mat write-init-config=false" + OUTPUT
    for network in (text, INPUT + "relu-layer name=a" + OUTPUT):
        assert set(config_files(parse_xconfig(network, "n.xconfig"), "n.xconfig")) == {"ref", "final"}


def test_the_idct_undoes_the_dct_and_the_liftering() -> None:
    mel = np.random.default_rng(1).normal(size=23)
    lifter = 1 + 11.0 * np.sin(np.pi * np.arange(23) / 22.0)
    cepstra = dct(mel, norm="ortho") * lifter
    assert np.array(idct_matrix(23, 23, 22.0)) @ cepstra == pytest.approx(mel, abs=1e-12)
    assert np.array(idct_matrix(23, 23, 0.0)) @ dct(mel, norm="ortho") == pytest.approx(mel, abs=1e-12)


def test_the_idct_layer_makes_its_matrix_with_a_bias_of_zero() -> None:
    layers = parse_xconfig(INPUT + "idct-layer name=a dim=2 cepstral-lifter=0 affine-transform-file=d/idct.mat", "n")
    made = layers[1].matrix_file()
    assert made is not None
    path, text = made
    assert path == "d/idct.mat"
    assert text.startswith("[ 0.7071067811865476 ")
    assert text.endswith(" 0 ]")
    rows = [row.split() for row in text.strip("[] ").split("\n")]
    assert [len(row) for row in rows] == [41, 41]


def test_names_of_layers_become_nodes() -> None:
    text = """\
input name=input dim=4
relu-renorm-layer name=tdnn1 dim=6
tdnnf-layer name=tdnnf2 dim=6 bottleneck-dim=2
prefinal-layer name=prefinal big-dim=6 small-dim=3
spec-augment-layer name=masks input=input
output-layer name=output dim=5 input=Append([-2]@-1, tdnn1, tdnnf2, masks)
output-layer name=output-xent dim=2 input=output.affine
output name=output-bn input=Append(output.log-softmax, tdnn1)
"""
    inputs = [match[1] for line in generated(text) if (match := re.search(r"name=output\S* .*input=(.*)", line))]
    assert inputs[0] == "Append(Offset(prefinal.batchnorm2, -1), tdnn1.renorm, tdnnf2.noop, masks.time-mask)"
    assert inputs[3] == "output.affine"
    assert inputs[6] == "Append(output.log-softmax, tdnn1.renorm) objective=linear"


def test_nodes_of_an_existing_model_may_be_read() -> None:
    info = """\
left-context: 1
input-node name=input dim=40
component-node name=tdnn1.affine component=tdnn1.affine input=Append(input, input) input-dim=80 output-dim=12
dim-range-node name=part input-node=tdnn1.affine dim-offset=2 dim=3
output-node name=output input=tdnn1.affine dim=12 objective=linear
component name=tdnn1.affine type=NaturalGradientAffineComponent, input-dim=80, output-dim=12, rank-in=20
"""
    nodes = nodes_of(info)
    assert nodes == {"input": 40, "tdnn1.affine": 12, "part": 3, "output": 12}
    text = "relu-layer name=a input=Append(tdnn1.affine@-1, part)\noutput-layer name=output dim=5\n"
    layers = parse_xconfig(text, "n.xconfig", nodes)
    lines = [line.text for line in config_files(layers, "n.xconfig")["final"]]
    assert lines[0].startswith(
        "component name=a.affine type=NaturalGradientAffineComponent input-dim=15 output-dim=15 "
    )
    assert lines[1].endswith("input=Append(Offset(tdnn1.affine, -1), part)")
    with pytest.raises(UserError, match="there is none"):  # [-1] is a line before, not a node of the model
        parse_xconfig("relu-layer name=a dim=4", "n.xconfig", nodes)


def test_expanded_lines_have_every_default_and_mean_the_same() -> None:
    text = """\
input name=ivector dim=3
input name=input dim=4
fixed-affine-layer name=lda input=Append(-1,0,ReplaceIndex(ivector, t, 0)) affine-transform-file=c/lda.mat
relu-batchnorm-layer name=a dim=6 l2-regularize=0.01 ng-affine-options="rank-in=3 rank-out=2"
affine-layer name=b input=[-1]@-1
output-layer name=output dim=5
"""
    layers = parse_xconfig(text, "n.xconfig")
    assert layers[2].expanded(normalised=False) == (
        "fixed-affine-layer name=lda affine-transform-file=c/lda.mat delay=0 dim=11 "
        "input=Append(-1,0,ReplaceIndex(ivector, t, 0)) write-init-config=True"
    )
    assert layers[3].expanded(normalised=True) == (
        "relu-batchnorm-layer name=a add-log-stddev=False bias-stddev= bottleneck-dim=-1 dim=6 dropout-per-dim=False "
        "dropout-per-dim-continuous=False dropout-proportion=0.5 input=lda l2-regularize=0.01 learning-rate-factor= "
        'max-change=0.75 ng-affine-options="rank-in=3 rank-out=2" ng-linear-options= self-repair-scale=1e-05 '
        "target-rms=1.0"
    )
    assert "dim=6 input=Offset(a, -1) " in layers[4].expanded(normalised=True)
    for normalised in (False, True):
        expanded = "\n".join(layer.expanded(normalised=normalised) for layer in layers)
        for file in ("init", "ref", "final"):
            assert generated(expanded, file) == generated(text, file)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("relu-layer dim=5", "name= is missing"),
        ("relu-layer name=a(b dim=5", r"name=a\(b must be a letter or '_', then letters"),
        ("relu-layer name=input", r"the name input is taken by the line at n\.xconfig:1: choose another"),
        ("relu-layer name=a dims=5", r"relu-layer has no key dims= \(is it dim=\?\)"),
        ("no-op-component name=a size=5", r"no-op-component has no key size= \(it has input, name\)"),
        ("relu-layer name=a dim=", "dim= has no value: expected a whole number"),
        ("relu-layer name=a dim=99999999999", "dim=99999999999 must be at most 2147483647"),
        ("relu-layer name=a dim=5.0", "dim=5.0 is not a whole number"),
        ("relu-layer name=a max-change=x", "max-change=x is not a number"),
        ("relu-layer name=a max-change=inf", "max-change=inf is not a number"),
        ("relu-layer name=a l2-regularize=x", "l2-regularize=x is not a number"),
        ("relu-layer name=a learning-rate-factor=0", "learning-rate-factor=0 must be above zero"),
        ("relu-layer name=a dropout-per-dim=yes", "dropout-per-dim=yes is not true or false"),
        ("relu-layer name=a self-repair-scale=2", "self-repair-scale=2 must be from 0 to 1"),
        ("relu-layer name=a add-log-stddev=true", "add-log-stddev=true needs a type that ends in renorm"),
        ("relu-layer name=a dim=5 bottleneck-dim=5", "bottleneck-dim=5 must be above zero and below dim=5"),
        ("relu-layer name=a input=inputs", r"input=inputs: no line before this one is called inputs \(is it input\?\)"),
        ("relu-layer name=a input=a", r"no line before this one is called a \(lines before: input\)"),
        ("relu-layer name=a input=input.affine", "input has no inner output affine"),
        ("relu-layer name=a input=Sum(input,Const(1,3))", "joins the dimensions 40, 3"),
        ("relu-layer name=a input=Append(0,", r"input=Append\(0,: expected a descriptor, found 'the end'"),
        ("output name=output dim=5", "dim=5 but the input has 40: leave dim= out"),
        ("output name=output objective-type=cubic", "objective-type=cubic must be linear or quadratic"),
        ("output-layer name=output dim=9 bottleneck-dim=9", "bottleneck-dim=9 must be above zero and below 9"),
        ("output-layer name=output dim=9 orthonormal-constraint=-1", "orthonormal-constraint=-1 must be above zero"),
        ("input name=other", "dim= must be given, above zero"),
        ("fixed-affine-layer name=lda", "affine-transform-file= must be given"),
        ("tdnnf-layer name=a dim=40", "bottleneck-dim= must be given, above zero"),
        ("tdnnf-layer name=a bottleneck-dim=4", "dim=-1 must be above bottleneck-dim=4"),
        (
            "tdnnf-layer name=a dim=50 bottleneck-dim=4",
            "dim=50 must be the input's dimension 40, or bypass-scale be 0.0",
        ),
        ("tdnnf-layer name=a dim=40 bottleneck-dim=4 context=both", "context=both must be default or left-only or"),
        ("tdnnf-layer name=a dim=40 bottleneck-dim=4 dropout-proportion=1", "at least 0 and below 1, or -1 for none"),
        ("prefinal-layer name=a big-dim=5", "small-dim= must be given, above zero"),
        ("prefinal-layer name=a small-dim=5", "big-dim=-1 must be above small-dim=5"),
        ("dim-range-component name=a dim=5 dim-offset=36", "dim-offset [+] dim is 41, but the input has 40 columns"),
        ("dim-range-component name=a dim=5 input=input@1", "must be one line's output: put a no-op-component before"),
        ("delta-layer name=a input=input@1", "must be one line's output: put a no-op-component before"),
        ("combine-feature-maps-layer name=a height=4 num-filters1=1", "num-filters2= must be given, above zero"),
        (
            "combine-feature-maps-layer name=a height=4 num-filters1=1 num-filters2=2",
            "filters times height are 12, but the input has 40 columns",
        ),
        ("channel-average-layer name=a dim=7", "the input's 40 columns are not a multiple of dim=7"),
        ("spec-augment-layer name=a freq-max-proportion=1", "freq-max-proportion=1 must be between 0 and 1"),
        (
            "relu-batch-norm-layer name=a",
            r"relu-batch-norm-layer is not a type of layer \(is it relu-batchnorm-layer\?\)",
        ),
        (
            "lstmp-layer name=a cell-dim=5",
            "lstmp-layer is not supported, because nnet3py does not have recurrent layers",
        ),
    ],
)
def test_a_wrong_line_is_named_with_its_place(line: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_xconfig(f"{INPUT}# a comment\n{line}\n", "n.xconfig")
    assert str(caught.value).startswith("n.xconfig:3: ")
    assert str(caught.value).endswith(f"in the xconfig line: {line}")


def test_an_output_of_the_network_is_no_input() -> None:
    for layer, hint in (("output-layer", r" \(read output\.affine or output\.log-softmax\)"), ("output", "")):
        with pytest.raises(UserError, match=f"output is an output of the network and cannot be another .*input{hint}"):
            parse_xconfig(f"{INPUT}{layer} name=output\nrelu-layer name=a", "n.xconfig")
    with pytest.raises(UserError, match=r"output has no inner output softmax \(it has affine, log-softmax\)"):
        parse_xconfig(f"{INPUT}output-layer name=output\nrelu-layer name=a input=output.softmax", "n.xconfig")


def test_a_network_needs_lines_and_an_output() -> None:
    with pytest.raises(UserError, match=r"n\.xconfig: expected lines such as"):
        parse_xconfig("# nothing\n\n", "n.xconfig")
    with pytest.raises(UserError, match=r"n\.xconfig: no line makes an output"):
        config_files(parse_xconfig(INPUT, "n.xconfig"), "n.xconfig")


def test_a_setting_that_kaldi_ignores_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    lines = between("affine-layer name=a learning-rate-factor=0.5")
    assert "learning-rate-factor" not in lines[0]
    assert "n.xconfig:2: learning-rate-factor= of an affine-layer has no effect" in capsys.readouterr().err


def test_every_unsupported_type_is_named_as_such() -> None:
    assert not set(UNSUPPORTED) & set(LAYER_TYPES)
    for kind in UNSUPPORTED:
        with pytest.raises(UserError, match=rf"n\.xconfig:2: {kind} is not supported, because"):
            parse_xconfig(f"{INPUT}{kind} name=a dim=5", "n.xconfig")
