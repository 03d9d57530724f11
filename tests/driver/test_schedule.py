"""The schedule's numbers, against those that Kaldi's own functions give for the same options."""

from __future__ import annotations

import subprocess

import pytest

from nnet3py.driver import minibatch_size
from nnet3py.driver.schedule import Schedule, Shard, shard, shard_expressions
from nnet3py.egs.merge import MinibatchSizes
from nnet3py.errors import UserError


def schedule(**changes: float) -> Schedule:
    settings = {
        "num_epochs": 2.0,
        "num_archives": 7,
        "passes_per_epoch": 8,
        "jobs_initial": 2,
        "jobs_final": 5,
        "initial_effective_lrate": 0.002,
        "final_effective_lrate": 0.0002,
    }
    return Schedule(**{**settings, **changes})  # type: ignore[arg-type]


# Printed by Kaldi's steps/libs/nnet3/train/common.py for the options above (2 epochs, 7 archives, 8 frames an example).
KALDI_JOBS = [2] * 6 + [3] * 10 + [4] * 11 + [5] * 5
KALDI_RATES = {0: 0.004, 1: 0.003838865077471688, 2: 0.0036842212707579266, 30: 0.001253759641262691, 31: 0.001}


def test_iterations_and_jobs_are_kaldis() -> None:
    assert schedule().num_iterations == 32
    assert [iteration.jobs for iteration in schedule().iterations] == KALDI_JOBS


def test_learning_rates_are_kaldis() -> None:
    rates = {index: schedule().iterations[index].learning_rate for index in KALDI_RATES}
    assert rates == pytest.approx(KALDI_RATES, rel=1e-12)


def test_the_rate_per_example_ends_at_the_final_one() -> None:
    last = schedule().iterations[-1]
    assert last.learning_rate == 5 * 0.0002


@pytest.mark.parametrize(
    ("final", "step", "jobs"),
    [(9, 1, [2, 3, 3, 4, 4, 5, 6, 6, 7, 7, 8, 8]), (9, 3, [2, 3, 3, 3, 3, 6, 6, 6, 6, 6, 9, 9])],
)
def test_jobs_follow_kaldis_published_examples(final: int, step: int, jobs: list[int]) -> None:
    found = schedule(num_epochs=66, num_archives=9, passes_per_epoch=1, jobs_final=final, jobs_step=step)
    twelve = Schedule(
        num_epochs=66 / 9, num_archives=9, passes_per_epoch=1, jobs_initial=2, jobs_final=final, jobs_step=step,
        initial_effective_lrate=0.1, final_effective_lrate=0.1,
    )  # fmt: skip
    assert found.num_iterations == 108
    assert twelve.num_iterations == 12
    assert [iteration.jobs for iteration in twelve.iterations] == jobs


def test_archives_and_epochs_add_up() -> None:
    before = 0
    for iteration in schedule().iterations:
        assert iteration.archives_before == before
        assert iteration.epoch == pytest.approx(before / 56)
        before += iteration.jobs
    assert schedule().archives_processed == before == 111


def test_models_to_combine_are_kaldis() -> None:
    assert schedule().models_to_combine(20) == list(range(17, 33))
    assert schedule().models_to_combine(3) == [27, 29, 31, 32]
    assert schedule(num_epochs=0.08).models_to_combine(20) == [1]


def test_only_the_first_iteration_takes_the_best_model() -> None:
    assert [i.index for i in schedule().iterations if not i.averages] == [0]


def test_a_layer_added_later_takes_the_best_model_and_ends_what_can_be_combined() -> None:
    growing = schedule(num_layers=3, add_layers_period=2)
    assert {i.index: i.adds_layer for i in growing.iterations if i.adds_layer} == {2: 2, 4: 3}
    assert [i.index for i in growing.iterations if not i.averages] == [0, 2, 4]
    late = schedule(num_layers=3, add_layers_period=14)
    assert late.models_to_combine(20) == [29, 30, 31, 32]


def test_extra_epochs_go_on_at_the_final_rate_and_change_nothing_before() -> None:
    plain, longer = schedule(), schedule(num_epochs_extra=1.0)
    extra = 56 // 5  # archives of an epoch, jobs
    assert longer.num_iterations == 32 + extra
    for before, after in zip(plain.iterations, longer.iterations, strict=False):
        assert (before.jobs, before.learning_rate, before.archives_before, before.epoch) == (
            after.jobs, after.learning_rate, after.archives_before, after.epoch
        )  # fmt: skip
        assert after.share == pytest.approx(before.share * 2 / 3)
    assert {(i.jobs, i.learning_rate) for i in longer.iterations[32:]} == {(5, 5 * 0.0002)}
    assert longer.archives_processed == plain.archives_processed + 5 * extra
    assert longer.total_epochs == 3.0
    assert longer.epoch(longer.archives_to_process) == pytest.approx(3.0)


def test_no_extra_epochs_leave_the_schedule_as_it_is() -> None:
    assert schedule(num_epochs_extra=0.0).iterations == schedule().iterations


def test_the_models_of_the_extra_epochs_are_combined() -> None:
    assert schedule(num_epochs_extra=1.0).models_to_combine(20) == list(range(24, 44))
    longer = schedule(num_epochs_extra=4.0)  # 44 iterations after the 32
    assert longer.models_to_combine(11) == [*range(33, 77, 4), 76]
    assert min(longer.models_to_combine(20)) > 32


def test_extra_epochs_have_a_multiple_of_the_step_of_jobs() -> None:
    stepped = schedule(num_archives=9, jobs_final=9, jobs_step=3, num_epochs_extra=1.0)
    assert {i.jobs for i in stepped.iterations[stepped.decaying_iterations :]} == {9}
    assert stepped.num_iterations == stepped.decaying_iterations + 72 // 9


