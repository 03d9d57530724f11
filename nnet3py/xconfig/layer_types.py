"""The types of layer by the first word of their lines: those we have, and those of Kaldi's that we have not.

Source: Kaldi egs/wsj/s5/steps/libs/nnet3/xconfig/parser.py (``config_to_layer``).
"""

from __future__ import annotations

import difflib

from nnet3py.xconfig import basic_layer, composite_layers, fixed_layers, input_output, single_component
from nnet3py.xconfig.layer import Layer, Predecessors
from nnet3py.xconfig.xconfig_line import XconfigLine

_BASIC = (
    "relu-layer",
    "relu-renorm-layer",
    "relu-batchnorm-layer",
    "relu-batchnorm-so-layer",
    "relu-batchnorm-dropout-layer",
    "relu-dropout-layer",
    "batchnorm-so-relu-layer",
    "batchnorm-layer",
    "sigmoid-layer",
    "tanh-layer",
)

LAYER_TYPES: dict[str, type[Layer]] = {
    "input": input_output.InputLayer,
    "output": input_output.TrivialOutputLayer,
    "output-layer": input_output.OutputLayer,
    **dict.fromkeys(_BASIC, basic_layer.BasicLayer),
    "fixed-affine-layer": fixed_layers.FixedAffineLayer,
    "idct-layer": fixed_layers.IdctLayer,
    "affine-layer": single_component.AffineLayer,
    "tdnnf-layer": composite_layers.TdnnfLayer,
    "prefinal-layer": composite_layers.PrefinalLayer,
    "spec-augment-layer": composite_layers.SpecAugmentLayer,
    "delta-layer": composite_layers.DeltaLayer,
    "renorm-component": single_component.RenormComponent,
    "batchnorm-component": single_component.BatchnormComponent,
    "no-op-component": single_component.NoOpComponent,
    "linear-component": single_component.LinearComponent,
    "affine-component": single_component.AffineComponent,
    "scale-component": single_component.ScaleComponent,
    "offset-component": single_component.OffsetComponent,
    "dim-range-component": single_component.DimRangeComponent,
    "combine-feature-maps-layer": single_component.CombineFeatureMapsLayer,
    "channel-average-layer": single_component.ChannelAverageLayer,
}

_GRU = ("gru", "pgru", "opgru", "norm-pgru", "norm-opgru")
_FAST_GRU = ("fast-gru", "fast-pgru", "fast-norm-pgru", "fast-opgru", "fast-norm-opgru")
_LSTM = ("lstm", "lstmp", "lstmp-batchnorm", "lstmb")
_FAST_LSTM = ("fast-lstm", "fast-lstm-batchnorm", "fast-lstmp", "fast-lstmp-batchnorm")
_CONVOLUTIONS = (
    "relu-conv",
    "conv",
    "conv-relu",
    "conv-renorm",
    "relu-conv-renorm",
    "batchnorm-conv",
    "conv-relu-renorm",
    "batchnorm-conv-relu",
    "relu-batchnorm-conv",
    "relu-batchnorm-noconv",
    "relu-noconv",
    "conv-relu-batchnorm",
    "conv-relu-batchnorm-so",
    "conv-relu-batchnorm-dropout",
    "conv-relu-dropout",
)
_ATTENTION = ("attention-renorm", "attention-relu-renorm", "attention-relu-batchnorm", "relu-renorm-attention")

UNSUPPORTED: dict[str, str] = {
    **{f"{name}-layer": "recurrent layers" for name in (*_GRU, *_FAST_GRU, *_LSTM, *_FAST_LSTM)},
    **{f"{name}-layer": "convolution over time and height" for name in _CONVOLUTIONS},
    **{f"{name}-layer": "attention" for name in _ATTENTION},
    "res-block": "convolution over time and height",
    "res2-block": "convolution over time and height",
    "stats-layer": "statistics extraction and pooling",
}
"""Kaldi's types that need components nnet3py does not have, and what those are."""


def make_layer(line: XconfigLine, before: Predecessors) -> Layer:
    """The layer of a line. Raises UserError if its type is unknown or not supported, or its values are wrong."""
    kind = line.first_word
    if kind in LAYER_TYPES:
        return LAYER_TYPES[kind](line, before)
    if kind in UNSUPPORTED:
        raise line.error(f"{kind} is not supported, because nnet3py does not have {UNSUPPORTED[kind]}")
    near = difflib.get_close_matches(kind, LAYER_TYPES, 1)
    hint = f"is it {near[0]}?" if near else f"there are {', '.join(LAYER_TYPES)}"
    raise line.error(f"{kind} is not a type of layer ({hint})")
