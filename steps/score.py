#!/usr/bin/env python3
"""Score hypotheses against a data directory's transcripts."""

from nnet3py.program import argument, program


@program(
    usage="score.py [options] <data-dir> <decode-dir>",
    example="steps/score.py data/dev exp/dnn/decode_dev",
)
@argument("data_dir", metavar="<data-dir>")
@argument("decode_dir", metavar="<decode-dir>")
def main(data_dir: str, decode_dir: str) -> None:
    """Score the hypotheses that steps/decode.py left against <data-dir>/text.

    Writes <decode-dir>/wer_X for each hyp_X.txt (the lines %WER and %SER, as Kaldi's compute-wer gives them),
    <decode-dir>/best_acwt with the X of fewest errors, and prints the best line. Choose X on a development set, then
    decode the test set with that X alone. Utterances that only the transcripts or only the hypotheses have are told,
    with a warning if they are more than 5 %: the words of the former count as deleted, the latter are not scored.

    Kaldi counterpart: local/score.sh, utils/best_wer.sh.
    """
    from nnet3py.decoding.score import score_decode_dir
    from nnet3py.driver.data_used import some, tell

    scored = score_decode_dir(data_dir, decode_dir)
    of = scored.best.utterances
    if absent := scored.without_hypothesis:
        tell(
            f"{len(absent)} of {of} utterances of {data_dir}/text have no hypothesis ({some(absent)}): their words "
            "count as deleted.",
            len(absent),
            of,
        )
    if more := scored.without_reference:
        tell(f"{len(more)} hypotheses have no transcript in {data_dir}/text ({some(more)}).", len(more), of)
    print(f"{str(scored.best).splitlines()[0]} {scored.path}")


if __name__ == "__main__":
    main()
