"""The optimiser's state: going on from it is as if there had been no stop; what does not fit is refused."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from tiny_minibatches import (
    CONFIG,
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
from nnet3py.train.natural_gradient import OnlineNaturalGradient
from nnet3py.train.optimizer_state import OptimizerState
from nnet3py.train.optimizer_state_file import read_optimizer_state, write_optimizer_state
from nnet3py.train.parameter_update import Method
from nnet3py.train.trainer import Trainer, TrainerOptions

SCALED = """
input-node name=input dim=5
component name=tdnn1 type=TdnnComponent input-dim=5 output-dim=12 time-offsets=-1,0,1 learning-rate=0.02 max-change=0.3
component-node name=tdnn1 component=tdnn1 input=input
component name=scale1 type=NaturalGradientPerElementScaleComponent dim=12 learning-rate=0.02
component-node name=scale1 component=scale1 input=tdnn1
component name=offset1 type=PerElementOffsetComponent dim=12 learning-rate=0.02
component-node name=offset1 component=offset1 input=scale1
component name=norm1 type=NormalizeComponent dim=12
component-node name=norm1 component=norm1 input=offset1
component name=linear2 type=LinearComponent input-dim=12 output-dim=3 learning-rate=0.02
component-node name=linear2 component=linear2 input=norm1
component name=log-softmax type=LogSoftmaxComponent dim=3
component-node name=log-softmax component=log-softmax input=linear2
output-node name=output input=log-softmax
"""
FIRST, SECOND = range(13), range(13, 23)  # the first ends between two updates of the estimates


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, archives of the first minibatches, the second ones and all, and the state that the first ones leave."""
    folder = tmp_path_factory.mktemp("original")
    write_network(str(folder / "0.raw"), tiny_network())
    write_examples(folder / "a.ark", FIRST)
    write_examples(folder / "b.ark", SECOND)
    write_examples(folder / "ab.ark", range(SECOND.stop))
    ended = train(folder, "0.raw", "a.ark", "1.raw", "--optimizer-state-out=1.state")
    assert ended.returncode == 0, ended.stderr
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of all this to spoil."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    return tmp_path


def train(folder: Path, model: str, archive: str, out: str, *words: str):  # type: ignore[no-untyped-def]
    named = [word.replace("=1.", f"={folder}/1.").replace("=2.", f"={folder}/2.") for word in words]
    return run("nnet-train-shard", *named, folder / model, f"ark:{folder / archive}", folder / out)


NATURAL, PLAIN = (
    CONFIG.format(affine=affine, extra="") for affine in ("NaturalGradientAffineComponent", "AffineComponent")
)


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (NATURAL, TrainerOptions()),
        (NATURAL, TrainerOptions(max_param_change=0.1)),
        (NATURAL, TrainerOptions(momentum=0.6)),
        (NATURAL, TrainerOptions(backstitch_training_scale=0.3, backstitch_training_interval=4)),
        (PLAIN, TrainerOptions(momentum=0.6)),
        (PLAIN, TrainerOptions(momentum=0.6, method=Method.SIMPLE)),
        (SCALED, TrainerOptions(momentum=0.3)),
    ],
)
def test_going_on_from_the_state_gives_the_bytes_of_one_run(
    config: str, options: TrainerOptions, tmp_path: Path
) -> None:
    def trained(trainer: Trainer, seeds: range) -> Trainer:
        for seed in seeds:
            trainer.train(minibatch(seed))
        return trainer

    whole = trained(Trainer(Network.from_config(config, 1), options), range(SECOND.stop))
    first = trained(Trainer(Network.from_config(config, 1), options), FIRST)
    write_network(str(tmp_path / "1.h5"), first.network)
    write_optimizer_state(str(tmp_path / "1.state"), first.optimizer_state())
    state = read_optimizer_state(str(tmp_path / "1.state"))
    second = trained(Trainer(read_network(str(tmp_path / "1.h5")), options, state), SECOND)
    afresh = trained(Trainer(read_network(str(tmp_path / "1.h5")), options), SECOND)
    assert parameters(second.network).tobytes() == parameters(whole.network).tobytes()
    assert parameters(afresh.network).tobytes() != parameters(whole.network).tobytes()
    for trainer, name in ((whole, "whole"), (second, "second")):
        write_optimizer_state(str(tmp_path / name), trainer.optimizer_state())
    assert (tmp_path / "second").read_bytes() == (tmp_path / "whole").read_bytes()


