#!/usr/bin/env python3
"""Decode a data directory with a network and a graph, in jobs."""

from nnet3py.program import argument, option, program


@program(
    usage="decode.py [options] <graph-dir> <data-dir> <decode-dir>",
    example="steps/decode.py --cmd=run-local --nj=4 --acwt=0.1,0.2 exp/graph data/dev exp/dnn/decode_dev",
)
@option(
    "--cmd", default="run-local", metavar="CMD", help="What runs the jobs: run-local, or any with run.pl's convention."
)
@option("--nj", type=int, default=4, help="Number of jobs.")
@option(
    "--iter", "iteration", default="final", metavar="NAME", help="The model is NAME.mdl in the parent of <decode-dir>."
)
@option("--acwt", default="0.1", metavar="X,...", help="Acoustic scale; with several, one set of hypotheses for each.")
@option("--beam", type=float, default=16.0, help="Hypotheses that cost more than the best by this are dropped.")
@option("--max-active", type=int, default=7000, help="Most hypotheses kept a frame.")
@option("--use-priors", type=bool, default=True, help="Divide the network's output by the priors in the model.")
@option(
    "--cmvn-opts", default="", metavar="OPTIONS", help="Options of apply-cmvn; default: <model-dir>/cmvn_opts, or none."
)
@option("--online-ivector-dir", default="", metavar="DIR", help="Directory with iVectors for these data.")
@option("--frames-per-chunk", type=int, default=50, help="Input frames of the chunks that are evaluated separately.")
@option("--extra-left-context", type=int, default=0, help="Frames on the left beyond what the network needs.")
@option("--extra-right-context", type=int, default=0, help="Frames on the right beyond what the network needs.")
@option("--extra-left-context-initial", type=int, default=-1, help="If not negative, instead at an utterance's start.")
@option("--extra-right-context-final", type=int, default=-1, help="If not negative, instead at an utterance's end.")
@option("--use-gpu", default="no", metavar="yes|no", help="Option of nnet-compute.")
@argument("graph_dir", metavar="<graph-dir>")
@argument("data_dir", metavar="<data-dir>")
@argument("decode_dir", metavar="<decode-dir>")
def main(
    graph_dir: str,
    data_dir: str,
    decode_dir: str,
    cmd: str,
    nj: int,
    iteration: str,
    acwt: str,
    beam: float,
    max_active: int,
    use_priors: bool,
    cmvn_opts: str,
    online_ivector_dir: str,
    frames_per_chunk: int,
    extra_left_context: int,
    extra_right_context: int,
    extra_left_context_initial: int,
    extra_right_context_final: int,
    use_gpu: str,
) -> None:
    """Decode a data directory: features through the network (nnet-compute), the best path through the graph.

    Reads feats.scp (and cmvn.scp, utt2spk) of the data directory, HCLG.fst and words.txt of the graph, and the model
    NAME.mdl in the parent of <decode-dir>, with cmvn_opts and frame_subsampling_factor beside it if they are there.
    Features are normalised as in training: where online_cmvn is beside the model, by apply-cmvn-online and
    global_cmvn.stats. Writes <decode-dir>/hyp_X.txt for each acoustic scale X, in the form of Kaldi's text, and logs.
    steps/score.py scores them.

    Kaldi counterpart: steps/nnet3/decode.sh, with the best path instead of lattices.
    """
    from nnet3py import log
    from nnet3py.decoding.decode_jobs import Decoding, decode_data_dir, scales
    from nnet3py.decoding.likelihood_jobs import Likelihoods

    settings = Decoding(
        cmd=cmd,
        num_jobs=nj,
        iteration=iteration,
        acoustic_scales=scales(acwt),
        beam=beam,
        max_active=max_active,
        likelihoods=Likelihoods(
            use_priors=use_priors,
            cmvn_options=cmvn_opts,
            ivector_dir=online_ivector_dir,
            chunk_options={
                "frames-per-chunk": frames_per_chunk,
                "extra-left-context": extra_left_context,
                "extra-right-context": extra_right_context,
                "extra-left-context-initial": extra_left_context_initial,
                "extra-right-context-final": extra_right_context_final,
            },
            use_gpu=use_gpu,
        ),
    )
    count = decode_data_dir(graph_dir, data_dir, decode_dir, settings)
    log.log(f"Decoded {count} utterances of {data_dir} into {decode_dir}.")


if __name__ == "__main__":
    main()
