"""The hidden Markov model of a phone, in the text that Kaldi's ``topo`` file holds.

A phone is a chain of states from left to right, each with a loop. Silence of more than two states is a state that is
entered first, a middle part whose states follow each other in any order, and a state that is left last: it can be as
short as three frames and still tell kinds of silence apart.

Source: Kaldi egs/wsj/s5/utils/gen_topo.pl.
"""

from __future__ import annotations

from collections.abc import Sequence

_STAY, _LEAVE = 0.75, 0.25


def topology_text(
    phones: Sequence[int], silence_phones: Sequence[int], num_states: int, num_silence_states: int
) -> str:
    """The text of the topology: ``num_states`` emitting states a phone, ``num_silence_states`` for silence phones."""
    entries = [
        _entry(phones, _chain(num_states)),
        _entry(silence_phones, _chain(num_silence_states) if num_silence_states < 3 else _silence(num_silence_states)),
    ]
    return "<Topology>\n" + "".join(entries) + "</Topology>\n"


_Transitions = list[list[tuple[int, float]]]


def _chain(num_states: int) -> _Transitions:
    return [[(state, _STAY), (state + 1, _LEAVE)] for state in range(num_states)]


def _silence(num_states: int) -> _Transitions:
    last = num_states - 1
    share = 1.0 / last
    first = [(state, share) for state in range(last)]
    middle = [[(state, share) for state in range(1, num_states)] for _ in range(1, last)]
    return [first, *middle, [(last, _STAY), (num_states, _LEAVE)]]


def _entry(phones: Sequence[int], transitions: _Transitions) -> str:
    lines = ["<TopologyEntry>", "<ForPhones>", " ".join(map(str, phones)), "</ForPhones>"]
    for state, targets in enumerate(transitions):
        arcs = " ".join(f"<Transition> {target} {probability:.7g}" for target, probability in targets)
        lines.append(f"<State> {state} <PdfClass> {state} {arcs} </State>")
    lines += [f"<State> {len(transitions)} </State>", "</TopologyEntry>", ""]
    return "\n".join(lines)
