"""A corpus with transcripts that is small enough to align and train on in seconds.

Two words of one phone of three states each, said in random order; every state has a mean of its own, and how long each
was spoken is known.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from tiny_corpus import FEAT_DIM, NUM_PDFS, TOPOLOGY, TREE

from nnet3py.tables.holders import INT_VECTOR, MATRIX
from nnet3py.tables.streams import open_output
from nnet3py.tables.table import TableWriter
from nnet3py.tables.transducer import TRANSDUCER, Transducer

WORDS = {"a": 1, "b": 2}
_LONGEST = 9  # frames of a state
DURATIONS = (3, _LONGEST)


def means(seed: int = 3) -> np.ndarray:
    """The mean of each pdf's features, (pdfs, dim); their standard deviation is 1."""
    return np.random.default_rng(seed).normal(0, 2.0, (NUM_PDFS, FEAT_DIM))


def make_language(folder: Path) -> Path:
    """``lang/``: a lexicon of two words, each with one phone, in any order."""
    lang = folder / "lang"
    (lang / "phones").mkdir(parents=True)
    (lang / "phones.txt").write_text("<eps> 0\nA 1\nB 2\n#0 3\n")
    (lang / "phones/disambig.int").write_text("3\n")
    (lang / "words.txt").write_text("<eps> 0\na 1\nb 2\n")
    (lang / "topo").write_text(TOPOLOGY)
    with open_output(str(lang / "L.fst")) as sink:
        TRANSDUCER.write(sink, Transducer.of(0, [0.0], [(0, 0, 1, 1, 0.5), (0, 0, 2, 2, 0.25)]), True)
    return lang


def make_spoken_corpus(folder: Path, *, utterances: int = 40, seed: int = 3) -> dict[str, np.ndarray]:
    """``data/`` with features, speakers and text, and ``true_ali/``; returns the pdf of each frame by utterance."""
    random = np.random.default_rng(seed)
    data, ali = folder / "data", folder / "true_ali"
    data.mkdir()
    ali.mkdir()
    state_means = means()
    texts, speakers, truth = [], [], {}
    transition_log_probs = " ".join(["-0.2876821 -1.386294"] * NUM_PDFS)
    triples = "\n".join(f"{phone} {state} {3 * (phone - 1) + state}" for phone in (1, 2) for state in range(3))
    (ali / "final.mdl").write_text(
        f"<TransitionModel>\n{TOPOLOGY}<Triples> {NUM_PDFS}\n{triples}\n</Triples>\n"
        f"<LogProbs>\n [ 0 {transition_log_probs} ]\n</LogProbs>\n</TransitionModel>\n"
    )
    (ali / "tree").write_text(TREE)
    (ali / "phones.txt").write_text("<eps> 0\nA 1\nB 2\n#0 3\n")
    with (
        TableWriter(f"ark,scp:{data}/feats.ark,{data}/feats.scp", MATRIX) as features,
        gzip.open(ali / "ali.1.gz", "wt") as alignments,
    ):
        for number in range(utterances):
            speaker = f"s{4 * number // utterances}"
            key = f"{speaker}-u{number:03d}"
            words = [list(WORDS)[index] for index in random.integers(0, 2, 4)]
            states = [3 * (WORDS[word] - 1) + state for word in words for state in range(3)]
            durations = random.integers(DURATIONS[0], DURATIONS[1], len(states))
            pdfs = np.repeat(states, durations)
            truth[key] = pdfs
            texts.append(f"{key} {' '.join(words)}\n")
            speakers.append(f"{key} {speaker}\n")
            frames = state_means[pdfs] + random.normal(0, 1.0, (len(pdfs), FEAT_DIM))
            features.write(key, frames.astype(np.float32))
            first = np.append(True, pdfs[1:] != pdfs[:-1])
            alignments.write(f"{key} {' '.join(str(t) for t in 2 * pdfs + 1 + first)}\n")
    (data / "text").write_text("".join(texts))
    (data / "utt2spk").write_text("".join(speakers))
    return truth


def read_alignment(folder: Path) -> dict[str, np.ndarray]:
    """The transition-ids in an alignment directory's ``ali.*.gz``."""
    from nnet3py.driver.alignments import alignment_rspecifier
    from nnet3py.tables.table import SequentialReader

    rspecifier = alignment_rspecifier(str(folder))
    assert rspecifier is not None
    with SequentialReader(rspecifier, INT_VECTOR) as reader:
        return dict(reader)
