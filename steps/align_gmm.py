#!/usr/bin/env python3
"""Train a monophone GMM on transcripts and align with it."""

from nnet3py.program import argument, option, program


@program(
    usage="align_gmm.py [options] <data-dir> <lang-dir> <ali-dir>",
    example="steps/align_gmm.py --totgauss=600 data/train data/lang exp/ali_train",
)
@option("--num-iters", type=int, default=40, help="Passes over the data.")
@option("--max-iter-inc", type=int, default=30, help="The last pass after which the number of Gaussians grows.")
@option("--totgauss", type=int, default=1000, help="Gaussians in the end, all states together.")
@option(
    "--realign-iters",
    default="1 2 3 4 5 6 7 8 9 10 12 14 16 18 20 23 26 29 32 35 38",
    metavar="'I J ...'",
    help="Passes before which the data are aligned again.",
)
@option("--acoustic-scale", type=float, default=0.1, help="Weight of the log-likelihoods.")
@option("--transition-scale", type=float, default=1.0, help="Weight of the log-probabilities between states.")
@option("--self-loop-scale", type=float, default=0.1, help="Weight of the log-probabilities of staying and leaving.")
@option("--cmvn-opts", default="", metavar="OPTIONS", help="Options of apply-cmvn.")
@option("--seed", type=int, default=0, help="Chooses the first paths and the directions in which Gaussians split.")
@argument("data_dir", metavar="<data-dir>")
@argument("lang_dir", metavar="<lang-dir>")
@argument("ali_dir", metavar="<ali-dir>")
def main(
    data_dir: str,
    lang_dir: str,
    ali_dir: str,
    num_iters: int,
    max_iter_inc: int,
    totgauss: int,
    realign_iters: str,
    acoustic_scale: float,
    transition_scale: float,
    self_loop_scale: float,
    cmvn_opts: str,
    seed: int,
) -> None:
    """Train a monophone GMM on transcripts and align the same data with it.

    Reads feats.scp, cmvn.scp, utt2spk and text of the data directory, and the language directory that
    steps/prepare_lang.py made. The Gaussians see normalised features with their first and second derivatives. All data
    are held in memory. Writes <ali-dir>/final.mdl, tree, ali.1.gz (transition-ids), pdf.ark and pdf.scp (pdf-ids),
    num_pdfs, and info/data_used: what was left out, and why. Needs the package kaldi-hmm-gmm.

    Kaldi counterpart: steps/train_mono.sh, then steps/align_si.sh on the same data.
    """
    from nnet3py import log
    from nnet3py.alignment.alignment_directory import align_data_directory
    from nnet3py.alignment.monophone import Schedule
    from nnet3py.driver.data_used import DataUsed
    from nnet3py.errors import UserError

    try:
        passes = tuple(int(word) for word in realign_iters.replace(",", " ").split())
    except ValueError as problem:
        raise UserError(f"--realign-iters: expected numbers, found {realign_iters!r}.") from problem
    for name, value in (("--num-iters", num_iters), ("--totgauss", totgauss), ("--acoustic-scale", acoustic_scale)):
        if not value > 0:
            raise UserError(f"{name} must be above 0, not {value}.")
    for name, value in (
        ("--seed", seed),
        ("--transition-scale", transition_scale),
        ("--self-loop-scale", self_loop_scale),
    ):
        if not value >= 0:
            raise UserError(f"{name} must not be below 0, and is {value}.")
    schedule = Schedule(
        num_iters=num_iters,
        max_iter_inc=max_iter_inc,
        totgauss=totgauss,
        realign_iters=passes,
        acoustic_scale=acoustic_scale,
        transition_scale=transition_scale,
        self_loop_scale=self_loop_scale,
        seed=seed,
    )
    done = align_data_directory(data_dir, lang_dir, ali_dir, schedule, cmvn_options=cmvn_opts)
    alignment = done.alignment
    DataUsed(list(done.lengths), done.lengths, done.left_out).report(ali_dir)
    log.log(
        f"Aligned {len(alignment.transitions)} utterances, {len(alignment.too_short)} were too short; "
        f"{alignment.mixtures.num_gaussians} Gaussians for {alignment.transition_model.num_pdfs} pdfs, "
        f"log-likelihood {alignment.log_likelihood:.4f} a frame. Wrote {ali_dir}."
    )


if __name__ == "__main__":
    main()
