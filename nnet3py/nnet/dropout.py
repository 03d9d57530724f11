"""Dropout: a random part of the input is set to zero, in training only.

Sources: Kaldi src/nnet3/nnet-simple-component.cc (DropoutComponent), src/nnet3/nnet-general-component.cc
(GeneralDropoutComponent, SpecAugmentTimeMaskComponent).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nnet3py.errors import UserError
from nnet3py.nnet.component import Array, Component, Field, Kind, Layout, Phase, Random, Update

if TYPE_CHECKING:
    from nnet3py.nnet.configuration import ConfigLine


def _proportion(config: ConfigLine, default: float | None) -> float:
    value = config.number("dropout-proportion", default)
    if not 0.0 <= value <= 1.0:
        raise config.error(f"dropout-proportion={value:g} must be from 0 to 1")
    return value


def _generator(random: Random) -> np.random.Generator:
    if random is None:
        raise ValueError("a training pass through dropout needs random=, the generator of its masks")
    return random


class RandomComponent(Component):
    """What multiplies by random masks in training. ``test_mode`` makes it act there as it does at test time."""

    test_mode: bool = False

    def mask(self, layout: Layout, phase: Phase, random: Random) -> Any:
        """What the rows of an input are multiplied by, float32: an array (rows, dim) or (rows, 1), a number, or None.

        None is for an input that passes unchanged.
        """
        raise NotImplementedError

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Random = None) -> tuple[Array, Any]:
        mask = self.mask(layout, phase, random)
        return (x, None) if mask is None else (x * mask, mask)

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Update | None, want_dx: bool) -> Array | None:
        if want_dx and memo is not None:
            dy *= memo
        return dy if want_dx else None


class DropoutComponent(RandomComponent):
    """Each element, or with ``per_frame`` each row, is zero with probability ``proportion``.

    As in Kaldi the rest is not scaled up in training; at test time everything is scaled by ``1 - proportion``.
    """

    type_name = "DropoutComponent"
    fields = (
        Field("<Dim>", "dim", Kind.INT),
        Field("<DropoutProportion>", "proportion", Kind.FLOAT),
        Field("<DropoutPerFrame>", "per_frame", Kind.BOOL, default=False, always=True),
        Field("<TestMode>", "test_mode", Kind.BOOL, default=False, always=True),
    )

    dim: int
    proportion: float
    per_frame: bool = False

    @classmethod
    def from_config(cls, config: ConfigLine, random: np.random.Generator) -> DropoutComponent:
        component = cls()
        component.dim = config.positive("dim")
        component.proportion = _proportion(config, None)
        component.per_frame = config.switch("dropout-per-frame", False)
        component.test_mode = config.switch("test-mode", False)
        return component

    @property
    def input_dim(self) -> int:
        return self.dim

    @property
    def output_dim(self) -> int:
        return self.dim

    def check(self) -> None:
        if self.dim <= 0 or not 0.0 <= self.proportion <= 1.0:
            raise UserError(f"{self.type_name}: dimension {self.dim}, proportion {self.proportion:g} out of range.")

    def mask(self, layout: Layout, phase: Phase, random: Random) -> Any:
        if self.proportion == 0.0:
            return None
        if self.test_mode or phase is Phase.TEST:
            return np.float32(1.0 - self.proportion)
        shape = (len(layout.output_times) * layout.num_sequences, 1 if self.per_frame else self.dim)
        return (_generator(random).random(shape, np.float32) > self.proportion).astype(np.float32)

    def info(self) -> str:
        return (
            f"{self.type_name}, dim={self.dim}, dropout-proportion={self.proportion:g}, "
            f"dropout-per-frame={'true' if self.per_frame else 'false'}"
        )


class GeneralDropoutComponent(RandomComponent):
    """Dropout masks shared along time: one per sequence, or one per ``time_period`` frames of a sequence.

    Of a mask's elements a ``proportion`` is zero and the others 1 / (1 - proportion); ``continuous`` draws them evenly
    from 1 - 2 proportion to 1 + 2 proportion instead. ``specaugment_max_proportion`` above zero replaces both: a
    random band of at most this part of the dimensions is zero (frequencies, if the input is a filter bank), broken
    into up to ``specaugment_max_regions`` pieces. At test time the input passes unchanged. ``block_dim`` columns at a
    time have a mask of their own row.
    """

    type_name = "GeneralDropoutComponent"
    fields = (
        Field("<Dim>", "dim", Kind.INT),
        Field("<BlockDim>", "block_dim", Kind.INT),
        Field("<TimePeriod>", "time_period", Kind.INT),
        Field("<DropoutProportion>", "proportion", Kind.FLOAT),
        Field("<SpecAugmentMaxProportion>", "specaugment_max_proportion", Kind.FLOAT, default=0.0),
        Field("<SpecAugmentMaxRegions>", "specaugment_max_regions", Kind.INT, default=1),
        Field("<TestMode>", "test_mode", Kind.FLAG, default=False),
        Field("<Continuous>", "continuous", Kind.FLAG, default=False),
    )

    dim: int
    block_dim: int
    time_period: int = 0
    proportion: float = 0.5
    specaugment_max_proportion: float = 0.0
    specaugment_max_regions: int = 1
    continuous: bool = False

    @classmethod
    def from_config(cls, config: ConfigLine, random: np.random.Generator) -> GeneralDropoutComponent:
        component = cls()
        component.dim = config.positive("dim")
        component.block_dim = config.positive("block-dim", component.dim)
        component.time_period = config.integer("time-period", 0)
        component.proportion = _proportion(config, 0.5)
        component.specaugment_max_proportion = config.number("specaugment-max-proportion", 0.0)
        component.specaugment_max_regions = config.positive("specaugment-max-regions", 1)
        component.continuous = config.switch("continuous", False)
        component.test_mode = config.switch("test-mode", False)
        if component.dim % component.block_dim or component.time_period < 0:
            raise config.error("dim must be a multiple of block-dim, and time-period not negative")
        if not 0.0 <= component.specaugment_max_proportion <= 1.0:
            raise config.error("specaugment-max-proportion must be from 0 to 1")
        if component.specaugment_max_proportion > 0.0 and component.continuous:
            raise config.error("specaugment-max-proportion and continuous exclude each other")
        component._forget_unused_regions()
        return component

    def _forget_unused_regions(self) -> None:
        """Without a proportion Kaldi writes no regions, and could not read them."""
        if self.specaugment_max_proportion == 0.0:
            self.specaugment_max_regions = 1

    @property
    def input_dim(self) -> int:
        return self.dim

    @property
    def output_dim(self) -> int:
        return self.dim

    def check(self) -> None:
        self._forget_unused_regions()
        proportions = (self.proportion, self.specaugment_max_proportion)
        in_range = all(0.0 <= value <= 1.0 for value in proportions) and self.time_period >= 0
        if self.dim <= 0 or self.block_dim <= 0 or self.dim % self.block_dim or not in_range:
            raise UserError(
                f"{self.type_name}: dimension {self.dim}, block dimension {self.block_dim}, time period "
                f"{self.time_period} and proportions {self.proportion:g} and {self.specaugment_max_proportion:g} are "
                "out of range."
            )

    def mask(self, layout: Layout, phase: Phase, random: Random) -> Any:
        active = self.proportion > 0.0 or self.specaugment_max_proportion > 0.0
        if not active or self.test_mode or phase is Phase.TEST:
            return None
        times = np.asarray(layout.output_times)
        periods = times // self.time_period if self.time_period > 0 else np.zeros_like(times)
        distinct, which = np.unique(periods, return_inverse=True)
        blocks = self.dim // self.block_dim
        masks = self._draw(_generator(random), len(distinct) * layout.num_sequences * blocks)
        masks = masks.reshape(len(distinct), layout.num_sequences, self.dim)
        return masks[which].reshape(-1, self.dim)

    def _draw(self, random: np.random.Generator, count: int) -> Array:
        if self.specaugment_max_proportion > 0.0:
            return np.stack([self._band(random) for _ in range(count)])
        mask = random.random((count, self.block_dim), np.float32)
        if self.continuous:
            mask *= np.float32(4.0 * self.proportion)
            mask += np.float32(1.0 - 2.0 * self.proportion)
            return mask
        return (mask > self.proportion) * np.float32(1.0 / (1.0 - self.proportion) if self.proportion < 1.0 else 0.0)

    def _band(self, random: np.random.Generator) -> Array:
        """One SpecAugment mask: a zero band that may wrap around, halves of the circle flipped for more regions."""
        size = self.block_dim
        mask = np.ones(size, np.float32)
        zeroed = int(random.integers(0, int(size * self.specaugment_max_proportion + 0.5) + 1))
        if zeroed == 0:
            return mask
        mask[np.arange(zeroed) + int(random.integers(size)) - size] = 0.0
        for _ in range(1, self.specaugment_max_regions):
            start, quarter = int(random.integers(size)), size // 4
            left = (start + np.arange(quarter)) % size
            right = (start + size // 2 - np.arange(quarter)) % size
            mask[left], mask[right] = mask[right], mask[left]
        return mask

    def info(self) -> str:
        text = f"{self.type_name}, dim={self.dim}, block-dim={self.block_dim}, dropout-proportion={self.proportion:g}"
        if self.continuous:
            text += ", continuous=true"
        if self.specaugment_max_proportion != 0.0:
            text += f", specaugment-max-proportion={self.specaugment_max_proportion:g}"
            text += f", specaugment-max-regions={self.specaugment_max_regions}"
        return text if self.time_period == 0 else f"{text}, time-period={self.time_period}"


class SpecAugmentTimeMaskComponent(RandomComponent):
    """The time half of SpecAugment: stretches of each sequence are zero, with stretches that pass unchanged between.

    A masked stretch is 1 to ``max_frames`` frames long, one that passes 1 to ``max_frames (1 - z) / z`` frames, z being
    ``zeroed_proportion``; all lengths are equally likely. As in Kaldi a sequence starts with a stretch that passes with
    probability z, and the rest is not scaled up. At test time the input passes unchanged.
    """

    type_name = "SpecAugmentTimeMaskComponent"
    fields = (
        Field("<Dim>", "dim", Kind.INT),
        Field("<ZeroedProportion>", "zeroed_proportion", Kind.FLOAT),
        Field("<TimeMaskMaxFrames>", "max_frames", Kind.INT),
        Field("<TestMode>", "test_mode", Kind.FLAG, default=False),
    )

    dim: int
    zeroed_proportion: float = 0.25
    max_frames: int = 10

    @classmethod
    def from_config(cls, config: ConfigLine, random: np.random.Generator) -> SpecAugmentTimeMaskComponent:
        component = cls()
        component.dim = config.positive("dim")
        component.zeroed_proportion = config.number("zeroed-proportion", 0.25)
        component.max_frames = config.integer("time-mask-max-frames", 10)
        if component.max_frames <= 1:
            raise config.error(f"time-mask-max-frames={component.max_frames} must be above 1")
        if not component._is_possible():
            raise config.error(
                f"zeroed-proportion={component.zeroed_proportion:g} must be from 0 to below 1, and leave a frame or "
                f"more between stretches of up to {component.max_frames}"
            )
        return component

    def _is_possible(self) -> bool:
        return self.zeroed_proportion == 0.0 or (
            0.0 < self.zeroed_proportion < 1.0 and self.max_frames > 0 and self._max_passing_frames() > 0
        )

    def _max_passing_frames(self) -> int:
        proportion = np.float32(self.zeroed_proportion)
        return int(np.float32(self.max_frames) * (np.float32(1.0) - proportion) / proportion)

    @property
    def input_dim(self) -> int:
        return self.dim

    @property
    def output_dim(self) -> int:
        return self.dim

    def check(self) -> None:
        if self.dim <= 0 or not self._is_possible():
            raise UserError(
                f"{self.type_name}: dimension {self.dim}, proportion {self.zeroed_proportion:g} and "
                f"{self.max_frames} frames are out of range."
            )

    def mask(self, layout: Layout, phase: Phase, random: Random) -> Any:
        if self.zeroed_proportion == 0.0 or self.test_mode or phase is Phase.TEST:
            return None
        return self._passing(len(layout.output_times), layout.num_sequences, _generator(random))

    def _passing(self, num_times: int, num_sequences: int, random: np.random.Generator) -> Array:
        """1 or 0 for each row (rows, 1) of a time-major array."""
        mask = np.zeros((num_times, num_sequences), np.float32)
        longest = self._max_passing_frames()
        for sequence in range(num_sequences):
            time = 0 if random.random() < self.zeroed_proportion else int(random.integers(1, self.max_frames + 1))
            while time < num_times:
                end = time + int(random.integers(1, longest + 1))
                mask[time:end, sequence] = 1.0
                time = end + int(random.integers(1, self.max_frames + 1))
        return mask.reshape(-1, 1)

    def info(self) -> str:
        return (
            f"{self.type_name}, dim={self.dim}, zeroed-proportion={self.zeroed_proportion:g}, "
            f"time-mask-max-frames={self.max_frames}"
        )
