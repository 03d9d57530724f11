"""Numbers of files that no command line has room for: archives in a row, sums, averages, calls of an engine."""

from __future__ import annotations

import gzip
import subprocess
from pathlib import Path

import numpy as np
import pytest
from example_directory import make_example_directory

from nnet3py.driver.alignments import alignment_rspecifier
from nnet3py.driver.averaging import Averaging
from nnet3py.driver.engine import Engine
from nnet3py.driver.many_files import MOST_NAMED, groups, numbered_archives
from nnet3py.driver.options import TrainingOptions
from nnet3py.driver.preparation import Preparation
from nnet3py.driver.schedule import Schedule
from nnet3py.ensemble.average import average
from nnet3py.errors import UserError
from nnet3py.lda import read_statistics
from nnet3py.nnet.model_file import read_network, write_network
from nnet3py.nnet.network import Network

CONFIG = """\
input-node name=input dim=3
component name=affine type=NaturalGradientAffineComponent input-dim=3 output-dim=4
component-node name=affine component=affine input=input
output-node name=output input=affine
"""
QUOTES_AS_RUN_PL = """\
#!/usr/bin/env bash
# Words with blanks in double quotes, the last of two jobs alone.
shift; log=${1//JOB/2}; shift
for word in "$@"; do case $word in *" "*) word="\\"$word\\"";; esac; command="$command $word"; done
echo "${command//JOB/2}" | bash > $log 2>&1
"""
LONGEST_ARGUMENT = 128 * 1024  # of Linux


def alignments(folder: Path, numbers: range | list[int], ending: str = "gz") -> None:
    """Archives of one utterance each, ``u<number>``, whose labels are the number."""
    folder.mkdir(parents=True)
    for number in numbers:
        text = f"u{number} {number} {number}\n".encode()
        (folder / f"ali.{number}.{ending}").write_bytes(gzip.compress(text, 1) if ending == "gz" else text)


def copied(rspecifier: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    words = ["copy-int-vector", rspecifier, "ark,t:-"]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize(("ending", "program"), [("gz", "gunzip -c"), ("ark", "cat")])
def test_a_thousand_archives_with_long_paths_are_one_short_pipe_in_their_order(
    ending: str, program: str, tmp_path: Path
) -> None:
    folder = tmp_path / ("a%d" + "long" * 50)
    alignments(folder, range(1, 1001), ending)
    rspecifier = alignment_rspecifier(str(folder))
    assert rspecifier == f"ark:seq -f {str(folder).replace('%', '%%')}/ali.%.0f.{ending} 1000 | xargs {program} |"
    assert 1000 * len(str(folder)) > LONGEST_ARGUMENT, "named one by one they do not fit"
    done = copied(rspecifier, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "".join(f"u{number} {number} {number} \n" for number in range(1, 1001))


@pytest.mark.parametrize("engine", ["run-local", "./other.sh"])
def test_engines_pass_the_pipe_on_as_it_is(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log").mkdir()
    (tmp_path / "other.sh").write_text(QUOTES_AS_RUN_PL)
    (tmp_path / "other.sh").chmod(0o755)
    for job in (1, 2):
        for number in range(1, 13):
            (tmp_path / f"part.{number}.{job}.ark").write_text(f"{number} {job}\n")
    command = ["copy-int-vector", "ark:" + numbered_archives("cat", "part.", ".JOB.ark", 12), "ark,t:all.JOB"]
    with Engine(engine) as running:
        running.run("log/x.JOB.log", command, what="Testing", jobs=2)
    assert (tmp_path / "all.2").read_text() == "".join(f"{number} 2 \n" for number in range(1, 13))


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:12])])
def test_an_archive_that_cannot_be_read_fails_and_is_named(spoil, tmp_path: Path) -> None:
    alignments(tmp_path / "ali", range(1, 31))
    rspecifier = alignment_rspecifier(str(tmp_path / "ali"))
    assert rspecifier is not None
    spoil(tmp_path / "ali/ali.17.gz")
    done = copied(rspecifier, tmp_path)
    assert done.returncode == 1
    assert "ali.17.gz" in done.stderr