def test_the_program_goes_on_from_a_state_as_if_it_had_not_stopped(folder: Path) -> None:
    state = ["--optimizer-state-in=1.state", "--optimizer-state-out=2.state"]
    for ended in (
        train(folder, "0.raw", "ab.ark", "whole.raw", "--optimizer-state-out=2.whole"),
        train(folder, "1.raw", "b.ark", "2.raw", *state),
    ):
        assert ended.returncode == 0, ended.stderr
    whole, second = (parameters(read_network(str(folder / name))) for name in ("whole.raw", "2.raw"))
    assert second.tobytes() == whole.tobytes()
    assert (folder / "2.state").read_bytes() == (folder / "2.whole").read_bytes()


def test_a_state_comes_back_from_its_file_to_the_bit(tmp_path: Path) -> None:
    trainer = Trainer(tiny_network(), TrainerOptions(momentum=0.5))
    for seed in range(5):
        trainer.train(minibatch(seed))
    state, path = trainer.optimizer_state(), str(tmp_path / "state")
    write_optimizer_state(path, state)
    found = read_optimizer_state(f"cat {path} |")
    assert found.minibatches == 5
    assert {name: set(keys) for name, keys in found.estimates.items()} == {
        name: {("in", "linear"), ("out", "linear")} for name in ("affine1", "affine2")
    }
    for name, estimates in state.estimates.items():
        for key, estimate in estimates.items():
            other = found.estimates[name][key]
            assert (other.rho, other.minibatch) == (estimate.rho, 5)
            for attribute in ("W", "d", "gram"):
                np.testing.assert_array_equal(getattr(other, attribute), getattr(estimate, attribute))
    for name, changes in state.momentum.items():
        for field, change in changes.items():
            np.testing.assert_array_equal(found.momentum[name][field], change)
    write_optimizer_state(path + "2", found)
    assert Path(path + "2").read_bytes() == Path(path).read_bytes()


def test_a_file_can_be_read_with_h5py_alone(folder: Path) -> None:
    with h5py.File(folder / "1.state") as file:
        assert file.attrs["minibatches"] == 13
        place = file["components/affine1/in/linear"]
        assert place["W"].shape == (8, 16)  # rank by inputs and the 1 of the bias
        assert place["d"].shape == (8,)
        assert place.attrs["minibatch"] == 13
        assert "momentum" not in file["components/affine1"]


def test_components_of_which_the_state_has_nothing_start_afresh(folder: Path) -> None:
    state = read_optimizer_state(str(folder / "1.state"))
    del state.estimates["affine2"]
    network = read_network(str(folder / "1.raw"))
    trainer = Trainer(network, TrainerOptions(), state)
    trainer.train(minibatch(13))
    first, second = (trainer.change.updates[name].estimates() for name in ("affine1", "affine2"))
    assert {estimate.minibatch for estimate in first.values()} == {14}
    assert {estimate.minibatch for estimate in second.values()} == {1}


def test_a_layer_that_is_not_trained_keeps_its_estimate(folder: Path) -> None:
    state, network = read_optimizer_state(str(folder / "1.state")), read_network(str(folder / "1.raw"))
    network.components["affine1"].learning_rate = 0.0
    trainer = Trainer(network, TrainerOptions(), state)
    trainer.train(minibatch(13))
    left = trainer.optimizer_state()
    assert left.minibatches == 14
    assert left.estimates["affine1"] == state.estimates["affine1"]
    assert {estimate.minibatch for estimate in left.estimates["affine2"].values()} == {14}


def test_threads_leave_and_take_a_state_too(folder: Path) -> None:
    words = ["--num-threads=2", "--optimizer-state-in=1.state", "--optimizer-state-out=2.state"]
    ended = train(folder, "1.raw", "b.ark", "2.raw", *words)
    assert ended.returncode == 0, ended.stderr
    state = read_optimizer_state(str(folder / "2.state"))
    assert state.minibatches == 23
    for estimates in state.estimates.values():
        for estimate in estimates.values():
            assert 18 <= estimate.minibatch <= 23
            check = OnlineNaturalGradient(rank=len(estimate.d))
            check.state = estimate
            assert check.orthogonality_error() < 1e-2


