"""Options of the feature programs with their defaults, except 8000 samples a second and no dither; and a recording."""

from __future__ import annotations

from typing import Any

import numpy as np

RATE = 8000

OPTIONS: dict[str, Any] = {
    "sample_frequency": 8000.0, "frame_length": 25.0, "frame_shift": 10.0, "preemphasis_coefficient": 0.97,
    "remove_dc_offset": True, "dither": 0.0, "seed": 0, "window_type": "povey", "blackman_coeff": 0.42,
    "round_to_power_of_two": True, "snip_edges": True, "num_mel_bins": 23, "low_freq": 20.0, "high_freq": 0.0,
    "energy_floor": 0.0, "raw_energy": True, "htk_compat": False, "use_energy": False, "num_ceps": 13,
    "cepstral_lifter": 22.0, "use_log_fbank": True, "use_power": True, "allow_downsample": False,
    "allow_upsample": False, "vtln_warp": 1.0, "vtln_low": 100.0, "vtln_high": -500.0, "debug_mel": False,
}  # fmt: skip


def samples(seconds: float = 0.5, seed: int = 0) -> np.ndarray[Any, Any]:
    time = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).standard_normal(len(time))
    return np.round(3000 * np.sin(2 * np.pi * (300 + 800 * time) * time) + 100 * noise).astype(np.float32)
