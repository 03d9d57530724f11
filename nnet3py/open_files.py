"""How many files a program may have open: usually 1,024, though the system would let it have more."""

from __future__ import annotations

import resource

_OTHERS = 32  # standard streams, libraries, logs and pipes that a program has open beside what it counts


def room_for(wanted: int, *, may_raise: bool = True) -> int:
    """So many of ``wanted`` files can be open at once, beside the few that every program has open.

    Where the limit (``ulimit -n``) does not let them, it is raised as far as it can be without privileges, unless
    programs that are started from here, which inherit it, are to keep theirs (``may_raise``).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    if may_raise and soft < wanted + _OTHERS:
        soft = wanted + _OTHERS if hard == resource.RLIM_INFINITY else min(wanted + _OTHERS, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(wanted, soft - _OTHERS)