def _other_shape(folder: Path, replaced: str, by: str) -> None:
    """A model 1.raw of other dimensions than the state's."""
    config = CONFIG.format(affine="NaturalGradientAffineComponent", extra="")
    assert replaced in config
    write_network(str(folder / "1.raw"), Network.from_config(config.replace(replaced, by), 2))


def _wider(folder: Path) -> None:
    wider = "dim=4\ncomponent-node name=norm1 component=norm1 input=pnorm1\ncomponent name=affine2 type="
    wider += "NaturalGradientAffineComponent input-dim=4"
    config = CONFIG.format(affine="NaturalGradientAffineComponent", extra="")
    config = config.replace(wider, wider.replace("dim=4", "dim=6")).replace("output-dim=4", "output-dim=6")
    write_network(str(folder / "1.raw"), Network.from_config(config, 2))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_wider, ("affine2", "rank 2 and dimension 5", "wants rank 3 and dimension 7")),
        (lambda folder: _other_shape(folder, "max-change=0.75", "rank-in=3"), ("affine1", "rank 8", "wants rank 3")),
        (lambda folder: _other_shape(folder, "affine2", "last"), ("affine2", "does not have")),
        (lambda folder: _other_shape(folder, "NaturalGradientA", "A"), ("affine1", "estimates", "no use")),
    ],
)
def test_a_state_of_another_network_is_refused_unless_it_need_not_fit(
    change: Callable[[Path], None], says: tuple[str, ...], folder: Path
) -> None:
    change(folder)
    ended = train(folder, "1.raw", "b.ark", "2.raw", "--optimizer-state-in=1.state")
    fails_with_one_error(ended, *says, "--optimizer-state-must-fit=false")
    assert not (folder / "2.raw").exists()
    words = ["--optimizer-state-in=1.state", "--optimizer-state-must-fit=false", "--optimizer-state-out=2.state"]
    ended = train(folder, "1.raw", "b.ark", "2.raw", *words)
    assert ended.returncode == 0, ended.stderr
    state = read_optimizer_state(str(folder / "2.state"))
    assert state.minibatches == 23
    assert set(state.estimates) <= set(read_network(str(folder / "2.raw")).components)


def test_what_fits_is_carried_on_beside_what_does_not(folder: Path) -> None:
    _wider(folder)
    state, network = read_optimizer_state(str(folder / "1.state")), read_network(str(folder / "1.raw"))
    trainer = Trainer(network, TrainerOptions(), state, state_must_fit=False)
    trainer.train(minibatch(13))
    counts = {
        (name, *key): estimate.minibatch
        for name, update in trainer.change.updates.items()
        for key, estimate in update.estimates().items()
    }
    assert counts == {
        ("affine1", "in", "linear"): 14,
        ("affine1", "out", "linear"): 14,
        ("affine2", "in", "linear"): 1,
        ("affine2", "out", "linear"): 14,
    }


def test_momentum_of_another_shape_is_refused(folder: Path) -> None:
    trainer = Trainer(tiny_network("AffineComponent"), TrainerOptions(momentum=0.5))
    trainer.train(minibatch(0))
    state = trainer.optimizer_state()
    state.momentum["affine1"]["bias"] = np.zeros(3, np.float32)
    with pytest.raises(UserError, match="momentum of another shape"):
        Trainer(tiny_network("AffineComponent"), TrainerOptions(momentum=0.5), state)
    state.momentum["affine1"] = {"slope": np.zeros(3, np.float32)}
    with pytest.raises(UserError, match="slope of affine1"):
        Trainer(tiny_network("AffineComponent"), TrainerOptions(momentum=0.5), state)


def test_a_method_that_has_no_estimates_refuses_those_of_another(folder: Path) -> None:
    ended = train(folder, "1.raw", "b.ark", "2.raw", "--update=sgd", "--optimizer-state-in=1.state")
    fails_with_one_error(ended, "affine1", "--update=sgd")


def test_momentum_that_each_thread_has_of_its_own_cannot_be_kept(folder: Path) -> None:
    words = ["--num-threads=2", "--momentum=0.5", "--optimizer-state-out=2.state"]
    fails_with_one_error(train(folder, "1.raw", "b.ark", "2.raw", *words), "--num-threads=1")
    assert not (folder / "2.state").exists()


