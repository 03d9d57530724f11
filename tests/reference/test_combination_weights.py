"""nnet-combine-fast on models that Kaldi trained, beside what Kaldi's nnet3-combine made of them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path


def test_weights_of_kaldis_models_are_better_than_its_running_average(kaldi_reference: Path, tmp_path: Path) -> None:
    folder = kaldi_reference / "average"
    models = [str(folder / f"{number}.raw") for number in (5, 4, 3, 2, 1)]
    examples = f"ark:{kaldi_reference / 'egs/egs_8frames_merged32.ark'}"
    log = (folder / "combine.log").read_text()
    kaldi = re.search(r"objective function changed from (\S+) to (\S+)", log)
    assert kaldi is not None
    words = ["nnet-combine-fast", "--initial-model=0", *models, examples, str(tmp_path / "combined.raw")]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    found = re.search(r"objf per frame changed from (\S+) to (\S+) in", ended.stderr)
    assert found is not None
    assert abs(float(found[1]) - float(kaldi[1])) < 1e-4 * abs(float(kaldi[1])), "the start is Kaldi's newest model"
    assert float(found[2]) > float(kaldi[2])
    prob = ["nnet-compute-prob", str(tmp_path / "combined.raw"), examples]
    printed = subprocess.run(prob, capture_output=True, text=True, timeout=60).stderr
    judged = re.search(r"Overall log-likelihood for 'output' is (\S+) per frame", printed)
    assert judged is not None
    assert abs(float(judged[1]) - float(found[2])) < 1e-4
