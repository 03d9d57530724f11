"""Files such as a program leaves that was killed while it wrote, for tests of drivers that start again after it."""

from __future__ import annotations

from pathlib import Path


def leave_unfinished(folder: Path, *names: str) -> list[Path]:
    """Make the temporary files of ``names`` in a folder, and further folders for them; returns their paths."""
    left = []
    for number, name in enumerate(names, 1):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        left.append(path.with_name(f".{path.name}.{number}.0a1b2c3d.tmp"))
        left[-1].write_text("half of it")
    return left


def still_there(paths: list[Path]) -> list[Path]:
    """Those of the files that have not been removed."""
    return [path for path in paths if path.exists()]
