#!/usr/bin/env python3
"""Configuration of the recipe's network; see --help."""

import re
from pathlib import Path

from nnet3py.errors import UserError, reason
from nnet3py.program import argument, option, program
from nnet3py.text.lines import write_text

NONLINEARITIES = {"sigmoid": "SigmoidComponent", "tanh": "TanhComponent", "relu": "RectifiedLinearComponent"}


@program(
    usage="make_configs.py [options] <feat-dim> <num-pdfs> <config-dir>",
    example="local/make_configs.py --context=5 --num-layers=2 13 69 exp/configs",
)
@option("--context", type=int, default=5, help="Frames on each side that the network sees with the present one.")
@option("--num-layers", type=int, default=2, help="Hidden layers.")
@option("--pnorm-input-dim", type=int, default=500, help="Outputs of a hidden layer's affine part.")
@option("--pnorm-output-dim", type=int, default=100, help="Groups that the p-norm (p = 2) makes of them.")
@option("--nonlinearity", default="pnorm", metavar="|".join(("pnorm", *NONLINEARITIES)), help="Of the hidden layers.")
@option("--hidden-dim", type=int, default=200, help="Units of a hidden layer that is not p-norm.")
@option("--lda", default="exp/lda.mat", metavar="FILE", help="Where the decorrelating transform will be.")
@option("--ivector-dim", type=int, default=0, help="Dimension of a second input, a vector per utterance; 0: none.")
@option("--lda-dim", type=int, default=0, help="Rows of the transform; 0: as many as it has columns.")
@option("--decorrelate", type=bool, default=True, help="Have the transform; else layer 1 sees the features.")
@option(
    "--grow",
    type=bool,
    default=False,
    help="Write layer1.config, the network with one hidden layer, and layer2.config, ..., that add one each "
    "(train_dnn.py --trainer.add-layers-period), in place of final.config.",
)
@argument("feat_dim", metavar="<feat-dim>", type=int)
@argument("num_pdfs", metavar="<num-pdfs>", type=int)
@argument("config_dir", metavar="<config-dir>")
def main(
    feat_dim: int,
    num_pdfs: int,
    config_dir: str,
    context: int,
    num_layers: int,
    pnorm_input_dim: int,
    pnorm_output_dim: int,
    nonlinearity: str,
    hidden_dim: int,
    lda: str,
    ivector_dim: int,
    lda_dim: int,
    decorrelate: bool,
    grow: bool,
) -> None:
    """Write splice.config, final.config and vars.

    final.config is the network of arXiv:1410.7455: spliced features, decorrelated by a fixed transform (the file
    given with --lda); hidden layers of affine transform, p-norm and normalisation; affine transform and log-softmax.
    With another --nonlinearity the hidden layers have that in place of p-norm; rectified units are normalised too.
    With --grow, layer1.config, layer2.config and so on are written in its place. vars says the network's context.
    splice.config is its input alone, for the statistics that the transform is estimated from. A vector per utterance
    goes into it beside the spliced features.
    """
    if feat_dim < 1 or num_pdfs < 2 or context < 1 or num_layers < 1:
        raise UserError("Expected a feature dimension, a context and layers above 0, and at least two pdfs.")
    if pnorm_output_dim < 1 or pnorm_input_dim % pnorm_output_dim != 0:
        raise UserError("--pnorm-input-dim must be a multiple of --pnorm-output-dim.")
    if nonlinearity not in ("pnorm", *NONLINEARITIES) or hidden_dim < 1:
        raise UserError(
            f"Expected --nonlinearity pnorm, {', '.join(NONLINEARITIES)} and --hidden-dim above 0, found "
            f"{nonlinearity} and {hidden_dim}."
        )
    if ivector_dim < 0:
        raise UserError(f"--ivector-dim must not be below 0, found {ivector_dim}.")
    if lda_dim < 0 or lda_dim > feat_dim * (2 * context + 1) + ivector_dim:
        columns = feat_dim * (2 * context + 1) + ivector_dim
        raise UserError(f"--lda-dim must be from 0 to {columns}, the transform's columns.")
    offsets = ", ".join(f"Offset(input, {t})" if t else "input" for t in range(-context, context + 1))
    dim = feat_dim * (2 * context + 1) + ivector_dim
    start = [f"input-node name=input dim={feat_dim}"]
    if ivector_dim:
        offsets += ", ReplaceIndex(ivector, t, 0)"
        start.append(f"input-node name=ivector dim={ivector_dim}")
    splice = "\n".join([*start, f"output-node name=output input=Append({offsets})\n"])
    below = f"Append({offsets})"
    if decorrelate:
        start += [
            f"component name=lda type=FixedAffineComponent matrix={lda}",
            f"component-node name=lda component=lda input={below}",
        ]
        below, dim = "lda", lda_dim or dim
    blocks, tops = [], []
    for layer in range(1, num_layers + 1):
        if nonlinearity == "pnorm":
            block, dim = _pnorm_layer(layer, below, dim, pnorm_input_dim, pnorm_output_dim), pnorm_output_dim
        else:
            block, dim = _layer_of_units(layer, below, dim, hidden_dim, nonlinearity), hidden_dim
        blocks.append(block)
        tops.append(below := block[-1].split()[1].partition("=")[2])
    configs = {"vars": [f"model_left_context={context}", f"model_right_context={context}"], "splice.config": [splice]}
    if grow:
        for layer, block in enumerate(blocks, 1):
            end = _output_layer(tops[layer - 1], dim, num_pdfs)
            configs[f"layer{layer}.config"] = [*(start if layer == 1 else []), *block, *end]
    else:
        end = _output_layer(below, dim, num_pdfs)
        configs["final.config"] = [*start, *(line for block in blocks for line in block), *end]
    folder = Path(config_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_left_over(folder, {*configs})
        for name, lines in configs.items():
            write_text(folder / name, "\n".join(lines).rstrip("\n") + "\n")
    except OSError as problem:
        raise UserError(f"Cannot write into {folder}: {reason(problem)}.") from problem


def _remove_left_over(folder: Path, made: set[str]) -> None:
    """Remove what an earlier call wrote of another network, which train_dnn.py would take for this one's."""
    if (folder / "init.config").exists():
        raise UserError(
            f"{folder}/init.config, which train_dnn.py would estimate a transform for, is of another network: remove "
            "it, or choose another directory."
        )
    for path in folder.iterdir():
        if re.fullmatch(r"(final|layer\d+)\.config", path.name) and path.name not in made:
            path.unlink()


def _pnorm_layer(layer: int, below: str, input_dim: int, pnorm_input_dim: int, pnorm_output_dim: int) -> list[str]:
    return [
        *_affine(f"affine{layer}", below, input_dim, pnorm_input_dim, "max-change=0.75"),
        f"component name=pnorm{layer} type=PnormComponent input-dim={pnorm_input_dim} output-dim={pnorm_output_dim}",
        f"component-node name=pnorm{layer} component=pnorm{layer} input=affine{layer}",
        f"component name=renorm{layer} type=NormalizeComponent dim={pnorm_output_dim}",
        f"component-node name=renorm{layer} component=renorm{layer} input=pnorm{layer}",
    ]


def _layer_of_units(layer: int, below: str, input_dim: int, dim: int, nonlinearity: str) -> list[str]:
    lines = [
        *_affine(f"affine{layer}", below, input_dim, dim, "max-change=0.75"),
        f"component name={nonlinearity}{layer} type={NONLINEARITIES[nonlinearity]} dim={dim}",
        f"component-node name={nonlinearity}{layer} component={nonlinearity}{layer} input=affine{layer}",
    ]
    if nonlinearity == "relu":
        lines += [
            f"component name=renorm{layer} type=NormalizeComponent dim={dim}",
            f"component-node name=renorm{layer} component=renorm{layer} input={nonlinearity}{layer}",
        ]
    return lines


def _output_layer(below: str, input_dim: int, num_pdfs: int) -> list[str]:
    """Starts at zero: every class has the same probability at first."""
    return [
        *_affine("final_affine", below, input_dim, num_pdfs, "param-stddev=0 bias-stddev=0 max-change=1.5"),
        f"component name=log_softmax type=LogSoftmaxComponent dim={num_pdfs}",
        "component-node name=log_softmax component=log_softmax input=final_affine",
        "output-node name=output input=log_softmax objective=linear",
    ]


def _affine(name: str, below: str, input_dim: int, output_dim: int, options: str) -> list[str]:
    kind = "type=NaturalGradientAffineComponent"
    return [
        f"component name={name} {kind} input-dim={input_dim} output-dim={output_dim} {options}",
        f"component-node name={name} component={name} input={below}",
    ]


if __name__ == "__main__":
    main()
