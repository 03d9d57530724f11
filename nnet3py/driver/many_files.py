"""Any number of files on command lines of bounded length, with programs that know of no lists: ours and Kaldi's.

Linux lets one argument have 128 KiB, a shell pipe being one argument, and all together 2 MiB; so what names a file for
each job breaks somewhere between a few hundred jobs and a few thousand. Three means, by what a program takes:

- archives are read one after the other: :func:`numbered_archives` is a command that counts, of the same length for any
  number of them;
- objects in files of their own (vectors, matrices) are a table: a script file names them, ``scp:LIST``;
- models and statistics can only be named one by one: at most :data:`MOST_NAMED` of them in a command; more are put
  together in :func:`groups` first.
"""

from __future__ import annotations

import itertools

MOST_NAMED = 256
"""Files that one command names at most: 1 MiB with the longest paths there are, of 4,096 bytes."""


def numbered_archives(program: str, prefix: str, suffix: str, count: int) -> str:
    """A pipe (rxfilename) in which ``program``, cat or gunzip -c, writes <prefix>1<suffix> ... <prefix><count><suffix>.

    It fails if one of the files cannot be read. No character of it needs quotes, so that every engine passes it on as
    it is; prefix and suffix must be plain (:func:`nnet3py.driver.engine.require_plain_path`).
    """
    before, after = (text.replace("%", "%%") for text in (prefix, suffix))
    return f"seq -f {before}%.0f{after} {count} | xargs {program} |"


def groups(count: int, most: int = MOST_NAMED) -> list[tuple[int, int]]:
    """Ranges (first, end) of about equal size and at most ``most`` that ``count`` things in a row are divided into."""
    parts = -(-count // most)
    bounds = [part * count // parts for part in range(parts + 1)]
    return list(itertools.pairwise(bounds))


def words_of(list_file: str) -> str:
    """The words in a file, as the shell that runs a job puts them into a command (bash)."""
    return f"$(<{list_file})"
