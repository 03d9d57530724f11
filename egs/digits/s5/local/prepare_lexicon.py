#!/usr/bin/env python3
"""Make a lexicon of the pronunciations that occur; see --help."""

from collections import Counter
from pathlib import Path

from nnet3py.errors import UserError, reason
from nnet3py.program import argument, option, program
from nnet3py.text.lines import encode, fields, read_lines, write_text


@program(
    usage="prepare_lexicon.py [options] <prons> <lexicon>",
    example="local/prepare_lexicon.py data/train/prons.txt data/local/lexicon.txt",
)
@option(
    "--min-share", type=float, default=0.01, help="Leave out what is rarer than this among a word's ways to be said."
)
@argument("prons", metavar="<prons>")
@argument("lexicon", metavar="<lexicon>")
def main(prons: str, lexicon: str, min_share: float) -> None:
    """Count how each word is said and write a lexicon, lines "word probability phone phone ...".

    Reads lines "utterance word phone phone ...". A word's most frequent pronunciation has probability 1, the others in
    proportion, as in Kaldi's lexiconp.txt.

    Kaldi counterpart: utils/dict_dir_add_pronprobs.sh.
    """
    counts: dict[str, Counter[tuple[str, ...]]] = {}
    for number, line in enumerate(read_lines(prons), 1):
        words = fields(line)
        if len(words) < 3:
            raise UserError(f"{prons}:{number}: expected 'utterance word phone ...', found {line!r}.")
        counts.setdefault(words[1], Counter())[tuple(words[2:])] += 1
    lines = []
    for word, pronunciations in sorted(counts.items(), key=lambda item: encode(item[0])):
        total, most = sum(pronunciations.values()), max(pronunciations.values())
        for phones, count in sorted(pronunciations.items(), key=lambda item: (-item[1], encode(" ".join(item[0])))):
            if count >= min_share * total:
                lines.append(f"{word} {count / most:.4f} {' '.join(phones)}\n")
    if not lines:
        raise UserError(f"{prons} is empty: expected lines 'utterance word phone ...'.")
    try:
        Path(lexicon).parent.mkdir(parents=True, exist_ok=True)
        write_text(lexicon, "".join(lines))
    except OSError as problem:
        raise UserError(f"Cannot write {lexicon}: {reason(problem)}.") from problem


if __name__ == "__main__":
    main()
