"""The driver's options that change rates and shape in the middle of training, with the real programs: extra epochs,
factors of the rate, growth, mixing up, a transform that keeps few dimensions."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_corpus import FEAT_DIM, INIT_CONFIG, LAYER2_CONFIG, NUM_PDFS, add_transitions, final_config, make_corpus
from tiny_training import add_experiment, command, one_error, train

from nnet3py.driver.report import read_progress
from nnet3py.lda import TransformOptions, estimate_transform, read_statistics
from nnet3py.nnet.fixed import FixedAffineComponent
from nnet3py.nnet.model_file import read_network
from nnet3py.nnet.sum_group import SumGroupComponent
from nnet3py.tables.holders import INT_VECTOR
from nnet3py.tables.table import SequentialReader

pytestmark = pytest.mark.slow  # the driver many times over

SHORT = ["--egs.dir=exp/egs", "--cleanup=false"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the corpus and an experiment trained with none of the options."""
    folder = tmp_path_factory.mktemp("plain")
    make_corpus(folder)
    add_experiment(folder, "exp", config=final_config())
    done = train(folder, "--cleanup=false")
    assert done.returncode == 0, done.stderr
    return folder


def parameters(model: Path, component: str) -> dict[str, np.ndarray]:
    return read_network(str(model)).components[component].parameters()


def words_of(log: Path) -> list[str]:
    """The command of a job's log."""
    return shlex.split(log.read_text().splitlines()[0].removeprefix("# "))


def test_extra_epochs_continue_the_same_training_at_the_final_rate(plain: Path) -> None:
    add_experiment(plain, "extra", config=final_config())
    done = train(plain, *SHORT, "--trainer.optimization.num-epochs-extra=1", directory="extra")
    assert done.returncode == 0, done.stderr
    for model in (0, 1, 2):
        assert (plain / f"extra/{model}.raw").read_bytes() == (plain / f"exp/{model}.raw").read_bytes()
    rows = read_progress(str(plain / "extra/progress.tsv"))
    assert [row.model for row in rows] == ["0", "1", "2", "3", "4", "final"]
    assert [row.jobs for row in rows[:4]] == [1, 2, 2, 2]
    assert [row.learning_rate for row in rows[2:4]] == [pytest.approx(2 * 0.005)] * 2
    combined = (plain / "extra/log/combine.log").read_text().splitlines()[0]
    assert re.findall(r"extra/(\d+)\.raw", combined) == ["4", "3"]


def test_a_layer_with_factor_zero_stays_as_it_is_and_the_others_are_trained(plain: Path) -> None:
    add_experiment(plain, "frozen", config=final_config())
    options = ["--trainer.learning-rate-factors=affine1=0 final*=0.5", "--trainer.optimization.num-jobs-initial=2"]
    done = train(plain, *SHORT, *options, directory="frozen")
    assert done.returncode == 0, done.stderr
    last = max(int(path.stem) for path in (plain / "frozen").glob("[0-9].raw"))
    assert last >= 1
    for field, start in parameters(plain / "frozen/0.raw", "affine1").items():
        np.testing.assert_array_equal(parameters(plain / f"frozen/{last}.raw", "affine1")[field], start)
    for model in (plain / "frozen/0.raw", plain / f"frozen/{last}.raw"):
        assert np.abs(parameters(model, "final_affine")["linear"]).max() > 0
    moved = parameters(plain / f"frozen/{last}.raw", "final_affine")["linear"]
    assert not np.array_equal(moved, parameters(plain / "frozen/0.raw", "final_affine")["linear"])
    network = read_network(str(plain / f"frozen/{last}.raw"))
    assert network.components["affine1"].learning_rate_factor == 0.0
    rate = read_progress(str(plain / "frozen/progress.tsv"))[last - 1].learning_rate
    assert network.components["final_affine"].learning_rate == pytest.approx(0.5 * rate, rel=1e-5)
    record = json.loads((plain / "frozen/train_options.json").read_text())
    assert record["--trainer.learning-rate-factors"] == "affine1=0 final*=0.5"


