#!/usr/bin/env python3
"""Configuration of the p-norm network; see --help."""

from pathlib import Path

from nnet3py.errors import UserError
from nnet3py.program import argument, option, program, reason


@program(
    usage="make_configs.py [options] <feat-dim> <num-pdfs> <config-dir>",
    example="local/make_configs.py --context=5 --num-layers=2 13 69 exp/configs",
)
@option("--context", type=int, default=5, help="Frames on each side that the network sees with the present one.")
@option("--num-layers", type=int, default=2, help="Hidden layers.")
@option("--pnorm-input-dim", type=int, default=500, help="Outputs of a hidden layer's affine part.")
@option("--pnorm-output-dim", type=int, default=100, help="Groups that the p-norm (p = 2) makes of them.")
@option("--lda", default="exp/lda.mat", metavar="FILE", help="Where the decorrelating transform will be.")
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
    lda: str,
) -> None:
    """Write splice.config, final.config and vars.

    final.config is the network of arXiv:1410.7455: spliced features, decorrelated by a fixed transform (the file
    given with --lda); hidden layers of affine transform, p-norm and normalisation; affine transform and log-softmax.
    vars says its context. splice.config is its input alone, for the statistics that the transform is estimated from.
    """
    if feat_dim < 1 or num_pdfs < 2 or context < 1 or num_layers < 1:
        raise UserError("Expected a feature dimension, a context and layers above 0, and at least two pdfs.")
    if pnorm_output_dim < 1 or pnorm_input_dim % pnorm_output_dim != 0:
        raise UserError("--pnorm-input-dim must be a multiple of --pnorm-output-dim.")
    offsets = ", ".join(f"Offset(input, {t})" if t else "input" for t in range(-context, context + 1))
    dim = feat_dim * (2 * context + 1)
    splice = f"input-node name=input dim={feat_dim}\noutput-node name=output input=Append({offsets})\n"
    lines = [
        f"input-node name=input dim={feat_dim}",
        f"component name=lda type=FixedAffineComponent matrix={lda}",
        f"component-node name=lda component=lda input=Append({offsets})",
    ]
    below = "lda"
    for layer in range(1, num_layers + 1):
        lines += _affine(f"affine{layer}", below, dim, pnorm_input_dim, "max-change=0.75")
        lines += [
            f"component name=pnorm{layer} type=PnormComponent "
            f"input-dim={pnorm_input_dim} output-dim={pnorm_output_dim}",
            f"component-node name=pnorm{layer} component=pnorm{layer} input=affine{layer}",
            f"component name=renorm{layer} type=NormalizeComponent dim={pnorm_output_dim}",
            f"component-node name=renorm{layer} component=renorm{layer} input=pnorm{layer}",
        ]
        below, dim = f"renorm{layer}", pnorm_output_dim
    lines += _affine("final_affine", below, dim, num_pdfs, "param-stddev=0 bias-stddev=0 max-change=1.5")
    lines += [
        f"component name=log_softmax type=LogSoftmaxComponent dim={num_pdfs}",
        "component-node name=log_softmax component=log_softmax input=final_affine",
        "output-node name=output input=log_softmax objective=linear",
    ]
    folder = Path(config_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "splice.config").write_text(splice)
        (folder / "final.config").write_text("\n".join(lines) + "\n")
        (folder / "vars").write_text(f"model_left_context={context}\nmodel_right_context={context}\n")
    except OSError as problem:
        raise UserError(f"Cannot write into {folder}: {reason(problem)}.") from problem


def _affine(name: str, below: str, input_dim: int, output_dim: int, options: str) -> list[str]:
    kind = "type=NaturalGradientAffineComponent"
    return [
        f"component name={name} {kind} input-dim={input_dim} output-dim={output_dim} {options}",
        f"component-node name={name} component={name} input={below}",
    ]


if __name__ == "__main__":
    main()
