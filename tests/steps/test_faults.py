"""Faults that happen to a training: each is really made to happen, and what training ends with is compared by bytes.

Stand-ins for nnet-train-shard, first on PATH, do to a job what a file ``faults/<model>`` says, a word an attempt; then,
or where nothing is said, they are the program itself.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_corpus import final_config, make_corpus
from tiny_training import add_experiment, command, one_error

from nnet3py.driver.report import read_progress

pytestmark = pytest.mark.slow  # a training comes first

OPTIONS = [
    "--cleanup=false",
    "--trainer.num-epochs=3",
    "--trainer.optimization.num-jobs-initial=4",
    "--trainer.optimization.num-jobs-final=4",
]
STAND_IN = """\
#!/usr/bin/env bash
model="${!#}"
say=faults/$(basename "$model")
if [ -s "$say" ]; then
  read -r word < "$say"
  sed -i 1d "$say"
  case $word in
    kill) kill -9 $$;;
    fail) echo "ERROR (nnet-train-shard) as it was told to" >&2; exit 1;;
    hang) exec sleep 600;;
    nothing) exit 0;;
    fill) head -c 100M /dev/zero > "$(dirname "$model")/ballast" 2> /dev/null;;
    slow) sleep 8;;
    nan) REAL "$@" && exec PYTHON -c "
import sys
from nnet3py.nnet.model_file import read_network, write_network
network = read_network(sys.argv[1])
network.components['affine1'].linear[0, 0] = float('nan')
write_network(sys.argv[1], network)" "$model";;
    truncated) REAL "$@" && exec truncate -s 1000 "$model";;
  esac
