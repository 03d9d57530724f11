"""The list of hosts that ``run-ssh`` spreads jobs over.

A file has one host a line, ``host [slots]`` or ``user@host [slots]``; ``#`` starts a comment. On the command line a
host is ``host:slots``. Without a number a host has one slot. A host that is named twice has the slots of both.
"""

from __future__ import annotations

import os
import re

from nnet3py.errors import UserError
from nnet3py.text.lines import BLANKS, fields, read_lines

DEFAULT_FILES = ("conf/hosts", ".queue/machines")  # the second is where Kaldi's ssh.pl looks
# Nothing that ssh could take for an option, or a shell for anything but a name.
_NAME = re.compile(r"(?:[A-Za-z0-9_.][A-Za-z0-9_.+-]*@)?[A-Za-z0-9_.:][A-Za-z0-9_.:%-]*")


def read_hosts(settings: dict[str, str]) -> dict[str, int]:
    """Hosts and their slots, in order, from the settings ``hosts`` and ``hosts_file``, else from a default file.

    Raises:
        UserError: no hosts, both options, a file that cannot be read, or a line that is not a host; it is named.
    """
    if "hosts" in settings and "hosts_file" in settings:
        raise UserError("--hosts and --hosts-file exclude each other.")
    if "hosts" in settings:
        entries = [_word(word) for word in fields(settings["hosts"].replace(",", " "))]
        place = "--hosts"
    else:
        place = settings.get("hosts_file") or next((path for path in DEFAULT_FILES if os.path.exists(path)), "")
        if not place:
            raise UserError(f"Expected --hosts, --hosts-file or a file {' or '.join(DEFAULT_FILES)}: which hosts?")
        entries = _lines(place)
    if not entries:
        raise UserError(f"{place} names no host.")
    hosts: dict[str, int] = {}
    for name, slots in entries:
        hosts[name] = hosts.get(name, 0) + slots
    return hosts


def _word(word: str) -> tuple[str, int]:
    name, colon, slots = word.rpartition(":")
    return _host(name, slots, "--hosts") if colon else _host(word, "1", "--hosts")


def _lines(path: str) -> list[tuple[str, int]]:
    entries = []
    for number, line in enumerate(read_lines(path), 1):
        words = fields(line.partition("#")[0])
        if len(words) > 2:
            raise UserError(f"{path}:{number}: expected `host [slots]`, found {line.strip(BLANKS)!r}.")
        if words:
            entries.append(_host(words[0], words[1] if len(words) > 1 else "1", f"{path}:{number}"))
    return entries


def _host(name: str, slots: str, place: str) -> tuple[str, int]:
    if not _NAME.fullmatch(name):
        raise UserError(f"{place}: {name!r} is not the name of a host, `host` or `user@host`.")
    if not re.fullmatch(r"[0-9]{1,6}", slots) or int(slots) < 1:
        raise UserError(f"{place}: the slots of {name} must be a count of at least 1, found {slots!r}.")
    return name, int(slots)
