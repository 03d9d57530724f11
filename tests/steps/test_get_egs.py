"""get_egs.py on a tiny corpus: normalised features, a chosen validation set, more archives than files may be open."""

from __future__ import annotations

import gzip
import re
import resource
import subprocess
from pathlib import Path

import pytest
from leftovers import leave_unfinished, still_there
from tiny_corpus import make_corpus

from nnet3py.tables.holders import INT_VECTOR
from nnet3py.tables.table import SequentialReader

STEPS = Path(__file__).resolve().parents[2] / "steps"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    make_corpus(tmp_path, utterances=12)
    return tmp_path


def get_egs(folder: Path, *options: str, open_files: int | None = None) -> subprocess.CompletedProcess[str]:
    words = [
        str(STEPS / "get_egs.py"),
        "--nj=1",
        "--left-context=1",
        "--right-context=1",
        *options,
        "data",
        "ali",
        "egs",
    ]

    def limit() -> None:
        if open_files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))

    return subprocess.run(words, cwd=folder, capture_output=True, text=True, preexec_fn=limit)


def add_statistics(folder: Path) -> None:
    """Speakers' utterances, and statistics for normalisation."""
    lines = (folder / "data/utt2spk").read_text().split()
    members: dict[str, list[str]] = {}
    for utterance, speaker in zip(lines[::2], lines[1::2], strict=True):
        members.setdefault(speaker, []).append(utterance)
    (folder / "data/spk2utt").write_text("".join(f"{s} {' '.join(u)}\n" for s, u in members.items()))
    command = "compute-cmvn-stats --spk2utt=ark:data/spk2utt scp:data/feats.scp ark,scp:data/cmvn.ark,data/cmvn.scp"
    subprocess.run(["bash", "-c", command], cwd=folder, check=True, capture_output=True)


