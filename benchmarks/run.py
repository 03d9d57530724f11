"""Everything that `make bench` measures, printed as the tables that benchmarks/RESULTS.md keeps."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
os.environ["PATH"] = os.pathsep.join([str(ROOT / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[variable] = "1"

import programs  # noqa: E402
import timing  # noqa: E402
import train_step  # noqa: E402


def main() -> None:
    """Print the machine, then one table a measurement; the whole takes about three minutes."""
    print(f"{timing.machine()}\n")
    for report in (train_step.report, programs.examples_report, programs.help_report, programs.average_report):
        print("\n".join(report()), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
