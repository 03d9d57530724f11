"""Everything that `make bench` measures, printed as the tables that benchmarks/RESULTS.md keeps."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
os.environ["PATH"] = os.pathsep.join([str(ROOT / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[variable] = "1"

import kaldi  # noqa: E402
import model_loading  # noqa: E402
import programs  # noqa: E402
import scaling  # noqa: E402
import scaling_model  # noqa: E402
import threads  # noqa: E402
import timing  # noqa: E402
import train_step  # noqa: E402

REPORTS = {
    "step": train_step.report,
    "program": train_step.program_report,
    "threads": threads.report,
    "examples": programs.examples_report,
    "kaldi-examples": kaldi.examples_report,
    "kaldi-training": kaldi.training_report,
    "help": programs.help_report,
    "average": programs.average_report,
    "scaling": scaling.report,
    "scaling-model": scaling_model.report,
    "loading": model_loading.report,
}


def main(chosen: list[str]) -> None:
    """Print the machine, then a table for each measurement that is named, or for all: about a quarter of an hour."""
    unknown = set(chosen) - set(REPORTS)
    if unknown:
        sys.exit(f"Expected names of measurements among {', '.join(REPORTS)}, found {', '.join(sorted(unknown))}.")
    print(f"{timing.machine()}\n")
    for name in chosen or REPORTS:
        print("\n".join(REPORTS[name]()), end="\n\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