def test_archives_with_gaps_are_named_as_long_as_there_is_room(tmp_path: Path) -> None:
    alignments(tmp_path / "few", [1, 2, 4])
    names = " ".join(f"{tmp_path}/few/ali.{number}.gz" for number in (1, 2, 4))
    assert alignment_rspecifier(str(tmp_path / "few")) == f"ark:gunzip -c {names} |"
    many = tmp_path / ("long" * 50)
    alignments(many, range(2, 600))
    with pytest.raises(UserError, match=r"598 alignment archives .* without a gap: number them so"):
        alignment_rspecifier(str(many))


def test_groups_are_as_many_as_needed_and_of_about_equal_size() -> None:
    assert groups(1) == [(0, 1)]
    assert groups(MOST_NAMED) == [(0, MOST_NAMED)]
    assert groups(5, 2) == [(0, 1), (1, 3), (3, 5)]
    sizes = [end - first for first, end in groups(2000)]
    assert sum(sizes) == 2000
    assert max(sizes) <= MOST_NAMED
    assert max(sizes) - min(sizes) <= 1


def test_more_models_than_one_command_names_are_averaged_in_groups(tmp_path: Path) -> None:
    count = MOST_NAMED + 44
    names = [str(tmp_path / f"5.{job}.raw") for job in range(1, count + 1)]
    networks = [Network.from_config(CONFIG, seed) for seed in range(count)]
    for name, network in zip(names, networks, strict=True):
        write_network(name, network, True)
    with Engine("run-local") as engine:
        averaging = Averaging(TrainingOptions(dir=str(tmp_path)), engine)
        averaging.run(4, names, str(tmp_path / "5.raw"), recover=lambda what: pytest.fail(what))
        averaging.run(4, names[:MOST_NAMED], str(tmp_path / "most.raw"), recover=lambda what: pytest.fail(what))
    logs = {path.name for path in (tmp_path / "log").iterdir()}
    assert logs == {"average_1.4.1.log", "average_1.4.2.log", "average.4.log"}
    found = read_network(str(tmp_path / "5.raw")).components["affine"].parameters()
    for field, array in found.items():
        mean = np.mean([n.components["affine"].parameters()[field] for n in networks], axis=0, dtype=np.float64)
        np.testing.assert_allclose(array, mean, atol=1e-6)
    write_network(str(tmp_path / "flat.raw"), average(names[:MOST_NAMED], [1 / MOST_NAMED] * MOST_NAMED), True)
    assert (tmp_path / "most.raw").read_bytes() == (tmp_path / "flat.raw").read_bytes()


def test_more_statistics_than_one_command_names_are_added_up_first(tmp_path: Path) -> None:
    make_example_directory(tmp_path)
    count = MOST_NAMED + 3
    parts = [str(tmp_path / f"{job}.lda_stats") for job in range(1, count + 1)]
    for path in parts:
        Path(path).hardlink_to(tmp_path / "lda_stats")
    one = read_statistics(parts[0])
    with Engine("run-local") as engine:
        preparation = Preparation(TrainingOptions(dir=str(tmp_path)), engine, "get_egs.py")
        assert preparation.sums_of_statistics(parts[:MOST_NAMED]) == parts[:MOST_NAMED]
        sums = preparation.sums_of_statistics(parts)
    assert len(sums) == 2
    assert not [path for path in parts if Path(path).exists()]
    total = read_statistics(sums[0])
    total.add(read_statistics(sums[1]))
    np.testing.assert_allclose(total.counts, count * one.counts, rtol=1e-9)
    preparation.experiment.remove_leavings()
    assert not list(tmp_path.glob("group*"))


def test_no_more_models_are_combined_than_one_command_names() -> None:
    schedule = Schedule(
        num_epochs=2,
        num_archives=2000,
        passes_per_epoch=1,
        jobs_initial=1,
        jobs_final=1,
        initial_effective_lrate=0.1,
        final_effective_lrate=0.01,
    )
    few = schedule.models_to_combine(20)
    assert len(few) <= 40
    most = schedule.models_to_combine(100_000)
    assert 100 < len(most) <= MOST_NAMED
    assert most[-1] == few[-1] == schedule.num_iterations
