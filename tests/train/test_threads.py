"""Lock-free threads: what they learn, what is added up, and how a run ends that cannot go on."""

from __future__ import annotations

import itertools
import math
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_minibatches import (
    fails_with_one_error,
    minibatch,
    parameters,
    run,
    tiny_network,
    write_examples,
)

from nnet3py.errors import UserError
from nnet3py.nnet.model_file import read_network, write_network
from nnet3py.nnet.network import Network
from nnet3py.train.compute_prob import ComputeProb
from nnet3py.train.minibatch import Minibatch
from nnet3py.train.natural_gradient import NaturalGradientState, OnlineNaturalGradient
from nnet3py.train.parameter_update import Method
from nnet3py.train.threads import train_in_threads
from nnet3py.train.trainer import Trainer, TrainerOptions

STATISTICS = """
input-node name=input dim=5
component name=affine1 type=AffineComponent input-dim=5 output-dim=4 learning-rate=0
component-node name=affine1 component=affine1 input=input
component name=norm1 type=BatchNormComponent dim=4
component-node name=norm1 component=norm1 input=affine1
component name=norm2 type=BatchNormComponent dim=4 test-mode=true
component-node name=norm2 component=norm2 input=norm1
component name=affine2 type=AffineComponent input-dim=4 output-dim=3 learning-rate=0
component-node name=affine2 component=affine2 input=norm2
component name=log-softmax type=LogSoftmaxComponent dim=3
component-node name=log-softmax component=log-softmax input=affine2
output-node name=output input=log-softmax
"""


def objective(network: Network) -> float:
    prob = ComputeProb(network)
    for seed in range(1000, 1004):
        prob.compute(minibatch(seed))
    return prob.average_objective()


def trained(num_threads: int, method: Method = Method.ONLINE, momentum: float = 0.0, count: int = 100) -> Trainer:
    trainer = Trainer(tiny_network(), TrainerOptions(method=method, momentum=momentum, num_threads=num_threads))
    batches = [minibatch(seed) for seed in range(count)]
    if num_threads == 1:
        for batch in batches:
            trainer.train(batch)
    else:
        train_in_threads(trainer, batches, num_threads)
    return trainer


@pytest.mark.parametrize(
    ("method", "momentum"), [(Method.ONLINE, 0.0), (Method.ONLINE, 0.5), (Method.SGD, 0.0), (Method.SIMPLE, 0.0)]
)
def test_two_threads_learn_about_what_one_learns(method: Method, momentum: float) -> None:
    start = objective(tiny_network())
    one, two = (objective(trained(number, method, momentum).network) for number in (1, 2))
    assert one > start + 0.2
    assert abs(two - one) < 0.15 * (one - start)


def test_threads_are_in_the_training_step_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(3, timeout=30.0)
    seen: set[int] = set()
    step = Trainer.train

    def train(self: Trainer, batch: Minibatch) -> None:
        together.wait()  # broken, which is an error, unless all three come
        seen.add(threading.get_ident())
        step(self, batch)

    monkeypatch.setattr(Trainer, "train", train)
    trainer = trained(3, count=12)
    assert len(seen) == 3
    assert trainer.minibatches == 12


def test_what_is_counted_is_added_up_over_the_threads(capfd: pytest.CaptureFixture[str]) -> None:
    network = tiny_network()
    for component in network.updatable_components().values():
        component.learning_rate = 50.0  # every minibatch reaches every limit
    trainer = Trainer(network, TrainerOptions(max_param_change=1.0, print_interval=10, num_threads=3))
    train_in_threads(trainer, (minibatch(seed, 1e30 if seed % 10 == 7 else 1.0) for seed in range(40)), 3)
    trainer.report()
    assert trainer.minibatches == trainer.counts.minibatches == 40
    assert trainer.counts.not_finite == 4
    assert trainer.counts.per_component == {"affine1": 36, "affine2": 36}
    assert trainer.counts.global_ == 36
    text = capfd.readouterr().err
    shown = [line for line in text.splitlines() if "Average objective function for 'output'" in line]
    assert len(shown) == 3, text
    assert text.count("For affine1, per-component max-change was enforced 90 % of the time.") == 1
    assert "In 4 of 40 minibatches the parameter change was not finite" in text
    weight = sum(float(line.split(" over ")[1].split()[0]) for line in shown)
    overall = re.search(r"Overall average objective function for 'output' is \S+ over (\S+) frames", text)
    assert overall is not None
    assert float(overall[1]) == trainer.logs["output"].overall.weight
    assert float(overall[1]) == 32 * trainer.logs["output"].overall.minibatches
    assert weight <= float(overall[1])
    assert np.isfinite(parameters(network)).all()


