#!/usr/bin/env python3
"""Turn an xconfig file, a network as a list of layers, into configuration files."""

from nnet3py.program import option, program


@program(
    usage="xconfig_to_configs.py [options]",
    example="steps/xconfig_to_configs.py --xconfig-file=exp/dnn/configs/network.xconfig --config-dir=exp/dnn/configs",
)
@option("--xconfig-file", required=True, metavar="FILE", help="The xconfig file to read.")
@option("--config-dir", required=True, metavar="DIR", help="Directory to write into; made if it is not there.")
@option(
    "--existing-model",
    default="",
    metavar="FILE",
    help="A model that the layers will be added to; their input= may name its nodes, as tdnn1.affine.",
)
@option(
    "--nnet-edits",
    default="",
    metavar="EDITS",
    help="Edits (see nnet-copy) before the context is looked for. A network without an output called 'output' needs "
    "'rename-node old-name=NAME new-name=output'.",
)
def main(xconfig_file: str, config_dir: str, existing_model: str, nnet_edits: str) -> None:
    """Turn an xconfig file, a network as a list of layers, into configuration files for nnet-init.

    An xconfig file has a line a layer, such as "input name=input dim=40", "relu-batchnorm-layer name=tdnn1 dim=512
    input=Append(-1,0,1)", "output-layer name=output dim=2000". Writes into DIR: final.config, the network; init.config,
    its part before a fixed-affine-layer (LDA), where there is one; ref.config and ref.raw, the network with random
    numbers in place of such a layer's matrix; vars, its left and right context; xconfig, xconfig.expanded.1 and
    xconfig.expanded.2, what was read. steps/train_dnn.py finds them if DIR is <train-dir>/configs.

    Layers for networks without recurrence or convolution. Runs nnet-init, nnet-info and nnet-copy.

    Kaldi counterpart: steps/nnet3/xconfig_to_configs.py.
    """
    import shlex
    import sys

    from nnet3py import log
    from nnet3py.driver.experiment import termination_interrupts
    from nnet3py.xconfig.config_directory import Settings, make_config_directory

    settings = Settings(
        xconfig_file=xconfig_file,
        config_dir=config_dir,
        existing_model=existing_model.strip(),
        nnet_edits=nnet_edits.strip(),
        command=shlex.join(sys.argv),
    )
    with termination_interrupts():
        left, right = make_config_directory(settings)
    log.log(f"Wrote the configuration of {xconfig_file} into {config_dir}: context {left} left, {right} right.")


if __name__ == "__main__":
    main()
