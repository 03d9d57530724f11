"""Which trainings the comparisons of arXiv:1410.7455 are made of, and at which size.

A *phase* is a list of trials. Later phases use the learning rates that the first one finds best, so each phase is a
function of the results so far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from trial import Rates, Trial

METHODS = {"sgd": "plain SGD", "simple-ng": "simple natural gradient", "online-ng": "online natural gradient"}
MOMENTUM = "--trainer.optimization.outer-momentum="


@dataclass(frozen=True)
class Size:
    """How much is trained.

    Attributes:
        hours: of training speech to synthesise.
        jobs: the numbers of jobs, ascending; the first is what the others are compared with.
        frames: by number of jobs, about how many frames a job trains on in an iteration.
        grid: by method, the effective rates that are tried at each number of jobs in ``grid_jobs``.
        grid_jobs: by number of jobs, at which number its best rates were looked for.
        seed_jobs: the numbers of jobs that are tried with every one of ``seeds``; the others have the first.
        everything_jobs: the numbers of jobs that are tried with all that goes beyond the paper (``EVERYTHING``).
    """

    hours: float
    epochs: float
    jobs: tuple[int, ...]
    frames: dict[int, int]
    grid: dict[str, tuple[Rates, ...]]
    grid_jobs: dict[int, int]
    seed_jobs: tuple[int, ...] = ()
    seeds: tuple[int, ...] = (0,)
    everything_jobs: tuple[int, ...] = ()
    phases: tuple[str, ...] = field(default=())


def _rates(*pairs: tuple[float, float]) -> tuple[Rates, ...]:
    return tuple(Rates(*pair) for pair in pairs)


GOOD_ENOUGH = {
    "sgd": _rates((0.32, 0.0005)),
    "simple-ng": _rates((0.005, 0.0005)),
    "online-ng": _rates((0.005, 0.0005)),
}
"""Rates that are known to train by each method, where none are looked for."""

FULL = Size(
    hours=1,
    epochs=4,
    jobs=(1, 2, 4, 8, 16),
    frames={1: 90000, 2: 45000, 4: 18000, 8: 9000, 16: 4500},
    grid={
        "sgd": _rates((0.32, 0.002), (0.32, 0.0005), (0.32, 0.0001)),
        "simple-ng": _rates((0.0025, 0.00025), (0.005, 0.0005), (0.01, 0.001), (0.02, 0.002)),
        "online-ng": _rates((0.0025, 0.00025), (0.005, 0.0005), (0.01, 0.001), (0.02, 0.002)),
    },
    grid_jobs={1: 1, 2: 4, 4: 4, 8: 4, 16: 4},
    seed_jobs=(1, 4, 16),
    seeds=(0, 1, 2),
    everything_jobs=(4, 8, 16),
    phases=("rates", "headline", "beyond", "parts", "sensitivity", "threads", "seeds"),
)
QUICK = Size(
    hours=0.4,
    epochs=3,
    jobs=(1, 4, 16),
    frames={1: 27000, 4: 9000, 16: 4500},
    grid=GOOD_ENOUGH,
    grid_jobs={1: 1, 4: 4, 16: 16},
    everything_jobs=(16,),
    phases=("headline", "beyond"),
)
FSDD = Size(
    hours=0,
    epochs=8,
    jobs=(1, 2, 4, 8, 16),
    frames={1: 24000, 2: 12000, 4: 6000, 8: 4000, 16: 2200},
    grid=FULL.grid,
    grid_jobs=FULL.grid_jobs,
    everything_jobs=(4, 8, 16),
    phases=("rates", "headline", "beyond"),
)
"""The recorded digits of egs/fsdd, all 0.3 hours of five speakers."""
SIZES = {"full": FULL, "quick": QUICK, "fsdd": FSDD}

EVERYTHING = {4: (0.6, 4500), 8: (0.8, 4500), 16: (0.8, 2250)}
"""By number of jobs, the outer momentum and the frames a job trains on in an iteration that are good together."""

Best = Callable[[str, int], Rates]
"""The best rates found for a method and a number of jobs."""


class Plan:
    """The trials of a size, phase by phase."""

    def __init__(self, size: Size, best: Best) -> None:
        self.size = size
        self.best = best

    def phase(self, name: str) -> list[Trial]:
        """The trials of a phase, each once; those of earlier phases may be among them."""
        return list(dict.fromkeys(getattr(self, name)()))

    def trial(self, method: str, jobs: int, rates: Rates, **more: object) -> Trial:
        """A trial of this size."""
        return Trial(method, jobs, rates, self.size.frames[jobs], self.size.epochs, **more)  # type: ignore[arg-type]

    def at_best(self, method: str, jobs: int, seed: int = 0) -> Trial:
        """A method at its own best rates."""
        return self.trial(method, jobs, self.best(method, jobs), seed=seed)

    def rates(self) -> Iterator[Trial]:
        """The grid of learning rates."""
        for jobs in sorted(set(self.size.grid_jobs.values())):
            for method in METHODS:
                for rates in self.size.grid[method]:
                    yield self.trial(method, jobs, rates)

    def headline(self) -> Iterator[Trial]:
        """Every number of jobs with every method."""
        for jobs in self.size.jobs:
            for method in METHODS:
                yield self.at_best(method, jobs)

    def seeds(self) -> Iterator[Trial]:
        """The headline and the best of :meth:`beyond` with other seeds."""
        for seed in self.size.seeds[1:]:
            for jobs in self.size.seed_jobs:
                if jobs in EVERYTHING:
                    yield self.everything(jobs, seed)
                yield from (self.at_best(method, jobs, seed) for method in METHODS)

    def with_momentum(self, jobs: int, momentum: float, factor: float) -> Trial:
        """Online natural gradient with outer momentum, its rates ``factor`` times the best without."""
        rates = self.best("online-ng", jobs)
        return self.trial(
            "online-ng",
            jobs,
            Rates(factor * rates.initial, factor * rates.final),
            options=(f"{MOMENTUM}{momentum:g}",),
            note=f"momentum {momentum:g}",
        )

    def carried(self, trial: Trial) -> Trial:
        """The same with estimates of natural gradient that go on from iteration to iteration."""
        note = f"{trial.note}, carried" if trial.note else "carried"
        return replace(trial, options=(*trial.options, "--trainer.carry-natural-gradient=true"), note=note)

    def everything(self, jobs: int, seed: int = 0) -> Trial:
        """All that helped: momentum, carried estimates, a growing number of jobs, short iterations."""
        momentum, frames = EVERYTHING[jobs]
        trial = self.carried(self.with_momentum(jobs, momentum, 0.8))
        return replace(trial, jobs_initial=1, frames=frames, seed=seed)

    def beyond(self) -> Iterator[Trial]:
        """What the paper does not have, beside the paper's method: all of it; each alone, at the most jobs."""
        size = self.size
        yield from (self.at_best("online-ng", jobs) for jobs in size.jobs)
        yield from (self.everything(jobs) for jobs in size.everything_jobs)
        if size is not FULL:
            return
        yield self.carried(self.at_best("online-ng", 1))
        for jobs in size.jobs[-2:]:
            yield from (self.with_momentum(jobs, *pair) for pair in ((0.5, 0.5), (0.8, 0.8)))
        most = size.jobs[-1]
        yield from (self.with_momentum(most, *pair) for pair in ((0.8, 0.4), (0.9, 0.4)))
        plain, moving = self.at_best("online-ng", most), self.with_momentum(most, 0.8, 0.8)
        yield self.carried(plain)
        yield replace(plain, jobs_initial=1)
        yield replace(plain, frames=plain.frames // 2)
        yield self.carried(moving)
        yield replace(moving, jobs_initial=1)
        yield replace(moving, frames=moving.frames // 2)

    def parts(self) -> Iterator[Trial]:
        """Each part of the method with and without, at 4 jobs."""
        jobs = 4
        base = self.at_best("online-ng", jobs)
        yield base
        yield replace(base, options=("--trainer.optimization.combine-method=weights",), note="combined-by-weights")
        yield replace(base, options=("--trainer.mix-up=150",), note="mixed-up-150")
        yield replace(base, configs=("--decorrelate=false",), note="not-decorrelated")
        yield replace(base, configs=("--lda=exp/lda60/lda.mat", "--lda-dim=60"), note="lda-60")
        for factor in (0.5, 2):
            factors = f"--trainer.learning-rate-factors=final_affine={factor}"
            yield replace(base, options=(factors,), note=f"last-layer-rate-times-{factor}")
        deep = replace(base, configs=("--num-layers=4",), note="4layers")
        yield deep
        growth = ("--trainer.add-layers-period=4",)
        yield replace(deep, configs=(*deep.configs, "--grow=true"), options=growth, note="4layers-grown")
        sigmoid = replace(base, configs=("--nonlinearity=sigmoid",), note="sigmoid")
        yield sigmoid
        fixing, shrinking = "--trainer.fix-period=1", "--trainer.shrink-period=5"
        yield replace(sigmoid, options=(fixing,), note="sigmoid-fixed")
        yield replace(sigmoid, options=(shrinking,), note="sigmoid-shrunk")
        yield replace(sigmoid, options=(fixing, shrinking), note="sigmoid-fixed-shrunk")

    def sensitivity(self) -> Iterator[Trial]:
        """Settings of natural gradient, one changed at a time, at 4 jobs."""
        base = self.at_best("online-ng", 4)
        yield base
        for setting, values in SENSITIVITY.items():
            for value in values:
                affine = " ".join(f"{key}={value}" for key in setting.split("+"))
                yield replace(base, affine=affine, note=affine.replace(" ", "-"))

    def threads(self) -> Iterator[Trial]:
        """Threads without locks in one job, with minibatches of 32 examples and of half as many."""
        base = self.at_best("online-ng", 1)
        yield base
        two, half = ("--trainer.num-threads=2",), ("--trainer.optimization.minibatch-size=16",)
        yield replace(base, options=two, note="2 threads")
        yield replace(base, options=half, note="minibatches of 128 frames")
        yield replace(base, options=two + half, note="2 threads, minibatches of 128 frames")


SENSITIVITY: dict[str, tuple[float, ...]] = {
    "rank-in": (5, 40),
    "rank-out": (20, 120),
    "alpha": (0.25, 1, 16),
    "update-period": (1, 16),
    "num-samples-history": (500, 8000),
}
"""Settings of NaturalGradientAffineComponent and the values tried beside the defaults 20, 80, 4, 4 and 2000."""