def test_factors_that_match_nothing_are_refused_before_the_first_iteration(plain: Path) -> None:
    add_experiment(plain, "misspelt", config=final_config())
    text = one_error(train(plain, *SHORT, "--trainer.learning-rate-factors=afine1=0", directory="misspelt"))
    assert "'afine1'; the model has affine1, final_affine" in text
    assert not list((plain / "misspelt/log").glob("train.*"))


def test_an_added_layer_trains_at_the_iterations_rate_and_replaces_the_last_one(plain: Path) -> None:
    """The paper's growth: the new last layer starts at zero, what is below the new layer stays."""
    config = final_config().replace("max-change=1.5", "max-change=1.5 param-stddev=0 bias-stddev=0")
    experiment = add_experiment(plain, "grown", config=config)
    layer = LAYER2_CONFIG.replace("max-change=1.5", "max-change=1.5 param-stddev=0 bias-stddev=0")
    (experiment / "configs/layer2.config").write_text(layer)
    options = ["--trainer.add-layers-period=1", "--trainer.learning-rate-factors=affine2=0.5"]
    done = train(plain, *SHORT, *options, directory="grown")
    assert done.returncode == 0, done.stderr
    (pipe,) = [word for word in words_of(experiment / "log/train.1.1.log") if "nnet-init" in word]
    start = experiment / "start.raw"
    with open(start, "wb") as target:
        subprocess.run(["bash", "-c", pipe.rstrip("| ")], cwd=plain, stdout=target, check=True)
    before, grown = read_network(str(experiment / "1.raw")), read_network(str(start))
    rate = read_progress(str(experiment / "progress.tsv"))[1].learning_rate
    found = {name: c.learning_rate for name, c in grown.updatable_components().items()}
    assert found == {
        "affine1": pytest.approx(rate, rel=1e-5),
        "affine2": pytest.approx(0.5 * rate, rel=1e-5),
        "final_affine": pytest.approx(rate, rel=1e-5),
    }
    for field, kept in before.components["affine1"].parameters().items():
        np.testing.assert_array_equal(grown.components["affine1"].parameters()[field], kept)
    assert np.abs(before.components["final_affine"].parameters()["linear"]).max() > 0
    assert not any(array.any() for array in grown.components["final_affine"].parameters().values())
    assert not (experiment / "log/average.1.log").exists()


def sizes(model: Path) -> list[int] | None:
    found: list[Any] = [c for c in read_network(str(model)).components.values() if isinstance(c, SumGroupComponent)]
    return found[0].sizes if found else None


MIXING = [*SHORT, "--trainer.mix-up=14", "--trainer.mix-up-power=1", "--trainer.num-epochs=2"]
MIXING += ["--trainer.optimization.num-jobs-initial=2"]


@pytest.fixture(scope="module")
def mixed(plain: Path) -> Path:
    """The folder, with an experiment that mixes up in the middle of four iterations."""
    add_experiment(plain, "mixed", config=final_config())
    done = train(plain, *MIXING, directory="mixed")
    assert done.returncode == 0, done.stderr
    assert "Iteration 2 of 4 will start with mixing up from 6 to 14 softmax units." in done.stderr
    return plain


def test_mixing_up_changes_the_shape_once_and_the_best_job_is_kept(mixed: Path) -> None:
    experiment = mixed / "mixed"
    assert [sizes(experiment / f"{model}.raw") is not None for model in range(5)] == [False] * 3 + [True] * 2
    with SequentialReader(f"scp:{mixed}/ali/ali.scp", INT_VECTOR) as reader:
        counts = sum(np.bincount(pdfs, minlength=NUM_PDFS) for _, pdfs in reader)
    found = sizes(experiment / "4.raw")
    assert found is not None
    assert sum(found) == 14
    np.testing.assert_allclose(np.array(found), 14 * counts / counts.sum(), atol=1)
    assert (experiment / "log/average.1.log").exists()
    assert not (experiment / "log/average.2.log").exists()
    assert (experiment / "log/average.3.log").exists()
    assert not (experiment / "log/progress.3.log").exists(), "models of different shapes cannot be compared"
    assert (experiment / "log/progress.4.log").exists()
    assert not list(experiment.glob("mix_up*.raw"))


