"""Command lines as Kaldi's scripts give them, and inputs that are meant to break programs, through real processes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from example_directory import make_example_directory

from nnet3py import __version__
from nnet3py.nnet.acoustic_model import read_acoustic_model
from nnet3py.nnet.model_file import read_network, write_network
from nnet3py.tables.holders import INT_VECTOR, MATRIX
from nnet3py.tables.table import SequentialReader, TableWriter


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_example_directory(tmp_path_factory.mktemp("command-lines"))


def _run(folder: Path, *words: str, status: int = 0) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("ERROR (") == (status != 0)
    return done.stderr + done.stdout


GPU_PROGRAMS = {
    "nnet-train-shard": ["1.raw", "ark:minibatches.ark", "out"],
    "nnet-combine": ["2.raw", "1.raw", "ark:minibatches.ark", "out"],
    "nnet-show-progress": ["1.raw", "2.raw", "ark:minibatches.ark"],
    "nnet-compute": ["1.raw", "ark:feats.ark", "ark:out"],
    "nnet-compute-from-egs": ["1.raw", "ark:egs.ark", "ark:out"],
}


@pytest.mark.parametrize("program", GPU_PROGRAMS)
def test_use_gpu_is_accepted_unless_it_insists(data: Path, program: str) -> None:
    on_cpu = program in ("nnet-combine", "nnet-show-progress")
    complaint = "computes on the CPU only" if on_cpu else "no NVIDIA GPU that may be used"  # tests/conftest.py hides it
    assert complaint in _run(data, program, "--use-gpu=yes", *GPU_PROGRAMS[program], status=1)
    assert complaint in _run(data, program, "--use-gpu=wait", *GPU_PROGRAMS[program], status=1)
    _run(data, program, "--use-gpu=optional", *GPU_PROGRAMS[program])
    assert "is not one of" in _run(data, program, "--use-gpu=maybe", *GPU_PROGRAMS[program], status=1)
    _run(data, program, "--use-gpu=no", *GPU_PROGRAMS[program])


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (
            ["nnet-train-shard", "1.raw", "ark:minibatches.ark", "{}"],
            ["--read-cache=no-such-file", "--write-cache=cache", "--binary-write-cache=false"],
        ),
        (["nnet-average", "1.raw", "2.raw", "{}"], ["--num-threads=3"]),
        (["nnet-merge-egs", "--minibatch-size=1:8", "ark:egs.ark", "ark:{}"], ["--multilingual-eg=true"]),
    ],
)
def test_options_without_effect_change_no_byte(data: Path, words: list[str], options: list[str]) -> None:
    for name, given in (("with", options), ("without", [])):
        program, *arguments = (word.format(name) for word in words)
        _run(data, program, *given, *arguments)
    assert (data / "with").read_bytes() == (data / "without").read_bytes()
    assert not (data / "cache").exists()
    assert _run(data, words[0], "--help").count("has no effect") == len(options)


def test_show_progress_prints_accuracy(data: Path) -> None:
    words = ["1.raw", "2.raw", "ark:minibatches.ark"]
    assert "Overall accuracy for 'output' is" in _run(data, "nnet-show-progress", *words)
    assert "accuracy" not in _run(data, "nnet-show-progress", "--compute-accuracy=false", "--print-args=false", *words)
    assert "Overall per-dim accuracy" in _run(data, "nnet-show-progress", "--compute-per-dim-accuracy=true", *words)
    assert "Overall accuracy" in _run(data, "nnet-compute-prob", "--collapse-model=true", words[0], words[2])


@pytest.mark.parametrize(
    "words",
    [
        ["nnet-init", "--srand={}", "nnet.config", "{out}"],
        ["nnet-train-shard", "--srand={}", "--backstitch-training-scale=0.3", "1.raw", "ark:minibatches.ark", "{out}"],
        ["nnet-shuffle-egs", "--srand={}", "ark:egs.ark", "ark:{out}"],
        ["nnet-subset-egs", "--srand={}", "--n=5", "ark:egs.ark", "ark:{out}"],
        ["nnet-copy-egs", "--srand={}", "--keep-proportion=0.5", "ark:egs.ark", "ark:{out}"],
        ["nnet-acc-lda-stats", "--srand={}", "--rand-prune=4", "splice.raw", "ark:egs.ark", "{out}"],
    ],
)
def test_any_integer_is_a_seed(data: Path, words: list[str]) -> None:
    for out, seed in (("first", -2), ("second", -2), ("huge", -(10**30))):
        _run(data, *(word.format(seed, out=out) for word in words))
    assert (data / "first").read_bytes() == (data / "second").read_bytes()
    if words[0] in ("nnet-init", "nnet-shuffle-egs", "nnet-subset-egs", "nnet-copy-egs"):
        _run(data, *(word.format(2, out="positive") for word in words))
        assert (data / "first").read_bytes() != (data / "positive").read_bytes()


@pytest.mark.parametrize("program", ["nnet-train-shard", "nnet-combine"])
def test_an_output_that_cannot_be_written_is_noticed_before_the_work(data: Path, program: str) -> None:
    (data / "folder").mkdir(exist_ok=True)
    models = ["1.raw"] if program == "nnet-train-shard" else ["1.raw", "2.raw"]
    outputs = {"no/such/folder/out": "No such file or directory", "folder": "Is a directory"}
    if os.geteuid() != 0:
        (data / "locked").mkdir(mode=0o500, exist_ok=True)
        outputs["locked/out"] = "Permission denied"
    for output, reason in outputs.items():
        log = _run(data, program, *models, "ark:echo read >&2; cat minibatches.ark |", output, status=1)
        assert f"Cannot open {output} to write: {reason}" in log
        assert "\nread\n" not in log


def test_am_copy_scales_after_the_edits_and_copy_before(data: Path) -> None:
    words = ["--edits=convert-to-fixed-affine", "--scale=0.5"]  # fixed components are not scaled
    _run(data, "nnet-am-copy", *words, "am.mdl", "am.scaled")
    _run(data, "nnet-copy", *words, "am.mdl", "raw.scaled")
    before = read_network(str(data / "am.mdl")).components["affine1"].parameters()["linear"]
    late = read_acoustic_model(str(data / "am.scaled")).network.components["affine1"]
    early = read_network(str(data / "raw.scaled")).components["affine1"]
    np.testing.assert_array_equal(late.linear, before)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(early.linear, before * np.float32(0.5))  # type: ignore[attr-defined]


def test_am_copy_gives_each_block_of_a_repeated_layer_its_own_parameters(data: Path) -> None:
    (data / "repeated.config").write_text(
        "component name=twice type=NaturalGradientRepeatedAffineComponent input-dim=26 output-dim=8 num-repeats=2\n"
        "component-node name=twice component=twice input=Append(input, input)\noutput-node name=twice-out input=twice\n"
    )
    _run(data, "nnet-am-copy", "--nnet-config=repeated.config", "am.mdl", "am.repeated")
    _run(data, "nnet-am-copy", "--convert-repeated-to-block=true", "am.repeated", "am.block")
    repeated = read_acoustic_model(str(data / "am.repeated")).network.components["twice"]
    block = read_acoustic_model(str(data / "am.block")).network.components["twice"]
    assert block.type_name == "BlockAffineComponent"
    np.testing.assert_array_equal(block.parameters()["linear"], np.tile(repeated.parameters()["linear"], (2, 1)))


def test_copy_splits_a_layer_by_its_singular_values(data: Path) -> None:
    log = _run(data, "nnet-copy", "--edits=apply-svd name=final* bottleneck-dim=3; reduce-rank name=affine1 rank=2",
               "1.raw", "svd.raw")  # fmt: skip
    assert "Decomposed 1 components with SVD." in log
    info = _run(data, "nnet-info", "svd.raw")
    assert "component name=final_affine_a type=LinearComponent" in info
    assert "component name=final_affine_b type=NaturalGradientAffineComponent, input-dim=3" in info
    _run(data, "nnet-train-shard", "svd.raw", "ark:minibatches.ark", "svd-trained.raw")


def test_info_prints_singular_values_when_asked_for_more(data: Path) -> None:
    assert "singular-values" not in _run(data, "nnet-info", "1.raw")
    text = _run(data, "nnet-info", "--verbose=2", "1.raw")
    linear = read_network(str(data / "1.raw")).components["final_affine"].parameters()["linear"]
    largest = np.sqrt(np.linalg.eigvalsh(linear.T.astype(np.float64) @ linear).max())
    line = next(line for line in text.splitlines() if "component name=final_affine" in line)
    assert f"{largest:.1f}" in line.split("linear-params-singular-values=")[1].split("]")[0]


def test_ali_to_pdf_and_compute_leave_an_earlier_output_alone_when_there_is_nothing(data: Path) -> None:
    (data / "earlier").write_text("earlier")
    (data / "empty").touch()
    log = _run(data, "ali-to-pdf", "transitions.mdl", "ark:empty", "ark:earlier", status=1)
    assert "There are no alignments in ark:empty; nothing is written." in log
    log = _run(data, "nnet-compute", "1.raw", "ark:empty", "ark:earlier", status=1)
    assert "There are no utterances in ark:empty; nothing is written." in log
    with TableWriter(f"ark:{data}/no-frames.ark", MATRIX) as writer:
        writer.write("u1", np.zeros((0, 0), np.float32))
    log = _run(data, "nnet-compute", "1.raw", "ark:no-frames.ark", "ark:earlier", status=1)
    assert "Zero-length utterance: u1" in log
    assert "None of the 1 utterances in ark:no-frames.ark could be computed" in log
    assert (data / "earlier").read_text() == "earlier"


def test_features_that_are_not_finite_name_the_utterance(data: Path) -> None:
    with TableWriter(f"ark:{data}/nan.ark", MATRIX) as writer:
        writer.write("good", np.zeros((9, 13), np.float32))
        bad = np.zeros((9, 13), np.float32)
        bad[4, 5] = np.nan
        writer.write("bad", bad)
    log = _run(data, "nnet-compute", "1.raw", "ark:nan.ark", "ark:nan-out.ark", status=1)
    assert "Utterance bad: the features contain a value that is not finite" in log
    assert not (data / "nan-out.ark").exists()


def test_a_model_that_diverged_is_named_by_those_that_read_it(data: Path) -> None:
    network = read_network(str(data / "1.raw"))
    network.components["affine1"].parameters()["linear"][0, 0] = np.nan
    write_network(str(data / "diverged.raw"), network)
    for words in (
        ["nnet-average", "1.raw", "diverged.raw", "mean.raw"],
        ["nnet-compute", "diverged.raw", "ark:feats.ark", "ark:mean.raw"],
        ["nnet-train-shard", "diverged.raw", "ark:minibatches.ark", "mean.raw"],
    ):
        log = _run(data, *words, status=1)
        assert "diverged.raw" in log.split("ERROR")[1]
        assert "not finite" in log
    assert not (data / "mean.raw").exists()


HOSTILE_KEYS = [
    "$(touch${IFS}ran)",
    "`touch${IFS}ran`",
    ";touch${IFS}ran;",
    "'\"'",
    "a|touch",
    "\x01\x1b[31m",
    "../up",
    "ü",
]


def test_keys_never_reach_a_shell(data: Path) -> None:
    random = np.random.default_rng(0)
    with (
        TableWriter(f"ark,scp:{data}/hostile.ark,{data}/hostile.scp", MATRIX) as feats,
        TableWriter(f"ark:{data}/hostile.ali", INT_VECTOR) as alignments,
    ):
        for key in HOSTILE_KEYS:
            feats.write(key, random.normal(size=(20, 13)).astype(np.float32))
            alignments.write(key, random.integers(0, 30, 20).astype(np.int32))
    _run(
        data,
        "bash",
        "-eo",
        "pipefail",
        "-c",
        "ali-to-post ark:hostile.ali ark:hostile.post;"
        "nnet-get-egs --num-pdfs=30 --left-context=2 --right-context=2 --num-frames=8 "
        "  scp:hostile.scp ark:hostile.post ark,scp:hostile.egs,hostile.egs.scp;"
        "nnet-copy-egs scp:hostile.egs.scp ark,t:- | nnet-shuffle-egs ark:- ark:- |"
        "  nnet-merge-egs --minibatch-size=8 ark:- ark:merged;"
        "nnet-train-shard 1.raw 'ark,bg:cat merged |' hostile.raw;"
        "nnet-compute hostile.raw scp:hostile.scp ark,t:hostile.out;"
        "nnet-compute-from-egs hostile.raw ark:hostile.egs ark:hostile.from-egs",
    )
    with SequentialReader(f"ark:{data}/hostile.out", MATRIX) as outputs:
        assert [key for key, _ in outputs] == HOSTILE_KEYS
    with SequentialReader(f"ark:{data}/hostile.from-egs", MATRIX) as outputs:
        assert {key.rsplit("-", 1)[0] for key, _ in outputs} == set(HOSTILE_KEYS)
    assert not (data / "ran").exists()


def test_programs_and_drivers_tell_their_version(data: Path) -> None:
    assert _run(data, "nnet-copy", "--version") == f"nnet-copy of nnet3py {__version__}\n"
    driver = Path(__file__).resolve().parent.parent / "steps" / "get_egs.py"
    assert _run(data, str(driver), "--version") == f"get_egs.py of nnet3py {__version__}\n"