@pytest.mark.parametrize("zero", [True, False])
def test_statistics_are_added_up_over_the_threads(zero: bool) -> None:
    found = []
    for num_threads in (1, 3):
        network = Network.from_config(STATISTICS, 1)
        for name in ("norm1", "norm2"):
            norm = network.components[name]
            norm.count, norm.stats_sum[:], norm.stats_sumsq[:] = 8.0, 4.0, 20.0  # type: ignore[attr-defined]
        options = TrainerOptions(batchnorm_stats_scale=1.0, zero_component_stats=zero, num_threads=num_threads)
        trainer = Trainer(network, options)
        train_in_threads(trainer, [minibatch(seed) for seed in range(20)], num_threads)
        found.append(network.components)
    for name, rows in (("norm1", 20 * 32 + (0 if zero else 8)), ("norm2", 8)):  # in test mode nothing is gathered
        one, three = (components[name] for components in found)
        assert three.count == rows  # type: ignore[attr-defined]
        for attribute in ("count", "stats_sum", "stats_sumsq"):
            np.testing.assert_allclose(getattr(three, attribute), getattr(one, attribute), rtol=1e-12)


@pytest.mark.parametrize("method", [Method.ONLINE, Method.SGD])
def test_trainers_of_threads_that_take_turns_give_the_bytes_of_one(method: Method) -> None:
    options = TrainerOptions(method=method, max_param_change=0.5)
    alone, first = (Trainer(tiny_network(), options) for _ in range(2))
    taking_turns = [first, first.twin(1), first.twin(2)]
    for seed in range(30):
        alone.train(minibatch(seed))
        taking_turns[seed % 3].train(minibatch(seed))
    for twin in taking_turns[1:]:
        first.absorb(twin)
    assert parameters(first.network).tobytes() == parameters(alone.network).tobytes()
    assert first.counts == alone.counts
    assert first.logs["output"].overall == alone.logs["output"].overall


def test_threads_share_parameters_and_estimates_but_neither_changes_nor_statistics() -> None:
    network = tiny_network()
    trainer = Trainer(network, TrainerOptions())
    twin = trainer.twin(1)
    twin.train(minibatch(0))
    for name, component in network.updatable_components().items():
        for field, parameter in component.parameters().items():
            assert twin.network.components[name].parameters()[field] is parameter
    assert not np.array_equal(parameters(network), parameters(tiny_network()))
    mine, theirs = (t.change.updates["affine1"].preconditioners for t in (trainer, twin))
    assert mine is theirs
    assert set(mine) == {("in", "linear"), ("out", "linear")}
    assert not np.shares_memory(trainer.change.flat, twin.change.flat)


def test_an_estimate_that_another_thread_is_updating_is_used_and_left_alone() -> None:
    rows = np.random.default_rng(0).standard_normal((40, 12)).astype(np.float32)
    alone, busy = OnlineNaturalGradient(rank=3), OnlineNaturalGradient(rank=3)
    for online in (alone, busy):
        online.precondition(rows)
    assert busy.state is not None
    before = busy.state
    with busy._updating_one:
        found = busy.precondition(rows)
    expected = alone.precondition(rows)
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1] == expected[1]
    assert busy.state is before
    assert busy.state.minibatch == 2
    assert alone.state is not None
    assert not np.array_equal(alone.state.W, before.W)


def test_an_estimate_that_threads_share_stays_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    # How many minibatches pass while one thread updates depends on the machine, so that updates are what is counted.
    online = OnlineNaturalGradient(rank=5, num_samples_history=400)
    random = np.random.default_rng(0)
    spread = np.geomspace(1.0, 0.01, 30)
    rows = [(random.standard_normal((64, 30)) * spread).astype(np.float32) for _ in range(150)]
    waiting = itertools.cycle(rows)
    kept: list[float] = []
    updates = itertools.count()
    enough = threading.Event()
    updated = online._updated

    def counted(state: NaturalGradientState, *rest: Any) -> NaturalGradientState:
        if next(updates) >= 50:
            enough.set()
        return updated(state, *rest)

    monkeypatch.setattr(online, "_updated", counted)

    def work() -> None:
        while not enough.is_set() and len(kept) < 20_000:
            piece = next(waiting)
            hat, scale = online.precondition(piece)
            kept.append(float(np.linalg.norm(scale * hat) / np.linalg.norm(piece)))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert enough.is_set()
    np.testing.assert_allclose(kept, np.ones(len(kept)), rtol=1e-3)
    assert online.orthogonality_error() < 1e-2
    assert online.state is not None
    assert 0 < online.state.minibatch <= len(kept)  # what comes while a thread replaces the estimate may be missed
    largest = sorted(online.state.d + online.state.rho, reverse=True)
    np.testing.assert_allclose(largest[:3], spread[:3] ** 2, rtol=0.35)


def test_orthonormal_rows_stay_so_when_threads_take_the_step() -> None:
    network = tiny_network(extra="orthonormal-constraint=1.0")
    for component in network.updatable_components().values():
        component.learning_rate = 0.001  # little goes astray between two such steps
    trainer = Trainer(network, TrainerOptions(num_threads=3))
    train_in_threads(trainer, (minibatch(seed) for seed in range(150)), 3)
    M = network.components["affine1"].parameters()["linear"]
    assert np.abs(M @ M.T - np.eye(12)).max() < 0.1


