"""Decoding: oracle likelihoods give the words that were said, and bad ones a message."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnet3py.alignment.timed_phones import align_timed_phones
from nnet3py.decoding.decode import GraphDecoder
from nnet3py.decoding.graph import make_graph_dir
from nnet3py.decoding.score import error_rate
from nnet3py.directories.transcripts import read_transcripts
from nnet3py.errors import UserError
from nnet3py.nnet.transition_model import TransitionModel, read_transition_model
from nnet3py.tables.holders import MATRIX
from nnet3py.tables.streams import open_output
from nnet3py.tables.table import TableWriter
from nnet3py.tables.transducer import Transducer, read_transducer_file, write_const
from nnet3py.text.symbols import read_symbols

pytest.importorskip("kaldi_decoder")
pytest.importorskip("kaldialign")

SAID = {
    "u1": ("SIL A T SIL", "at"),
    "u2": ("O T A SIL A", "at a a"),
    "u3": ("SIL A SIL A T O T SIL", "a at at"),
}


def oracle(phones: str, language: Path, model, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihoods in which the right pdf stands out of noise, and the alignment they were made of."""
    names = phones.split()
    ends = np.cumsum(random.integers(3, 9, len(names)))
    starts = [0, *ends[:-1]]
    timed = [(name, 0.01 * a, 0.01 * (b - a)) for name, a, b in zip(names, starts, ends, strict=True)]
    alignment = align_timed_phones(
        timed, int(ends[-1]), read_symbols(str(language / "phones.txt")), model, frame_length=0.0
    )
    scores = random.normal(-4.0, 1.0, (len(alignment), model.num_pdfs))
    scores[np.arange(len(alignment)), model.pdfs(alignment)] += 12.0
    return scores.astype(np.float32), alignment