def test_mixing_up_comes_halfway_between_growth_and_end_and_keeps_the_best_model() -> None:
    """As mix_up_iter in Kaldi's steps/nnet2/train_pnorm.sh, but that growth ends with the last layer's iteration."""
    mixed = schedule(mix_up_iter=-1)
    assert [i.index for i in mixed.iterations if i.mixes_up] == [16]
    assert [i.index for i in mixed.iterations if not i.averages] == [0, 16]
    growing = schedule(mix_up_iter=-1, num_layers=3, add_layers_period=3, num_epochs_extra=1.0)
    assert [i.index for i in growing.iterations if i.mixes_up] == [(43 + 6) // 2]
    assert [i.index for i in growing.iterations if i.changes_shape] == [3, 6, 24]
    assert [i.index for i in schedule(mix_up_iter=9).iterations if i.mixes_up] == [9]
    assert not any(i.mixes_up for i in schedule().iterations)


def test_models_from_before_mixing_up_are_not_combined() -> None:
    assert schedule(mix_up_iter=20).models_to_combine(20) == list(range(21, 33))
    assert schedule(mix_up_iter=31).models_to_combine(20) == [32]


def test_every_pass_reads_every_archive_with_another_frame() -> None:
    seen = [shard(position, 7, 8) for position in range(56)]
    assert len(set(seen)) == 56
    assert [s.archive for s in seen[:9]] == [1, 2, 3, 4, 5, 6, 7, 1, 2]
    assert seen[0] == Shard(1, 1)
    assert seen[7] == Shard(1, 2)
    assert {s.frame for s in seen[:7]} == {1, 2, 3, 4, 5, 6, 7}


def test_bash_finds_the_same_shard_as_python() -> None:
    archive, frame = shard_expressions(23, 5, 8)
    assert not any(character.isspace() for character in archive + frame)
    for job in (1, 2, 9):
        text = f"echo {archive} {frame}".replace("JOB", str(job))
        done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True)
        expected = shard(23 + job - 1, 5, 8)
        assert done.stdout.split() == [str(expected.archive), str(expected.frame)]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_archives": 4}, "samples-per-iter"),
        ({"num_epochs": 0.01}, "No iteration"),
        ({"num_epochs": 0.0}, "num-epochs"),
        ({"jobs_initial": 0}, "num-jobs"),
        ({"final_effective_lrate": 0.0}, "effective-lrate"),
        ({"initial_effective_lrate": float("nan")}, "effective-lrate"),
        ({"num_layers": 9, "add_layers_period": 4}, "add-layers-period"),
        ({"num_epochs_extra": -1.0}, "num-epochs-extra"),
        ({"num_epochs_extra": float("inf")}, "num-epochs-extra"),
        ({"num_epochs_extra": 0.01}, "num-epochs-extra=0.01 is less than one iteration"),
        ({"mix_up_iter": 32}, "cannot come before iteration 32: of 32 iterations"),
        ({"mix_up_iter": 0}, "cannot come before iteration 0"),
        ({"mix_up_iter": 6, "num_layers": 3, "add_layers_period": 3}, "after iteration 6"),
        ({"mix_up_iter": -1, "num_epochs": 0.08}, "mix-up-iter"),
    ],
)
def test_options_that_cannot_be_are_refused(changes: dict[str, float], says: str) -> None:
    with pytest.raises(UserError, match=says):
        schedule(**changes)


@pytest.mark.parametrize(
    ("rules", "half"),
    [("64", "32"), ("64,16:32", "32,8:16"), ("1", "1"), ("128=64/256=40,80:100", "128=32/256=20,40:50"), ("3", "1")],
)
def test_minibatch_sizes_are_halved_but_not_lengths(rules: str, half: str) -> None:
    assert minibatch_size.halved(rules) == half


@pytest.mark.parametrize(
    ("rules", "with_rest"),
    [("512", "1:512"), ("1:32", "1:32"), ("64,128", "1:64,1:128"), ("264=64/128=32:128", "264=1:64/128=1:128")],
)
def test_minibatch_sizes_with_all_smaller_ones_discard_nothing(rules: str, with_rest: str) -> None:
    assert minibatch_size.with_rest(rules) == with_rest
    assert MinibatchSizes.parse(with_rest).of_rest(128, 1) == 1


def test_too_many_jobs_or_too_few_epochs_are_refused_with_numbers_that_do() -> None:
    with pytest.raises(UserError, match=r"Lower --trainer\.optimization\.num-jobs-final to 2, or"):
        Schedule(1, 2, 1, 1, 3, 0.1, 0.01)
    with pytest.raises(UserError, match=r"num-jobs-initial and --trainer\.optimization\.num-jobs-final to 1, or"):
        Schedule(1, 1, 1, 2, 3, 0.1, 0.01)
    with pytest.raises(UserError, match=r"Raise --trainer\.num-epochs to 0\.67,") as refusal:
        Schedule(0.5, 3, 1, 1, 3, 0.1, 0.01)
    assert "0.5 epochs have 1 archives" in str(refusal.value)
    assert Schedule(0.67, 3, 1, 1, 3, 0.1, 0.01).num_iterations == 1


@pytest.mark.parametrize("rules", ["", "1:", ":2", "3,", ",4", "9=", "10=10/", "11=11/11", "/18", "8:4", "0", "many"])
def test_malformed_minibatch_sizes_are_refused(rules: str) -> None:
    with pytest.raises(UserError, match="minibatch size"):
        minibatch_size.check(rules)