def keys_in(archives: str, folder: Path) -> list[str]:
    """The keys of the examples of all archives that a pattern names, in order of the alphabet."""
    words = ["nnet-copy-egs", f"ark:cat {archives} |", "ark,t:-"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return sorted(re.findall(r"(\S+) <Nnet3Eg>", done.stdout))


def test_a_chosen_validation_set_is_used_and_features_are_normalised(corpus: Path) -> None:
    (corpus / "valid").write_text("s1-u001\ns2-u002 more words\nnot-here\n")
    add_statistics(corpus)
    left = leave_unfinished(corpus / "egs", "egs.1.ark", "info/feat_dim", "log/get_egs.1.log", "split/feats.1.scp")
    done = get_egs(corpus, "--valid-uttlist=valid", "--cmvn-opts=--norm-means=true")
    assert done.returncode == 0, done.stderr
    assert not still_there(left)
    assert (corpus / "egs/valid_uttlist").read_text().split() == ["s1-u001", "s2-u002"]
    assert "apply-cmvn --norm-means=true" in (corpus / "egs/log/get_egs.1.log").read_text()
    assert (corpus / "egs/cmvn_opts").read_text() == "--norm-means=true\n"
    assert (corpus / "egs/.complete").exists()


@pytest.mark.slow
def test_online_normalisation_leaves_what_decoding_needs_and_jobs_make_no_difference(corpus: Path) -> None:
    add_statistics(corpus)
    options = ["--online-cmvn=true", "--cmvn-opts=--cmn-window=40 --norm-vars=true", "--num-utts-subset=2"]
    archives = []
    for jobs in (1, 3):
        done = get_egs(corpus, f"--nj={jobs}", *options)
        assert done.returncode == 0, done.stderr
        words = ["nnet-copy-egs", "ark:egs/egs.1.ark", "ark,t:-"]
        text = subprocess.run(words, cwd=corpus, capture_output=True, text=True, check=True).stdout
        archives.append(sorted(example.strip() for example in re.split(r"(?<=</Nnet3Eg>)", text)))
    assert len(archives[0]) > 20
    assert archives[0] == archives[1]
    log = (corpus / "egs/log/get_egs.3.log").read_text()
    assert "apply-cmvn-online --cmn-window=40 --norm-vars=true --spk2utt=ark:egs/split/spk2utt.3" in log
    assert "WARNING" not in log
    assert (corpus / "egs/global_cmvn.stats").read_text().startswith(" [\n")
    assert (corpus / "egs/online_cmvn").read_bytes() == b""
    assert get_egs(corpus, "--cmvn-opts=--norm-means=true").returncode == 0
    assert not (corpus / "egs/online_cmvn").exists()


def test_online_normalisation_that_normalises_nothing_is_refused(corpus: Path) -> None:
    add_statistics(corpus)
    done = get_egs(corpus, "--online-cmvn=true")
    assert done.returncode == 1
    assert "--online-cmvn needs options that normalise" in done.stderr
    (corpus / "data/cmvn.scp").unlink()
    done = get_egs(corpus, "--online-cmvn=true", "--cmvn-opts=--norm-means=true")
    assert "Expected data/cmvn.scp for --online-cmvn" in done.stderr
    assert not (corpus / "egs/.complete").exists()


@pytest.mark.slow
def test_more_archives_than_files_may_be_open_are_made_in_two_rounds(tmp_path: Path) -> None:
    corpus = tmp_path
    make_corpus(corpus, utterances=60)  # enough that no archive is without an example by chance
    done = get_egs(corpus, "--samples-per-iter=9", open_files=40)
    assert done.returncode == 0, done.stderr
    info = {path.name: path.read_text().strip() for path in (corpus / "egs/info").iterdir()}
    archives = sorted((corpus / "egs").glob("egs.*.ark"))
    assert len(archives) == int(info["num_archives"]) > 40
    in_many = keys_in("egs/egs.*.ark", corpus)
    for path in archives:
        path.unlink()
    done = get_egs(corpus)
    assert done.returncode == 0, done.stderr
    assert len(in_many) > 80
    assert in_many == keys_in("egs/egs.1.ark", corpus)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "data/feats.scp").write_text(""), "feats.scp is empty"),
        (lambda f: (f / "data/feats.scp").unlink(), "feats.scp"),
        (lambda f: (f / "ali/ali.scp").write_text("other x.ark:1\n"), "has an alignment"),
        (lambda f: (f / "ali/num_pdfs").unlink(), "num_pdfs"),
        (lambda f: (f / "ali/num_pdfs").write_text("3\n"), "create_"),
        (lambda f: (f / "data/feats.ark").write_bytes((f / "data/feats.ark").read_bytes()[:500]), "feats.ark"),
    ],
)
def test_bad_input_is_one_error_and_nothing_is_called_complete(spoil, says: str, corpus: Path) -> None:
    spoil(corpus)
    done = get_egs(corpus)
    assert done.returncode == 1
    assert len([line for line in done.stderr.splitlines() if line.startswith("ERROR (get_egs.py")]) == 1, done.stderr
    assert says in done.stderr
    assert not (corpus / "egs/.complete").exists()


def test_too_large_a_subset_is_refused(corpus: Path) -> None:
    done = get_egs(corpus, "--num-utts-subset=3")
    assert done.returncode == 1
    assert "--num-utts-subset" in done.stderr


@pytest.mark.slow
def test_a_thousand_alignment_archives_with_long_paths_make_the_examples_that_one_makes(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 50)
    folder.mkdir()
    make_corpus(folder, utterances=1000, frames=6)
    assert len(str(folder / "ali/ali.1.gz")) > 200
    with SequentialReader(f"scp:{folder}/ali/ali.scp", INT_VECTOR) as reader:
        for number, (key, labels) in enumerate(reader, 1):
            text = f"{key} {' '.join(map(str, labels))}\n"
            (folder / f"ali/ali.{number}.gz").write_bytes(gzip.compress(text.encode(), 1))
    made = []
    for hidden in ("ali.scp", "ali.1.gz"):
        words = [str(STEPS / "get_egs.py"), "--nj=3", "--left-context=1", "--right-context=1"]
        (folder / "ali" / hidden).rename(folder / "hidden")
        done = subprocess.run(
            [*words, *(str(folder / name) for name in ("data", "ali", "egs"))], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        (folder / "hidden").rename(folder / "ali" / hidden)
        made.append((folder / "egs/egs.1.ark").read_bytes())
    assert made[0] == made[1]
