"""Preparing the next items in a thread while the current one is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


class _Failure:
    def __init__(self, problem: BaseException) -> None:
        self.problem = problem


class _End:
    pass


def read_ahead(items: Iterable[Item], depth: int = 8) -> Iterator[Item]:
    """The same items in the same order, up to ``depth`` of them made beforehand by a thread.

    An exception in ``items`` is raised here, after the items before it. If the iteration is abandoned, the thread ends
    before the next item is asked for. A depth of 0 uses no thread.
    """
    if depth <= 0:
        yield from items
        return
    waiting: queue.Queue[Item | _Failure | _End] = queue.Queue(maxsize=depth)
    abandoned = threading.Event()

    def put(entry: Item | _Failure | _End) -> bool:
        while not abandoned.is_set():
            try:
                waiting.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(_End())
        except BaseException as problem:
            put(_Failure(problem))

    thread = threading.Thread(target=work, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            entry = waiting.get()
            if isinstance(entry, _End):
                return
            if isinstance(entry, _Failure):
                raise entry.problem
            yield entry
    finally:
        abandoned.set()
        thread.join(timeout=1.0)
