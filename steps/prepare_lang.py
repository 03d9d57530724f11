#!/usr/bin/env python3
"""Make a language directory of a lexicon."""

from nnet3py.program import argument, option, program


@program(
    usage="prepare_lang.py [options] <lexicon> <lang-dir>",
    example="steps/prepare_lang.py --sil-prob=0.5 data/local/lexicon.txt data/lang",
)
@option("--sil-phone", default="SIL", metavar="PHONE", help="The silence phone; the lexicon need not name it.")
@option("--sil-prob", type=float, default=0.5, help="Probability of a silence before, between and after words.")
@option("--num-nonsil-states", type=int, default=3, metavar="N", help="States of a phone, from left to right.")
@option("--num-sil-states", type=int, default=5, metavar="N", help="States of the silence phone.")
@argument("lexicon", metavar="<lexicon>")
@argument("lang_dir", metavar="<lang-dir>")
def main(
    lexicon: str, lang_dir: str, sil_phone: str, sil_prob: float, num_nonsil_states: int, num_sil_states: int
) -> None:
    """Make a language directory of a lexicon.

    Reads lines "word phone phone ..." or, if every line has it, "word probability phone phone ...". Writes phones.txt,
    words.txt, lexicon.txt (with probabilities), topo, L.fst, L_disambig.fst and lists of phones in phones/.

    Kaldi counterpart: utils/prepare_lang.sh (without positions in words and without an out-of-vocabulary word).
    """
    from nnet3py import log
    from nnet3py.alignment.language import prepare_language

    language = prepare_language(
        lexicon,
        lang_dir,
        silence_phone=sil_phone,
        silence_probability=sil_prob,
        num_states=num_nonsil_states,
        num_silence_states=num_sil_states,
    )
    num_words = len({pronunciation.word for pronunciation in language.lexicon})
    num_phones = len({phone for pronunciation in language.lexicon for phone in pronunciation.phones} | {sil_phone})
    log.log(f"Wrote {lang_dir}: {num_words} words, {len(language.lexicon)} pronunciations, {num_phones} phones.")


if __name__ == "__main__":
    main()
