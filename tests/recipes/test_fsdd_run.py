"""egs/fsdd/s5/run.sh from the archive to the word error rate, on a part of the corpus."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_LIBRARIES = ("kaldi_hmm_gmm", "kaldifst", "kaldi_decoder", "kaldialign", "kaldi_native_fbank")
_INDICES = range(21)


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in _LIBRARIES),
    reason="the libraries of nnet3py[recipes] are not installed",
)
def test_the_recipe_goes_from_recordings_to_word_error_rates(tmp_path: Path) -> None:
    archive = ROOT.parent / "shared" / "data" / "free-spoken-digit-dataset.tar.gz"
    if not archive.is_file():
        pytest.skip("no ../shared/data/free-spoken-digit-dataset.tar.gz beside this checkout")
    # The recipe finds programs from its own place and writes data/ and exp/ there: run a copy in a tree of links.
    for name in ("bin", "steps", "nnet3py"):
        (tmp_path / name).symlink_to(ROOT / name)
    recipe = tmp_path / "egs" / "fsdd" / "s5"
    shutil.copytree(ROOT / "egs" / "fsdd" / "s5", recipe, ignore=shutil.ignore_patterns("data", "exp"))
    corpus = tmp_path / "part.tar.gz"
    wanted = {f"{d}_{s}_{i}.wav" for d in range(10) for s in ("george", "jackson", "theo") for i in _INDICES}
    with tarfile.open(archive) as source, tarfile.open(corpus, "w:gz") as target:
        for member in source:
            if member.name.rsplit("/", 1)[-1] in wanted:
                target.addfile(member, source.extractfile(member))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "num_epochs": "3", "samples_per_iter": "4000"}
    environment |= {"jobs_initial": "1", "jobs_final": "2"}
    done = subprocess.run(
        [recipe / "run.sh", f"--corpus={corpus}"], capture_output=True, text=True, timeout=900, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if re.search(r"\d of \d+$", line)}
    assert set(rows) == {"own_split", "without_theo"}
    own, held_out = (float(re.search(r"([\d.]+)%", rows[name])[1]) for name in ("own_split", "without_theo"))  # type: ignore[index]
    assert rows["own_split"].endswith("of 150")
    assert rows["without_theo"].endswith("of 210")
    assert own < 15.0  # chance is 90
    assert held_out < 70.0