fi
exec REAL "$@"
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the corpus, and an experiment of three iterations of four jobs to which nothing happened."""
    folder = tmp_path_factory.mktemp("trained")
    make_corpus(folder)
    add_experiment(folder, "exp", config=final_config())
    done = subprocess.run(command(*OPTIONS), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    real = shutil.which("nnet-train-shard")
    assert real is not None
    (folder / "bin").mkdir()
    stand_in = folder / "bin/nnet-train-shard"
    stand_in.write_text(STAND_IN.replace("REAL", real).replace("PYTHON", sys.executable))
    stand_in.chmod(0o755)
    (folder / "faults").mkdir()
    return folder


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A copy of the experiment in which the second iteration comes next."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True, symlinks=True)
    for path in (tmp_path / "data/feats.scp", tmp_path / "ali/ali.scp"):
        path.write_text(path.read_text().replace(str(trained), str(tmp_path)))
    go_back(tmp_path / "exp")
    return tmp_path


def go_back(experiment: Path) -> None:
    for name in ("final.*", "[23].raw", "log/train.[12].*", "log/compute_prob*.[23].log"):
        for path in experiment.glob(name):
            path.unlink()
    lines = (experiment / "progress.tsv").read_text().splitlines()
    (experiment / "progress.tsv").write_text("\n".join(lines[:2]) + "\n")


def words(*more: str) -> list[str]:
    """The command that runs the second iteration and nothing after it."""
    return command(*OPTIONS, "--exit-stage=2", *more)


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


def run(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words(*more), cwd=folder, capture_output=True, text=True, env=environment(folder))


def happens(folder: Path, model: str, *what: str) -> None:
    """What the attempts of the job that makes this model come to, one after the other."""
    (folder / "faults" / model).write_text("".join(f"{word}\n" for word in what))


def warnings(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("WARNING")]


def faults(folder: Path) -> list[list[str]]:
    """The record: iteration, job, attempt, outcome."""
    lines = [line.split("\t") for line in (folder / "exp/faults.tsv").read_text().splitlines()[1:]]
    return [[line[0], line[1], line[3], line[4]] for line in lines]


def same(folder: Path, trained: Path, name: str = "2.raw") -> bool:
    return (folder / "exp" / name).read_bytes() == (trained / "exp" / name).read_bytes()


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("kill", "ended by SIGKILL"),
        pytest.param("fail", "exit status 1, ERROR (nnet-train-shard) as it was told to", marks=pytest.mark.slow),
        pytest.param("nothing", "it ended well and left no exp/2.3.raw", marks=pytest.mark.slow),
        ("nan", "not finite"),
        pytest.param("truncated", "its model is not to be used", marks=pytest.mark.slow),
    ],
)
def test_a_lost_job_is_started_again_and_the_result_is_the_same(
    what: str, reason: str, copy: Path, trained: Path
) -> None:
    happens(copy, "2.3.raw", what)
    done = run(copy)
    assert done.returncode == 0, done.stderr
    assert same(copy, trained)
    (said,) = warnings(done)
    assert "the job with the log exp/log/train.1.3.log failed" in said
    assert reason in said
    assert "attempt 2 of 3" in said
    assert faults(copy) == [["1", "3", "1", "again"]]
    for job in (1, 2, 4):
        assert not (copy / f"exp/log/train.1.{job}.log.failed1").exists()


def test_an_iteration_goes_on_without_a_job_that_stays_lost_and_says_so(copy: Path, trained: Path) -> None:
    archive = copy / "exp/egs/egs.3.ark"  # a shard that cannot be read to its end
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    done = run(copy)
    assert done.returncode == 0, done.stderr
    assert any("Iteration 1 goes on without job 3 of 4" in line for line in warnings(done))
    assert faults(copy) == [["1", "3", str(number), outcome] for number, outcome in ((1, "again"), (2, "again"))] + [
        ["1", "3", "3", "failed"],
        ["1", "3", "3", "left out"],
    ]
    models = [str(copy / f"exp/mean.{job}.raw") for job in (1, 2, 4)]
    without = (copy / "exp/2.raw").read_bytes()
    assert not same(copy, trained)

    archive.write_bytes(whole)  # the same jobs are left out by a training that was stopped before its average was there
    (copy / "exp/2.raw").unlink()
    done = run(copy)
    assert done.returncode == 0, done.stderr
    assert any("goes on without job 3, as before" in line for line in warnings(done))
    assert (copy / "exp/2.raw").read_bytes() == without

    for model, job in zip(models, (1, 2, 4), strict=True):
        happens(copy, f"2.{job}.raw")
        log = (copy / f"exp/log/train.1.{job}.log").read_text()
        line = next(line for line in log.splitlines() if line.startswith("# "))[2:]
        subprocess.run(line.replace(f"exp/2.{job}.raw", model), shell=True, cwd=copy, capture_output=True, check=True)
    subprocess.run(["nnet-average", *models, "mean.raw"], cwd=copy, capture_output=True, check=True)
    assert (copy / "mean.raw").read_bytes() == without

    done = run(copy, "--stage=1")  # and all are there again if one goes back
    assert done.returncode == 0, done.stderr
    assert same(copy, trained)
    assert faults(copy) == []


@pytest.mark.parametrize("option", ["--min-successful-share=1", "--min-successful-share=0.8"])
def test_too_many_lost_jobs_end_training_with_the_models_there_were(option: str, copy: Path) -> None:
    happens(copy, "2.2.raw", "fail", "fail")
    done = run(copy, option, "--max-retries=1")
    text = one_error(done)
    assert "iteration 1: 1 of 4 failed 2 times; the log exp/log/train.1.2.log says:" in text
    assert f"({option} does not let 3 of 4 jobs do.)" in done.stderr
    assert (copy / "exp/1.raw").exists()
    assert not (copy / "exp/2.raw").exists()


def test_a_model_that_is_always_bad_is_left_out(copy: Path, trained: Path) -> None:
    happens(copy, "2.4.raw", "nan", "truncated")
    done = run(copy, "--max-retries=1")
    assert done.returncode == 0, done.stderr
    assert any("goes on without job 4 of 4" in line for line in warnings(done))
    assert faults(copy)[-1] == ["1", "4", "2", "left out"]
    assert not same(copy, trained)


def test_the_report_counts_lost_jobs(copy: Path, trained: Path) -> None:
    happens(copy, "2.1.raw", "kill")
    happens(copy, "3.2.raw", "fail", "fail")
    done = run(copy, "--exit-stage=100", "--max-retries=1")
    assert done.returncode == 0, done.stderr
    assert same(copy, trained)
    report = (copy / "exp/accuracy.report").read_text()
    assert report.endswith("%Iter\tstarted_again\tleft_out\n1\t1\t-\n2\t1\t2\n")
    assert [row.model for row in read_progress(str(copy / "exp/progress.tsv"))] == ["0", "1", "2", "3", "final"]


def test_a_job_that_hangs_is_ended_and_started_again(copy: Path, trained: Path) -> None:
    happens(copy, "2.2.raw", "hang")
    done = run(copy, "--job-time-limit=30")
    assert done.returncode == 0, done.stderr
    assert same(copy, trained)
    assert "it ran for more than 30 s" in warnings(done)[0]
    assert faults(copy) == [["1", "2", "1", "again"]]


def test_nothing_follows_from_the_times_of_files(copy: Path, trained: Path) -> None:
    experiment = copy / "exp"
    stale = experiment / "log/compute_prob_valid.2.log"  # of a model 2 that there was before
    stale.write_text(
        "LOG Overall log-likelihood for 'output' is -99 per frame, over 9 frames.\n# Ended (code 0) at x\n"
    )
    known = experiment / "log/compute_prob_valid.1.log"
    before = known.read_bytes()
    for number, path in enumerate(sorted(experiment.rglob("*"))):
        seconds = (10**6, time.time() + 10**8)[number % 2]
        os.utime(path, (seconds, seconds))
    os.utime(known, (0, 0))
    os.utime(stale, (4 * 10**9, 4 * 10**9))
    done = run(copy)
    assert done.returncode == 0, done.stderr
    assert same(copy, trained)
    assert known.read_bytes() == before
    assert not stale.exists()


def test_what_killed_runs_have_left_is_removed_as_the_options_say(copy: Path, trained: Path) -> None:
    experiment = copy / "exp"
    shutil.copy(trained / "exp/2.raw", experiment / "2.raw")
    left = [
        "3.1.raw",
        "2.3.raw",
        ".3.2.raw.123.0a1b2c3d.tmp",
        "post.final.2.vec",
        "1.lda_stats",
        "log/.x.5.00000000.tmp",
    ]
    for name in left:
        (experiment / name).write_bytes(b"half of it")
    options = ["--exit-stage=3", "--cleanup=true", "--cleanup.preserve-model-interval=2"]
    done = run(copy, *options)
    assert done.returncode == 0, done.stderr
    assert not [name for name in left if (experiment / name).exists()]
    assert sorted(path.name for path in experiment.glob("*.raw")) == ["0.raw", "2.raw", "3.raw", "final.raw"]
    assert same(copy, trained, "final.raw")


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """The folder's content on a disk of its own."""
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here (are you root?): {done.stderr.strip()}")
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True, symlinks=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_too_little_space_is_an_error_before_an_iteration(copy: Path, trained: Path) -> None:
    with small_disk(copy / "exp", "4M"):
        found = os.statvfs(copy / "exp")
        ballast = copy / "exp/ballast"
        ballast.write_bytes(bytes(found.f_bavail * found.f_frsize - 200000))
        done = run(copy)
        assert re.search(
            r"Iteration 1 needs 4[57]\d\.\d kB on the disk of exp, where .* are missing\.", one_error(done)
        )
        assert not list((copy / "exp").glob("log/train.1.*"))
        ballast.unlink()
        done = run(copy)
        assert done.returncode == 0, done.stderr
        assert same(copy, trained)


