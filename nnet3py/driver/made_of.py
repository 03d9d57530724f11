"""What a directory is made of: digests of the files of data and alignments, noted when it is begun and compared later.

Paths tell nothing: features are computed again, data are aligned again, under the same names. So what is noted beside
the options (:meth:`nnet3py.driver.experiment.Experiment.record`) are digests, of scripts without the directories in
them, so that files may be moved, and of archives, which may be large and many, those of size, beginning and end of some
of them: what is computed anew differs everywhere.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable

from nnet3py.driver.alignments import alignment_archives
from nnet3py.driver.experiment import digest
from nnet3py.errors import UserError
from nnet3py.text.lines import encode, key_and_rest, read_lines

NAME = "made_with.json"
"""The record that ``steps/get_egs.py`` keeps among the examples."""

_END_BYTES = 1 << 16
_MOST_ARCHIVES = 64
_PLACE = re.compile(r"(?P<path>[^|]*?)(?P<offset>(?::\d+)?(?:\[[\d:,]*\])?)")


def require_complete(folder: str) -> None:
    """Refuse a directory of examples that ``steps/get_egs.py`` began and did not finish.

    Raises:
        UserError: it is one.
    """
    if os.path.isfile(f"{folder}/{NAME}") and not os.path.isfile(f"{folder}/.complete"):
        raise UserError(f"The examples in {folder} are not finished: run steps/get_egs.py again, to its end.")


def digest_of_ends(paths: Iterable[str]) -> str | None:
    """One digest of the sizes, beginnings and ends of files; None if one is not there. Of many files, of some."""
    every = list(paths)
    step = -(-len(every) // _MOST_ARCHIVES) or 1
    total = hashlib.sha256(str(len(every)).encode())
    for path in every[::step]:
        try:
            with open(path, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                total.update(b"%d " % size + file.read(_END_BYTES))
                file.seek(max(0, size - _END_BYTES))
                total.update(file.read(_END_BYTES))
        except OSError:
            return None
    return total.hexdigest()


def script_digests(name: str, path: str) -> dict[str, object]:
    """Of a script ``feats.scp`` as ``name``: keys and places in it, and the archives that it names; None: not there."""
    if not os.path.isfile(path):
        return {name: None, f"{name} archives": None}
    text = hashlib.sha256()
    archives: dict[str, None] = {}
    for line in read_lines(path):
        key, place = key_and_rest(line)
        found = _PLACE.fullmatch(place)
        if found:
            archives.setdefault(found["path"])
            place = os.path.basename(found["path"]) + found["offset"]
        text.update(encode(f"{key} {place}\n"))
    return {name: text.hexdigest(), f"{name} archives": digest_of_ends(archives)}


def data_digests(name: str, data: str) -> dict[str, object]:
    """Of a data directory, called ``name`` (``--feat-dir``): its features, speakers and speakers' statistics."""
    return {
        **script_digests(f"{name} feats.scp", f"{data}/feats.scp"),
        **script_digests(f"{name} cmvn.scp", f"{data}/cmvn.scp"),
        f"{name} utt2spk": digest(f"{data}/utt2spk") or None,
    }


def vector_digests(name: str, folder: str) -> dict[str, object]:
    """Of a directory of iVectors, called ``name``; nothing where there is none."""
    return script_digests(f"{name} ivector_online.scp", f"{folder}/ivector_online.scp") if folder else {}


def alignment_digests(name: str, ali_dir: str) -> dict[str, object]:
    """Of an alignment directory, called ``name`` (``--ali-dir``): its alignments."""
    archives = alignment_archives(ali_dir)
    found: str | None
    if archives == [f"{ali_dir}/ali.scp"]:
        found = " ".join(str(each) for each in script_digests("", archives[0]).values())
    else:
        found = digest_of_ends(archives) if archives else None
    return {f"{name} alignments": found and hashlib.sha256(found.encode()).hexdigest()}