def test_a_mixed_up_network_learns_is_combined_and_has_priors(mixed: Path) -> None:
    experiment = mixed / "mixed"
    combined = (experiment / "log/combine.log").read_text().splitlines()[0]
    assert re.findall(r"mixed/(\d+)\.raw", combined) == ["4", "3"], "models from before have another shape"
    rows = read_progress(str(experiment / "progress.tsv"))
    assert rows[-1].valid_logprob > rows[2].valid_logprob
    assert rows[3].valid_logprob > rows[2].valid_logprob - 0.05, "it goes on from where it was"
    network = read_network(str(experiment / "final.raw"))
    assert network.output_dim() == NUM_PDFS
    done = subprocess.run(
        ["nnet-compute", "--apply-exp=true", "mixed/final.raw", "scp:data/feats.scp", "ark,t:-"],
        cwd=mixed, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    posteriors = np.array([line.split() for line in re.findall(r"^  ([-0-9. e]+)", done.stdout, re.MULTILINE)], float)
    np.testing.assert_allclose(posteriors.sum(axis=1), 1.0, atol=1e-4)


def test_a_run_stopped_around_mixing_up_goes_on_to_the_same_bytes(mixed: Path, tmp_path: Path) -> None:
    add_experiment(mixed, "stopped", config=final_config())
    for stage in ("2", "3"):
        done = train(mixed, *MIXING, f"--exit-stage={stage}", directory="stopped")
        assert done.returncode == 0, done.stderr
    done = train(mixed, *MIXING, directory="stopped")
    assert done.returncode == 0, done.stderr
    for name in ("3.raw", "4.raw", "final.raw", "final.priors"):
        assert (mixed / "stopped" / name).read_bytes() == (mixed / "mixed" / name).read_bytes(), name


def test_more_units_than_frames_allow_are_warned_of(mixed: Path) -> None:
    add_experiment(mixed, "few", config=final_config())
    options = ["--trainer.mix-up=50", "--trainer.mix-up-min-count=200", "--exit-stage=0"]
    done = train(mixed, *MIXING, *options, directory="few")
    assert done.returncode == 0, done.stderr
    assert "fewer than --trainer.mix-up=50" in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--trainer.mix-up=6"], "--num-mixtures=6 must be above"),
        (["--trainer.mix-up=9", "--trainer.mix-up-power=-1"], "--power=-1"),
        (["--trainer.mix-up=9", "--trainer.mix-up-iter=2"], "cannot come before iteration 2: of 2 iterations"),
        (["--trainer.mix-up-iter=2"], "--trainer.mix-up"),
        (["--trainer.mix-up=9", "--ali-dir=none"], "no alignments to count pdfs in"),
    ],
)
def test_mixing_up_that_cannot_be_is_refused_before_the_first_iteration(
    mixed: Path, tmp_path: Path, options: list[str], says: str
) -> None:
    (mixed / "none").mkdir(exist_ok=True)
    add_experiment(mixed, tmp_path.name, config=final_config())
    done = train(mixed, *SHORT, *options, directory=tmp_path.name)
    assert one_error(done)
    assert says in done.stderr
    assert not list((mixed / tmp_path.name / "log").glob("train.*"))


