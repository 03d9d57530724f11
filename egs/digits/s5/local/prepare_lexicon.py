#!/usr/bin/env python3
"""Make a lexicon of the pronunciations that occur; see --help."""

from collections import Counter
from pathlib import Path

from nnet3py.errors import UserError
from nnet3py.program import argument, option, program, reason


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
    try:
        for number, line in enumerate(Path(prons).read_text(encoding="utf-8").splitlines(), 1):
            fields = line.split()
            if len(fields) < 3:
                raise UserError(f"{prons}:{number}: expected 'utterance word phone ...', found {line!r}.")
            counts.setdefault(fields[1], Counter())[tuple(fields[2:])] += 1
    except OSError as problem:
        raise UserError(f"Cannot read {prons}: {reason(problem)}.") from problem
    lines = []
    for word, pronunciations in sorted(counts.items()):
        total, most = sum(pronunciations.values()), max(pronunciations.values())
        for phones, count in sorted(pronunciations.items(), key=lambda item: (-item[1], item[0])):
            if count >= min_share * total:
                lines.append(f"{word} {count / most:.4f} {' '.join(phones)}\n")
    if not lines:
        raise UserError(f"{prons} is empty: expected lines 'utterance word phone ...'.")
    try:
        Path(lexicon).parent.mkdir(parents=True, exist_ok=True)
        Path(lexicon).write_text("".join(lines), encoding="utf-8")
    except OSError as problem:
        raise UserError(f"Cannot write {lexicon}: {reason(problem)}.") from problem


if __name__ == "__main__":
    main()
