"""The whole chain on ids, words and phones of any bytes: every driver makes the same of them as of plain ones."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from odd_names import as_windows_leaves_it, make_twins, network_config, odd, odd_text, rename_table

from nnet3py.driver.report import read_progress
from nnet3py.egs.example import EXAMPLE
from nnet3py.tables.holders import INT_VECTOR, MATRIX
from nnet3py.tables.table import SequentialReader

pytestmark = pytest.mark.slow  # two trainings

STEPS = Path(__file__).resolve().parents[2] / "steps"
TRAINING = [
    "--dir=exp",
    "--feat-dir=data",
    "--feat.cmvn-opts=--norm-means=true",
    "--ali-dir=equal",
    "--lang=lang",
    "--egs.dir=egs",
    "--trainer.num-epochs=2",
    "--trainer.one-frame-per-eg=false",
    "--trainer.optimization.num-jobs-initial=1",
    "--trainer.optimization.num-jobs-final=2",
    "--trainer.optimization.initial-effective-lrate=0.02",
    "--trainer.optimization.final-effective-lrate=0.005",
    "--trainer.optimization.minibatch-size=1:32",
    "--trainer.realign-times=0.5",
    "--realign.nj=2",
    "--cleanup=false",
]
MEANS = "--cmvn-opts=--norm-means=true"
EGS = ["--nj=2", "--left-context=1", "--right-context=1", "--samples-per-iter=90", MEANS]


def run(folder: Path, program: str, *words: str) -> str:
    """A driver's or program's standard output."""
    command = [str(STEPS / program) if (STEPS / program).exists() else program, *words]
    done = subprocess.run(command, cwd=folder, capture_output=True)
    assert done.returncode == 0, done.stderr.decode("utf-8", "surrogateescape")
    assert b"Traceback" not in done.stderr
    return done.stdout.decode("utf-8", "surrogateescape")


def odd_example(key: bytes) -> bytes:
    utterance, _, frame = key.rpartition(b"-")
    return odd(utterance) + b"-" + frame


def twin_of(source: Path, target: Path) -> None:
    """What chance, which depends on the ids, would have made otherwise: alignments and examples under odd names."""
    (target / "equal").mkdir(exist_ok=True)
    for name in ("final.mdl", "tree", "num_jobs", "num_pdfs"):
        shutil.copy(source / "equal" / name, target / "equal" / name)
    for job in (1, 2):
        archive = f"equal/ali.{job}.gz"
        rename_table(
            f"ark:gunzip -c {source / archive} |", f"ark:| gzip -nc > {target / archive}", INT_VECTOR, rename=odd
        )
    shutil.copytree(source / "egs", target / "egs")
    for path in (source / "egs").glob("*egs*"):
        if path.suffix in (".ark", ".egs"):
            rename_table(f"ark:{path}", f"ark:{target}/egs/{path.name}", EXAMPLE, rename=odd_example)
    for name in ("valid_uttlist", "train_subset_uttlist"):
        (target / "egs" / name).write_bytes(odd_text((source / "egs" / name).read_bytes()))
        as_windows_leaves_it(target / "egs" / name)
    for folder in ("equal", "egs"):
        shutil.copy(target / "lang/phones.txt", target / folder / "phones.txt")


def before_training(folder: Path) -> None:
    run(folder, "prepare_lang.py", "--num-sil-states=3", "lexicon.txt", "lang")
    run(folder, "align_equal.py", "--nj=2", "data", "lang", "equal")
    run(
        folder,
        "compute-cmvn-stats",
        "--spk2utt=ark:data/spk2utt",
        "scp:data/feats.scp",
        "ark,scp:data/c.ark,data/cmvn.scp",
    )
    run(folder, "compute_utterance_vectors.py", "--nj=3", "--per-speaker", "data", "vectors")
    run(folder, "get_egs.py", *EGS, "data", "equal", "egs")


def after_training(folder: Path) -> None:
    run(folder, "adjust_priors.py", "exp", "exp/egs" if (folder / "exp/egs").is_dir() else "egs")
    run(folder, "make_graph.py", "lang", "exp", "graph")
    run(folder, "decode.py", "--nj=3", "--acwt=0.5,1.0", "graph", "data", "exp/decode")
    run(folder, "align.py", "--nj=3", "data", "lang", "exp", "exp_ali")
    run(folder, "score.py", "data", "exp/decode")


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The chain's results under plain names and under odd ones."""
    for library in ("kaldifst", "kaldialign", "kaldi_decoder", "kaldi_hmm_gmm"):  # which do not import side by side
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed: pip install nnet3py[recipes]")
    plain, strange = make_twins(tmp_path_factory.mktemp("twins"))
    for folder in (plain, strange):
        before_training(folder)
    used = (strange / "egs/info/data_used").read_text()
    assert used == (plain / "egs/info/data_used").read_text()
    assert used.startswith("Used 44 of 44 utterances")
    shutil.rmtree(strange / "egs")
    as_windows_leaves_it(strange / "data/cmvn.scp")
    twin_of(plain, strange)
    for folder in (plain, strange):
        (folder / "exp/configs").mkdir(parents=True)
        (folder / "exp/configs/final.config").write_text(network_config(9))
        run(folder, "train_dnn.py", *TRAINING)
        after_training(folder)
    return plain, strange


