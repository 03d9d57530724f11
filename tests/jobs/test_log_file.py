"""Logs of Kaldi's own engines, read as ours are."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnet3py.jobs import log_file


@pytest.mark.parametrize(("status", "ending"), [(0, "0"), (1, "1"), (137, "137")])
def test_the_end_of_a_log_of_queue_pl_and_slurm_pl_is_understood(tmp_path: Path, status: int, ending: str) -> None:
    log = tmp_path / "x.log"
    log.write_text(
        "# Running on b12\n# Started at Tue Nov 24 10:00:00 UTC 2026\n# echo hello\nhello\n"
        f"# Accounting: time=7 threads=1\n# Finished at Tue Nov 24 10:00:07 UTC 2026 with status {ending}\n"
    )
    assert log_file.status(str(log)) == status
    assert log_file.elapsed(str(log)) == 7
    assert log_file.last_lines(str(log), 1) == ["hello"]


def test_a_log_without_an_end_has_no_status(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("# Running on b12\nprinted: # Finished at noon with status 0\n")
    assert log_file.status(str(log)) is None