def test_oracle_likelihoods_decode_without_an_error(language: Path, model_dir: Path, tmp_path: Path) -> None:
    make_graph_dir(str(language), str(model_dir), str(tmp_path / "graph"))
    model = read_transition_model(str(model_dir / "final.mdl"))
    random = np.random.default_rng(3)
    alignments = {}
    with TableWriter(f"ark:{tmp_path}/loglikes.ark", MATRIX) as writer:
        for key, (phones, _) in SAID.items():
            scores, alignments[key] = oracle(phones, language, model, random)
            writer.write(key, scores)
    done = subprocess.run(
        [
            "decode-faster-mapped",
            "--acoustic-scale=1.0",
            *("--beam-delta=1", "--hash-ratio=3", "--binary=false"),
            f"--word-symbol-table={tmp_path}/graph/words.txt",
            f"{model_dir}/final.mdl",
            f"{tmp_path}/graph/HCLG.fst",
            f"ark:{tmp_path}/loglikes.ark",
            f"ark,t:{tmp_path}/hyp.txt",
            f"ark,t:{tmp_path}/ali.txt",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    hypotheses = read_transcripts(tmp_path / "hyp.txt")
    assert error_rate({key: words.split() for key, (_, words) in SAID.items()}, hypotheses).errors == 0
    for key, ids in read_transcripts(tmp_path / "ali.txt").items():
        assert np.array_equal(model.pdfs(np.array([int(i) for i in ids])), model.pdfs(alignments[key]))


def decode(model_dir: Path, graph: Path, loglikes: Path, words: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["decode-faster-mapped", f"{model_dir}/final.mdl", str(graph), f"ark:{loglikes}", f"ark,t:{words}"],
        capture_output=True,
        text=True,
    )


def test_a_graph_in_const_form_as_mkgraph_writes_it_gives_the_same_words(
    language: Path, model_dir: Path, tmp_path: Path
) -> None:
    graph, model = graph_and_model(language, model_dir)
    with open_output(str(tmp_path / "const.fst")) as sink:
        write_const(sink, graph)
    with TableWriter(f"ark:{tmp_path}/loglikes.ark", MATRIX) as writer:
        writer.write("u1", oracle(SAID["u1"][0], language, model, np.random.default_rng(3))[0])
    for name, path in (("vector", model_dir / "graph" / "HCLG.fst"), ("const", tmp_path / "const.fst")):
        done = decode(model_dir, path, tmp_path / "loglikes.ark", tmp_path / name)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "const").read_text() == (tmp_path / "vector").read_text() != ""


def test_a_damaged_graph_gives_one_error_line(language: Path, model_dir: Path, tmp_path: Path) -> None:
    _, model = graph_and_model(language, model_dir)
    with TableWriter(f"ark:{tmp_path}/loglikes.ark", MATRIX) as writer:
        writer.write("u1", np.zeros((30, model.num_pdfs), np.float32))
    whole = (model_dir / "graph" / "HCLG.fst").read_bytes()
    for place in (74, 90):  # the second half of the first state's number of arcs; the target of its first arc
        damaged = bytearray(whole)
        damaged[place : place + 4] = b"\xff\xff\xff\x7f"
        (tmp_path / "bad.fst").write_bytes(damaged)
        done = decode(model_dir, tmp_path / "bad.fst", tmp_path / "loglikes.ark", tmp_path / "words")
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 2, done.stderr  # the command line and the error
        assert "bad.fst, byte" in done.stderr
        assert not (tmp_path / "words").exists()


def graph_and_model(language: Path, model_dir: Path) -> tuple[Transducer, TransitionModel]:
    make_graph_dir(str(language), str(model_dir), str(model_dir / "graph"))
    graph = read_transducer_file(str(model_dir / "graph" / "HCLG.fst"))
    return graph, read_transition_model(str(model_dir / "final.mdl"))


def decoder(language: Path, model_dir: Path) -> tuple[GraphDecoder, int]:
    graph, model = graph_and_model(language, model_dir)
    return GraphDecoder(graph, model.pdf_of_transition, acoustic_scale=1.0), model.num_pdfs


def test_what_is_shorter_than_any_word_is_partial_or_nothing(language: Path, model_dir: Path) -> None:
    search, num_pdfs = decoder(language, model_dir)
    path = search.decode(np.zeros((1, num_pdfs), np.float32))
    assert path is None or not path.complete


def test_another_number_of_pdfs_is_refused(language: Path, model_dir: Path) -> None:
    search, num_pdfs = decoder(language, model_dir)
    with pytest.raises(UserError, match=f"expected {num_pdfs} log-likelihoods a frame"):
        search.decode(np.zeros((10, num_pdfs + 1), np.float32))


def test_nan_and_no_frames_are_refused(language: Path, model_dir: Path) -> None:
    search, num_pdfs = decoder(language, model_dir)
    scores = np.zeros((10, num_pdfs), np.float32)
    scores[4, 2] = np.nan
    with pytest.raises(UserError, match="NaN"):
        search.decode(scores)
    with pytest.raises(UserError, match="at least one frame"):
        search.decode(np.zeros((0, num_pdfs), np.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_active": 1}, "--max-active=1"),
        ({"max_active": 10}, "--min-active=20"),
        ({"min_active": -1}, "--min-active=-1"),
        ({"beam": 0.0}, "--beam=0"),
        ({"hash_ratio": 0.5}, "--hash-ratio=0.5"),
        ({"beam_delta": float("nan")}, "--beam-delta=nan"),
    ],
)
def test_options_that_leave_nothing_to_search_are_refused(
    options: dict[str, Any], message: str, language: Path, model_dir: Path
) -> None:
    graph, model = graph_and_model(language, model_dir)
    with pytest.raises(UserError, match=message):
        GraphDecoder(graph, model.pdf_of_transition, **options)


def test_a_graph_of_a_larger_model_is_refused(language: Path, model_dir: Path) -> None:
    graph, model = graph_and_model(language, model_dir)
    with pytest.raises(UserError, match="make the graph with this model"):
        GraphDecoder(graph, model.pdf_of_transition[:10])