def table(rspecifier: str, holder: object) -> list[tuple[bytes, list[float]]]:
    """Keys and values; a script's paths are relative to the present directory."""
    with SequentialReader(rspecifier, holder) as reader:  # type: ignore[arg-type]
        return [(key.encode("utf-8", "surrogateescape"), np.asarray(value).tolist()) for key, value in reader]


def archives(folder: Path) -> list[tuple[bytes, list[float]]]:
    paths = sorted(folder.glob("ali.*.gz"))
    return [row for path in paths for row in table(f"ark:gunzip -c {path} |", INT_VECTOR)]


def under_odd_names(rows: list[tuple[bytes, list[float]]]) -> list[tuple[bytes, list[float]]]:
    return [(odd(key), value) for key, value in rows]


def test_no_byte_of_a_name_has_reached_a_shell_as_a_command(twins: tuple[Path, Path]) -> None:
    assert not [path for folder in twins for path in folder.rglob("ran*")]


def test_names_come_out_as_they_went_in_whatever_windows_did_to_the_lines(twins: tuple[Path, Path]) -> None:
    plain, strange = twins
    for name in ("lang/words.txt", "lang/phones.txt", "lang/lexicon.txt", "graph/words.txt", "lang/phones/sets.txt",
                 "exp/decode/hyp_0.5.txt", "exp/decode/hyp_1.0.txt"):  # fmt: skip
        assert (strange / name).read_bytes() == odd_text((plain / name).read_bytes()), name
    for name in ("lang/topo", "lang/L.fst", "lang/L_disambig.fst", "graph/HCLG.fst", "graph/num_pdfs"):
        assert (strange / name).read_bytes() == (plain / name).read_bytes(), name


def test_statistics_and_vectors_are_the_same(twins: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for script in ("data/cmvn.scp", "vectors/ivector_online.scp"):
        rows = []
        for folder in twins:
            monkeypatch.chdir(folder)
            rows.append(table(f"scp:{script}", MATRIX))
        assert rows[1] == under_odd_names(rows[0]), script
    plain, strange = twins
    assert (plain / "vectors/final.ie.id").read_text() == (strange / "vectors/final.ie.id").read_text()


def test_the_models_are_the_same_bytes(twins: tuple[Path, Path]) -> None:
    plain, strange = twins
    for name in ("0.raw", "2.raw", "final.mdl", "final_adj.mdl"):
        assert (strange / "exp" / name).read_bytes() == (plain / "exp" / name).read_bytes(), name
    rows = [read_progress(str(folder / "exp/progress.tsv")) for folder in twins]
    assert [row.valid_logprob for row in rows[0]] == [row.valid_logprob for row in rows[1]]


def test_alignments_are_the_same(twins: tuple[Path, Path]) -> None:
    plain, strange = twins
    folders = ["exp_ali", *(path.relative_to(plain).as_posix() for path in plain.glob("exp/ali.*"))]
    assert len(folders) > 1
    for folder in folders:
        aligned = [archives(plain / folder), archives(strange / folder)]
        assert aligned[1] == under_odd_names(aligned[0]), folder
        assert len(aligned[0]) == 44


def test_word_errors_and_the_report_are_the_same(twins: tuple[Path, Path]) -> None:
    plain, strange = twins
    for name in ("wer_0.5", "wer_1.0", "best_acwt"):
        assert (strange / "exp/decode" / name).read_bytes() == (plain / "exp/decode" / name).read_bytes()
    label = "caf\udce9 \u3000"
    rows = [run(twin, "report.py", "--decode=decode", f"{label}=exp").splitlines()[2].split("|")[:-2] for twin in twins]
    assert rows[0] == rows[1]
    assert label in rows[0][1]


def test_the_drivers_that_draw_by_id_use_all_of_the_data(
    twins: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, strange = twins
    monkeypatch.chdir(strange)
    run(strange, "get_egs.py", "--online-cmvn=true", *EGS, "data", "equal", "egs.online")
    assert (strange / "egs.online/info/data_used").read_text().startswith("Used 44 of 44 utterances")
    run(strange, "align_gmm.py", "--num-iters=2", "data", "lang", "gmm")
    assert [key for key, _ in table("scp:gmm/pdf.scp", INT_VECTOR)] == [
        line.split(None, 1)[0] for line in (strange / "data/feats.scp").read_bytes().split(b"\n")
    ]