def _cut(share: float) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])  # type: ignore[return-value]


def _in_file(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return spoil


def _set(place: str, value: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[place]
        file[place] = value

    return change


def _set_attribute(place: str, name: str, value: object) -> Callable[[h5py.File], None]:
    return lambda file: file[place].attrs.__setitem__(name, value)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.write_bytes(b""), "HDF5"),
        (lambda path: path.write_text("not a state"), "HDF5"),
        (_cut(0.3), "cut off"),
        (_cut(0.98), "cut off"),
        (_in_file(_set("components/affine1/in/linear/W", np.full((8, 16), math.nan, np.float32))), "not finite"),
        (_in_file(_set("components/affine1/in/linear/W", np.ones((8, 8), np.float32))), "not of an estimate"),
        (_in_file(_set("components/affine1/in/linear/d", np.ones(7))), "not of an estimate"),
        (_in_file(_set("components/affine1/in/linear/d", -np.ones(8))), "above zero"),
        (_in_file(lambda file: file.pop("components/affine1/in/linear/d")), "expected a data set d"),
        (_in_file(lambda file: file.pop("components")), "expected a group components"),
        (_in_file(lambda file: file.move("components/affine1/in", "components/affine1/up")), "'up'"),
        (_in_file(_set_attribute("components/affine1/in/linear", "rho", math.inf)), "above zero"),
        (_in_file(_set_attribute("components/affine1/in/linear", "minibatch", -1)), "number of minibatches"),
        (_in_file(lambda file: file.attrs.pop("minibatches")), "minibatches"),
        (_in_file(_set_attribute("/", "version", 2)), "version"),
        (_in_file(_set_attribute("/", "format", "nnet3py-network")), "not a state of the optimizer"),
    ],
)
def test_a_bad_state_is_refused_with_its_name(spoil: Callable[[Path], None], says: str, folder: Path) -> None:
    spoil(folder / "1.state")
    with pytest.raises(UserError, match=re.escape(says)) as raised:
        read_optimizer_state(str(folder / "1.state"))
    assert f"{folder}/1.state" in str(raised.value)


def test_a_state_that_is_cut_off_is_one_error_and_no_model_is_written(folder: Path) -> None:
    _cut(0.9)(folder / "1.state")
    ended = train(folder, "1.raw", "b.ark", "2.raw", "--optimizer-state-in=1.state")
    fails_with_one_error(ended, "1.state", "cut off")
    assert not (folder / "2.raw").exists()


def test_a_field_that_the_component_does_not_have_is_refused(folder: Path) -> None:
    state = read_optimizer_state(str(folder / "1.state"))
    state.estimates["affine1"]["in", "slope"] = state.estimates["affine1"].pop(("in", "linear"))
    with pytest.raises(UserError, match="slope of affine1"):
        Trainer(tiny_network(), TrainerOptions(), state)


def test_a_model_is_not_a_state(folder: Path) -> None:
    write_network(str(folder / "1.h5"), tiny_network())
    ended = train(folder, "1.raw", "b.ark", "2.raw", "--optimizer-state-in=1.h5")
    fails_with_one_error(ended, "1.h5", "not a state of the optimizer")


def test_a_state_that_cannot_be_written_is_an_error_before_training(folder: Path) -> None:
    ended = run(
        "nnet-train-shard",
        f"--optimizer-state-out={folder}/missing/1.state",
        folder / "1.raw",
        f"ark:{folder}/b.ark",
        folder / "2.raw",
    )
    fails_with_one_error(ended, "missing/1.state")
    assert "Overall average" not in ended.stderr
    assert not (folder / "2.raw").exists()


def test_what_is_left_without_training_is_what_was_there() -> None:
    trainer = Trainer(tiny_network(), TrainerOptions())
    for seed in range(3):
        trainer.train(minibatch(seed))
    state = trainer.optimizer_state()
    before = parameters(trainer.network)
    again = Trainer(trainer.network, TrainerOptions(), state).optimizer_state()
    assert again == OptimizerState(3, state.estimates, {})
    np.testing.assert_array_equal(parameters(trainer.network), before)
    assert Method.ONLINE is trainer.change.updates["affine1"].method