@pytest.mark.slow
def test_a_mixed_up_network_becomes_an_acoustic_model(mixed: Path) -> None:
    add_transitions(mixed)
    add_experiment(mixed, "am", config=final_config())
    done = train(mixed, *MIXING, "--ali-dir=am_ali", directory="am")
    assert done.returncode == 0, done.stderr
    command = "nnet-compute --use-priors=true am/final.mdl scp:data/feats.scp ark:- | copy-feats ark:- ark,t:- | wc -l"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=mixed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1000
    assert (mixed / "am/final.raw").read_bytes() == (mixed / "mixed/final.raw").read_bytes()


def test_a_transform_that_keeps_few_dimensions_becomes_the_first_layer(plain: Path) -> None:
    config = final_config(Path("reduced/configs/lda.mat")).replace(f"input-dim={3 * FEAT_DIM}", "input-dim=4")
    experiment = add_experiment(plain, "reduced", config=config, init=INIT_CONFIG)
    options = ["--trainer.lda.dim=4", "--trainer.lda.within-class-factor=0.01", "--trainer.lda.max-singular-value=2"]
    done = train(plain, *SHORT, *options, "--trainer.lda.rand-prune=0", directory="reduced")
    assert done.returncode == 0, done.stderr
    archives = sorted((plain / "exp/egs").glob("egs.*.ark"))
    parts = [str(experiment / f"stats.{number}") for number in range(len(archives))]
    for archive, part in zip(archives, parts, strict=True):
        subprocess.run(["nnet-acc-lda-stats", "reduced/init.raw", f"ark:{archive}", part], cwd=plain, check=True)
    statistics = read_statistics(parts[0])
    for part in parts[1:]:
        statistics.add(read_statistics(part))
    expected = estimate_transform(statistics, TransformOptions(4, 0.01, 2.0)).matrix
    first: Any = read_network(str(experiment / "0.raw")).components["lda"]
    assert isinstance(first, FixedAffineComponent)
    assert first.linear.shape == (4, 3 * FEAT_DIM)
    np.testing.assert_allclose(np.column_stack([first.linear, first.bias]), expected, rtol=1e-4, atol=1e-4)
    assert read_progress(str(experiment / "progress.tsv"))[-1].valid_accuracy > 0.4


def test_a_transform_of_another_dimension_than_the_network_expects_is_said(plain: Path) -> None:
    config = final_config(Path("wrong/configs/lda.mat"))
    add_experiment(plain, "wrong", config=config, init=INIT_CONFIG)
    done = train(plain, *SHORT, "--trainer.lda.dim=4", directory="wrong")
    one_error(done)
    assert re.search(r"affine1.*dimension 4.*expects 15", done.stderr)


def test_dimensions_of_a_transform_that_will_not_be_estimated_are_refused(plain: Path) -> None:
    add_experiment(plain, "no_transform", config=final_config())
    text = one_error(train(plain, *SHORT, "--trainer.lda.dim=4", directory="no_transform"))
    assert "no_transform/configs/init.config" in text


def test_the_limits_reached_in_training_are_in_the_record_and_in_the_report(plain: Path) -> None:
    rows = read_progress(str(plain / "exp/progress.tsv"))
    logs = {i: [plain / f"exp/log/train.{i}.{job}.log" for job in range(1, i + 2)] for i in (0, 1)}
    for index, paths in logs.items():
        texts = [path.read_text() for path in paths]
        shares = [re.findall(r"For affine1, per-component max-change was enforced (\S+) %", text) for text in texts]
        mean = sum(float(share[0]) for share in shares if share) / len(paths)
        assert rows[index].max_change_components.get("affine1", 0.0) == pytest.approx(mean, rel=1e-3)
        assert rows[index].not_finite == 0
    assert any(row.max_change_components for row in rows[:2]), "the rates are high: some limit is reached"
    assert "# max-change" in (plain / "exp/accuracy.report").read_text()
    shown = subprocess.run(
        [str(Path(command()[0]).with_name("report.py")), "one=exp"], cwd=plain, capture_output=True, text=True
    )
    assert re.search(r"\| +[0-9.]+ / [0-9.]+ \|", shown.stdout)