def test_a_disk_that_fills_up_ends_with_one_error_and_goes_on_when_there_is_space(copy: Path, trained: Path) -> None:
    happens(copy, "2.2.raw", "fill")
    with small_disk(copy / "exp", "4M"):
        done = run(copy)
        assert re.search("full|space", done.stderr.split("ERROR (train_dnn.py")[1]), done.stderr
        one_error(done)
        assert not (copy / "exp/2.raw").exists()
        (copy / "exp/ballast").unlink()
        done = run(copy)
        assert done.returncode == 0, done.stderr
        assert same(copy, trained)


def test_of_two_drivers_started_at_once_one_goes_on(copy: Path, trained: Path) -> None:
    for job in range(1, 5):
        happens(copy, f"2.{job}.raw", "slow")
    started = [
        subprocess.Popen(words(), cwd=copy, stderr=subprocess.PIPE, text=True, env=environment(copy)) for _ in range(2)
    ]
    said = [driver.communicate()[1] for driver in started]
    assert sorted(driver.returncode for driver in started) == [0, 1], said
    refused = said[[driver.returncode for driver in started].index(1)]
    winner = started[[driver.returncode for driver in started].index(0)]
    assert f"process {winner.pid} on" in refused
    assert "is already at work in exp" in refused
    assert same(copy, trained)