@pytest.mark.parametrize("problem", [UserError("the archive ends early"), ZeroDivisionError("a defect")])
def test_what_goes_wrong_with_a_minibatch_ends_all_threads_and_is_raised(problem: Exception) -> None:
    def batches() -> Iterator[Minibatch]:
        for seed in range(5):
            yield minibatch(seed)
        raise problem

    before = threading.active_count()
    with pytest.raises(type(problem), match=str(problem)):
        train_in_threads(Trainer(tiny_network(), TrainerOptions()), batches(), 3)
    assert threading.active_count() == before


def test_what_goes_wrong_in_a_step_ends_all_threads_and_is_raised() -> None:
    wide = minibatch(0)
    wide = Minibatch(wide.num_sequences, wide.times, {"input": wide.inputs["input"][:, :4]}, wide.outputs)
    endless = (wide if seed == 3 else minibatch(seed) for seed in range(10**9))
    with pytest.raises(UserError, match="dimension 5"):
        train_in_threads(Trainer(tiny_network(), TrainerOptions()), endless, 2)


def test_options_that_threads_cannot_have_are_refused() -> None:
    for options in (
        TrainerOptions(num_threads=0),
        TrainerOptions(num_threads=1025),
        TrainerOptions(num_threads=2, backstitch_training_scale=0.3),
    ):
        with pytest.raises(UserError, match="--num-threads"):
            Trainer(tiny_network(), options)


def test_the_program_trains_with_threads_and_says_what_it_trained_on(tmp_path: Path) -> None:
    archive = write_examples(tmp_path / "egs.ark", range(20))
    write_network(str(tmp_path / "0.raw"), tiny_network())
    ended = run("nnet-train-shard", "--num-threads=3", tmp_path / "0.raw", f"ark:{archive}", tmp_path / "1.raw")
    assert ended.returncode == 0, ended.stderr
    assert "over 640 frames." in ended.stderr
    assert objective(read_network(str(tmp_path / "1.raw"))) > objective(tiny_network())


def test_one_thread_by_name_gives_the_bytes_of_none_given(tmp_path: Path) -> None:
    archive = write_examples(tmp_path / "egs.ark", range(6))
    write_network(str(tmp_path / "0.raw"), tiny_network())
    for name, words in (("a.raw", []), ("b.raw", ["--num-threads=1"])):
        assert run("nnet-train-shard", *words, tmp_path / "0.raw", f"ark:{archive}", tmp_path / name).returncode == 0
    assert (tmp_path / "a.raw").read_bytes() == (tmp_path / "b.raw").read_bytes()


def test_a_truncated_archive_is_one_error_with_threads_too(tmp_path: Path) -> None:
    archive = write_examples(tmp_path / "egs.ark", range(6))
    archive.write_bytes(archive.read_bytes()[:-300])
    write_network(str(tmp_path / "0.raw"), tiny_network())
    ended = run("nnet-train-shard", "--num-threads=2", tmp_path / "0.raw", f"ark:{archive}", tmp_path / "1.raw")
    fails_with_one_error(ended, "egs.ark", "minibatch-5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.raw", "egs.ark"]


def test_training_that_overflows_everywhere_writes_no_model_with_threads_either(tmp_path: Path) -> None:
    archive = write_examples(tmp_path / "egs.ark", range(4), scale=1e30)
    write_network(str(tmp_path / "0.raw"), tiny_network())
    ended = run("nnet-train-shard", "--num-threads=2", tmp_path / "0.raw", f"ark:{archive}", tmp_path / "1.raw")
    fails_with_one_error(ended, "finite")
    assert not (tmp_path / "1.raw").exists()
    assert math.isfinite(parameters(read_network(str(tmp_path / "0.raw"))).sum())


def test_ctrl_c_ends_threads_that_train_and_threads_that_wait(tmp_path: Path) -> None:
    archive = write_examples(tmp_path / "egs.ark", range(8))
    write_network(str(tmp_path / "0.raw"), tiny_network())
    words = ["nnet-train-shard", "--num-threads=2", "--print-interval=1", str(tmp_path / "0.raw")]
    words += [f"ark:cat {archive}; exec sleep 60 |", str(tmp_path / "1.raw")]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    seen = ""
    while "for minibatches" not in seen:
        line = process.stderr.readline()
        assert line, seen
        seen += line
    started = time.monotonic()
    process.send_signal(signal.SIGINT)  # to the program alone: the pipe goes on
    assert process.wait(timeout=30) == 130
    assert time.monotonic() - started < 20
    os.killpg(process.pid, signal.SIGKILL)  # the pipe's sleep, which has standard error open
    assert "Interrupted." in process.stderr.read()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.raw", "egs.ark"]