def kill_with_everything(driver: subprocess.Popen[bytes]) -> None:
    """SIGKILL for a process and all its descendants, none of which has time to do anything."""
    known: list[int] = [driver.pid]
    for pid in known:  # grows while it is gone through
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                known += [int(child) for child in (task / "children").read_text().split()]
    for pid in known:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    driver.wait()


def programs_begun(experiment: Path) -> int:
    begun = 0
    for path in (*experiment.glob("log/*.log"), *experiment.glob("egs/log/*.log")):
        with contextlib.suppress(FileNotFoundError):  # a driver that begins removes older logs
            begun += path.stat().st_size > 0
    return begun


def test_a_driver_killed_with_everything_is_known_by_its_lock(copy: Path, trained: Path) -> None:
    happens(copy, "2.2.raw", "hang")
    driver = subprocess.Popen(words(), cwd=copy, stderr=subprocess.DEVNULL, env=environment(copy))
    deadline = time.monotonic() + 60
    while (copy / "faults/2.2.raw").stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kill_with_everything(driver)
    done = run(copy)
    assert done.returncode == 0, done.stderr
    assert f"process {driver.pid} on" in warnings(done)[0]
    assert "was killed at work in exp" in warnings(done)[0]
    assert same(copy, trained)


@pytest.mark.parametrize(
    "moments", [pytest.param(15, marks=pytest.mark.slow), pytest.param(50, marks=pytest.mark.long)]
)
def test_killed_with_everything_at_random_moments_it_ends_with_the_same_bytes(
    copy: Path, trained: Path, moments: int
) -> None:
    """Moments are counted in programs begun, which a slow machine does not change, and a little time."""
    chance = random.Random(moments)
    kills = trainings = 0
    while kills < moments:
        trainings += 1
        experiment = add_experiment(copy, f"killed{trainings}", config=final_config())
        egs = [] if trainings == 1 else ["--egs.dir=exp/egs"]
        line = command(*OPTIONS, *egs, directory=experiment.name)
        while True:
            begun = programs_begun(experiment)
            wanted, delay = begun + chance.choice([0, 1, 2, 4, 6, 9, 12]), chance.uniform(0.1, 0.6)
            with open(copy / "errors", "w") as errors:
                driver = subprocess.Popen(line, cwd=copy, stderr=errors)
            while driver.poll() is None and programs_begun(experiment) < wanted:
                time.sleep(0.01)
            with contextlib.suppress(subprocess.TimeoutExpired):
                driver.wait(delay if kills < moments else None)
            if driver.poll() is not None:
                break
            kill_with_everything(driver)
            kills += 1
        assert driver.returncode == 0, (copy / "errors").read_text()
        for name in ("0.raw", "1.raw", "2.raw", "3.raw", "final.raw", "final.priors"):
            assert (experiment / name).read_bytes() == (trained / "exp" / name).read_bytes(), (name, kills)
        assert [row.model for row in read_progress(str(experiment / "progress.tsv"))] == ["0", "1", "2", "3", "final"]
        assert not [path.name for path in experiment.rglob(".*.tmp")]
